"""Connections that are held for nothing, over real sockets."""

import asyncio
import contextlib
import itertools
import json
import socket
import struct

import pytest
from starlette.responses import Response
from starlette.routing import Route
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from hybrid_detect.exchange.wire import (
    DetectRequest,
    ErrorReply,
    decode_reply,
    encode_announcement,
    encode_request,
)
from hybrid_detect.server import admitted_messages, http1, websocket_connection
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.connections import ConnectionLimits
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.listening import Server
from hybrid_detect.server.replies import SECURITY_HEADERS, too_fast

from ..waiting import LIMIT_S, until
from .either_loop import anyio_backend  # noqa: F401 - a fixture
from .loopback import OneFace, Served, answer_of, jpeg, served

pytestmark = pytest.mark.anyio

PATIENT = {"head_s": LIMIT_S, "body_s": LIMIT_S, "message_s": LIMIT_S, "answer_s": LIMIT_S}


def limits(**changed: float) -> ConnectionLimits:
    """Limits that no test waits for, but for those given."""
    return ConnectionLimits(connections=99, connections_per_peer=99, **{**PATIENT, **changed})


def checked(answer: bytes, status: int) -> dict[str, object]:
    """The JSON body of an answer made without the app."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {status} ")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert SECURITY_HEADERS.items() <= headers.items()
    assert headers["Connection"] == "close"
    assert "server" not in {name.lower() for name in headers}
    parsed = json.loads(body)
    assert parsed["status"] == status
    return parsed


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-A",
        b"GET /v1/health HTTP/1.1\r\nHost: x\r\n",
    ],
    ids=repr,
)
async def test_a_head_that_never_ends_is_not_waited_for(sent: bytes) -> None:
    async with served(limits=limits(head_s=0.05)) as server:
        assert checked(await server.raw(sent), 408)["code"] == "too_slow"


async def test_a_head_that_trickles_gains_no_time() -> None:
    async with served(limits=limits(head_s=0.1)) as server, server.dialled() as (reader, writer):
        answer = asyncio.create_task(answer_of(reader))
        writer.write(b"GET /v1/health HTTP/1.1\r\n")
        while not (answer.done() or writer.is_closing()):
            writer.write(b"A: b\r\n")
            await asyncio.sleep(0.01)
        checked(await answer, 408)


async def test_a_second_request_has_a_limit_of_its_own() -> None:
    whole = b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n"
    async with served(limits=limits(head_s=0.05)) as server:
        answer = await server.raw(whole + b"GET /v1/health HTTP/1.1\r\nHo")
        assert answer.count(b"HTTP/1.1 200 OK") == 1
        assert b"HTTP/1.1 408 " in answer


async def test_empty_lines_between_requests_hold_no_connection() -> None:
    async with served(limits=limits(head_s=0.05)) as server, server.dialled() as (reader, writer):
        writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"}")
        writer.write(b"\r\n")
        checked(await answer_of(reader), 408)


async def test_the_body_of_a_refused_request_is_not_waited_for() -> None:
    config = ServerConfig(auth_token="a-token")
    async with served(config, limits=limits(body_s=0.05)) as server:
        head = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"
        async with server.dialled() as (reader, writer):
            answer = asyncio.create_task(answer_of(reader))
            writer.write(head)
            while not (answer.done() or writer.is_closing()):
                writer.write(b"x")
                await asyncio.sleep(0.01)
            assert (await answer).startswith(b"HTTP/1.1 401 ")
        assert server.detector.looks == 0


@pytest.mark.parametrize("newlines", [True, False])
async def test_a_head_that_is_too_large_is_refused(newlines: bool) -> None:
    async with served(limits=limits()) as server, server.dialled() as (reader, writer):
        answer = asyncio.create_task(answer_of(reader))
        writer.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\nA: ")
        for _ in range(4 * http1.MAX_HEAD_BYTES // 1000):
            if answer.done() or writer.is_closing():
                break
            writer.write(b"x" * 990 + (b"\r\nA: " if newlines else b""))
            await asyncio.sleep(0)
        checked(await answer, 431)


@pytest.mark.parametrize("piece", [b"T: " + b"x" * 990 + b"\r\n", b"x" * 997])
async def test_trailers_that_never_end_are_refused(piece: bytes) -> None:
    async with served(limits=limits()) as server, server.dialled() as (reader, writer):
        ended = asyncio.create_task(answer_of(reader))
        writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"1\r\nx\r\n0\r\nT: x")
        for _ in range(4 * http1.MAX_HEAD_BYTES // 1000):
            if ended.done() or writer.is_closing():
                break
            writer.write(piece)
            await asyncio.sleep(0)
        await ended
        assert server.detector.looks == 0


async def test_many_requests_at_once_do_not_count_as_one_head() -> None:
    request = b"GET /v1/health HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 1000 + b"\r\n\r\n"
    count = 3 * http1.MAX_HEAD_BYTES // len(request)
    last = b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with served(ServerConfig(rate_per_s=0), limits=limits()) as server:
        answer = await server.raw(request * count + last)
    assert answer.count(b"HTTP/1.1 200 OK") == count + 1


async def test_a_large_body_does_not_count_as_head() -> None:
    body = jpeg() + bytes(10 * http1.MAX_HEAD_BYTES)
    async with served(limits=limits()) as server:
        head = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        answer = await server.raw(head + b"Content-Length: %d\r\n\r\n" % len(body), body)
        assert answer.startswith(b"HTTP/1.1 200 ")


async def test_an_idle_connection_is_closed() -> None:
    async with served(limits=limits(keep_alive_s=0.05)) as server:
        answer = await server.raw(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.count(b"HTTP/1.1 ") == 1


async def test_no_more_connections_than_allowed_are_held() -> None:
    async with served(limits=ConnectionLimits(connections=2, connections_per_peer=9)) as server:
        async with server.dialled(), server.dialled():
            await until(lambda: server.connections == 2)
            assert checked(await server.raw(), 503)["code"] == "overloaded"
        await until(lambda: server.connections == 0)
        assert b"200 OK" in await server.raw(
            b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )


async def test_one_address_does_not_get_all_connections() -> None:
    async with (
        served(limits=ConnectionLimits(connections=9, connections_per_peer=1)) as server,
        server.dialled(),
    ):
        await until(lambda: server.connections == 1)
        checked(await server.raw(), 503)


# -- WebSocket -------------------------------------------------------------------------------


def stream_url(server: Served) -> str:
    return f"ws://127.0.0.1:{server.port}/v1/stream"


def frame(payload: bytes, *, opcode: int = 2, fin: bool = True, announced: int = 0) -> bytes:
    """A masked frame (RFC 6455, 5.2), with the mask 0."""
    size = announced or len(payload)
    return struct.pack("!BBH4x", opcode | (0x80 if fin else 0), 0x80 | 126, size) + payload


MESSAGE = encode_request(DetectRequest(request_id=1, image=jpeg()))

PADDED = jpeg() + bytes(20_000)

OPENING = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

MAX_FLOOD_BYTES = 2**25
"""Far more than the system's own buffers hold between two who do not read."""


