"""The streaming backend against servers and links that answer, reorder, break and fall silent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http
import io
import logging
import time
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from hybrid_detect.backends.remote import streaming
from hybrid_detect.backends.remote.protocol import HttpRequest, HttpResponse
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    ConfigurationError,
    ProtocolError,
    SupersededError,
)
from hybrid_detect.exchange.wire import (
    DETECT_PATH,
    STREAM_PATH,
    SUBPROTOCOL,
    DetectRequest,
    ErrorReply,
    ResultReply,
    announced_request_id,
    decode_request,
    encode_reply,
    encode_request,
    peek_request_id,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.testing.faulty_link import FaultyLink, reset
from hybrid_detect.types import BackendKind, BoundingBox, DetectionResult, Face, Plan

from ...waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

TOKEN = "canary-token-88bb"
HEARTBEAT_S = 0.1

Handler = Callable[[ServerConnection], Awaitable[None]]


def plan(deadline_s: float = 5.0, retries: int = 0) -> Plan:
    return Plan(
        backend=BackendKind.STREAMING, reason="test", deadline_s=deadline_s, retries=retries
    )


async def look(service: StreamingService, **options: float) -> DetectionResult:
    frame = Frame.of(np.full((48, 64, 3), 128, dtype=np.uint8))
    return await service.detect(frame, plan(**options))  # type: ignore[arg-type]


def request(name: str = "x", size: int = 0) -> HttpRequest:
    image = name.encode() + bytes(size)
    message = DetectRequest(request_id=0, image=image, session_id=name)
    return HttpRequest(url=DETECT_PATH, body=encode_request(message))


def reply_to(message: bytes) -> bytes:
    """An answer that names the request it is for, as its model."""
    asked = decode_request(message)
    face = Face(BoundingBox(8, 8, 24, 24), 0.75)
    return encode_reply(
        ResultReply(
            request_id=asked.request_id,
            width=64,
            height=48,
            faces=(face,),
            model=asked.session_id or "",
        )
    )


async def pictures(link: ServerConnection) -> AsyncIterator[bytes]:
    """The messages of a stream that want an answer, each of which was announced."""
    announced = None
    async for message in link:
        if (request_id := announced_request_id(message)) is not None:
            announced = request_id
        else:
            assert announced == peek_request_id(message)
            yield message


async def answer_all(link: ServerConnection) -> None:
    async for message in pictures(link):
        assert isinstance(message, bytes)
        await link.send(reply_to(message))


class Asked:
    """A server that answers only when told to: requests come in through `next()`."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[tuple[ServerConnection, bytes]] = asyncio.Queue()

    async def __call__(self, link: ServerConnection) -> None:
        async for message in pictures(link):
            assert isinstance(message, bytes)
            self.requests.put_nowait((link, message))

    async def next(self) -> tuple[ServerConnection, bytes]:
        return await self.requests.get()


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@contextlib.asynccontextmanager
async def websocket_server(handler: Handler = answer_all, **options: object) -> AsyncIterator[str]:
    options = {"subprotocols": [SUBPROTOCOL], "max_size": None, "close_timeout": 0.2, **options}
    async with serve(handler, "127.0.0.1", 0, **options) as server:  # type: ignore[arg-type]
        yield url_of(server)


@contextlib.asynccontextmanager
async def connected(url: str, **options: object) -> AsyncIterator[StreamingService]:
    async with asyncio.timeout(20):
        async with StreamingService(endpoint=url, auth_token=TOKEN, **options) as service:  # type: ignore[arg-type]
            await service.check(deadline_s=5)
            yield service


async def model_in(reply: Awaitable[HttpResponse]) -> str:
    return (await reply).body[12:].decode().split('"model":"')[1].split('"')[0]


# ---- a link as it should be


async def test_a_frame_brings_its_faces_and_frames_share_a_link() -> None:
    links = 0

    async def count(link: ServerConnection) -> None:
        nonlocal links
        links += 1
        await answer_all(link)

    async with websocket_server(count) as url, connected(url) as service:
        for _ in range(5):
            result = await look(service)
            assert [face.box.xyxy for face in result.faces] == [(8, 8, 24, 24)]
            assert result.bytes_sent > 600
    assert links == 1


