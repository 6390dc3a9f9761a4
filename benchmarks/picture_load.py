"""Clients that cost next to nothing: requests made beforehand, sent over HTTP or a WebSocket.

Where the load shares its cores with the server, what a client spends is taken from what it
measures. These write a finished request and read an answer by its length: about 0.1 ms of processor
time a picture, where `httpx` takes ten times as much; `Load.client_s` tells how much it was. With
`apart`, server and clients have cores of their own, and neither takes anything from the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import secrets
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DETECT_PATH,
    STREAM_PATH,
    SUBPROTOCOL,
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_reply,
    encode_request,
)
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.serving import serve

ANSWER_LIMIT_S = 60.0
START_LIMIT_S = 900.0  # TensorRT builds its engines
MANY = 20_000


class LostError(Exception):
    """The connection ended without an answer."""


class Link(asyncio.Protocol):
    """Waits for one answer after the other."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (body := self._taken()) is not None:
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(body)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LostError())
        self._transport = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    async def ask(self, request: bytes) -> bytes:
        if self._transport is None:
            raise LostError
        self._answer = asyncio.get_running_loop().create_future()
        self.write(request)
        return await self._answer

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _taken(self) -> bytes | None:
        """The next whole answer in what has come."""
        raise NotImplementedError


class HttpLink(Link):
    """HTTP/1.1, the connection kept."""

    def _taken(self) -> bytes | None:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._data[:end]).lower()
        _, _, after = head.partition(b"content-length: ")
        stop = end + 4 + int(after.split(b"\r\n", 1)[0])
        if len(self._data) < stop:
            return None
        body = bytes(self._data[end + 4 : stop])
        del self._data[:stop]
        return body


class StreamLink(Link):
    """A WebSocket; its frames from the server are whole messages without a mask (RFC 6455, 5.2)."""

    is_upgraded = False

    def _taken(self) -> bytes | None:
        if not self.is_upgraded:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = bytes(self._data[: end + 4])
            del self._data[: end + 4]
            self.is_upgraded = True
            return head
        while len(self._data) >= 2:
            length, start = self._data[1] & 0x7F, 2
            if length == 126:
                if len(self._data) < 4:
                    return None
                length, start = struct.unpack_from("!H", self._data, 2)[0], 4
            elif length == 127:
                if len(self._data) < 10:
                    return None
                length, start = struct.unpack_from("!Q", self._data, 2)[0], 10
            if len(self._data) < start + length:
                return None
            opcode, body = self._data[0] & 0x0F, bytes(self._data[start : start + length])
            del self._data[: start + length]
            if opcode == 0x9:  # a heartbeat
                self.write(_masked(body, opcode=0xA))
            elif opcode == 0x2:
                return body
        return None


