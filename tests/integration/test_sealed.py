"""Encrypted from end to end, over real sockets: what is on the wire, and what if it fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.protocol import HttpRequest, HttpResponse
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.backends.remote.secure_transmission import SecureImageTransmission
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import (
    AllBackendsFailedError,
    BackendError,
    BackendResponseError,
    BackendUnavailableError,
    ConfigurationError,
    EncryptionError,
)
from hybrid_detect.exchange.key_files import KnownKeys, read_key_file, write_key_file
from hybrid_detect.exchange.key_ring import KeyRing
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.exchange.trust import TrustedKey
from hybrid_detect.exchange.wire import DetectRequest, ErrorReply, decode_reply
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server import sealing
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.listening import Server
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import (
    BackendKind,
    BoundingBox,
    DetectionResult,
    Face,
    Plan,
)

from ..exchange.suites import each_suite
from ..waiting import LIMIT_S

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

TOKEN = "a-token-of-the-tests"
SESSION = "the-name-of-the-session"
END = datetime(2099, 1, 1, tzinfo=UTC)
FACE = Face(BoundingBox(1, 2, 30, 40), 0.9)
PICTURE = np.random.default_rng(1).integers(0, 255, (96, 128, 3), dtype=np.uint8)

each_backend = pytest.mark.parametrize("backend", ["cloud", "streaming"])


class FakeDetector:
    """Sees one face in every picture."""

    model = "fake-model-name"
    info = None

    def __init__(self) -> None:
        self.seen: list[DetectRequest] = []

    async def start(self) -> None: ...

    async def detect(
        self, request: DetectRequest, *, is_abandoned: Any = None, **_: object
    ) -> Detection:
        self.seen.append(request)
        frame = Frame.of(request.image)
        return Detection(
            width=frame.width, height=frame.height, faces=(FACE,), queue_s=0.0, detect_s=0.0
        )

    async def aclose(self) -> None: ...


@contextlib.asynccontextmanager
async def served(detector: FakeDetector, **options: Any) -> AsyncIterator[str]:
    """The real app on a free port of this machine."""
    config = ServerConfig(auth_token=TOKEN, port=0, **options)
    async with Server(create_app(config, detector), config) as server:
        yield server.url


class Wiretap:
    """A TCP proxy that keeps what passes, WebSocket's masking taken off."""

    def __init__(self, upstream: str) -> None:
        self._port = int(upstream.rpartition(":")[2])
        self._raw: list[bytearray] = []

    async def __aenter__(self) -> Wiretap:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(
            self._pump(reader, far_writer), self._pump(far_reader, writer), return_exceptions=True
        )

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = bytearray()
        self._raw.append(kept)
        while data := await reader.read(65536):
            kept += data
            writer.write(data)
            await writer.drain()
        writer.close()

    @property
    def heard(self) -> bytes:
        return b"\n".join(bytes(raw) + b"\n" + unmasked(bytes(raw)) for raw in self._raw)


def unmasked(stream: bytes) -> bytes:
    """The payloads of a WebSocket's frames (RFC 6455, 5.2), which clients mask."""
    out = []
    at = stream.find(b"\r\n\r\n") + 4
    while at >= 4 and at + 2 <= len(stream):
        masked, size = stream[at + 1] & 0x80, stream[at + 1] & 0x7F
        at += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(stream[at : at + width], "big")
            at += width
        mask = stream[at : at + 4] if masked else bytes(4)
        at += 4 if masked else 0
        payload = np.frombuffer(stream[at : at + size], np.uint8)
        out.append((payload ^ np.resize(np.frombuffer(mask, np.uint8), payload.size)).tobytes())
        at += size
    return b"\n".join(out)


@pytest.fixture
def private() -> PrivateKey:
    return PrivateKey.generate(Suite.X25519_CHACHA20, END)


@pytest.fixture
def keys_path(tmp_path: Path, private: PrivateKey) -> Path:
    write_key_file(tmp_path / "keys.json", KeyRing((private,)))
    return tmp_path / "keys.json"


async def look(url: str, backend: str, **options: Any) -> DetectionResult:
    """One picture through the whole service."""
    config = ServiceConfig(
        endpoint=url, auth_token=TOKEN, mode=backend, session_id=SESSION, deadline_s=10, **options
    )
    async with asyncio.timeout(LIMIT_S), HybridDetectionService(config=config) as service:
        return await service.process_image(PICTURE)


def make_backend(backend: str, url: str, key: TrustedKey | None) -> RemoteBackend:
    made = CloudDetectionService if backend == "cloud" else StreamingService
    return made(endpoint=url, auth_token=TOKEN, encryption=key, session_id=SESSION)


def plan(backend: str, retries: int = 0) -> Plan:
    return Plan(backend=BackendKind(backend), reason="test", deadline_s=10, retries=retries)


# ---- what is on the wire


@each_backend
async def test_without_encryption_the_wiretap_hears_everything(backend: str) -> None:
    """The control: what the next test does not find would have been found."""
    detector = FakeDetector()
    async with served(detector) as server, Wiretap(server) as tap:
        await look(tap.url, backend)
        heard = tap.heard
    assert detector.seen[0].image in heard
    assert SESSION.encode() in heard
    assert b'"faces"' in heard
    assert b"fake-model-name" in heard


