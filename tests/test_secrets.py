"""Canaries: what must stay secret shows up in no log, repr, error, traceback or report.

Each test plants recognisable secrets, makes things go wrong in the ways they do, collects
everything a program could come to print, and looks for the secrets in it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import logging
import pickle
import re
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import websockets.asyncio.server
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.credentials import BearerToken
from hybrid_detect.backends.remote.protocol import DetectParams
from hybrid_detect.backends.remote.providers.custom import CustomProtocol
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import (
    AllBackendsFailedError,
    BackendError,
    ConfigurationError,
    HybridDetectError,
    InvalidFrameError,
)
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DetectRequest,
    ErrorReply,
    decode_request,
    encode_reply,
)
from hybrid_detect.extras import is_installed
from hybrid_detect.frames.frame import Frame
from hybrid_detect.privacy.filter import PrivacyFilter
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, DetectionMode, Plan

TOKEN = "canary-token-5f1c"
SESSION = "canary-session-93ab"
REMARK = "canary-remark-of-the-server-20de"
PIXELS = b"canary-pixel"
LEVELS = ", ".join(str(level) for level in PIXELS[:3])
SECRETS = (TOKEN, SESSION, REMARK, PIXELS.decode(), PIXELS.hex(), LEVELS)

HEADING = "canary-heading-of-the-server-c4d1"
"""Stands in a reply's first lines, which httpx and httpcore log themselves: theirs to tell."""
CHATTY = ("httpx", "httpcore")


class Told:
    """Everything that came to be told, as text."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self._texts: list[str] = []

    def of(self, *values: object) -> None:
        """Note whatever a program might print of `values`."""
        for value in values:
            self._texts += [str(value), repr(value), f"{value}"]
            if isinstance(value, BaseException):
                self._of_error(value)

    def _of_error(self, error: BaseException) -> None:
        self._texts += traceback.format_exception(error)
        self._texts.append(repr(vars(error)))

    def of_variables(self, error: BaseException) -> None:
        """Note what crash reporters add to a traceback: the variables of our own functions."""
        with_locals = traceback.TracebackException.from_exception(error, capture_locals=True)
        self._texts += [
            # The caller's own name for the session is in every result.
            f"{name} = {text.replace(SESSION, '')}"
            for frame in with_locals.stack
            if "/hybrid_detect/" in frame.filename
            for name, text in (frame.locals or {}).items()
        ]

    def text(self, *, without: tuple[str, ...] = ()) -> str:
        """All of it, but for the records of some loggers."""
        records = [
            record
            for record in self._caplog.records
            if record.name.partition(".")[0] not in without
        ]
        logged = [
            f"{record.getMessage()} {record.args!r} {record.exc_text or ''}" for record in records
        ]
        return re.sub(r"\s+", " ", "\n".join([*self._texts, *logged]))

    def holds_no(self, *secrets: str, without: tuple[str, ...] = ()) -> None:
        text = self.text(without=without)
        for secret in secrets:
            assert secret not in text, text[max(0, text.index(secret) - 300) :][:400]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    caplog.set_level(logging.DEBUG)
    return Told(caplog)


def picture() -> np.ndarray:
    """Pixels that spell the canary, as bytes and as numbers."""
    row = np.frombuffer(PIXELS * 8, np.uint8).reshape(32, 3)
    return np.ascontiguousarray(np.broadcast_to(row, (24, 32, 3)))


def plan(deadline_s: float = 5.0) -> Plan:
    return Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=deadline_s, retries=0)


def test_the_collector_would_notice(told: Told) -> None:
    def fail(given: object) -> None:
        raise ValueError(REMARK)

    with pytest.raises(ValueError, match="canary") as caught:
        fail(SESSION)
    told.of(caught.value, picture())
    logging.getLogger("any.library").debug("with %s", TOKEN)
    for secret in (TOKEN, REMARK, LEVELS):
        with pytest.raises(AssertionError):
            told.holds_no(secret)
    told.holds_no(SESSION)


# ---- servers that misbehave, and say much


def http(status: str, body: bytes = b"", *headers: str, kind: str = CONTENT_TYPE) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", f"Content-Type: {kind}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


BODY = REMARK.encode() * 3
ERROR_REPLY = encode_reply(ErrorReply(request_id=0, status=500, code=REMARK))

ANSWERS: dict[str, bytes | None] = {
    "401": http("401 Unauthorized", BODY),
    "403 as text": http("403 Forbidden", BODY, kind="text/html"),
    "404": http("404 Not Found", BODY),
    "413": http("413 Content Too Large", BODY),
    "429": http("429 Too Many Requests", BODY, f"Retry-After: {HEADING}"),
    "500 with a body": http("500 Internal Server Error", BODY),
    "500 with a reason": http(f"500 {HEADING}", BODY),
    "an error of our own": http("200 OK", ERROR_REPLY),
    "another kind of content": http("200 OK", BODY, kind=f"text/{HEADING}"),
    "a malformed reply": http("200 OK", BODY),
    "a malformed header": http("200 OK", b"HD\x01\x02" + bytes(4) + b"\0\0\0\x20" + BODY),
    "a redirect": http("302 Found", BODY, f"Location: http://{HEADING}/"),
    "no HTTP": HEADING.encode() + b"\r\n\r\n",
    "a reply that is cut": http("200 OK", BODY)[:-5],
    "an unknown encoding": http("200 OK", BODY, "Content-Encoding: gzip"),
    "nothing": None,
}


@contextlib.asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """A server's URL, which answers each request with `answer` and closes, or never does."""
    serving: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            await reader.readexactly(int(length[1]) if length else 0)
            if answer is None:
                await asyncio.Event().wait()
            writer.write(answer or b"")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()


