"""TLS between our clients and our server, with a CA made here."""

import asyncio
import datetime
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hybrid_detect.backends import create_backend
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.tls import client_context
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import BackendError, BackendUnavailableError, ConfigurationError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.connections import ConnectionLimits
from hybrid_detect.server.tls import TlsConfig, server_context
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FaultyLink
from hybrid_detect.types import BackendKind, Plan

from ..waiting import LIMIT_S, until
from .either_loop import anyio_backend  # noqa: F401 - a fixture
from .loopback import answer_of, jpeg, served

trustme = pytest.importorskip("trustme")

pytestmark = pytest.mark.anyio

REMOTE = [BackendKind.CLOUD, BackendKind.STREAMING]


@dataclass(frozen=True)
class Files:
    cert: Path
    key: Path


@dataclass
class Authority:
    """A CA whose file and certificates lie in `folder`."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        self._ca = trustme.CA(organization_name=self.name)
        self.file = self.folder / f"{self.name}-ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, *names: str, **options: Any) -> Files:
        made = self._ca.issue_cert(*names, **options)
        label = f"{self.name}-{names[0]}-{len(list(self.folder.iterdir()))}"
        files = Files(self.folder / f"{label}.pem", self.folder / f"{label}.key")
        for number, blob in enumerate(made.cert_chain_pems):
            blob.write_to_path(files.cert, append=number > 0)
        made.private_key_pem.write_to_path(files.key)
        return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ours(folder: Path) -> Authority:
    return Authority(folder, "ours")


@pytest.fixture(scope="module")
def another(folder: Path) -> Authority:
    return Authority(folder, "another")


@pytest.fixture(scope="module")
def good(ours: Authority) -> Files:
    return ours.issue("localhost", "127.0.0.1")


@asynccontextmanager
async def served_over_tls(
    files: Files, client_ca: Path | None = None, limits: ConnectionLimits | None = None
) -> AsyncIterator[int]:
    config = ServerConfig(tls=TlsConfig(cert=files.cert, key=files.key, client_ca=client_ca))
    async with served(config, limits=limits) as server:
        yield server.port


async def look(kind: BackendKind, port: int, host: str = "localhost", **tls: Any) -> Any:
    """One picture over `kind`, as the service would send it."""
    config = ServiceConfig(endpoint=f"https://{host}:{port}", **tls)
    backend = create_backend(kind, config)
    plan = Plan(backend=kind, deadline_s=LIMIT_S, retries=0, reason="a test")
    try:
        return await backend.detect(Frame.of(jpeg()), plan)
    finally:
        await backend.aclose()


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_both_remote_backends_speak_tls_to_a_private_ca(
    kind: BackendKind, host: str, ours: Authority, good: Files
) -> None:
    async with served_over_tls(good) as port:
        assert (await look(kind, port, host, ca_file=ours.file)).faces


@pytest.mark.parametrize("kind", REMOTE)
async def test_and_show_a_certificate_if_asked(
    kind: BackendKind, ours: Authority, good: Files
) -> None:
    client = ours.issue("a-camera")
    shown = {"client_cert": client.cert, "client_key": client.key}
    async with served_over_tls(good, client_ca=ours.file) as port:
        assert (await look(kind, port, ca_file=ours.file, **shown)).faces


@asynccontextmanager
async def server_that_tells_clients_apart(
    files: Files, client_ca: Path, seen: list[tuple[str, str]]
) -> AsyncIterator[int]:
    """Answers every request with 503, and notes whose certificate came with which token."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown = writer.get_extra_info("peercert")["subjectAltName"][0][1]
        while head := (await reader.read(1 << 20)).partition(b"\r\n\r\n")[0]:
            if b" HTTP/1.1" not in head.partition(b"\r\n")[0]:
                continue  # the rest of a picture
            token = head.lower().partition(b"authorization: bearer ")[2].split()[0]
            seen.append((token.decode(), shown))
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    context = server_context(TlsConfig(cert=files.cert, key=files.key, client_ca=client_ca))
    server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_targets_at_one_origin_each_show_their_own_certificate(
    ours: Authority, good: Files
) -> None:
    """A connection that stands is no other target's, though it leads to the same place."""
    seen: list[tuple[str, str]] = []
    names = ["camera-a", "camera-b"]
    certificates = {name: ours.issue(name) for name in names}
    async with server_that_tells_clients_apart(good, ours.file, seen) as port:
        targets = [
            {
                "endpoint": f"https://localhost:{port}",
                "auth_token": name,
                "ca_file": ours.file,
                "client_cert": certificates[name].cert,
                "client_key": certificates[name].key,
            }
            for name in names
        ]
        service = CloudDetectionService(targets=targets)
        plan = Plan(backend=BackendKind.CLOUD, deadline_s=LIMIT_S, retries=0, reason="a test")
        for _ in range(2):
            with pytest.raises(BackendError):
                await service.check(deadline_s=LIMIT_S)
            with pytest.raises(BackendError):
                await service.detect(Frame.of(jpeg()), plan)
        await service.aclose()
    assert {token for token, _ in seen} == set(names)
    assert [token for token, _ in seen] == [shown for _, shown in seen]