@pytest.mark.parametrize(
    "sent",
    [
        frame(b"half", announced=1000),
        frame(b"a", fin=False),
        frame(b"a", fin=False) + frame(b"", opcode=9),
        frame(MESSAGE) + frame(b"half", announced=1000),
    ],
    ids=["half a frame", "a fragment", "a fragment and a ping", "half after a whole one"],
)
async def test_half_a_message_is_not_waited_for(sent: bytes) -> None:
    async with (
        served(limits=limits(message_s=0.05)) as server,
        connect(stream_url(server), compression=None, ping_interval=None) as link,
    ):
        link.transport.write(sent)
        await link.wait_closed()
        assert link.close_code == 1008


async def test_messages_that_overlap_their_pieces_go_on() -> None:
    """Each has its own time: a busy link is never without half a message."""
    async with (
        served(limits=limits(message_s=1.0)) as server,
        connect(stream_url(server), compression=None, ping_interval=None) as link,
    ):
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + 1.2
        whole = frame(MESSAGE)
        link.transport.write(whole[:10])
        answers = 0
        while loop.time() < ends_s:
            link.transport.write(whole[10:] + whole[:10])
            decode_reply(await link.recv())
            answers += 1
        assert answers > 1


async def test_half_a_ping_is_waited_for_no_longer_than_until_it_has_come() -> None:
    """A message right behind its other half does not end in its stead."""
    async with (
        served(limits=limits(message_s=1.0)) as server,
        connect(stream_url(server), compression=None, ping_interval=None) as link,
        asyncio.timeout(LIMIT_S),
    ):
        ping, whole = frame(b"ping?", opcode=9), frame(MESSAGE)
        link.transport.write(ping[:10])
        (connection,) = server.server._context.connections.each()  # type: ignore[union-attr]
        await until(lambda: connection._patience.is_running)  # type: ignore[attr-defined]
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + 1.5
        link.transport.write(ping[10:] + whole)
        decode_reply(await link.recv())
        while loop.time() < ends_s:
            link.transport.write(whole)
            decode_reply(await link.recv())


async def test_a_stream_outlives_the_time_that_a_request_has() -> None:
    """It began as one, whose limits end with the upgrade."""
    shortly = limits(head_s=0.05, body_s=0.05)
    async with (
        served(limits=shortly) as server,
        connect(stream_url(server), compression=None, ping_interval=None) as link,
    ):
        for _ in range(3):
            await asyncio.sleep(0.1)
            await link.send(MESSAGE)
            decode_reply(await link.recv())