async def refused_url() -> str:
    """A URL where nobody listens."""
    async with answering(b"") as url:
        pass
    return url


@pytest.mark.anyio
@pytest.mark.parametrize("name", [*ANSWERS, "refused"])
async def test_no_failure_of_the_cloud_tells(name: str, told: Told) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if name == "refused":
            url = await refused_url()
        else:
            url = await stack.enter_async_context(answering(ANSWERS[name]))
        service = await stack.enter_async_context(
            CloudDetectionService(endpoint=url, auth_token=TOKEN, session_id=SESSION)
        )
        deadline_s = 0.2 if name == "nothing" else 5.0
        with pytest.raises(BackendError) as caught:
            await service.detect(Frame.of(picture()), plan(deadline_s))
        told.of(caught.value, service, service.unavailable_reason, vars(caught.value))
        told.of(copy.copy(caught.value))
        told.of_variables(caught.value)
        with contextlib.suppress(BackendError):
            await service.check(deadline_s=deadline_s)
    told.holds_no(*SECRETS)
    told.holds_no(HEADING, without=CHATTY)
    assert type(caught.value).__name__ in told.text()


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["401", "500 with a body", "a malformed reply", "refused"])
async def test_neither_does_the_service_around_it(name: str, told: Told) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if name == "refused":
            url = await refused_url()
        else:
            url = await stack.enter_async_context(answering(ANSWERS[name]))
        service = await stack.enter_async_context(
            HybridDetectionService(
                endpoint=url, auth_token=TOKEN, mode=DetectionMode.CLOUD, session_id=SESSION
            )
        )
        told.of(service, service.status(), service.config.endpoint)
        with pytest.raises(AllBackendsFailedError) as caught:
            await service.process_image(picture())
        told.of(caught.value, *caught.value.attempts, service.status())
        for attempt in caught.value.attempts:
            told.of_variables(attempt)
        async for result in service.start_detection(iter([picture(), picture()])):
            assert not result.answered
            # The caller's own name for the session is the one thing a result may repeat.
            assert result.session_id == SESSION
            for text in (repr(result), repr(result.to_dict()), result.to_json()):
                told.of(text.replace(SESSION, ""))
            told.of(result.error, result.reason, result.timings)
        told.of(service.status())
    told.holds_no(*SECRETS)
    assert "cloud is out" in told.text()


@pytest.mark.anyio
async def test_a_fallback_tells_what_failed_and_no_more(told: Told) -> None:
    async with answering(ANSWERS["500 with a body"]) as url:
        cloud = CloudDetectionService(endpoint=url, auth_token=TOKEN, session_id=SESSION)
        device = FakeBackend(BackendKind.DEVICE)
        async with HybridDetectionService(
            mode="prefer_cloud", backends=[cloud, device], session_id=SESSION
        ) as service:
            result = await service.process_image(picture())
            told.of(service.status())
        assert result.backend is BackendKind.DEVICE
        told.of(result.to_json().replace(SESSION, ""), repr(result).replace(SESSION, ""))
    told.holds_no(*SECRETS)


# ---- the stream


@contextlib.asynccontextmanager
async def stream_server(
    serve: Callable[[websockets.asyncio.server.ServerConnection], Awaitable[None]],
    refusal: Response | None = None,
) -> AsyncIterator[str]:
    def gate(
        _connection: websockets.asyncio.server.ServerConnection, _request: Request
    ) -> Response | None:
        return refusal

    # The server's own log is the server's: at DEBUG it writes what it is sent.
    quiet = logging.getLogger("tests.websocket_server")
    quiet.setLevel(logging.CRITICAL)
    async with websockets.asyncio.server.serve(
        serve, "127.0.0.1", 0, process_request=gate, logger=quiet
    ) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def close_with_a_remark(connection: websockets.asyncio.server.ServerConnection) -> None:
    await connection.recv()
    await connection.close(1011, REMARK)