def _masked(payload: bytes, *, opcode: int = 0x2) -> bytes:
    """A frame as a client sends it."""
    mask = secrets.token_bytes(4)
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    keys = (mask * (size // 4 + 1))[:size]
    mixed = int.from_bytes(payload) ^ int.from_bytes(keys)
    return head + mask + mixed.to_bytes(size)


@dataclass(frozen=True)
class Target:
    """A server, and how it is spoken to."""

    port: int
    token: str = ""
    is_stream: bool = False

    def wrapped(self, message: bytes) -> bytes:
        """A message of the wire format as the bytes that are written."""
        if self.is_stream:
            return _masked(message)
        head = (
            f"POST {DETECT_PATH} HTTP/1.1\r\nHost: x\r\n{self._credential}"
            f"Content-Type: {CONTENT_TYPE}\r\nAccept: {CONTENT_TYPE}\r\n"
            f"Content-Length: {len(message)}\r\n\r\n"
        )
        return head.encode() + message

    async def link(self) -> Link:
        """A new connection.

        Raises:
            OSError: If the server cannot be reached.
            LostError: If it lets in no stream.
        """
        loop = asyncio.get_running_loop()
        if not self.is_stream:
            return (await loop.create_connection(HttpLink, "127.0.0.1", self.port))[1]
        _, link = await loop.create_connection(StreamLink, "127.0.0.1", self.port)
        answer = await link.ask(
            f"GET {STREAM_PATH} HTTP/1.1\r\nHost: x\r\n{self._credential}"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {'A' * 22}==\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n".encode()
        )
        if b" 101 " not in answer.partition(b"\r\n")[0]:
            raise LostError
        return link

    @property
    def _credential(self) -> str:
        return f"Authorization: Bearer {self.token}\r\n" if self.token else ""


@dataclass
class Load:
    """What became of the pictures that were sent."""

    seconds: float
    answered_s: list[float] = field(default_factory=list)
    """Of each picture that was looked at, seconds to its answer."""
    refused_s: list[float] = field(default_factory=list)
    """Of each that was refused at once."""
    in_vain: int = 0
    """Let in, and told at their turn that it is too late (504)."""
    levels: dict[str, int] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    """Of the refusals."""
    lost: int = 0
    late: int = 0
    """Answered after their deadline."""
    client_s: float = 0.0
    """Processor seconds that the clients took."""

    @property
    def per_s(self) -> float:
        """Pictures answered in time, a second."""
        return (len(self.answered_s) - self.late) / self.seconds

    def note(self, body: bytes, took_s: float, deadline_s: float | None) -> None:
        if body.startswith(b"{"):  # of a connection that was not let in
            self.refused_s.append(took_s)
            code = json.loads(body)["code"]
            self.codes[code] = self.codes.get(code, 0) + 1
            return
        reply = decode_reply(body)
        if isinstance(reply, ResultReply):
            self.answered_s.append(took_s)
            self.late += deadline_s is not None and took_s > deadline_s
            self.levels[reply.quality] = self.levels.get(reply.quality, 0) + 1
        else:
            assert isinstance(reply, ErrorReply)
            if reply.code == "too_late":
                self.in_vain += 1
                return
            self.refused_s.append(took_s)
            self.codes[reply.code] = self.codes.get(reply.code, 0) + 1


@contextlib.contextmanager
def _clocked(load: Load) -> Iterator[None]:
    before = os.times()
    yield
    after = os.times()
    load.client_s = after.user + after.system - before.user - before.system


def requests(
    target: Target, pictures: Sequence[bytes], level: str, deadline_s: float | None = None
) -> list[bytes]:
    """A finished request for each of the pictures."""
    return [
        target.wrapped(
            encode_request(
                DetectRequest(request_id=1, image=each, quality=level, deadline_s=deadline_s)
            )
        )
        for each in pictures
    ]


async def without_pause(
    target: Target, asked: Sequence[bytes], seconds: float, *, connections: int
) -> Load:
    """Each connection sends its next picture when it has the answer to the last one."""
    load = Load(seconds)
    links = [await target.link() for _ in range(connections)]
    ends_s = time.perf_counter() + seconds

    async def repeat(link: Link, number: int) -> None:
        while (began_s := time.perf_counter()) < ends_s:
            body = await link.ask(asked[number % len(asked)])
            load.note(body, time.perf_counter() - began_s, None)
            number += 1

    with _clocked(load):
        await asyncio.gather(*(repeat(link, 5 * n) for n, link in enumerate(links)))
    for link in links:
        link.close()
    return load


async def at_random(
    target: Target,
    asked: Sequence[bytes],
    seconds: float,
    *,
    per_s: float,
    deadline_s: float | None,
    links: int = 0,
) -> Load:
    """Pictures come at random moments, whatever became of the earlier ones.

    Each takes a connection of its own from those that are free; over HTTP another is opened if
    there is none. With a number of `links`, as for streams, that many are open, and a picture that
    finds none free waits for one; the time counts.
    """
    load = Load(seconds)
    drawn = random.Random(7)
    free: asyncio.Queue[Link] = asyncio.Queue()
    for _ in range(links):
        free.put_nowait(await target.link())

    async def send(number: int) -> None:
        began_s = time.perf_counter()
        try:
            link = await free.get() if links or not free.empty() else await target.link()
            if not link.is_open:
                link = await target.link()
            body = await link.ask(asked[number % len(asked)])
        except (OSError, LostError):
            load.lost += 1
            if links:
                free.put_nowait(await target.link())
            return
        load.note(body, time.perf_counter() - began_s, deadline_s)
        free.put_nowait(link)

    with _clocked(load):
        began_s, next_s, number = time.perf_counter(), 0.0, 0
        sending = set()
        while next_s < seconds:
            await asyncio.sleep(max(began_s + next_s - time.perf_counter(), 0))
            task = asyncio.create_task(send(number))
            sending.add(task)
            task.add_done_callback(sending.discard)
            next_s += drawn.expovariate(per_s)
            number += 1
        if sending:
            await asyncio.wait(sending, timeout=ANSWER_LIMIT_S)
    while not free.empty():
        free.get_nowait().close()
    return load


@contextlib.contextmanager
def apart() -> Iterator[frozenset[int]]:
    """Keep this process on one core, and yield the others, for `served`.

    The kernel's work for what this process sends over loopback is done on its core as well. Where
    there is one core alone, or a system that cannot tie processes to cores, they share what there
    is, and the set is empty.
    """
    if not hasattr(os, "sched_setaffinity") or len(before := os.sched_getaffinity(0)) < 2:
        yield frozenset()
        return
    own = max(before)
    os.sched_setaffinity(0, {own})
    try:
        yield frozenset(before - {own})
    finally:
        os.sched_setaffinity(0, before)


def _serve(config: ServerConfig, cores: frozenset[int]) -> None:
    if cores:
        os.sched_setaffinity(0, cores)  # its detectors inherit them
    # Linux shares processor time out by session (autogroup): beside other work, a server would get
    # less than one that has a session of its own, and its detectors could give way to no one else.
    os.setsid()
    serve(config)


@contextlib.contextmanager
def served(cores: frozenset[int] = frozenset(), **options: Any) -> Iterator[tuple[int, int]]:
    """The server with these options in a process of its own: its port and its process id.

    It limits neither rates nor what one caller may have under way: what is measured is the rest.

    Args:
        cores: What it and its detectors run on; empty for all that there are.
        options: Fields of `ServerConfig`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = ServerConfig(
        **{
            "port": port,
            "rate_per_s": 0,
            "max_per_caller": MANY,
            "max_uploads": MANY,
            "max_streams": MANY,
            "max_connections": MANY,
            "max_connections_per_peer": MANY,
            **options,
        }
    )
    # Not a daemon, which could have no detectors' processes.
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(config, cores))
    process.start()
    try:
        ends_s = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            if not process.is_alive() or time.monotonic() > ends_s:
                msg = "the server did not start"
                raise RuntimeError(msg)
            time.sleep(0.05)
        assert process.pid is not None
        yield port, process.pid
    finally:
        process.terminate()
        process.join()
