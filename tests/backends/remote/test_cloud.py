"""The cloud backend against servers that answer, refuse, break, lie and say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import gc
import io
import logging
import sys
import time
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

import httpx
import numpy as np
import pytest

from hybrid_detect.backends.remote import cloud
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.protocol import DetectParams, HttpRequest
from hybrid_detect.backends.remote.providers.custom import CustomProtocol
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    ConfigurationError,
    ProtocolError,
)
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DETECT_PATH,
    HEALTH_PATH,
    ErrorReply,
    ResultReply,
    decode_request,
    encode_reply,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.testing.faulty_link import FaultyLink, reset
from hybrid_detect.types import BackendKind, BoundingBox, DetectionResult, Face, Plan

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

URL = "http://127.0.0.1:1"
TOKEN = "canary-token-77aa"
FACE = Face(BoundingBox(8, 8, 24, 24), 0.75)
HEALTH = b'{"status":"ok","model":"m","version":"0.1"}'
RESULT = encode_reply(ResultReply(request_id=0, width=64, height=48, faces=(FACE,), model="m"))


def picture() -> np.ndarray:
    return np.full((48, 64, 3), 128, dtype=np.uint8)


def plan(deadline_s: float = 5.0, retries: int = 0) -> Plan:
    return Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=deadline_s, retries=retries)


async def look(service: CloudDetectionService, **options: float) -> DetectionResult:
    return await service.detect(Frame.of(picture()), plan(**options))  # type: ignore[arg-type]


def wire_reply(content: bytes = RESULT, **headers: str) -> httpx.Response:
    async def body() -> AsyncIterator[bytes]:
        yield content

    return httpx.Response(200, content=body(), headers={"Content-Type": CONTENT_TYPE, **headers})


@contextlib.asynccontextmanager
async def mocked(
    handler: Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]],
) -> AsyncIterator[CloudDetectionService]:
    transport = httpx.MockTransport(handler)  # type: ignore[arg-type]
    async with CloudDetectionService(
        endpoint=URL, auth_token=TOKEN, transport=transport
    ) as service:
        yield service


class RawServer:
    """An HTTP server of a few lines: `answer` gets the writer once a request is complete."""

    def __init__(self, answer: Callable[[asyncio.StreamWriter, int], Awaitable[None]]) -> None:
        self._answer = answer
        self.connections = 0
        self.requests: list[tuple[bytes, bytes]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                body = await reader.readexactly(length)
                self.requests.append((head, body))
                await self._answer(writer, len(self.requests))
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


def http(body: bytes = RESULT, status: str = "200 OK", *headers: str, length: int = -1) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {len(body) if length < 0 else length}",
        f"Content-Type: {CONTENT_TYPE}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def answer_well(writer: asyncio.StreamWriter, _: int) -> None:
    writer.write(http())
    await writer.drain()


@contextlib.asynccontextmanager
async def service_at(url: str, **options: object) -> AsyncIterator[CloudDetectionService]:
    async with CloudDetectionService(endpoint=url, auth_token=TOKEN, **options) as service:  # type: ignore[arg-type]
        yield service


# ---- a request as it should be


async def test_one_request_carries_the_frame_and_brings_the_faces() -> None:
    async with RawServer(answer_well) as server, service_at(server.url) as service:
        result = await look(service)
        assert [face.box.xyxy for face in result.faces] == [(8, 8, 24, 24)]
        assert result.model == "m"
        head, body = server.requests[0]
        assert head.startswith(f"POST {DETECT_PATH} HTTP/1.1".encode())
        assert f"Authorization: Bearer {TOKEN}".encode() in head
        assert b"Transfer-Encoding" not in head
        assert result.bytes_sent == len(body)
        assert decode_request(body).image.startswith(b"\xff\xd8")


async def test_without_a_token_no_authorization_is_sent() -> None:
    async with (
        RawServer(answer_well) as server,
        CloudDetectionService(endpoint=server.url) as service,
    ):
        await look(service)
        assert b"authorization" not in server.requests[0][0].lower()


async def test_an_api_key_is_sent_as_bearer_token() -> None:
    async with (
        RawServer(answer_well) as server,
        CloudDetectionService(endpoint=server.url, api_key="key-1") as service,
    ):
        await look(service)
        assert b"Authorization: Bearer key-1" in server.requests[0][0]


async def test_a_protocol_s_own_headers_are_not_sent_twice() -> None:
    class Own(CustomProtocol):
        def encode(self, pictures: Sequence[CompressedImage], params: DetectParams) -> HttpRequest:
            made = super().encode(pictures, params)
            own = {"host": "other.example", "USER-AGENT": "theirs"}
            return replace(made, headers={**made.headers, **own})

    async with RawServer(answer_well) as server, service_at(server.url, provider=Own()) as service:
        await look(service)
    lines = server.requests[0][0].lower().split(b"\r\n")
    names = [line.partition(b":")[0] for line in lines[1:] if line]
    assert len(names) == len(set(names))
    assert b"host: other.example" in lines
    assert b"user-agent: theirs" in lines


async def test_frames_share_a_connection() -> None:
    async with RawServer(answer_well) as server, service_at(server.url) as service:
        for _ in range(5):
            await look(service)
        assert server.connections == 1


async def test_a_check_asks_for_the_health_with_the_token() -> None:
    seen: list[httpx.Request] = []

    def health(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return wire_reply(HEALTH, **{"Content-Type": "application/json"})

    async with mocked(health) as service:
        await service.check(deadline_s=1)
    assert (seen[0].method, seen[0].url.path) == ("GET", HEALTH_PATH)
    assert seen[0].headers["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    "body", [b'{"captive":true}', b"{}", b"[]", b"<html>", b"", b"\xff", b'"ok"']
)
async def test_a_portal_that_answers_anything_is_not_our_server(body: bytes) -> None:
    async with mocked(
        lambda _: wire_reply(body, **{"Content-Type": "application/json"})
    ) as service:
        with pytest.raises(ProtocolError):
            await service.check(deadline_s=1)


# ---- construction


@pytest.mark.parametrize("endpoint", ["http://example.com", "http://10.0.0.1:8000", "ftp://x", "x"])
async def test_pictures_go_in_the_clear_to_this_machine_only(endpoint: str) -> None:
    with pytest.raises(ConfigurationError):
        CloudDetectionService(endpoint=endpoint)


async def test_plain_http_elsewhere_can_be_allowed() -> None:
    service = CloudDetectionService(endpoint="http://10.0.0.1", allow_insecure_http=True)
    await service.aclose()


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint": None},
        {"provider": "unknown"},
        {"auth_token": "a", "api_key": "b"},
        {"min_confidence": 1.5},
        {"session_id": "x" * 1025},
    ],
)
async def test_what_cannot_work_is_refused_at_construction(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        CloudDetectionService(**{"endpoint": URL, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("token", ["", f"{TOKEN}\n", f"{TOKEN}\r\nX-Evil: 1", f"{TOKEN}é", "a b"])
async def test_a_token_that_fits_no_header_is_refused_without_repeating_it(token: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CloudDetectionService(endpoint=URL, auth_token=token)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


# ---- what httpx raises


NOT_RAISED_BY_REQUESTS = {
    httpx.HTTPError,  # a base class
    httpx.HTTPStatusError,  # by raise_for_status() only
    httpx.CookieConflict,  # by the cookie jar's get() only
}


async def test_every_httpx_exception_is_known() -> None:
    for exported in vars(httpx).values():
        if isinstance(exported, type) and issubclass(exported, Exception):
            mapped = any(cls in cloud._UNAVAILABLE for cls in exported.__mro__)
            assert mapped != (exported in NOT_RAISED_BY_REQUESTS), exported


@pytest.mark.parametrize("cls", list(cloud._UNAVAILABLE))
async def test_every_mapped_exception_becomes_a_backend_error(cls: type[Exception]) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise cls() if cls in {httpx.StreamConsumed, httpx.StreamClosed} else cls(f"with {TOKEN}")

    async with mocked(fail) as service:
        with pytest.raises(BackendError) as caught:
            await look(service)
    expected = (
        BackendTimeoutError
        if issubclass(cls, httpx.TimeoutException)
        else (BackendUnavailableError)
    )
    assert type(caught.value) is expected
    assert caught.value.backend == "cloud"
    assert caught.value.retryable is cloud._UNAVAILABLE[cls][1]
    assert TOKEN not in str(caught.value)


# ---- statuses


@pytest.mark.parametrize(
    ("status", "retryable", "is_configuration"),
    [
        (400, False, False),
        (401, False, True),
        (403, False, True),
        (404, False, True),
        (405, False, True),
        (408, True, False),
        (413, False, False),
        (415, False, False),
        (422, False, False),
        (425, True, False),
        (429, True, False),
        (500, True, False),
        (501, False, False),
        (502, True, False),
        (503, True, False),
        (504, True, False),
        (204, False, False),
        (304, False, False),
        (418, False, False),
    ],
)
async def test_a_status_says_whether_to_try_again_and_whether_anything_ever_will(
    status: int, retryable: bool, is_configuration: bool
) -> None:
    async with mocked(lambda _: httpx.Response(status, text="words of theirs")) as service:
        with pytest.raises(BackendResponseError) as caught:
            await look(service)
    error = caught.value
    assert error.status_code == status
    assert error.retryable is retryable
    assert error.is_configuration is is_configuration
    assert "words of theirs" not in str(error)


async def test_an_error_in_our_own_format_is_read_as_one() -> None:
    refusal = ErrorReply(request_id=0, status=503, code="overloaded", retry_after_s=3.0)
    async with mocked(lambda _: wire_reply(encode_reply(refusal))) as service:
        with pytest.raises(BackendResponseError) as caught:
            await look(service)
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
    assert caught.value.retry_after_s == 3.0


async def test_a_refusal_is_sent_again_only_if_that_can_help() -> None:
    calls: list[int] = []

    def refuse(_: httpx.Request) -> httpx.Response:
        calls.append(1)
        return httpx.Response(503 if len(calls) < 3 else 400)

    async with mocked(refuse) as service:
        with pytest.raises(BackendResponseError) as caught:
            await look(service, retries=4)
    assert caught.value.status_code == 400
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("-5", 0, 0),
        (email.utils.formatdate(time.time() + 9000, usegmt=True), 6000, 9000),
        (email.utils.formatdate(time.time() - 100, usegmt=True), 0, 0),
    ],
    ids=["seconds", "nothing", "negative", "date", "past"],
)
async def test_retry_after_is_read_as_seconds_and_as_date(
    value: str, low: float, high: float
) -> None:
    async with mocked(lambda _: httpx.Response(429, headers={"Retry-After": value})) as service:
        with pytest.raises(BackendResponseError) as caught:
            await look(service)
    assert caught.value.retry_after_s is not None
    assert low <= caught.value.retry_after_s <= high


@pytest.mark.parametrize("value", ["", "soon", "9" * 400, "9" * 5000, "1 Jan 0001 00:00:00 -0000"])
async def test_a_retry_after_that_means_nothing_is_ignored(value: str) -> None:
    async with mocked(lambda _: httpx.Response(429, headers={"Retry-After": value})) as service:
        with pytest.raises(BackendResponseError) as caught:
            await look(service)
    assert caught.value.retry_after_s in (None, 0.0)


async def test_a_wait_longer_than_the_deadline_is_not_begun() -> None:
    calls: list[int] = []

    def busy(_: httpx.Request) -> httpx.Response:
        calls.append(1)
        return httpx.Response(429, headers={"Retry-After": "60"})

    async with mocked(busy) as service:
        with pytest.raises(BackendResponseError):
            await look(service, retries=4)
    assert len(calls) == 1


async def test_a_redirect_is_not_followed() -> None:
    async with RawServer(answer_well) as elsewhere:

        async def redirect(writer: asyncio.StreamWriter, _: int) -> None:
            writer.write(
                http(b"", "307 Temporary Redirect", f"Location: {elsewhere.url}{DETECT_PATH}")
            )
            await writer.drain()

        async with RawServer(redirect) as server, service_at(server.url) as service:
            with pytest.raises(BackendResponseError) as caught:
                await look(service)
        assert caught.value.status_code == 307
        assert not caught.value.retryable
        assert elsewhere.connections == 0


# ---- bodies that are no answers


@pytest.mark.parametrize(
    "body", [b"", b"garbage", RESULT[:-1], b"HD\x01\x02" + b"\xff" * 8, b"<html>"]
)
async def test_a_garbage_body_is_a_protocol_error(body: bytes) -> None:
    async with mocked(lambda _: wire_reply(body)) as service:
        with pytest.raises(ProtocolError) as caught:
            await look(service)
    assert caught.value.backend == "cloud"
    assert not caught.value.retryable


@pytest.mark.parametrize("content_type", ["text/html", "", "image/jpeg", "application/jsonp"])
async def test_another_kind_of_server_is_a_protocol_error(content_type: str) -> None:
    async with mocked(lambda _: wire_reply(**{"Content-Type": content_type})) as service:
        with pytest.raises(ProtocolError):
            await look(service)
        with pytest.raises(ProtocolError):
            await service.check(deadline_s=1)


async def test_a_reply_that_is_too_large_is_not_read_to_its_end() -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter, _: int) -> None:
        nonlocal sent
        writer.write(http(b"", length=10**10))
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with RawServer(flood) as server, service_at(server.url) as service:
        with pytest.raises(ProtocolError):
            await look(service)
    assert sent < 64 * 1024 * 1024


# ---- connections that break


async def test_a_connection_reset_in_mid_reply_is_tried_again() -> None:
    async def break_first(writer: asyncio.StreamWriter, number: int) -> None:
        if number == 1:
            writer.write(http()[:-5])
            await writer.drain()
            reset(writer)
        else:
            await answer_well(writer, number)

    async with RawServer(break_first) as server, service_at(server.url) as service:
        result = await look(service, retries=1)
        assert len(result.faces) == 1
        assert server.connections == 2
        first, second = (decode_request(body) for _, body in server.requests)
        assert first.image == second.image
        assert first.deadline_s is not None
        assert second.deadline_s is not None
        assert second.deadline_s < first.deadline_s <= 5.0, "each is told the time that is left"


@pytest.mark.parametrize("fault", ["cut_after", "truncate_after"])
async def test_a_connection_that_breaks_in_mid_reply_is_an_unavailable_backend(fault: str) -> None:
    async with (
        RawServer(answer_well) as server,
        FaultyLink(server.url) as link,
        service_at(link.url) as service,
    ):
        setattr(link, fault, 40)
        with pytest.raises(BackendUnavailableError) as caught:
            await look(service)
        assert caught.value.retryable
        setattr(link, fault, None)
        assert len((await look(service)).faces) == 1


async def test_a_refused_connection_is_an_unavailable_backend() -> None:
    async with RawServer(answer_well) as server:
        url = server.url
    async with service_at(url) as service:
        with pytest.raises(BackendUnavailableError) as caught:
            await look(service)
        assert caught.value.retryable
        with pytest.raises(BackendUnavailableError):
            await service.check(deadline_s=1)


async def test_a_host_that_is_no_name_is_an_unavailable_backend() -> None:
    async with service_at("https://a..b") as service:
        with pytest.raises(BackendUnavailableError):
            await look(service)


async def test_a_kept_connection_that_has_died_costs_no_frame() -> None:
    async def answer_once_each(writer: asyncio.StreamWriter, _: int) -> None:
        await answer_well(writer, 0)
        if server.connections < 3:
            reset(writer)

    async with RawServer(answer_once_each) as server, service_at(server.url) as service:
        for _ in range(3):
            assert len((await look(service, retries=2)).faces) == 1
        assert server.connections == 3


async def test_a_link_that_flows_again_answers_again() -> None:
    async with (
        RawServer(answer_well) as server,
        FaultyLink(server.url) as link,
        service_at(link.url) as service,
    ):
        await look(service)
        link.stall()
        with pytest.raises(BackendTimeoutError):
            await look(service, deadline_s=0.1)
        link.resume()
        assert len((await look(service)).faces) == 1


# ---- the deadline


async def never(_: asyncio.StreamWriter, __: int) -> None:
    await asyncio.Event().wait()


async def drip(writer: asyncio.StreamWriter, _: int) -> None:
    writer.write(http(b"", length=10**6))
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("answer", [never, drip])
async def test_a_server_that_never_finishes_costs_no_more_than_the_deadline(
    answer: Callable[[asyncio.StreamWriter, int], Awaitable[None]],
) -> None:
    async with RawServer(answer) as server, service_at(server.url) as service:
        async with asyncio.timeout(5):
            with pytest.raises(BackendTimeoutError) as caught:
                await look(service, deadline_s=0.2, retries=4)
        assert caught.value.backend == "cloud"
        assert caught.value.deadline_s == pytest.approx(0.2, abs=0.1)
        assert caught.value.elapsed_s > 0.1


@pytest.mark.parametrize("answer", [never, drip])
async def test_a_check_keeps_its_deadline(
    answer: Callable[[asyncio.StreamWriter, int], Awaitable[None]],
) -> None:
    async with RawServer(answer) as server, service_at(server.url) as service:
        async with asyncio.timeout(5):
            with pytest.raises(BackendTimeoutError):
                await service.check(deadline_s=0.2)


async def test_hung_frames_do_not_use_up_the_connections() -> None:
    is_well = False

    async def hang_at_first(writer: asyncio.StreamWriter, number: int) -> None:
        await (answer_well(writer, number) if is_well else never(writer, number))

    async with RawServer(hang_at_first) as server, service_at(server.url) as service:
        for _ in range(8):
            with pytest.raises(BackendTimeoutError):
                await look(service, deadline_s=0.1)
        is_well = True
        assert len((await look(service)).faces) == 1


# ---- closing


async def test_a_closed_service_says_so() -> None:
    service = CloudDetectionService(endpoint=URL)
    await service.aclose()
    await service.aclose()
    for call in (look(service), service.check(deadline_s=1), service.start()):
        with pytest.raises(ClosedError):
            await call


async def test_frames_under_way_fail_when_the_service_is_closed() -> None:
    asked = asyncio.Event()

    async def hang(_: asyncio.StreamWriter, __: int) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with RawServer(hang) as server, asyncio.timeout(5):
        service = CloudDetectionService(endpoint=server.url)
        frame = asyncio.create_task(look(service, retries=4, deadline_s=30))
        await asked.wait()
        await service.aclose()
        with pytest.raises((ClosedError, BackendUnavailableError)):
            await frame


async def test_frames_that_wait_for_the_encoder_fail_as_closed_and_not_as_cancelled() -> None:
    async with RawServer(answer_well) as server, asyncio.timeout(5):
        service = CloudDetectionService(endpoint=server.url)
        frames = [asyncio.create_task(look(service)) for _ in range(8)]
        await asyncio.sleep(0)
        await service.aclose()
        answers = await asyncio.gather(*frames, return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, DetectionResult | ClosedError | BackendUnavailableError)


# ---- what must not stay, and must not be told


async def test_the_request_is_not_kept_alive_after_the_call() -> None:
    body = bytes(200_000)
    async with RawServer(answer_well) as server, service_at(server.url) as service:
        request = HttpRequest(url=server.url + DETECT_PATH, body=body)
        await service.exchange(request, deadline_s=5)
        server.requests.clear()
        gc.collect()
        gc.disable()
        try:
            before = sys.getrefcount(body)
            await service.exchange(request, deadline_s=5)
            assert sys.getrefcount(body) == before
        finally:
            gc.enable()


async def test_many_requests_do_not_pile_up_without_the_garbage_collector() -> None:
    async with RawServer(answer_well) as server, service_at(server.url) as service:
        url = server.url + DETECT_PATH
        await service.exchange(HttpRequest(url=url, body=bytes(200_000)), deadline_s=5)
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(30):
                await service.exchange(HttpRequest(url=url, body=bytes(200_000)), deadline_s=5)
                server.requests.clear()
            assert tracemalloc.get_traced_memory()[0] < 1_500_000
        finally:
            tracemalloc.stop()
            gc.enable()


async def test_the_token_is_told_to_the_server_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    async def misbehave(writer: asyncio.StreamWriter, number: int) -> None:
        if number == 1:
            reset(writer)
        elif number == 2:
            writer.write(http(b"", "401 Unauthorized"))
        elif number == 3:
            writer.write(b"nonsense\r\n\r\n")
        elif number == 4:
            await asyncio.Event().wait()
        else:
            writer.write(http(b"garbage"))

    told = io.StringIO()
    async with RawServer(misbehave) as server, service_at(server.url) as service:
        for _ in range(5):
            with pytest.raises(BackendError) as caught:
                await look(service, deadline_s=0.3)
            told.write("".join(traceback.format_exception(caught.value)))
            told.write(repr(caught.value) + repr(vars(caught.value)))
        told.write(f"{service!r} {service} {service.unavailable_reason}")
        assert all(TOKEN.encode() in head for head, _ in server.requests)
    told.write(caplog.text)
    assert told.getvalue().count("Error") > 5
    assert TOKEN not in told.getvalue()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "foo:bar"),
        ("ALL_PROXY", "ftp://x:1"),
        ("SSL_CERT_FILE", "/nonexistent"),
    ],
)
async def test_an_unusable_setting_of_the_environment_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    service = CloudDetectionService(endpoint="https://faces.example.com")
    with pytest.raises(ConfigurationError, match=f"^{name}: expected|^{name}: cannot read"):
        await service.start()
    await service.aclose()


async def test_no_proxy_comes_between_this_machine_and_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with RawServer(answer_well) as proxy, RawServer(answer_well) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        async with CloudDetectionService(endpoint=server.url) as service:
            await look(service)
    assert (len(proxy.requests), len(server.requests)) == (0, 1)