async def answer_nonsense(connection: websockets.asyncio.server.ServerConnection) -> None:
    await connection.recv()
    await connection.send(BODY)
    await connection.wait_closed()


async def answer_text(connection: websockets.asyncio.server.ServerConnection) -> None:
    await connection.recv()
    await connection.send(REMARK)
    await connection.wait_closed()


async def say_nothing(connection: websockets.asyncio.server.ServerConnection) -> None:
    await connection.wait_closed()


@pytest.mark.anyio
@pytest.mark.parametrize("serve", [close_with_a_remark, answer_nonsense, answer_text, say_nothing])
async def test_no_failure_of_the_stream_tells(
    serve: Callable[[websockets.asyncio.server.ServerConnection], Awaitable[None]], told: Told
) -> None:
    async with (
        stream_server(serve) as url,
        StreamingService(endpoint=url, auth_token=TOKEN, session_id=SESSION) as service,
    ):
        with contextlib.suppress(BackendError):
            await service.check(deadline_s=5)
        with pytest.raises(BackendError) as caught:
            await service.detect(Frame.of(picture()), plan(0.3))
        told.of(caught.value, service, service.unavailable_reason)
    told.holds_no(*SECRETS)


@pytest.mark.anyio
@pytest.mark.parametrize("status", [302, 401, 500])
async def test_a_refused_stream_tells_nothing(status: int, told: Told) -> None:
    refusal = Response(status, REMARK, Headers({"X-Remark": REMARK, "Location": "/"}), BODY)
    async with (
        stream_server(say_nothing, refusal) as url,
        StreamingService(endpoint=url, auth_token=TOKEN, session_id=SESSION) as service,
    ):
        with pytest.raises(BackendError) as caught:
            await service.check(deadline_s=5)
        told.of(caught.value, service, service.unavailable_reason)
        with pytest.raises(BackendError) as caught:
            await service.detect(Frame.of(picture()), plan(0.5))
        told.of(caught.value)
    told.holds_no(*SECRETS)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["no HTTP", "500 with a body", "500 with a reason"])
async def test_neither_does_one_to_a_server_of_another_kind(name: str, told: Told) -> None:
    async with (
        answering(ANSWERS[name]) as url,
        StreamingService(endpoint=url, auth_token=TOKEN, session_id=SESSION) as service,
    ):
        with pytest.raises(BackendError) as caught:
            await service.check(deadline_s=5)
        told.of(caught.value, service, service.unavailable_reason)
    told.holds_no(*SECRETS, HEADING)


# ---- pictures


@pytest.mark.parametrize(
    "data",
    [
        PIXELS * 20,
        b"\xff\xd8\xff" + PIXELS * 20,
        b"\x89PNG\r\n\x1a\n" + PIXELS * 20,
        b"RIFF\x40\0\0\0WEBP" + PIXELS * 20,
        b"GIF89a" + PIXELS * 20,
        b"BM" + PIXELS * 20,
        b"II*\0" + PIXELS * 20,
        b"<svg>" + PIXELS,
        b'{"' + PIXELS,
    ],
    ids=range(9),
)
def test_no_bytes_of_a_file_are_told(data: bytes, told: Told) -> None:
    calls: tuple[Callable[[bytes], object], ...] = (
        lambda data: Frame.of(data).rgb(),
        PrivacyFilter().remove_pii,
        PrivacyFilter().find_metadata,
        ImageCompressionService().compress,
    )
    for call in calls:
        with pytest.raises(InvalidFrameError) as caught:
            call(data)
        told.of(caught.value)
    told.holds_no(*SECRETS)


def test_values_on_the_way_show_sizes_and_no_content(told: Told) -> None:
    frame = Frame.of(picture())
    compressed = ImageCompressionService().compress(frame)
    sent = CustomProtocol().encode((compressed,), DetectParams(session_id=SESSION))
    sent = BearerToken(TOKEN).apply(sent, now_s=0.0)
    request = decode_request(sent.body)
    assert request.session_id == SESSION
    raw = DetectRequest(request_id=1, image=PIXELS)
    clean = PrivacyFilter().remove_pii(picture())
    told.of(frame, frame.raster(), compressed, sent, raw, Frame.of(clean))
    told.of(repr(request).replace(SESSION, ""))
    told.holds_no(*SECRETS)
    for content in (compressed.data, clean, request.image):
        for at in range(0, len(content) - 12, 6):
            told.holds_no(repr(content[at : at + 12])[2:-1])