@each_backend
@each_suite
async def test_neither_picture_nor_session_nor_answer_is_on_the_wire(
    backend: str, suite: Suite, tmp_path: Path
) -> None:
    detector = FakeDetector()
    private = PrivateKey.generate(suite, END)
    write_key_file(tmp_path / "keys.json", KeyRing((private,)))
    keys = {"keys_path": tmp_path / "keys.json", "require_encryption": True}
    async with served(detector, **keys) as server, Wiretap(server) as tap:
        result = await look(tap.url, backend, server_public_key=private.public.text)
        heard = tap.heard
    assert [face.box.xyxy for face in result.faces] == [(1, 2, 30, 40)]
    (request,) = detector.seen
    assert request.session_id == SESSION
    assert len(heard) > len(request.image)
    for start in range(0, len(request.image) - 16, 16):
        assert request.image[start : start + 16] not in heard
    assert b"JFIF" not in heard
    assert SESSION.encode() not in heard
    assert b'"faces"' not in heard
    assert b'"box"' not in heard
    assert result.bytes_sent > len(request.image)


async def test_a_user_seals_and_a_backend_carries(private: PrivateKey, keys_path: Path) -> None:
    detector = FakeDetector()
    async with (
        served(detector, keys_path=keys_path, require_encryption=True) as server,
        CloudDetectionService(endpoint=server, auth_token=TOKEN) as cloud,
    ):
        transmission = SecureImageTransmission(private.public.text)
        result = await transmission.encrypt_and_send(PICTURE, send=cloud, deadline_s=10)
    assert result.backend is BackendKind.CLOUD
    assert len(result.faces) == 1


# ---- retries


@pytest.mark.parametrize("base", [CloudDetectionService, StreamingService])
async def test_a_retry_is_not_refused_as_a_replay_of_itself(
    base: type[RemoteBackend], private: PrivateKey, keys_path: Path
) -> None:
    """The server has seen the first attempt, whose reply was lost; the second is sealed anew."""
    sent: list[HttpRequest] = []

    class Lossy(base):  # type: ignore[misc, valid-type]
        async def exchange(self, request: HttpRequest, **options: Any) -> HttpResponse:
            sent.append(request)
            reply: HttpResponse = await super().exchange(request, **options)
            if len(sent) == 1:
                msg = "the reply was lost"
                raise BackendUnavailableError(msg, retryable=True)
            return reply

    detector = FakeDetector()
    async with served(detector, keys_path=keys_path) as server:
        lossy = Lossy(endpoint=server, auth_token=TOKEN, encryption=TrustedKey(private.public))
        async with lossy:
            result = await lossy.detect(Frame.of(PICTURE), plan(lossy.kind.value, retries=1))
            assert len(result.faces) == 1
            assert await status_of(lossy, sent[0]) == 409, "the same bytes again are a replay"
    assert len(detector.seen) == 2
    assert sent[0].body != sent[1].body


async def status_of(service: RemoteBackend, request: HttpRequest) -> int:
    response = await service.exchange(request, deadline_s=5)
    if response.status != 200:  # HTTP says it with its own status
        return response.status
    reply = decode_reply(response.body)
    assert isinstance(reply, ErrorReply)
    return reply.status


# ---- trust on first use