def long_ago() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)


def not_yet(ours: Authority) -> Files:
    """A certificate as a device sees it whose clock is behind at its start."""
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    return ours.issue("localhost", "127.0.0.1", not_before=tomorrow)


@pytest.mark.parametrize("kind", REMOTE)
async def test_a_clock_that_is_wrong_at_the_start_is_told_and_its_end_noticed(
    kind: BackendKind, ours: Authority, good: Files
) -> None:
    """Nothing but the certificate's time changes, as nothing but the clock does on a device."""
    async with AsyncExitStack() as stack:
        early = await stack.enter_async_context(served_over_tls(not_yet(ours)))
        later = await stack.enter_async_context(served_over_tls(good))
        link = await stack.enter_async_context(FaultyLink(f"https://127.0.0.1:{early}"))
        config = ServiceConfig(endpoint=link.url, mode=kind.value, ca_file=ours.file)
        service = await stack.enter_async_context(HybridDetectionService(config=config))
        (backend,) = service.status().backends
        assert "not valid yet by this device's clock" in backend.unavailable_reason
        link.lead_to(f"https://127.0.0.1:{later}")
        await until(lambda: service.status().backends[0].usable)
        assert (await service.process_image(jpeg(), deadline_s=LIMIT_S)).faces


Issue = Callable[[Authority, Authority], Files]


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize(
    ("issue", "told"),
    [
        (lambda ours, _: ours.issue("faces.example.com"), "for another host name"),
        (
            lambda ours, _: ours.issue("localhost", not_after=long_ago()),
            r"has expired by this device's clock \(\d{4}-",
        ),
        (lambda ours, _: not_yet(ours), r"not valid yet by this device's clock \(\d{4}-"),
        (lambda _, another: another.issue("localhost"), "of a CA that is not known here"),
    ],
    ids=["wrong host", "expired", "not yet", "another CA"],
)
async def test_a_server_that_cannot_prove_who_it_is_gets_no_picture(
    kind: BackendKind, issue: Issue, told: str, ours: Authority, another: Authority
) -> None:
    async with served_over_tls(issue(ours, another)) as port:
        with pytest.raises(BackendUnavailableError, match=told) as caught:
            await look(kind, port, ca_file=ours.file)
    assert not caught.value.retryable, "the next try would end the same way"


@pytest.mark.parametrize("kind", REMOTE)
async def test_a_private_ca_is_not_believed_unless_it_is_given(
    kind: BackendKind, good: Files
) -> None:
    async with served_over_tls(good) as port:
        with pytest.raises(BackendUnavailableError, match="CA"):
            await look(kind, port)


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize("shows", [False, True], ids=["no certificate", "another CA's"])
async def test_a_client_without_a_certificate_of_the_ca_does_not_come_in(
    kind: BackendKind, shows: bool, ours: Authority, another: Authority, good: Files
) -> None:
    wrong = another.issue("a-camera")
    shown = {"client_cert": wrong.cert, "client_key": wrong.key} if shows else {}
    config = ServerConfig(tls=TlsConfig(cert=good.cert, key=good.key, client_ca=ours.file))
    async with served(config) as server:
        with pytest.raises(BackendError) as caught:
            await look(kind, server.port, ca_file=ours.file, **shown)
        assert isinstance(caught.value, BackendUnavailableError)
        assert server.detector.looks == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_older_versions_are_not_spoken(
    version: ssl.TLSVersion, ours: Authority, good: Files
) -> None:
    context = ssl.create_default_context(cafile=ours.file)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    # uvloop notices a client that leaves during the handshake only when the limit is over.
    soon = ConnectionLimits(connections=9, connections_per_peer=9, head_s=1.0)
    async with served_over_tls(good, limits=soon) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("localhost", port, ssl=context)