# ---- configuration


def test_configuration_does_not_show_the_token(told: Told) -> None:
    config = ServiceConfig(endpoint="https://faces.example.com", auth_token=TOKEN)
    told.of(config, CloudDetectionService(endpoint=config.endpoint, auth_token=TOKEN))
    told.of(StreamingService(endpoint=config.endpoint, auth_token=TOKEN))
    told.of(HybridDetectionService(config=config, mode="cloud"))
    for make in (
        lambda: CloudDetectionService(endpoint="https://a.example", auth_token=f"{TOKEN}\n"),
        lambda: StreamingService(endpoint="https://a.example", auth_token=f"{TOKEN} x"),
        lambda: ServiceConfig(endpoint=f"https://{TOKEN}@a.example"),
        lambda: ServiceConfig(endpoint=f"https://user:{TOKEN}@a.example"),
        lambda: ServiceConfig(endpoint=f"https://a.example/?key={TOKEN}"),
        lambda: CloudDetectionService(
            endpoint="https://a.example", auth_token=TOKEN, api_key=f"{TOKEN}2"
        ),
    ):
        with pytest.raises(ConfigurationError) as caught:
            make()
        told.of(caught.value)
    told.holds_no(*SECRETS)


def test_private_keys_are_not_shown(told: Told, tmp_path: Path) -> None:
    keys = pytest.importorskip("hybrid_detect.exchange.keys")
    files = pytest.importorskip("hybrid_detect.exchange.key_files")
    rings = pytest.importorskip("hybrid_detect.exchange.key_ring")
    secret = b"canary-private-key-of-32-bytes!!"
    ends = datetime.now(UTC) + timedelta(days=30)
    key = keys.PrivateKey(keys.Suite.X25519_CHACHA20, secret, ends)
    ring = rings.KeyRing((key,))
    told.of(key, ring, key.public, vars(type(key)))
    with pytest.raises(TypeError) as refused:
        pickle.dumps(key)
    told.of(refused.value)
    path = tmp_path / "keys.json"
    files.write_key_file(path, ring)
    stored = path.read_text()
    spelt = base64.b64encode(secret).decode()
    assert spelt in stored
    for broken in (stored[:-4], stored.replace('"id": "', '"id": "x'), stored.replace("X", "*")):
        if broken != stored:
            path.write_text(broken)
            with pytest.raises(HybridDetectError) as caught:
                files.read_key_file(path)
            told.of(caught.value)
    with pytest.raises(HybridDetectError) as caught:
        files.read_public_key(stored)
    told.of(caught.value)
    told.holds_no(spelt, secret.decode(), secret.hex(), spelt.rstrip("="))


# ---- the server


@pytest.mark.anyio
@pytest.mark.skipif(
    not all(map(is_installed, ("starlette", "httptools"))), reason="the server is not installed"
)
async def test_the_server_tells_nothing_of_those_who_ask(told: Told) -> None:
    from hybrid_detect.server.app import create_app
    from hybrid_detect.server.config import ServerConfig

    class Buggy:
        model = "buggy"
        info = None

        async def start(self) -> None:
            pass

        async def detect(self, request: DetectRequest, **_: object) -> object:
            # What a library may put into its own errors.
            raise RuntimeError

        async def aclose(self) -> None:
            pass

    config = ServerConfig(auth_token=TOKEN)
    told.of(config)
    transport = httpx.ASGITransport(create_app(config, Buggy()), raise_app_exceptions=False)  # type: ignore[arg-type]
    good = {"Authorization": f"Bearer {TOKEN}"}
    wrong = {"Authorization": f"Bearer {REMARK}"}
    picture_sent = ImageCompressionService().compress(Frame.of(picture()))
    message = CustomProtocol().encode((picture_sent,), DetectParams(session_id=SESSION)).body
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for headers, body in (
            (wrong, message),
            ({}, message),
            (good, message),
            (good, PIXELS * 9),
            (good, b"HD" + PIXELS * 9),
            (good, b"\xff\xd8\xff" + PIXELS * 9),
        ):
            for kind in (CONTENT_TYPE, "image/jpeg", f"text/{REMARK}"):
                reply = await client.post(
                    "/v1/detect", content=body, headers={**headers, "Content-Type": kind}
                )
                assert reply.status_code >= 400
                told.of(reply.text, reply.content, dict(reply.headers))
    told.holds_no(*SECRETS)
