import asyncio
import dataclasses
import hmac
import io
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import websockets
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect

from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.errors import BackendUnavailableError, InvalidFrameError
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_reply,
    encode_request,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server import levels
from hybrid_detect.server.admission import OverloadedError, TooLateError
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import (
    Detection,
    DetectorPool,
)
from hybrid_detect.server.listening import Server
from hybrid_detect.types import BoundingBox, Face, QualityLevel

from ..waiting import LIMIT_S

FACE_VALUES = {"box": {"x_min": 1, "y_min": 2, "x_max": 30, "y_max": 40}, "score": 0.9}

pytestmark = pytest.mark.anyio

TOKEN = "s3cret-token"
GOOD = {"Authorization": f"Bearer {TOKEN}"}
WIRE = {**GOOD, "Content-Type": CONTENT_TYPE, "Accept": CONTENT_TYPE}
CONFIG = ServerConfig(auth_token=TOKEN, max_body_bytes=20_000)
FACE = Face(BoundingBox(1, 2, 30, 40), 0.9)


def jpeg(width: int = 64, height: int = 48) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(out, "JPEG")
    return out.getvalue()


def request(request_id: int = 7, image: bytes | None = None, **options: Any) -> bytes:
    return encode_request(
        DetectRequest(request_id=request_id, image=jpeg() if image is None else image, **options)
    )


class FakeDetector:
    """Reads the picture's size, and raises `error` while there is one."""

    model = "fake"
    info = None

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.seen: list[DetectRequest] = []

    async def start(self) -> None:
        pass

    async def detect(
        self,
        request: DetectRequest,
        *,
        caller: str = "",
        is_abandoned: Callable[[], Awaitable[bool]] | None = None,
    ) -> Detection:
        self.seen.append(request)
        if self.error is not None:
            raise self.error
        frame = Frame.of(request.image)
        return Detection(
            width=frame.width, height=frame.height, faces=(FACE,), queue_s=0.001, detect_s=0.002
        )

    async def aclose(self) -> None:
        pass


@pytest.fixture
def detector() -> FakeDetector:
    return FakeDetector()


@pytest.fixture
async def client(detector: FakeDetector) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(CONFIG, detector), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