async def test_the_handshake_asks_for_our_protocol_with_the_token_and_without_compression() -> None:
    seen: list[Request] = []

    async def note(link: ServerConnection) -> None:
        assert link.request is not None
        assert link.subprotocol == SUBPROTOCOL
        assert link.protocol.extensions == []
        seen.append(link.request)
        await answer_all(link)

    # The server offers deflate, as websockets' servers do unless told otherwise.
    async with websocket_server(note) as url, connected(url) as service:
        await look(service)
    assert seen[0].path == STREAM_PATH
    assert seen[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert "Sec-WebSocket-Extensions" not in seen[0].headers


async def test_the_first_frame_waits_for_the_first_link() -> None:
    async with websocket_server() as url, StreamingService(endpoint=url) as service:
        assert service.unavailable_reason == "not connected yet"
        assert (await look(service)).answered
        assert service.unavailable_reason == ""


async def test_the_heartbeat_measures_the_round_trip() -> None:
    async with (
        websocket_server() as url,
        FaultyLink(url) as link,
        connected(link.url, heartbeat_s=0.4) as service,
    ):
        link.delay_s = 0.03
        await until(lambda: (service.round_trip_s or 0.0) > 0.05)


@pytest.mark.parametrize("endpoint", ["http://example.com", "ws://127.0.0.1", "x"])
async def test_pictures_go_in_the_clear_to_this_machine_only(endpoint: str) -> None:
    with pytest.raises(ConfigurationError):
        StreamingService(endpoint=endpoint)


@pytest.mark.parametrize("token", ["", f"{TOKEN}\n", f"{TOKEN}\r\nX-Evil: 1", f"{TOKEN}é"])
async def test_a_token_that_fits_no_header_is_refused_without_repeating_it(token: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        StreamingService(endpoint="http://127.0.0.1:1", auth_token=token)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


# ---- which reply is whose


async def test_replies_out_of_order_find_their_frames() -> None:
    asked = Asked()
    async with websocket_server(asked) as url, connected(url) as service:
        first = asyncio.create_task(model_in(service.exchange(request("first"), deadline_s=5)))
        link, message_1 = await asked.next()
        second = asyncio.create_task(model_in(service.exchange(request("second"), deadline_s=5)))
        _, message_2 = await asked.next()
        await link.send(reply_to(message_2))
        assert await second == "second"
        assert not first.done()
        await link.send(reply_to(message_1))
        assert await first == "first"


async def test_late_and_unasked_replies_are_dropped() -> None:
    asked = Asked()
    async with websocket_server(asked) as url, connected(url) as service:
        with pytest.raises(BackendTimeoutError):
            await look(service, deadline_s=0.05)
        link, late = await asked.next()
        frame = asyncio.create_task(model_in(service.exchange(request("next"), deadline_s=5)))
        _, message = await asked.next()
        assert peek_request_id(message) != peek_request_id(late)
        await link.send(reply_to(late))
        await link.send(encode_reply(ResultReply(request_id=4_000_000, width=1, height=1)))
        await link.send(b"HD")
        await link.send(reply_to(message))
        await link.send(reply_to(message))
        assert await frame == "next"


async def test_an_error_reply_fails_its_frame_alone() -> None:
    asked = Asked()
    async with websocket_server(asked) as url, connected(url) as service:
        frames = [asyncio.create_task(look(service)) for _ in range(2)]
        link, message = await asked.next()
        _, other = await asked.next()
        refusal = ErrorReply(
            request_id=peek_request_id(message), status=503, code="overloaded", retry_after_s=2.0
        )
        await link.send(encode_reply(refusal))
        await link.send(reply_to(other))
        answers = await asyncio.gather(*frames, return_exceptions=True)
        (error,) = [a for a in answers if isinstance(a, BackendResponseError)]
        assert (error.status_code, error.code, error.retry_after_s) == (503, "overloaded", 2.0)
        assert error.retryable
        assert sum(isinstance(a, DetectionResult) for a in answers) == 1


async def test_a_garbled_reply_fails_its_frame_and_keeps_the_link() -> None:
    asked = Asked()
    async with websocket_server(asked) as url, connected(url) as service:
        frame = asyncio.create_task(look(service))
        link, message = await asked.next()
        await link.send(reply_to(message)[:-3])
        with pytest.raises(ProtocolError) as caught:
            await frame
        assert caught.value.backend == "streaming"
        assert service.unavailable_reason == ""


@pytest.mark.parametrize("is_recalled", [True, False])
async def test_a_recall_keeps_what_lies_in_the_buffer_from_leaving(is_recalled: bool) -> None:
    deafen, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    got: list[object] = []

    async def deaf(link: ServerConnection) -> None:
        await deafen.wait()
        link.transport.pause_reading()
        await go_on.wait()
        link.transport.resume_reading()
        try:
            async for message in pictures(link):
                got.append(message)
                break
        finally:
            ended.set()

    async with websocket_server(deaf) as url, connected(url) as service:
        deafen.set()
        size = 32 * 1024 * 1024  # more than the system's buffers hold
        frame = asyncio.create_task(service.exchange(request("x", size), deadline_s=5))
        link = service._link
        assert link is not None
        await until(lambda: link.transport.get_write_buffer_size() > 0)
        frame.cancel()
        await asyncio.wait([frame])
        if is_recalled:
            service.recall()
        go_on.set()
        await ended.wait()
    assert len(got) == (not is_recalled)


# ---- two under way, the newest waits


async def test_two_frames_are_under_way_and_of_those_waiting_the_newest_wins() -> None:
    asked = Asked()
    async with websocket_server(asked) as url, connected(url) as service:
        frames = {}
        messages = {}
        for name in ("a", "b", "c", "d", "e"):
            exchange = service.exchange(request(name), deadline_s=5)
            frames[name] = asyncio.create_task(model_in(exchange))
            await asyncio.sleep(0)
            if name in "ab":
                link, messages[name] = await asked.next()
        for name in "cd":
            with pytest.raises(SupersededError) as caught:
                await frames[name]
            assert not caught.value.retryable
        assert asked.requests.empty()
        assert not any(frames[name].done() for name in "abe")
        await link.send(reply_to(messages["a"]))
        assert await frames["a"] == "a"
        _, messages["e"] = await asked.next()
        await link.send(reply_to(messages["e"]))
        await link.send(reply_to(messages["b"]))
        assert await frames["e"] == "e"
        assert await frames["b"] == "b"


async def test_a_frame_that_gave_up_waiting_leaves_its_place_to_the_next() -> None:
    asked = Asked()
    async with (
        websocket_server(asked) as url,
        connected(url, max_in_flight=1) as service,
    ):
        first = asyncio.create_task(model_in(service.exchange(request("first"), deadline_s=5)))
        link, message = await asked.next()
        waiting = asyncio.create_task(service.exchange(request("waiting"), deadline_s=5))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await link.send(reply_to(message))
        assert await first == "first"
        last = asyncio.create_task(model_in(service.exchange(request("last"), deadline_s=5)))
        _, message = await asked.next()
        await link.send(reply_to(message))
        assert await last == "last"


async def test_a_storm_of_frames_answers_or_supersedes_each_and_always_the_newest() -> None:
    async with websocket_server() as url, connected(url) as service:
        frames = [
            asyncio.create_task(model_in(service.exchange(request(str(n)), deadline_s=5)))
            for n in range(100)
        ]
        answers = await asyncio.gather(*frames, return_exceptions=True)
        assert answers[-1] == "99"
        for number, answer in enumerate(answers):
            assert answer == str(number) or isinstance(answer, SupersededError)


async def test_cancelling_one_frame_leaves_the_others_intact() -> None:
    asked = Asked()
    async with websocket_server(asked) as url, connected(url) as service:
        first = asyncio.create_task(look(service))
        link, message_1 = await asked.next()
        second = asyncio.create_task(look(service))
        _, message_2 = await asked.next()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await link.send(reply_to(message_1))
        await link.send(reply_to(message_2))
        assert len((await second).faces) == 1
        third = asyncio.create_task(look(service))
        _, message_3 = await asked.next()
        await link.send(reply_to(message_3))
        assert len((await third).faces) == 1


# ---- links that break


async def test_a_cut_link_fails_the_frames_under_way_at_once_and_is_reopened() -> None:
    asked = Asked()
    async with (
        websocket_server(asked) as url,
        FaultyLink(url) as link,
        connected(link.url) as service,
    ):
        frames = [asyncio.create_task(look(service, deadline_s=60)) for _ in range(2)]
        for _ in frames:
            await asked.next()
        link.cut()
        async with asyncio.timeout(5):
            for frame in frames:
                with pytest.raises(BackendUnavailableError) as caught:
                    await frame
                assert caught.value.retryable
        await until(lambda: service.unavailable_reason == "")
        frame = asyncio.create_task(look(service))
        socket, message = await asked.next()
        await socket.send(reply_to(message))
        assert (await frame).answered


async def test_a_frame_cut_off_is_sent_again_over_the_next_link() -> None:
    asked = Asked()
    async with (
        websocket_server(asked) as url,
        FaultyLink(url) as link,
        connected(link.url) as service,
    ):
        frame = asyncio.create_task(look(service, retries=50, deadline_s=5))
        await asked.next()
        service._budget.on_failure = lambda: None  # type: ignore[method-assign]
        link.cut()
        socket, message = await asked.next()
        await socket.send(reply_to(message))
        assert (await frame).answered


async def test_a_server_that_refuses_connections_is_asked_again_until_it_takes_one() -> None:
    async with websocket_server() as url, FaultyLink(url) as link:
        link.refuse = True
        async with StreamingService(endpoint=link.url) as service:
            with pytest.raises(BackendUnavailableError):
                await service.check(deadline_s=5)
            assert service.unavailable_reason.startswith("not connected: ")
            with pytest.raises(BackendUnavailableError):
                await look(service)
            await until(lambda: link.connections >= 3)
            link.refuse = False
            await until(lambda: service.unavailable_reason == "")
            assert (await look(service)).answered


async def test_a_bug_in_keeping_the_link_does_not_end_the_stream_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError

    async with websocket_server() as url, StreamingService(endpoint=url) as service:
        with monkeypatch.context() as patch:
            patch.setattr(streaming, "told_known", broken)
            keeper = service._keeper
            assert keeper is not None
            await until(keeper.done)
            assert isinstance(keeper.exception(), RuntimeError)
        await service.start()  # as each frame and each check do
        await until(lambda: not service.unavailable_reason)
        assert (await look(service)).answered


@pytest.mark.parametrize("accepts", [True, False])
async def test_the_pause_before_reconnecting_doubles_up_to_a_cap(
    accepts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ceilings: list[float] = []

    def uniform(low: float, high: float) -> float:
        assert low == 0
        ceilings.append(high)
        return 0.001  # without a pause, a clock that waits for no time would never go on

    async def drop(link: ServerConnection) -> None:
        await link.close()

    monkeypatch.setattr(streaming, "random", SimpleNamespace(uniform=uniform))
    async with websocket_server(drop) as url, FaultyLink(url) as link:
        link.refuse = not accepts
        async with StreamingService(endpoint=link.url):
            await until(lambda: len(ceilings) >= 7)
    assert ceilings[:7] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


@pytest.mark.parametrize("size", [0, 20_000_000], ids=["idle", "sending"])
async def test_a_black_hole_is_noticed_by_the_heartbeat(size: int) -> None:
    """With frames in the buffers, too: there websockets' own heartbeat waits for ever."""
    async with (
        websocket_server() as url,
        FaultyLink(url) as link,
        connected(link.url, heartbeat_s=HEARTBEAT_S) as service,
    ):
        await look(service)
        link.stall()
        stalled_s = time.monotonic()
        # The frame outlives the test's patience, so that only the heartbeat can end it.
        with pytest.raises(BackendUnavailableError):
            await service.exchange(request(size=size), deadline_s=60)
        # Two heartbeats, a third to begin with, the close and a loaded machine; websockets'
        # default close timeout would make it 10 s.
        assert time.monotonic() - stalled_s < 2.0
        link.resume()
        await until(lambda: service.unavailable_reason == "")
        assert (await look(service)).answered


async def test_a_slow_link_that_moves_is_not_given_up() -> None:
    async with (
        websocket_server() as url,
        FaultyLink(url) as link,
        connected(link.url, heartbeat_s=1.0) as service,
    ):
        link.bytes_per_s = 300_000
        for _ in range(3):
            await service.exchange(request(size=60_000), deadline_s=5)
        assert link.connections == 1


async def test_a_server_that_closes_gracefully_is_reconnected_to() -> None:
    asked = Asked()
    async with websocket_server(asked) as url, connected(url) as service:
        frame = asyncio.create_task(look(service, deadline_s=60))
        link, _ = await asked.next()
        await link.close(1001, "going away")
        with pytest.raises(BackendUnavailableError) as caught:
            await frame
        assert caught.value.retryable
        await until(lambda: service.unavailable_reason == "")


async def test_a_text_message_is_a_protocol_error_and_ends_the_link() -> None:
    links = 0

    async def chat(link: ServerConnection) -> None:
        nonlocal links
        links += 1
        if links > 1:
            await answer_all(link)
        async for _ in pictures(link):
            await link.send("hello from a chat server")

    async with websocket_server(chat) as url, connected(url) as service:
        with pytest.raises(ProtocolError) as caught:
            await look(service)
        assert caught.value.backend == "streaming"
        assert "hello" not in str(caught.value)
        await until(lambda: service.unavailable_reason == "")
        assert (await look(service)).answered
    assert links == 2


async def test_a_reply_that_is_too_large_breaks_the_link_and_nothing_else() -> None:
    asked = Asked()
    async with websocket_server(asked) as url, connected(url) as service:
        frame = asyncio.create_task(look(service))
        link, message = await asked.next()
        await link.send(reply_to(message) + bytes(3 * 1024 * 1024))
        with pytest.raises(ProtocolError, match="at most 2097152 bytes"):
            await frame
        await until(lambda: service.unavailable_reason == "")


# ---- handshakes that fail


@contextlib.asynccontextmanager
async def refusing(status: int, **headers: str) -> AsyncIterator[str]:
    def refuse(_: ServerConnection, __: Request) -> Response:
        fields = Headers({"Connection": "close", "Content-Length": "0", **headers})
        return Response(status, http.HTTPStatus(status).phrase, fields, b"")

    async with websocket_server(process_request=refuse) as url:
        yield url


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refused_handshake_is_a_matter_of_configuration_for_every_frame(
    status: int,
) -> None:
    async with refusing(status) as url, StreamingService(endpoint=url) as service:
        calls = (service.check(deadline_s=5), look(service), look(service), look(service))
        for call in calls:
            with pytest.raises(BackendResponseError) as caught:
                await call
            assert caught.value.status_code == status
            assert caught.value.is_configuration
            assert not caught.value.retryable


async def test_an_overloaded_server_may_be_asked_again() -> None:
    async with refusing(503) as url, StreamingService(endpoint=url) as service:
        with pytest.raises(BackendResponseError) as caught:
            await service.check(deadline_s=5)
        assert caught.value.retryable
        assert not caught.value.is_configuration


async def test_a_redirect_is_not_followed() -> None:
    visitors = 0

    async def elsewhere(link: ServerConnection) -> None:
        nonlocal visitors
        visitors += 1
        await answer_all(link)

    async with websocket_server(elsewhere) as other:
        location = other.replace("http", "ws") + STREAM_PATH
        async with (
            refusing(307, Location=location) as url,
            StreamingService(endpoint=url, auth_token=TOKEN) as service,
        ):
            with pytest.raises(BackendResponseError) as caught:
                await service.check(deadline_s=5)
            assert caught.value.status_code == 307
    assert visitors == 0


@pytest.mark.parametrize(
    "words", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"SSH-2.0\r\n", b"\x00" * 99, b""]
)
async def test_a_server_of_another_kind_is_an_unavailable_backend(words: bytes) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(words)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server, StreamingService(endpoint=url_of(server)) as service:  # type: ignore[arg-type]
        with pytest.raises(BackendError) as caught:
            await service.check(deadline_s=5)
        assert type(caught.value) in {BackendUnavailableError, ProtocolError}


async def test_a_host_that_is_no_name_is_an_unavailable_backend() -> None:
    async with StreamingService(endpoint="https://a..b") as service:
        with pytest.raises(BackendUnavailableError):
            await service.check(deadline_s=5)


async def test_a_check_keeps_its_deadline_while_connecting() -> None:
    async with websocket_server() as url, FaultyLink(url) as link:
        link.stall()
        async with StreamingService(endpoint=link.url) as service, asyncio.timeout(5):
            with pytest.raises(BackendTimeoutError):
                await service.check(deadline_s=0.1)
            with pytest.raises(BackendTimeoutError):
                await look(service, deadline_s=0.1)


async def test_an_error_raised_for_many_frames_collects_no_tracebacks() -> None:
    async with refusing(401) as url, StreamingService(endpoint=url) as service:
        lengths = set()
        for _ in range(5):
            with pytest.raises(BackendResponseError) as caught:
                await service.check(deadline_s=5)
            lengths.add(len(traceback.format_exception(caught.value)))
        assert len(lengths) == 1


# ---- closing


def sockets() -> int:
    return len(psutil.Process().net_connections("tcp"))


async def test_closing_leaves_no_task_and_no_socket() -> None:
    async with websocket_server() as url:
        tasks = asyncio.all_tasks()
        open_before = sockets()
        async with connected(url) as service:
            await look(service)
            assert sockets() > open_before
        await until(lambda: asyncio.all_tasks() == tasks)
        await until(lambda: sockets() <= open_before)


async def test_closing_says_goodbye_to_the_server() -> None:
    codes: asyncio.Queue[int | None] = asyncio.Queue()

    async def note(link: ServerConnection) -> None:
        await link.wait_closed()
        codes.put_nowait(link.close_code)

    async with websocket_server(note) as url:
        async with connected(url):
            pass
        async with asyncio.timeout(5):
            assert await codes.get() == 1000


async def test_closing_fails_the_frames_under_way_and_those_that_wait() -> None:
    asked = Asked()
    async with websocket_server(asked) as url, connected(url) as service:
        frames = [
            asyncio.create_task(look(service, deadline_s=60, retries=retries))
            for retries in (0, 4, 4)
        ]
        for _ in range(2):
            await asked.next()
        await until(lambda: service._slots._waiting is not None)
        await service.aclose()
        for frame in frames:
            with pytest.raises((ClosedError, BackendUnavailableError)):
                await frame


@pytest.mark.parametrize("fault", ["stall", "refuse"])
async def test_closing_while_connecting_leaves_nothing(fault: str) -> None:
    async with websocket_server() as url, FaultyLink(url) as link:
        if fault == "stall":
            link.stall()
        else:
            link.refuse = True
        service = StreamingService(endpoint=link.url)
        await service.start()
        await until(lambda: link.connections > 0)
        frame = asyncio.create_task(look(service, deadline_s=60))
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await service.aclose()
            with pytest.raises((ClosedError, BackendUnavailableError)):
                await frame
        assert not [t for t in asyncio.all_tasks() if t.get_name() == "hybrid-detect-stream"]


async def test_closing_over_a_black_hole_does_not_wait_for_it() -> None:
    async with websocket_server() as url, FaultyLink(url) as link:
        async with asyncio.timeout(5):
            async with StreamingService(endpoint=link.url) as service:
                await service.check(deadline_s=5)
                link.stall()
                started_s = time.monotonic()
            assert time.monotonic() - started_s < 2


async def test_a_closed_service_says_so() -> None:
    service = StreamingService(endpoint="http://127.0.0.1:1")
    await service.aclose()
    await service.aclose()
    for call in (look(service), service.check(deadline_s=1), service.start()):
        with pytest.raises(ClosedError):
            await call


async def test_a_service_that_was_never_started_needs_no_closing_of_links() -> None:
    await StreamingService(endpoint="http://127.0.0.1:1").aclose()


# ---- what must not stay, and must not be told


async def test_many_frames_do_not_pile_up_without_the_garbage_collector() -> None:
    async with websocket_server() as url, connected(url) as service:
        await service.exchange(request(size=200_000), deadline_s=5)
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(20):
                await service.exchange(request(size=200_000), deadline_s=5)
            await until(lambda: tracemalloc.get_traced_memory()[0] < 1_500_000)
        finally:
            tracemalloc.stop()
            gc.enable()


async def test_the_token_and_the_picture_are_told_to_the_server_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets.server").setLevel(logging.INFO)
    told = io.StringIO()

    async def misbehave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    silent = await asyncio.start_server(misbehave, "127.0.0.1", 0)
    try:
        async with websocket_server() as url, refusing(401) as refuser, silent:
            async with connected(url) as service:
                await service.exchange(request(TOKEN), deadline_s=5)
                told.write(f"{service!r} {service} {service.unavailable_reason}")
            for bad in (refuser, url_of(silent)):  # type: ignore[arg-type]
                async with StreamingService(endpoint=bad, auth_token=TOKEN) as service:
                    with pytest.raises(BackendError) as caught:
                        await service.check(deadline_s=5)
                    told.write("".join(traceback.format_exception(caught.value)))
                    told.write(repr(caught.value) + service.unavailable_reason)
    finally:
        logging.getLogger("websockets.server").setLevel(logging.NOTSET)
    told.write(caplog.text)
    assert "Error" in told.getvalue()
    assert TOKEN not in told.getvalue()


async def test_a_server_that_accepts_and_says_nothing_fails_the_check() -> None:
    """A link that merely stands is no sign of life."""
    async with (
        websocket_server() as url,
        FaultyLink(url) as link,
        connected(link.url, heartbeat_s=5.0) as service,
    ):
        link.stall()
        with pytest.raises(BackendTimeoutError, match="no sign of life"):
            await service.check(deadline_s=0.1)
        link.resume()
        await service.check(deadline_s=5.0)
