"""Messages over a WebSocket: the same for the app, whatever the frames and pieces they come in."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from hybrid_detect.server.connections import ConnectionLimits, Connections, Context
from hybrid_detect.server.http1 import HeadParser
from hybrid_detect.server.websocket_connection import WebSocketConnection
from hybrid_detect.server.websocket_frames import (
    FrameUnderWay,
    message_frame,
    payload_of,
)

from ..fuzzing import examples
from ..waiting import until

MAX_BYTES = 70_000
MAX_HEAD_BYTES = 14  # of a frame, before its payload
FRAMES = 20  # more than a test sends
HEAD = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)

payloads = st.binary(max_size=300) | st.integers(120, MAX_BYTES).map(bytes)
messages = st.lists(payloads, min_size=1, max_size=3)  # each in so many frames


class Transport(asyncio.Transport):
    """Takes everything; notes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


def fragments(parts: list[bytes]) -> list[bytes]:
    return [
        frame(Opcode.CONT if number else Opcode.BINARY, part, fin=number == len(parts) - 1)
        for number, part in enumerate(parts)
    ]


def opened(app: Any) -> tuple[WebSocketConnection, Context]:
    """A connection to `app` whose handshake has come, and what it has of its server."""
    limits = ConnectionLimits(connections=1, connections_per_peer=1)
    context = Context(
        app=app, limits=limits, max_message_bytes=MAX_BYTES, connections=Connections(limits)
    )
    head, _ = HeadParser().feed(HEAD)
    assert head is not None
    addresses = {"client": None, "server": None, "is_tls": False, "peer": ""}
    connection = WebSocketConnection(context, Transport(), head, addresses)
    connection.open(b"")
    return connection, context


def receive(connection: WebSocketConnection, data: bytes) -> None:
    """Have it read `data`, as an event loop has."""
    while data:
        room = connection.get_buffer(-1)
        size = min(len(data), len(room))
        room[:size], data = data[:size], data[size:]
        connection.buffer_updated(size)