async def test_hellos_that_come_before_tls_is_ready_are_not_lost(
    ours: Authority, good: Files
) -> None:
    """As on a busy machine: they wait in the kernel while the server's loop stands still."""
    context = ssl.create_default_context(cafile=ours.file)
    async with served_over_tls(good) as port:
        dialled = [
            asyncio.create_task(asyncio.open_connection("localhost", port, ssl=context))
            for _ in range(30)
        ]
        for _ in range(20):
            time.sleep(0.002)
            await asyncio.sleep(0)
        for _, writer in await asyncio.gather(*dialled):
            writer.close()


async def test_plain_http_to_a_tls_port_is_not_answered(good: Files) -> None:
    config = ServerConfig(tls=TlsConfig(cert=good.cert, key=good.key))
    async with served(config) as server, server.dialled() as (reader, writer):
        writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in await answer_of(reader)


# -- files -----------------------------------------------------------------------------------


@pytest.fixture
def encrypted(good: Files, tmp_path: Path) -> Path:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(good.key.read_bytes(), None)
    path = tmp_path / "encrypted.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    return path


async def test_a_server_s_files_that_cannot_be_used_are_a_clear_error(
    good: Files, another: Authority, encrypted: Path, tmp_path: Path
) -> None:
    other, none = another.issue("localhost"), tmp_path / "none"
    for cert, key, client_ca in (
        (none, good.key, None),
        (good.cert, none, None),
        (good.cert, other.key, None),
        (good.key, good.cert, None),
        (good.cert, encrypted, None),
        (good.cert, good.key, none),
        (good.cert, good.key, good.key),
    ):
        with pytest.raises(ConfigurationError, match="cannot use") as caught:
            server_context(TlsConfig(cert=cert, key=key, client_ca=client_ca))
        assert "BEGIN" not in str(caught.value)


async def test_a_client_s_files_that_cannot_be_used_are_a_clear_error(
    good: Files, another: Authority, encrypted: Path, tmp_path: Path
) -> None:
    other, none = another.issue("localhost"), tmp_path / "none"
    for files in (
        {"ca_file": none},
        {"ca_file": good.key},
        {"client_cert": good.cert},
        {"client_key": good.key},
        {"client_cert": good.cert, "client_key": other.key},
        {"client_cert": good.cert, "client_key": encrypted},
        {"client_cert": none, "client_key": none},
    ):
        with pytest.raises(ConfigurationError, match=next(iter(files))):
            client_context(**files)


async def test_the_environment_names_the_files(good: Files, ours: Authority) -> None:
    config = ServiceConfig.from_env(
        {
            "HYBRID_DETECT_CA_FILE": str(ours.file),
            "HYBRID_DETECT_CLIENT_CERT": str(good.cert),
            "HYBRID_DETECT_CLIENT_KEY": str(good.key),
        }
    )
    assert (config.ca_file, config.client_cert, config.client_key) == (
        ours.file,
        good.cert,
        good.key,
    )


async def test_silent_handshakes_are_counted_and_end(good: Files) -> None:
    """A stranger that opens connections and says nothing does not get past the limits."""
    config = ServerConfig(tls=TlsConfig(cert=good.cert, key=good.key))
    few = ConnectionLimits(connections=9, connections_per_peer=3, head_s=0.3)
    async with served(config, limits=few) as server, AsyncExitStack() as dialled:
        silent = [(await dialled.enter_async_context(server.dialled()))[0] for _ in range(3)]
        await until(lambda: server.connections == 3)
        assert await server.raw() == b""  # one too many is closed
        for reader in silent:
            assert await answer_of(reader) == b""
        await until(lambda: server.connections == 0)


async def test_silent_handshakes_do_not_keep_a_server_from_stopping(good: Files) -> None:
    config = ServerConfig(tls=TlsConfig(cert=good.cert, key=good.key))
    async with asyncio.timeout(LIMIT_S), AsyncExitStack() as dialled:
        async with served(config) as server:
            reader, _ = await dialled.enter_async_context(server.dialled())
            await until(lambda: server.connections == 1)
        assert await answer_of(reader) == b""


async def test_the_server_takes_tls_1_2_and_newer(good: Files) -> None:
    config = ServerConfig(tls=TlsConfig(cert=good.cert, key=good.key))
    assert config.tls is not None
    context = server_context(config.tls)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