async def test_a_message_in_countless_pieces_is_refused() -> None:
    async with (
        served(limits=limits()) as server,
        connect(stream_url(server), compression=None, ping_interval=None) as link,
    ):
        empty = frame(b"", opcode=0, fin=False) * (websocket_connection.MAX_FRAGMENTS + 1)
        link.transport.write(frame(b"", fin=False) + empty)
        with pytest.raises(ConnectionClosed) as caught:
            await link.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008


async def test_a_stream_s_later_messages_stay_with_the_client() -> None:
    """While two are looked at, one waits for its turn and two for the app; the rest is not read."""
    go = asyncio.Event()

    class Slow(OneFace):
        async def detect(self, request: DetectRequest, **asked: object) -> Detection:
            found = await super().detect(request)
            await go.wait()
            return found

    padded = encode_request(DetectRequest(request_id=1, image=jpeg() + bytes(100_000)))
    detector = Slow(10**9)
    async with (
        served(ServerConfig(rate_per_s=0), limits=limits(), detector=detector) as server,
        connect(stream_url(server), compression=None, ping_interval=None) as link,
    ):
        sending = asyncio.create_task(flood(link, padded, 400))
        await until(lambda: detector.looks == 2)
        (connection,) = server.server._context.connections.each()  # type: ignore[union-attr]
        await until(lambda: not connection._is_reading)  # type: ignore[attr-defined]
        waiting = len(connection._events.waiting)  # type: ignore[attr-defined]
        held = len(connection._held)  # type: ignore[attr-defined]
        assert waiting == websocket_connection.MAX_WAITING
        assert held <= 64 * 1024 + 256 * 1024
        assert not sending.done()
        assert detector.looks == 2
        sending.cancel()
        go.set()
        link.transport.abort()


async def flood(link: ClientConnection, message: bytes, times: int) -> None:
    for _ in range(times):
        await link.send(message)


async def test_a_stream_without_pictures_is_closed() -> None:
    config = ServerConfig(stream_idle_s=0.05)
    async with served(config, limits=limits()) as server:
        async with connect(stream_url(server), compression=None) as link:
            with pytest.raises(ConnectionClosed) as caught:
                await link.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1001
        await until(lambda: server.connections == 0)


async def test_announcements_are_no_pictures_and_keep_no_stream_open() -> None:
    config = ServerConfig(stream_idle_s=0.3, rate_per_s=0)
    async with (
        served(config, limits=limits()) as server,
        connect(stream_url(server), compression=None, ping_interval=None) as link,
        asyncio.timeout(LIMIT_S),
    ):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await link.send(encode_announcement(1))
                await asyncio.sleep(0.01)
        assert link.close_code == 1001


async def test_more_than_one_announcement_for_a_picture_counts_as_pictures() -> None:
    config = ServerConfig(rate_per_s=0.001, burst=2)
    async with (
        served(config, limits=limits()) as server,
        connect(stream_url(server), compression=None) as link,
        asyncio.timeout(LIMIT_S),
    ):
        for number in range(4):  # the first for nothing, two for the burst, the last refused
            await link.send(encode_announcement(number))
        refusal = decode_reply(await link.recv())
        assert isinstance(refusal, ErrorReply)
        assert (refusal.request_id, refusal.code) == (3, "too_fast")


async def test_pings_whose_answers_are_not_taken_are_not_read() -> None:
    """Each is answered: without a bound the answers would fill the memory of the server."""
    flood = frame(bytes(125), opcode=9) * 500
    async with served(limits=limits()) as server, asyncio.timeout(LIMIT_S):
        loop = asyncio.get_running_loop()
        with socket.socket() as peer:
            peer.setblocking(False)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(peer, ("127.0.0.1", server.port))
            await loop.sock_sendall(peer, OPENING)
            assert b" 101 " in await loop.sock_recv(peer, 1024)
            sent = refused = 0
            while refused < 50 and sent < MAX_FLOOD_BYTES:
                try:
                    sent += peer.send(flood[sent % len(flood) :])
                    refused = 0
                except BlockingIOError:
                    refused += 1
                await asyncio.sleep(0.001)
            assert sent < MAX_FLOOD_BYTES