async def received(pieces: list[bytes]) -> list[bytes | int | None]:
    """What the app gets of these pieces; last the code of the end, if there is one."""
    seen: list[bytes | int | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            seen.append(message["bytes"])
        seen.append(message["code"])

    connection, context = opened(app)
    for piece in (b"", *pieces):
        if piece:
            receive(connection, piece)
        for _ in range(4 * FRAMES):  # the app takes what there is
            await asyncio.sleep(0)
    connection.connection_lost(None)
    while context.tasks:
        await asyncio.wait(context.tasks)
    return seen


@given(
    sent=st.lists(messages, max_size=4),
    pings=st.lists(st.integers(0, 12), max_size=2),
    cuts=st.lists(st.integers(0, 5000) | st.integers(0, 300_000), max_size=8),
)
@settings(max_examples=examples(60), deadline=None)
def test_the_app_gets_every_message_whole(
    sent: list[list[bytes]], pings: list[int], cuts: list[int]
) -> None:
    sent = [parts for parts in sent if sum(map(len, parts)) <= MAX_BYTES]
    frames = [each for parts in sent for each in fragments(parts)]
    for place in pings:
        frames.insert(place, frame(Opcode.PING, b"?"))
    data = b"".join(frames)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    expected = [b"".join(parts) for parts in sent]
    assert asyncio.run(received(pieces)) == [*expected, 1006]


@pytest.mark.parametrize("size", [5, 200, MAX_BYTES])
def test_a_frame_whose_head_comes_in_pieces_is_read(size: int) -> None:
    """Its length, at 2 to 10 bytes, is known before its mask is."""
    whole = frame(Opcode.BINARY, bytes(size))
    for cut in range(1, MAX_HEAD_BYTES + 1):
        assert asyncio.run(received([whole[:cut], whole[cut:]])) == [bytes(size), 1006], cut
    head = [whole[at : at + 1] for at in range(MAX_HEAD_BYTES)]
    pieces = [*filter(None, head), whole[MAX_HEAD_BYTES:]]
    assert asyncio.run(received(pieces)) == [bytes(size), 1006]


def test_what_breaks_the_protocol_ends_it() -> None:
    whole = frame(Opcode.BINARY, b"picture")
    unmasked = Frame(Opcode.BINARY, b"picture").serialize(mask=False)
    amid = frame(Opcode.BINARY, b"a", fin=False) + whole
    too_large = frame(Opcode.BINARY, bytes(MAX_BYTES + 1))
    with_extension = bytes([whole[0] | 0x40]) + whole[1:]
    for broken in (unmasked, amid, too_large, with_extension):
        assert asyncio.run(received([whole, broken, whole])) == [b"picture", 1006]


def measured(data: bytes | memoryview, begin: int = 0, *, begins: bool = True) -> FrameUnderWay:
    """The frame that begins there, no whole message of which is there."""
    made = FrameUnderWay(max_bytes=MAX_BYTES)
    assert made.measure(data, begin, begins=begins) is None
    return made


@given(data=st.binary(max_size=200) | st.integers(0, MAX_BYTES - 14).map(bytes))
@settings(max_examples=examples(60))
def test_a_frame_tells_where_it_ends_and_what_it_carries(data: bytes) -> None:
    whole = frame(Opcode.BINARY, data)
    assert payload_of(whole) == data
    under_way = measured(whole[:-1] if data else whole[:4])
    assert under_way.left_bytes == len(whole)
    assert under_way.pieces == []
    for other in (
        frame(Opcode.BINARY, data, fin=False),
        frame(Opcode.TEXT, data),
        Frame(Opcode.BINARY, data).serialize(mask=False),
    ):
        under_way = measured(other + b"more")
        assert under_way.left_bytes == len(other)
        assert under_way.pieces is None
    assert measured(whole, begins=False).pieces is None  # amid a message in several frames


@pytest.mark.parametrize("size", [0, 5, 125, 126, 200, 65535, 65536, MAX_BYTES])
def test_a_message_is_written_as_websockets_writes_it(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    expected = Frame(Opcode.BINARY, data[:size]).serialize(mask=False)
    assert message_frame(data[:size]) == expected


@pytest.mark.parametrize("size", [0, 5, 126, 65536])
@pytest.mark.parametrize("begin", [0, 7])
def test_a_whole_message_is_found_where_it_lies(size: int, begin: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    whole = frame(Opcode.BINARY, data[:size])
    there = memoryview(bytes(begin) + whole + b"more")
    end = begin + len(whole)
    for lies_in in (there, bytes(there), bytearray(there)):
        frame_there = FrameUnderWay(max_bytes=len(whole))
        assert frame_there.measure(lies_in, begin, begins=True) == (end, data[:size])
        assert (frame_there.left_bytes, frame_there.pieces) == (0, None)
    too_large = FrameUnderWay(max_bytes=len(whole) - 1)
    assert too_large.measure(there, begin, begins=True) is None
    assert (too_large.left_bytes, too_large.pieces) == (len(whole), None)
    for cut in {*range(begin, begin + MAX_HEAD_BYTES), end - 1} - set(range(end, end + 20)):
        left_bytes = measured(there[:cut], begin).left_bytes
        assert left_bytes in {0, len(whole)}, cut  # where its length is not known yet, none


@pytest.mark.anyio
async def test_what_an_app_has_not_taken_ends_with_it() -> None:
    """A peer that does not say goodbye would keep its pictures in memory."""
    ends = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await ends.wait()

    connection, context = opened(app)
    await until(lambda: connection.is_open)
    receive(connection, frame(Opcode.BINARY, bytes(200)) * 2)
    assert len(connection._events.waiting) == 2
    ends.set()
    await asyncio.wait(context.tasks)
    assert not connection._events.waiting
    connection.connection_lost(None)