@each_backend
async def test_the_first_key_is_believed_then_another_server_gets_nothing(
    backend: str,
    private: PrivateKey,
    keys_path: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = tmp_path / "known.json"
    options = {"trust_on_first_use": True, "known_keys_path": known}
    detector, impostor = FakeDetector(), FakeDetector()
    async with served(detector, keys_path=keys_path) as server:
        for _ in range(2):
            assert (await look(server, backend, **options)).answered
    assert KnownKeys(known).get(server) == private.public

    write_key_file(
        tmp_path / "theirs.json", KeyRing((PrivateKey.generate(Suite.X25519_CHACHA20, END),))
    )
    async with served(impostor, keys_path=tmp_path / "theirs.json") as theirs:
        KnownKeys(known).put(theirs, private.public)  # as if it had taken over the address
        async with Wiretap(theirs) as tap:
            KnownKeys(known).put(tap.url, private.public)
            with pytest.raises(AllBackendsFailedError, match="no longer has key"):
                await look(tap.url, backend, **options)
            heard = tap.heard
    assert impostor.seen == []
    assert b"JFIF" not in heard
    assert SESSION.encode() not in heard
    loud = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert any("another server" in record.getMessage() for record in loud)


@each_backend
async def test_the_first_frame_may_be_what_asks_for_the_key(
    backend: str, private: PrivateKey, keys_path: Path, tmp_path: Path
) -> None:
    """Without a check before it."""
    detector = FakeDetector()
    async with served(detector, keys_path=keys_path, require_encryption=True) as server:
        key = TrustedKey(endpoint=server, known=KnownKeys(tmp_path / "known.json"))
        async with make_backend(backend, server, key) as service:
            result = await service.detect(Frame.of(PICTURE), plan(backend))
    assert len(result.faces) == 1
    assert key.sealer is not None
    assert key.sealer.public_key == private.public


@each_backend
@pytest.mark.parametrize("keys", [True, False])
async def test_a_server_without_keys_gets_no_picture(
    backend: str, keys: bool, tmp_path: Path, private: PrivateKey
) -> None:
    detector = FakeDetector()
    key = (
        TrustedKey(private.public)
        if keys
        else TrustedKey(endpoint="x", known=KnownKeys(tmp_path / "known.json"))
    )
    async with (
        served(detector) as server,
        Wiretap(server) as tap,
        make_backend(backend, tap.url, key) as service,
    ):
        with pytest.raises(BackendError, match=r"not have the key|publishes no key") as caught:
            await service.detect(Frame.of(PICTURE), plan(backend))
        heard = tap.heard
    assert caught.value.backend == backend
    assert detector.seen == []
    assert b"JFIF" not in heard


@each_backend
async def test_a_rotation_is_followed_and_remembered(
    backend: str,
    private: PrivateKey,
    keys_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sealing, "RELOAD_S", 0.0)
    known = KnownKeys(tmp_path / "known.json")
    new = PrivateKey.generate(Suite.X25519_CHACHA20, END)
    async with served(FakeDetector(), keys_path=keys_path) as server:
        key = TrustedKey(endpoint=server, known=known)
        async with make_backend(backend, server, key) as service:
            await service.detect(Frame.of(PICTURE), plan(backend))
            assert known.get(server) == private.public
            now = datetime.now(UTC)
            write_key_file(keys_path, read_key_file(keys_path).rotated(new, now=now))
            await service.detect(Frame.of(PICTURE), plan(backend))
            assert known.get(server) == new.public
            # The old one may go now: a client that was there has followed.
            write_key_file(keys_path, KeyRing((new,)))
            await service.detect(Frame.of(PICTURE), plan(backend))


# ---- failing towards the device, never towards plaintext


@each_backend
async def test_a_key_the_server_does_not_have_means_the_device(
    backend: str, keys_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detector = FakeDetector()
    stranger = TrustedKey(PrivateKey.generate(Suite.X25519_CHACHA20, END).public)
    async with served(detector, keys_path=keys_path) as server, asyncio.timeout(LIMIT_S):
        backends = [make_backend(backend, server, stranger), FakeBackend("device", faces=[FACE])]
        async with HybridDetectionService(backends=backends, mode="prefer_cloud") as service:
            await service.wait_ready()
            result = await service.process_image(PICTURE)
    assert result.backend is BackendKind.DEVICE
    assert detector.seen == []
    assert "no longer has key" in caplog.text


@each_backend
async def test_an_ended_key_means_the_device(
    backend: str, private: PrivateKey, keys_path: Path
) -> None:
    detector = FakeDetector()
    ended = TrustedKey(private.public, clock=lambda: END.timestamp() + 1)
    async with served(detector, keys_path=keys_path) as server, asyncio.timeout(LIMIT_S):
        backends = [make_backend(backend, server, ended), FakeBackend("device", faces=[FACE])]
        async with HybridDetectionService(backends=backends, mode="prefer_cloud") as service:
            await service.wait_ready()
            result = await service.process_image(PICTURE)
            unavailable_reason = {
                backend.kind.value: backend.unavailable_reason
                for backend in service.status().backends
            }[backend]
        async with make_backend(backend, server, ended) as service:
            with pytest.raises(EncryptionError, match="has ended"):
                await service.detect(Frame.of(PICTURE), plan(backend))
    assert result.backend is BackendKind.DEVICE
    assert "has ended" in unavailable_reason
    assert detector.seen == []


@each_backend
async def test_a_client_without_a_key_is_refused_where_encryption_is_required(
    backend: str, keys_path: Path
) -> None:
    detector = FakeDetector()
    async with (
        served(detector, keys_path=keys_path, require_encryption=True) as server,
        make_backend(backend, server, None) as service,
    ):
        with pytest.raises(BackendResponseError, match="not encrypted") as caught:
            await service.detect(Frame.of(PICTURE), plan(backend))
    assert caught.value.is_configuration
    assert detector.seen == []


async def test_a_pin_that_is_no_key_is_a_configuration_error() -> None:
    config = ServiceConfig(endpoint="http://127.0.0.1:1", mode="cloud", server_public_key="hd1:x")
    with pytest.raises(ConfigurationError, match="public key"):
        HybridDetectionService(config=config)
    with pytest.raises(ConfigurationError, match="trust_on_first_use"):
        ServiceConfig(server_public_key="hd1:x", trust_on_first_use=True)


async def test_the_settings_may_come_from_the_environment(private: PrivateKey) -> None:
    config = ServiceConfig.from_env({"HYBRID_DETECT_SERVER_PUBLIC_KEY": private.public.text})
    key = TrustedKey.from_config(config)
    assert key is not None
    assert key.sealer is not None
    assert key.sealer.public_key == private.public
    assert TrustedKey.from_config(ServiceConfig()) is None