async def test_a_stop_answers_who_has_not_taken_answers_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its messages have been received: what it is told of them waits as other answers do."""
    told: list[int] = []

    def noted(request_id: int, retry_after_s: float) -> ErrorReply:
        told.append(request_id)
        return too_fast(request_id, retry_after_s)

    monkeypatch.setattr(admitted_messages, "too_fast", noted)
    sent = b"".join(
        frame(encode_request(DetectRequest(request_id=each, image=b"?"))) for each in range(30_000)
    )
    async with contextlib.AsyncExitStack() as ends:
        config = ServerConfig(rate_per_s=0.001, burst=1)
        server = await ends.enter_async_context(served(config, limits=limits()))
        async with server.dialled() as (reader, writer):
            writer.write(OPENING)
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            (connection,) = server.server._context.connections.each()  # type: ignore[union-attr]
            own = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            writer.write(sent)
            await until(lambda: connection._outflow.is_blocked and connection._held)  # type: ignore[attr-defined]
            before = len(told)
            stop = asyncio.create_task(ends.aclose())
            await until(lambda: len(told) > before)
            found = []
            while (head := await reader.readexactly(2))[0] == 0x82:
                size = head[1]
                if size == 126:
                    size = int.from_bytes(await reader.readexactly(2), "big")
                found.append(decode_reply(await reader.readexactly(size)).request_id)
            assert head[0] == 0x88
            assert int.from_bytes(await reader.readexactly(2), "big") == 1012
            writer.transport.abort()
            await stop
    assert [each for each in found if each] == told  # all but the first, which was let in


async def test_a_stop_answers_who_goes_on_sending() -> None:
    """To close at its next message would reset the link, and cost it the answers on their way."""
    seen: list[int] = []

    class Noted(OneFace):
        async def detect(self, request: DetectRequest, **asked: object) -> Detection:
            seen.append(request.request_id)
            return await super().detect(request)

    async def send_on(writer: asyncio.StreamWriter) -> None:
        for number in itertools.count(1):
            writer.write(frame(encode_request(DetectRequest(request_id=number, image=PADDED))))
            await writer.drain()

    async with contextlib.AsyncExitStack() as ends:
        noted = served(ServerConfig(rate_per_s=0), limits=limits(), detector=Noted(10**6))
        server = await ends.enter_async_context(noted)
        async with server.dialled() as (reader, writer):
            writer.write(OPENING)
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            sending = asyncio.create_task(send_on(writer))
            await until(lambda: len(seen) > 20)
            stop = asyncio.create_task(ends.aclose())
            found = []
            while (head := await reader.readexactly(2))[0] == 0x82:
                size = int.from_bytes(await reader.readexactly(2), "big")
                found.append(decode_reply(await reader.readexactly(size)).request_id)
            assert (head[0], await reader.readexactly(2)) == (0x88, (1012).to_bytes(2, "big"))
            sending.cancel()
            writer.write(frame((1012).to_bytes(2, "big"), opcode=8))
            assert await reader.read() == b""
            await stop
    assert sorted(found) == seen


async def test_answers_that_are_not_taken_hold_no_connection() -> None:
    async with served(ServerConfig(rate_per_s=0), limits=limits(answer_s=0.05)) as server:
        request = b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(request * 5000)  # more than the buffers of both ends hold
            await until(lambda: server.connections == 1)
            await until(lambda: server.connections == 0)
            writer.transport.abort()


async def test_a_stream_knows_what_was_not_taken_before_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its transport has told of that already: else its answers would pile up without an end."""
    config = ServerConfig(rate_per_s=0, port=0)
    app = create_app(config, OneFace())
    much = Route("/much", lambda _: Response(bytes(MAX_FLOOD_BYTES)))  # more than buffers hold
    app.router.routes.append(much)
    request = b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n"
    async with Server(app, config, limits=limits(answer_s=0.2)) as server:
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(request + OPENING)
            await until(lambda: server.connections == 1)
            await until(lambda: server.connections == 0)
            writer.transport.abort()
    assert "bug" not in caplog.text  # that the app could not accept it


async def test_a_stream_s_refusals_have_the_same_shape() -> None:
    async with served(limits=limits()) as server:
        answer = await server.raw(
            b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 7\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = answer.partition(b"\r\n\r\n")[0].decode().lower()
        assert head.startswith("http/1.1 4")
        for name, value in SECURITY_HEADERS.items():
            assert f"{name}: {value}".lower() in head
        assert "\r\nserver:" not in head


async def test_an_error_of_a_stream_is_an_error_reply() -> None:
    config = ServerConfig(rate_per_s=0.001, burst=2)
    async with (
        served(config, limits=limits()) as server,
        connect(stream_url(server), compression=None) as link,
    ):
        replies = []
        for number in range(3):
            await link.send(encode_request(DetectRequest(request_id=number, image=jpeg())))
            replies.append(decode_reply(await link.recv()))
        refusal = replies[2]
        assert isinstance(refusal, ErrorReply)
        assert (refusal.request_id, refusal.status, refusal.code) == (2, 429, "too_fast")
        assert refusal.retry_after_s is not None
        assert 900 < refusal.retry_after_s <= 1000
        assert server.detector.looks == 2