# -- who may come in -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \xe4\xf6\xfc",
    ],
)
async def test_without_the_token_nobody_is_looked_at(
    client: httpx.AsyncClient, detector: FakeDetector, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    reply = await client.post("/v1/detect", content=jpeg(), headers=headers)
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert reply.json()["code"] == "unauthorized"
    assert TOKEN not in reply.text
    assert detector.seen == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_with_the_token_one_is(client: httpx.AsyncClient, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {TOKEN}"}
    assert (await client.post("/v1/detect", content=jpeg(), headers=headers)).status_code == 200


async def test_tokens_are_compared_in_constant_time(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []

    def compare(a: bytes, b: bytes) -> bool:
        lengths.append((len(a), len(b)))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token in (TOKEN, TOKEN[:-1] + "x", "x" + TOKEN[1:], "x", TOKEN * 9):
        headers = {"Authorization": f"Bearer {token}"}
        await client.post("/v1/detect", content=jpeg(), headers=headers)
    # Digests, so that not even the token's length makes a difference.
    assert lengths == [(32, 32)] * 5


async def test_without_a_configured_token_everybody_may(detector: FakeDetector) -> None:
    transport = httpx.ASGITransport(create_app(ServerConfig(), detector))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.post("/v1/detect", content=jpeg())).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 200), (GOOD, 200), ({"Authorization": "Bearer wrong"}, 401)]
)
async def test_health_is_open_but_tells_a_wrong_token(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    reply = await client.get("/v1/health", headers=headers)
    assert reply.status_code == status
    if status == 200:
        assert reply.json()["status"] == "ok"
        assert reply.json()["model"] == "fake"


# -- one picture -----------------------------------------------------------------------------


async def test_a_bare_picture_is_answered_in_json(
    client: httpx.AsyncClient, detector: FakeDetector
) -> None:
    reply = await client.post("/v1/detect", content=jpeg(), headers=GOOD)
    assert reply.status_code == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert (reply.json()["width"], reply.json()["height"]) == (64, 48)
    assert reply.json()["faces"] == [
        {"box": {"x_min": 1, "y_min": 2, "x_max": 30, "y_max": 40}, "score": 0.9}
    ]
    assert detector.seen[0].deadline_s is None


async def test_a_wire_request_gets_a_wire_reply_with_its_id(
    client: httpx.AsyncClient, detector: FakeDetector
) -> None:
    body = request(42, min_confidence=0.7, deadline_s=0.5, session_id="me")
    reply = await client.post("/v1/detect", content=body, headers=WIRE)
    assert reply.headers["Content-Type"] == CONTENT_TYPE
    answer = decode_reply(reply.content)
    assert isinstance(answer, ResultReply)
    assert (answer.request_id, answer.faces, answer.model) == (42, (FACE,), "fake")
    assert (answer.queue_s, answer.detect_s) == (0.001, 0.002)
    assert answer.receive_s is not None
    (seen,) = detector.seen
    assert (seen.min_confidence, seen.session_id) == (0.7, "me")
    assert seen.deadline_s == pytest.approx(0.5 - answer.receive_s)


async def test_the_reply_tells_where_the_time_went(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/detect", content=jpeg(), headers=GOOD)
    parts = dict(part.split(";dur=") for part in reply.headers["Server-Timing"].split(", "))
    assert set(parts) == {"receive", "queue", "detect"}
    assert float(parts["queue"]) == 1.0
    assert float(parts["detect"]) == 2.0


async def streamed(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_body_that_announces_too_much_is_refused_unread(
    client: httpx.AsyncClient, detector: FakeDetector
) -> None:
    async def never_read() -> AsyncIterator[bytes]:
        raise AssertionError
        yield b""

    headers = {**GOOD, "Content-Length": "20001"}
    reply = await client.post("/v1/detect", content=never_read(), headers=headers)
    assert reply.status_code == 413
    assert "20000" in reply.json()["detail"]
    assert detector.seen == []


async def test_a_body_that_grows_too_much_is_refused(
    client: httpx.AsyncClient, detector: FakeDetector
) -> None:
    reply = await client.post("/v1/detect", content=streamed(*[bytes(5000)] * 5), headers=GOOD)
    assert reply.status_code == 413
    assert detector.seen == []


async def test_a_body_of_just_the_limit_is_read(client: httpx.AsyncClient) -> None:
    body = jpeg() + bytes(20_000 - len(jpeg()))
    reply = await client.post("/v1/detect", content=streamed(body), headers=GOOD)
    assert reply.status_code != 413


@pytest.mark.parametrize("body", [b"", b"garbage", b"\xff\xd8\xff", jpeg()[:100]])
async def test_what_is_no_picture_is_unprocessable(client: httpx.AsyncClient, body: bytes) -> None:
    reply = await client.post("/v1/detect", content=body, headers=GOOD)
    assert reply.status_code == 422
    assert reply.json()["code"] == "invalid_image"


@pytest.mark.parametrize(
    "body", [b"", b"garbage", request()[:20], b"XX" + request()[2:], request(image=b"")]
)
async def test_a_broken_wire_message_is_a_bad_request(
    client: httpx.AsyncClient, body: bytes
) -> None:
    reply = await client.post("/v1/detect", content=body, headers=WIRE)
    assert reply.status_code == 400
    answer = decode_reply(reply.content)
    assert isinstance(answer, ErrorReply)
    assert (answer.status, answer.code) == (400, "bad_request")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OverloadedError(1.0), 503, "overloaded"),
        (TooLateError(), 504, "too_late"),
        (InvalidFrameError("no picture"), 422, "invalid_image"),
    ],
)
async def test_each_failure_has_its_status(
    client: httpx.AsyncClient, detector: FakeDetector, error: Exception, status: int, code: str
) -> None:
    detector.error = error
    reply = await client.post("/v1/detect", content=request(9), headers=WIRE)
    answer = decode_reply(reply.content)
    assert isinstance(answer, ErrorReply)
    assert (reply.status_code, answer.status) == (status, status)
    assert (answer.request_id, answer.code) == (9, code)
    assert ("Retry-After" in reply.headers) == (status == 503)
    if status == 503:
        assert int(reply.headers["Retry-After"]) >= 1
        assert answer.retry_after_s is not None


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/detect/", 404),
        ("POST", "/v1/../etc/passwd", 404),
        ("GET", "/v1/detect", 405),
        ("DELETE", "/v1/detect", 405),
        ("POST", "/v1/health", 405),
    ],
)
async def test_wrong_addresses_and_methods_tell_nothing(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    reply = await client.request(method, path, headers=GOOD, follow_redirects=False)
    assert reply.status_code in {status, 307}
    assert "Traceback" not in reply.text
    assert len(reply.text) < 100


async def test_a_bug_is_a_500_that_tells_nothing(
    client: httpx.AsyncClient, detector: FakeDetector
) -> None:
    detector.error = RuntimeError("the secret cause")
    reply = await client.post("/v1/detect", content=jpeg(), headers=GOOD)
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert "Traceback" not in reply.text


@pytest.mark.parametrize(
    ("path", "headers"), [("/v1/health", {}), ("/v1/health", {"Authorization": "Bearer no"})]
)
async def test_answers_are_neither_stored_nor_sniffed(
    client: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    for reply in (
        await client.get(path, headers=headers),
        await client.post("/v1/detect", content=jpeg(), headers=GOOD),
        await client.post("/v1/detect", content=b"", headers=GOOD),
    ):
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"


# -- the pool of detectors -------------------------------------------------------------------


class Engine:
    """A slow engine: each picture waits for `go`."""

    go: threading.Semaphore
    started: threading.Semaphore
    running = 0
    most = 0
    looked = 0
    lock = threading.Lock()
    asked_since_s = None
    has_process = True

    def __init__(self, load_model: Any, **_: object) -> None:
        pass

    def start(self) -> None:
        pass

    def detect_encoded(self, data: bytes, *, max_pixels: int, **_: Any) -> PictureFaces:
        if max_pixels < 64 * 48 or data == b"garbage":
            raise InvalidFrameError(expected="a small picture", actual="another one")
        with self.lock:
            Engine.running += 1
            Engine.looked += 1
            Engine.most = max(Engine.most, Engine.running)
        self.started.release()
        assert self.go.acquire(timeout=LIMIT_S)
        with self.lock:
            Engine.running -= 1
        return PictureFaces(64, 48, (FACE,))

    def begin_encoded(self, *_: object, **__: object) -> None:
        """It has to be waited for."""

    def kill(self) -> None:
        pass

    def drop(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    monkeypatch.setattr(levels, "EventLoopWorker", Engine)
    monkeypatch.setattr(levels, "load_model", lambda *_, **__: b"model")
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", "mediapipe".__eq__)
    Engine.go, Engine.started = threading.Semaphore(0), threading.Semaphore(0)
    Engine.running = Engine.most = Engine.looked = 0
    return Engine


@asynccontextmanager
async def pool_of(count: int, max_waiting: int = 2) -> AsyncIterator[DetectorPool]:
    pool = DetectorPool(ServerConfig(detectors=count, max_waiting=max_waiting, model="full_range"))
    await pool.start()
    try:
        async with asyncio.timeout(LIMIT_S):
            yield pool
    finally:
        Engine.go.release(100)
        await pool.aclose()


PICTURE = DetectRequest(request_id=1, image=jpeg(), min_confidence=0.5)


def looking(pool: DetectorPool, **options: Any) -> asyncio.Task[Detection]:
    return asyncio.create_task(pool.detect(PICTURE, **options))


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_pool_answers_with_the_faces_and_the_picture_s_size(engine: type[Engine]) -> None:
    async with pool_of(1) as pool:
        engine.go.release()
        seen = await pool.detect(PICTURE)
        assert (seen.width, seen.height, seen.faces) == (64, 48, (FACE,))


async def test_no_more_pictures_are_looked_at_than_there_are_detectors(
    engine: type[Engine],
) -> None:
    async with pool_of(2, max_waiting=10) as pool:
        tasks = [looking(pool) for _ in range(6)]
        await asyncio.to_thread(engine.started.acquire, timeout=LIMIT_S)
        engine.go.release(6)
        await asyncio.gather(*tasks)
    assert engine.most <= 2
    assert engine.looked == 6


async def test_waiting_is_bounded(engine: type[Engine]) -> None:
    async with pool_of(1, max_waiting=2) as pool:
        tasks = [looking(pool) for _ in range(3)]
        await asyncio.to_thread(engine.started.acquire, timeout=LIMIT_S)
        with pytest.raises(OverloadedError):
            await pool.detect(PICTURE)
        engine.go.release(4)
        await asyncio.gather(*tasks)
        assert (await pool.detect(PICTURE)).faces == (FACE,)


async def test_a_picture_whose_deadline_passed_while_it_waited_is_not_looked_at(
    engine: type[Engine],
) -> None:
    async with pool_of(1) as pool:
        first = looking(pool)
        await asyncio.to_thread(engine.started.acquire, timeout=LIMIT_S)
        late = asyncio.create_task(pool.detect(dataclasses.replace(PICTURE, deadline_s=0.0)))
        await turns()
        engine.go.release(2)
        await first
        with pytest.raises(TooLateError):
            await late
    assert engine.looked == 1


async def test_a_picture_whose_client_has_gone_is_not_looked_at(engine: type[Engine]) -> None:
    async def gone() -> bool:
        return True

    async with pool_of(1) as pool:
        with pytest.raises(TooLateError):
            await pool.detect(PICTURE, is_abandoned=gone)
        engine.go.release()
        assert (await pool.detect(PICTURE)).faces
    assert engine.looked == 1


async def test_a_cancelled_caller_keeps_the_place_until_its_thread_has_ended(
    engine: type[Engine],
) -> None:
    async with pool_of(1) as pool:
        first = looking(pool)
        await asyncio.to_thread(engine.started.acquire, timeout=LIMIT_S)
        first.cancel()
        second = looking(pool)
        await turns()
        assert engine.looked == 1
        engine.go.release(2)
        assert (await second).faces == (FACE,)
        await asyncio.wait([first])
        assert first.cancelled()
    assert engine.most == 1


async def test_a_cancelled_waiting_caller_gives_its_place_back(engine: type[Engine]) -> None:
    async with pool_of(1, max_waiting=1) as pool:
        first, waiting = looking(pool), looking(pool)
        await asyncio.to_thread(engine.started.acquire, timeout=LIMIT_S)
        waiting.cancel()
        await asyncio.wait([waiting])
        next_one = looking(pool)
        engine.go.release(2)
        assert (await first).faces
        assert (await next_one).faces


async def test_a_bad_picture_does_not_cost_a_detector(engine: type[Engine]) -> None:
    async with pool_of(1) as pool:
        for _ in range(3):
            with pytest.raises(InvalidFrameError):
                await pool.detect(dataclasses.replace(PICTURE, image=b"garbage"))
        engine.go.release()
        assert (await pool.detect(PICTURE)).faces


async def test_too_many_pixels_are_refused(engine: type[Engine]) -> None:
    pool = DetectorPool(ServerConfig(detectors=1, max_pixels=100, model="full_range"))
    await pool.start()
    with pytest.raises(InvalidFrameError):
        await pool.detect(PICTURE)
    await pool.aclose()
    assert engine.looked == 0


# -- the stream, over a real socket ----------------------------------------------------------


@asynccontextmanager
async def served(detector: FakeDetector) -> AsyncIterator[str]:
    """The app on a free port, as `serving` runs it."""
    config = replace(CONFIG, port=0)
    async with Server(create_app(config, detector), config) as server:
        yield f"ws://127.0.0.1:{server.port}/v1/stream"


@asynccontextmanager
async def linked(
    detector: FakeDetector, headers: dict[str, str]
) -> AsyncIterator[ClientConnection]:
    async with (
        served(detector) as url,
        asyncio.timeout(LIMIT_S),
        connect(url, additional_headers=headers, compression=None) as link,
    ):
        yield link


async def test_each_message_gets_its_reply(detector: FakeDetector) -> None:
    async with linked(detector, GOOD) as link:
        await link.send(request(1))
        await link.send(request(2))
        replies = [decode_reply(await link.recv()) for _ in range(2)]
    assert {reply.request_id for reply in replies} == {1, 2}
    assert all(isinstance(reply, ResultReply) for reply in replies)


@pytest.mark.parametrize("garbage", [b"", b"garbage", "a text", request()[:20]])
async def test_garbage_gets_an_error_and_the_link_stays(
    detector: FakeDetector, garbage: bytes | str
) -> None:
    async with linked(detector, GOOD) as link:
        await link.send(garbage)
        reply = decode_reply(await link.recv())
        assert isinstance(reply, ErrorReply)
        assert reply.status == 400
        await link.send(request(5))
        assert decode_reply(await link.recv()).request_id == 5


async def test_an_oversize_message_closes_the_link(detector: FakeDetector) -> None:
    async with linked(detector, GOOD) as link:
        await link.send(bytes(CONFIG.max_body_bytes + 1))
        with pytest.raises(websockets.ConnectionClosed) as caught:
            await link.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
async def test_a_link_without_the_token_is_refused(
    detector: FakeDetector, headers: dict[str, str]
) -> None:
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with linked(detector, headers):
            pass
    assert caught.value.response.status_code == 401
    assert json.loads(caught.value.response.body or b"")["code"] == "unauthorized"


async def test_a_client_that_vanishes_does_not_hurt_the_server(detector: FakeDetector) -> None:
    async with served(detector) as url, asyncio.timeout(LIMIT_S):
        link = await connect(url, additional_headers=GOOD)
        await link.send(request(1))
        link.transport.abort()
        await link.wait_closed()
        async with connect(url, additional_headers=GOOD) as another:
            await another.send(request(2))
            assert decode_reply(await another.recv()).request_id == 2


# -- configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"host": "example.com"},
        {"auth_token": ""},
        {"auth_token": " "},
        {"auth_token": "secret\n"},
        {"auth_token": "se cret"},
        {"auth_token": "s\u00e9cret"},
        {"port": -1},
        {"port": 65536},
        {"min_confidence": 1.5},
        {"detectors": 0},
        {"max_waiting": 0},
        {"max_body_bytes": 0},
        {"max_uploads": 0},
        {"max_pixels": 0},
        {"stream_in_flight": 0},
        {"burst": 0},
        {"rate_per_s": -1},
        {"rate_per_s": float("nan")},
        {"stream_idle_s": 0},
        {"max_streams": 0},
        {"max_per_caller": 0},
        {"max_connections": 0},
        {"max_connections_per_peer": 0},
    ],
    ids=repr,
)
async def test_a_server_that_would_be_open_or_useless_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ServerConfig(**options)


async def test_there_is_a_detector_for_each_core_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hybrid_detect.server.config.usable_cores", lambda: 3)
    assert ServerConfig().detectors_at(QualityLevel.HIGH) == 3
    assert ServerConfig().detectors_at(QualityLevel.FAST) == 4, "one has the next picture at hand"
    assert ServerConfig(detectors=2).detectors_at(QualityLevel.FAST) == 2


async def test_the_server_s_token_is_not_in_its_repr() -> None:
    assert TOKEN not in repr(CONFIG)


async def test_a_dying_detector_is_told_and_costs_one_picture() -> None:
    class Dying(FakeDetector):
        async def detect(self, request: DetectRequest, **_: Any) -> Detection:
            msg = "the detector's process died (signal 9)"
            raise BackendUnavailableError(msg, retryable=True)

    app = create_app(ServerConfig(), Dying())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://server"
    ) as client:
        reply = await client.post("/v1/detect", content=jpeg())
    assert (reply.status_code, reply.json()["code"]) == (503, "detector_failed")


async def test_a_bug_in_the_detector_is_logged_and_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Buggy(FakeDetector):
        async def detect(self, request: DetectRequest, **_: Any) -> Detection:
            msg = "the secret of the house"
            raise KeyError(msg)

    app = create_app(ServerConfig(), Buggy())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://server"
    ) as client:
        reply = await client.post("/v1/detect", content=jpeg())
    assert (reply.status_code, reply.json()["code"]) == (500, "internal")
    assert "secret" not in reply.text
    assert "secret" in caplog.text
