"""Two transports, one behaviour: the same situations over cloud and streaming.

Each situation has one expected cell, which holds for both transports, unless it says why one of
them differs. `docs/explanation/network.md` states the rule.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from hybrid_detect.backends.remote import streaming
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.backends.remote.tls import client_context
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    ConfigurationError,
    HybridDetectError,
    ProtocolError,
    SupersededError,
)
from hybrid_detect.exchange.wire import CREDENTIAL_ENDED, SUBPROTOCOL
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.tls import TlsConfig
from hybrid_detect.testing import FaultyLink
from hybrid_detect.types import Plan

from ...server.loopback import jpeg, served
from ...waiting import LIMIT_S, until
from .hostile_network import Gateway, Names, RelayProxy, black_hole, page, raw_server

trustme = pytest.importorskip("trustme")

pytestmark = pytest.mark.anyio

TRANSPORTS: dict[str, type[RemoteBackend]] = {
    "cloud": CloudDetectionService,
    "streaming": StreamingService,
}
NAME = "faces.test"
OURS = b'{"status": %d, "code": "unauthorized", "detail": "x"}'


@dataclass(frozen=True)
class Cell:
    """What a frame ends with; without a type, it is answered."""

    error: type[HybridDetectError] | None = None
    told: str = ""
    retryable: bool = True
    status: int = 0
    lasts: bool = False
    """Whether the transport waits half a minute before it tries again."""


ANSWERED = Cell()


@dataclass
class Ground:
    """What a situation is built on."""

    names: Names
    environ: Callable[[str, str], None]
    folder: Path
    ca: Any
    options: dict[str, Any] = field(default_factory=dict)
    deadline_s: float = LIMIT_S


Situation = Callable[[Ground], AbstractAsyncContextManager[str]]


@pytest.fixture
def ground(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ground:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    names = Names(monkeypatch)
    names.set(NAME, "127.0.0.1")
    return Ground(names, monkeypatch.setenv, tmp_path, trustme.CA())


@asynccontextmanager
async def backend_at(transport: str, url: str, ground: Ground) -> AsyncIterator[RemoteBackend]:
    options: dict[str, Any] = {"allow_insecure_http": True, **ground.options}
    backend = TRANSPORTS[transport](endpoint=url, **options)  # type: ignore[call-arg]
    try:
        yield backend
    finally:
        await backend.aclose()


async def look(backend: RemoteBackend, deadline_s: float = LIMIT_S) -> Cell:
    """What one frame ends with."""
    plan = Plan(backend=backend.kind, reason="test", deadline_s=deadline_s, retries=0)
    try:
        await backend.detect(Frame.of(jpeg()), plan)
    except HybridDetectError as error:
        return cell_of(error)
    return ANSWERED


def cell_of(error: HybridDetectError) -> Cell:
    if not isinstance(error, BackendError):
        return Cell(type(error), str(error), retryable=False)
    status = error.status_code if isinstance(error, BackendResponseError) else 0
    return Cell(type(error), str(error), error.retryable, status, error.is_configuration)


def assert_alike(seen: Cell, expected: Cell) -> None:
    assert expected.told in seen.told
    assert (seen.error, seen.retryable, seen.status, seen.lasts) == (
        expected.error,
        expected.retryable,
        expected.status,
        expected.lasts,
    ), seen.told


# ---- situations: each yields the endpoint


@asynccontextmanager
async def server(_: Ground, host: str = NAME) -> AsyncIterator[str]:
    async with served(ServerConfig()) as running:
        yield f"http://{host}:{running.port}"


@asynccontextmanager
async def tls_server(ground: Ground) -> AsyncIterator[str]:
    cert, key = ground.folder / "cert.pem", ground.folder / "key.pem"
    made = ground.ca.issue_cert(NAME)
    key.write_bytes(made.private_key_pem.bytes())
    cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    ground.ca.cert_pem.write_to_path(ground.folder / "ca.pem")
    async with served(ServerConfig(tls=TlsConfig(cert=cert, key=key))) as running:
        yield f"https://{NAME}:{running.port}"


@asynccontextmanager
async def ca_in_the_system_store(ground: Ground) -> AsyncIterator[str]:
    async with tls_server(ground) as url:
        ground.environ("SSL_CERT_FILE", str(ground.folder / "ca.pem"))
        yield url


@asynccontextmanager
async def ca_file(ground: Ground) -> AsyncIterator[str]:
    async with tls_server(ground) as url:
        ground.options["ssl_context"] = client_context(ca_file=ground.folder / "ca.pem")
        yield url


@asynccontextmanager
async def unreadable_store(ground: Ground) -> AsyncIterator[str]:
    async with tls_server(ground) as url:
        ground.environ("SSL_CERT_FILE", str(ground.folder / "none.pem"))
        yield url


def proxied(
    variable: str, form: str = "http://{}", *, host: str = NAME, tls: bool = False, **options: Any
) -> Situation:
    """Through a proxy; the server itself cannot be reached but by it."""

    @asynccontextmanager
    async def situation(ground: Ground) -> AsyncIterator[str]:
        ground.names.set(NAME)
        async with (ca_in_the_system_store if tls else server)(ground) as url:
            port = int(url.rpartition(":")[2])
            relay = RelayProxy(port, **options)
            async with raw_server(relay.socks if "socks" in form else relay.http) as proxy_port:
                ground.environ(variable, form.format(f"127.0.0.1:{proxy_port}"))
                yield url.replace(NAME, host)
                assert relay.asked

    return situation


def unproxied(no_proxy: str, *, host: str = NAME) -> Situation:
    """The proxy is dead, and `no_proxy` excepts the server from it."""

    @asynccontextmanager
    async def situation(ground: Ground) -> AsyncIterator[str]:
        ground.names.route("10.1.2.3", "fd00::5")
        ground.environ("HTTP_PROXY", "http://127.0.0.1:1")
        ground.environ("NO_PROXY", no_proxy)
        async with server(ground, host) as url:
            yield url

    return situation


@asynccontextmanager
async def dead_proxy(ground: Ground) -> AsyncIterator[str]:
    ground.environ("ALL_PROXY", "127.0.0.1:1")
    async with server(ground) as url:
        yield url


@asynccontextmanager
async def unreadable_proxy(ground: Ground) -> AsyncIterator[str]:
    ground.environ("HTTP_PROXY", "http://user:canary@proxy:port")
    async with server(ground) as url:
        yield url


@asynccontextmanager
async def loopback_and_proxy(ground: Ground) -> AsyncIterator[str]:
    ground.environ("ALL_PROXY", "127.0.0.1:1")
    async with server(ground, "127.0.0.1") as url:
        yield url


@asynccontextmanager
async def dead_first_address(ground: Ground) -> AsyncIterator[str]:
    async with server(ground) as url:
        with black_hole("127.0.0.2", int(url.rpartition(":")[2])):
            ground.names.set(NAME, "127.0.0.2", "127.0.0.1")
            yield url


@asynccontextmanager
async def refused(ground: Ground) -> AsyncIterator[str]:
    async with server(ground) as url:
        pass
    yield url


@asynccontextmanager
async def no_such_name(ground: Ground) -> AsyncIterator[str]:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    ground.names.answer_with(unknown)
    yield f"http://{NAME}:1"


@asynccontextmanager
async def no_name_at_all(_: Ground) -> AsyncIterator[str]:
    yield "http://a..b:1"


@asynccontextmanager
async def hung_look_up(ground: Ground) -> AsyncIterator[str]:
    ground.names.hang(NAME)
    ground.deadline_s = 0.1
    try:
        yield f"http://{NAME}:1"
    finally:
        ground.names.release()


@asynccontextmanager
async def silent(ground: Ground) -> AsyncIterator[str]:
    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(64 * 1024):
            pass

    ground.deadline_s = 0.1
    async with raw_server(say_nothing) as port:
        yield f"http://{NAME}:{port}"


def answering(answer: bytes) -> Situation:
    """Every request and every handshake is answered so."""

    @asynccontextmanager
    async def situation(_: Ground) -> AsyncIterator[str]:
        async with raw_server(Gateway(answer=answer)) as port:
            yield f"http://{NAME}:{port}"

    return situation


def refusal(status: int, *, retryable: bool, lasts: bool = False, told: str = "") -> Cell:
    return Cell(BackendResponseError, told, retryable, status, lasts)


CA = "of a CA that is not known here"
PROXY = "the proxy of HTTP_PROXY "
TABLE: dict[str, tuple[Situation, Cell]] = {
    "plain": (server, ANSWERED),
    # trust
    "private CA in the system's store": (ca_in_the_system_store, ANSWERED),
    "private CA in ca_file": (ca_file, ANSWERED),
    "private CA unknown": (tls_server, Cell(BackendUnavailableError, CA, retryable=False)),
    "store unreadable": (
        unreadable_store,
        Cell(ConfigurationError, "SSL_CERT_FILE: cannot read", retryable=False),
    ),
    # proxies
    "HTTP_PROXY": (proxied("HTTP_PROXY"), ANSWERED),
    "HTTPS_PROXY": (proxied("HTTPS_PROXY", tls=True), ANSWERED),
    "ALL_PROXY": (proxied("ALL_PROXY"), ANSWERED),
    "proxy without a scheme": (proxied("HTTP_PROXY", "{}"), ANSWERED),
    "SOCKS proxy": (proxied("ALL_PROXY", "socks5://{}"), ANSWERED),
    "SOCKS proxy with a user": (
        proxied("ALL_PROXY", "socks5h://ada:secret@{}", user="ada:secret"),
        ANSWERED,
    ),
    "proxy with a user": (proxied("HTTP_PROXY", "ada:secret@{}", user="ada:secret"), ANSWERED),
    "proxy with a user, over TLS": (
        proxied("HTTPS_PROXY", "http://ada:secret@{}", user="ada:secret", tls=True),
        ANSWERED,
    ),
    "IPv6 address through a proxy": (proxied("ALL_PROXY", host="[fd00::5]"), ANSWERED),
    "proxy asks for a user (407)": (
        proxied("HTTP_PROXY", status=407),
        refusal(407, retryable=False, lasts=True, told=PROXY + "asks for a user"),
    ),
    "proxy refuses a user (407)": (
        proxied("HTTPS_PROXY", "http://ada:wrong@{}", tls=True, status=407),
        refusal(407, retryable=False, lasts=True, told="of HTTPS_PROXY does not accept this user"),
    ),
    "proxy cannot reach the server": (
        proxied("HTTPS_PROXY", tls=True, status=502),
        Cell(BackendUnavailableError, "the proxy of HTTPS_PROXY refuses"),
    ),
    "SOCKS proxy cannot reach the server": (
        proxied("ALL_PROXY", "socks5://{}", socks_reply=4),
        Cell(BackendUnavailableError, "the proxy of ALL_PROXY cannot reach the server"),
    ),
    "proxy dead": (
        dead_proxy,
        Cell(BackendUnavailableError, "the proxy of ALL_PROXY could not be reached"),
    ),
    "proxy unreadable": (
        unreadable_proxy,
        Cell(ConfigurationError, "HTTP_PROXY: expected", retryable=False),
    ),
    "this machine, proxies set": (loopback_and_proxy, ANSWERED),
    "NO_PROXY names it": (unproxied("localhost,faces.test"), ANSWERED),
    "NO_PROXY names its domain": (unproxied(".test"), ANSWERED),
    "NO_PROXY with unreadable entries": (unproxied("fd00::/8, no/99, [, faces.test"), ANSWERED),
    "NO_PROXY of an IPv4 network": (unproxied("10.0.0.0/8", host="10.1.2.3"), ANSWERED),
    "NO_PROXY of an IPv6 network": (unproxied("fd00::/8", host="[fd00::5]"), ANSWERED),
    "NO_PROXY of an IPv6 address": (unproxied("[fd00::5]", host="[fd00::5]"), ANSWERED),
    # addresses
    "first address dead": (dead_first_address, ANSWERED),
    "connection refused": (refused, Cell(BackendUnavailableError, "could not be reached")),
    "name unknown": (no_such_name, Cell(BackendUnavailableError, "cannot be looked up")),
    "no name at all": (
        no_name_at_all,
        Cell(BackendUnavailableError, "is not a name", retryable=False),
    ),
    "look-up hangs": (hung_look_up, Cell(BackendTimeoutError)),
    "server says nothing": (silent, Cell(BackendTimeoutError)),
    # statuses, in the words of a gateway
    **{
        f"status {status}": (
            answering(page(status, b"", f"Location: http://{NAME}:1/")),
            refusal(status, retryable=False, told="redirects"),
        )
        for status in (301, 302, 303, 307, 308)
    },
    **{
        f"status {status}": (
            answering(page(status)),
            refusal(status, retryable=status in {408, 425, 429}, lasts=status in {401, 403, 404}),
        )
        for status in (400, 401, 403, 404, 408, 409, 413, 415, 418, 422, 425, 429, 451, 499)
    },
    **{
        f"status {status}": (
            answering(page(status)),
            refusal(status, retryable=status not in {501, 505, 511}),
        )
        for status in (500, 501, 502, 503, 504, 505, 507, 511, 520, 525, 599)
    },
    "sign-in page asks by its status": (
        answering(page(511)),
        refusal(511, retryable=False, told="asks to sign in"),
    ),
    # captive portals
    "captive portal: a page": (answering(page(200)), Cell(ProtocolError, retryable=False)),
    "captive portal: JSON": (
        answering(page(200, b'{"captive":true}', kind="application/json")),
        Cell(ProtocolError, retryable=False),
    ),
    "captive portal: JSON that is ok": (
        answering(page(200, b'{"status":"ok"}', kind="application/json")),
        Cell(ProtocolError, retryable=False),
    ),
    # other servers
    "SSH": (answering(b"SSH-2.0-x\r\n\r\n"), Cell(BackendUnavailableError)),
    "nothing but an end": (answering(b""), Cell(BackendUnavailableError)),
}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", TABLE)
async def test_a_frame_ends_the_same_over_both(name: str, transport: str, ground: Ground) -> None:
    situation, expected = TABLE[name]
    async with situation(ground) as url, backend_at(transport, url, ground) as backend:
        assert_alike(await look(backend, ground.deadline_s), expected)


# ---- checks


CHECKED = [
    name
    for name in TABLE
    if name.startswith(("plain", "private CA", "HTTP", "proxy", "captive", "status 5", "status 4"))
]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", CHECKED)
async def test_a_check_says_what_a_frame_would_meet(
    name: str, transport: str, ground: Ground
) -> None:
    situation, expected = TABLE[name]
    async with situation(ground) as url, backend_at(transport, url, ground) as backend:
        seen = ANSWERED
        try:
            await backend.check(deadline_s=LIMIT_S)
        except HybridDetectError as error:
            seen = cell_of(error)
        assert_alike(seen, expected)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_wait_that_is_asked_for_is_told_by_frames_and_checks(
    transport: str, ground: Ground
) -> None:
    answer = page(503, b"", "Retry-After: 7")
    async with (
        answering(answer)(ground) as url,
        backend_at(transport, url, ground) as backend,
    ):
        plan = Plan(backend=backend.kind, reason="test", deadline_s=LIMIT_S, retries=0)
        for call in (backend.check(deadline_s=LIMIT_S), backend.detect(Frame.of(jpeg()), plan)):
            with pytest.raises(BackendResponseError) as caught:
                await call
            assert caught.value.retry_after_s == 7.0


# ---- tokens that end


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_a_token_that_is_refused_is_asked_for_anew(
    is_async: bool, transport: str, ground: Ground
) -> None:
    tokens = iter(["ended", "good", "good"])

    async def asked() -> str:
        return next(tokens)

    ground.options["auth_token"] = asked if is_async else lambda: next(tokens)
    async with (
        served(ServerConfig(auth_token="good")) as running,
        backend_at(transport, f"http://{NAME}:{running.port}", ground) as backend,
        asyncio.timeout(LIMIT_S / 2),  # not the half minute of a verdict
    ):
        while await look(backend) != ANSWERED:
            await asyncio.sleep(0.001)


# ---- a server that has worked, and a gateway in front of it


@asynccontextmanager
async def behind_a_gateway(
    transport: str, ground: Ground
) -> AsyncIterator[tuple[RemoteBackend, Gateway]]:
    async with served(ServerConfig()) as running:
        gateway = Gateway(running.port)
        async with (
            raw_server(gateway) as port,
            backend_at(transport, f"http://{NAME}:{port}", ground) as backend,
        ):
            yield backend, gateway


async def refused_by(backend: RemoteBackend) -> Cell:
    """The first refusal; the link that it breaks before fails a frame or two on its own."""
    while (seen := await look(backend)).error is not BackendResponseError:
        await asyncio.sleep(0.001)
    return seen


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_a_gateway_s_word_is_no_verdict_on_a_server_that_has_worked(
    status: int, transport: str, ground: Ground
) -> None:
    async with behind_a_gateway(transport, ground) as (backend, gateway):
        assert await look(backend) == ANSWERED
        gateway.fail(page(status))
        seen = await refused_by(backend)
        assert_alike(seen, refusal(status, retryable=True))
        gateway.answer = None
        async with asyncio.timeout(LIMIT_S / 2):  # not the half minute of a verdict
            while await look(backend) != ANSWERED:
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_server_s_own_word_is_a_verdict(transport: str, ground: Ground) -> None:
    async with behind_a_gateway(transport, ground) as (backend, gateway):
        assert await look(backend) == ANSWERED
        gateway.fail(page(401, OURS % 401, kind="application/json"))
        assert_alike(await refused_by(backend), refusal(401, retryable=False, lasts=True))


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_json_that_is_not_ours_is_no_word_of_the_server_s(
    transport: str, ground: Ground
) -> None:
    async with behind_a_gateway(transport, ground) as (backend, gateway):
        assert await look(backend) == ANSWERED
        for body in (b'{"message": "no"}', b'{"status": 500}', b"[", b"[1]", b"\xff"):
            gateway.fail(page(403, body, kind="application/json"))
            assert_alike(await refused_by(backend), refusal(403, retryable=True))


# ---- close codes, which only a stream has, beside the statuses that say the same


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (1003, "", 415),
        (1007, "", 422),
        (1008, CREDENTIAL_ENDED, 401),
        (1009, "", 413),
        (1011, "", 500),
        (1012, "", 503),
        (1013, "", 503),
        (1014, "", 502),
        (3000, "", 401),
        (3003, "", 403),
    ],
)
async def test_a_close_code_says_what_its_status_says(
    code: int, reason: str, status: int, ground: Ground
) -> None:
    async def close(link: ServerConnection) -> None:
        await link.recv()
        await link.close(code, reason)

    async with serve(
        close,
        "127.0.0.1",
        0,
        subprotocols=[SUBPROTOCOL],
        close_timeout=0.2,  # type: ignore[list-item]
    ) as running:
        port = next(iter(running.sockets)).getsockname()[1]
        async with backend_at("streaming", f"http://{NAME}:{port}", ground) as backend:
            over_stream = await look(backend)
    answer = page(status, OURS % status, kind="application/json")
    async with (
        answering(answer)(ground) as url,
        backend_at("cloud", url, ground) as backend,
    ):
        over_cloud = await look(backend)
    assert f"close code {code}" in over_stream.told
    assert_alike(over_stream, replace(over_cloud, told=""))


# ---- slow but living, and dead


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_slow_but_living_link_answers(
    transport: str, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round trip longer than half of what opening a link usually takes, and than a heartbeat."""
    monkeypatch.setattr(streaming, "OPEN_TIMEOUT_S", 0.2)
    round_trip_s = 0.15
    ground.names.set(NAME, "10.1.2.3")
    ground.names.route("10.1.2.3", delay_s=round_trip_s)
    if transport == "streaming":
        ground.options["heartbeat_s"] = 0.05
    async with server(ground) as direct, FaultyLink(direct.replace(NAME, "127.0.0.1")) as link:
        link.delay_s = round_trip_s / 2
        url = link.url.replace("127.0.0.1", NAME)
        async with backend_at(transport, url, ground) as backend:
            async with asyncio.timeout(LIMIT_S):
                while await look(backend) != ANSWERED:
                    await asyncio.sleep(0.001)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_a_check_may_take_follows_the_round_trip(transport: str, ground: Ground) -> None:
    ground.names.set(NAME, "10.1.2.3")
    async with server(ground) as url, backend_at(transport, url, ground) as backend:
        ground.names.route("10.1.2.3", took_s=1.6)
        assert await look(backend) == ANSWERED
        assert backend.check_deadline_s == pytest.approx(9.6, abs=0.5)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_hung_look_up_holds_up_neither_other_work_nor_closing(
    transport: str, ground: Ground
) -> None:
    async with hung_look_up(ground) as url:
        backend = TRANSPORTS[transport](endpoint=url, allow_insecure_http=True)  # type: ignore[call-arg]
        looking = [asyncio.create_task(look(backend)) for _ in range(16)]
        await until(lambda: ground.names.asked)
        assert await asyncio.to_thread(lambda: "free") == "free"
        await backend.aclose()  # not before the name server has answered, it would have been
        assert {(await each).error for each in looking} <= {
            ClosedError,
            BackendUnavailableError,
            SupersededError,
        }
        assert ground.names.asked == [NAME]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("situation", [server, ca_file], ids=["plain", "TLS"])
async def test_closing_at_every_turn_of_the_loop_leaves_no_socket(
    situation: Situation, transport: str, ground: Ground
) -> None:
    """A socket that is left is a ResourceWarning, which is an error in this suite."""
    async with situation(ground) as url:
        for turns in (*range(12), *range(12, 60, 5)):
            async with backend_at(transport, url, ground) as backend:
                looking = asyncio.create_task(look(backend))
                for _ in range(turns):
                    await asyncio.sleep(0)
            async with asyncio.timeout(LIMIT_S):
                await looking
    gc.collect()
