"""A network that misbehaves: a TCP proxy on loopback whose faults are switched on and off."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from hybrid_detect.errors import ClosedError, ConfigurationError
from hybrid_detect.service.loop_thread import LoopThread, call_in_loop

__all__ = ["FaultyLink", "reset"]

PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
"""Schemes that an upstream may have, and their ports where it names none."""

PIECE_BYTES = 16 * 1024
"""Bytes that are passed on at once, at most."""

PIECE_S = 0.02
"""Seconds that a piece takes on a link with a rate, at most, so that it flows without bursts."""

PIECES_UNDER_WAY = 256
"""Pieces that a delayed connection holds: 4 MiB, as much as 40 Mbit/s carry in 0.8 s."""

RECEIVE_BUFFER_BYTES = 64 * 1024
"""What the kernel takes for a connection before the link does. Its default grows to megabytes,
which would swallow a picture whole however slow the link is."""


class FaultyLink:
    """A TCP proxy in front of a server, whose faults a test switches on and off.

    Give the client `url` instead of the server's own. In asynchronous code use it with ``async
    with``; in any other with ``with``, where it runs in a thread of its own. TLS and WebSocket pass
    through untouched, for it looks at nothing that it carries.

    Args:
        upstream: The server's URL, such as ``http://127.0.0.1:8000``.
        delay_s: See the attribute.
        bytes_per_s: See the attribute.

    Attributes:
        refuse: Whether new connections are reset at once, as by a server that is not running.
        cut_after: All connections are reset after so many bytes of reply on one of them.
        truncate_after: Replies end, with a proper close, after so many bytes of a connection.
        connections: How many connections were made so far.

    Raises:
        ConfigurationError: If an argument makes no sense.

    Example:
        >>> link = FaultyLink("http://127.0.0.1:8000", delay_s=0.2, bytes_per_s=50_000)
        >>> link.refuse = True
    """

    def __init__(
        self, upstream: str, *, delay_s: float = 0.0, bytes_per_s: float | None = None
    ) -> None:
        self.lead_to(upstream)
        self.delay_s = delay_s
        self.bytes_per_s = bytes_per_s
        self.refuse = False
        self.truncate_after: int | None = None
        self.cut_after: int | None = None
        self.connections = 0
        # For each direction, False up and True down: what it carried, and when it has done so.
        self._passed = {False: 0, True: 0}
        self._free_s = {False: 0.0, True: 0.0}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._thread: LoopThread | None = None

    @property
    def url(self) -> str:
        """What to connect to instead of the upstream: its scheme and path at the proxy's port.

        Raises:
            ClosedError: If it is not open.
        """
        if self._server is None:
            msg = "the link is not open: use it in a with block"
            raise ClosedError(msg)
        port = self._server.sockets[0].getsockname()[1]
        return f"{self._scheme}://127.0.0.1:{port}{self._path}"

    @property
    def delay_s(self) -> float:
        """Seconds that every byte takes in each direction, half of a round trip. May be changed."""
        return self._delay_s

    @delay_s.setter
    def delay_s(self, delay_s: float) -> None:
        if not 0 <= delay_s < math.inf:
            msg = f"delay_s: expected seconds, 0 or more, got {delay_s!r}"
            raise ConfigurationError(msg)
        self._delay_s = delay_s

    @property
    def bytes_per_s(self) -> float | None:
        """What the link carries in each direction, all connections together; `None`: any rate.

        May be changed.
        """
        return self._bytes_per_s

    @bytes_per_s.setter
    def bytes_per_s(self, bytes_per_s: float | None) -> None:
        if bytes_per_s is not None and not 0 < bytes_per_s < math.inf:
            msg = f"bytes_per_s: expected more than 0, or None, got {bytes_per_s!r}"
            raise ConfigurationError(msg)
        self._bytes_per_s = bytes_per_s

    @property
    def bytes_up(self) -> int:
        """How many bytes were passed on to the server so far."""
        return self._passed[False]

    @property
    def bytes_down(self) -> int:
        """How many bytes were passed on from the server so far."""
        return self._passed[True]

    def lead_to(self, upstream: str) -> None:
        """Pass new connections on to another server, given by its URL.

        Raises:
            ConfigurationError: If it is not the URL of a server.
        """
        try:
            parts = urlsplit(upstream)
            host, port = parts.hostname, parts.port or PORTS[parts.scheme]
        except (KeyError, ValueError):
            host = None
        if not host:
            msg = "upstream: expected the URL of a server, such as 'http://127.0.0.1:8000'"
            raise ConfigurationError(msg)
        self._upstream = (host, port)
        self._scheme, self._path = parts.scheme, parts.path.rstrip("/")

    def stall(self) -> None:
        """Take data no longer, in either direction, and say nothing: a black hole."""
        self._in_loop(self._flowing.clear)

    def resume(self) -> None:
        """Let data flow again, what was held back included."""
        self._in_loop(self._flowing.set)

    def cut(self) -> None:
        """Reset every connection, as a lost route or a restarted router does."""
        self._in_loop(self._cut)

    def _in_loop(self, function: Callable[[], object]) -> None:
        if self._server is None:
            function()
        else:
            call_in_loop(self._server.get_loop(), function)

    def _cut(self) -> None:
        for writer in list(self._writers):
            reset(writer)

    # ---- opening and closing

    def __enter__(self) -> Self:
        thread = LoopThread(self, "FaultyLink")  # raises if it is open: then the first one stays
        self._thread = thread
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()

    async def __aenter__(self) -> Self:
        if self._server is not None:
            msg = "the link is open already: make another one"
            raise ClosedError(msg)
        # An event belongs to the loop in which it was first waited for.
        flows, self._flowing = self._flowing.is_set(), asyncio.Event()
        if flows:
            self._flowing.set()
        self._free_s = {False: 0.0, True: 0.0}
        listener = socket.create_server(("127.0.0.1", 0))
        # Connections inherit it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._server = await asyncio.start_server(self._accept, sock=listener)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        self._cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()

    # ---- carrying

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio's server calls this in a task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # The proxy is being closed: asyncio's server would log this as an error.
        with contextlib.suppress(asyncio.CancelledError):
            if self.refuse:
                reset(writer)
            else:
                await self._connect(reader, writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection(*self._upstream)
            self._writers.add(far)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, far, is_reply=False))
                pumps.create_task(self._pump(far_reader, writer, is_reply=True))
        except* OSError:
            reset(writer)
        finally:
            for end in (writer, far):
                if end is not None:
                    self._writers.discard(end)
                    end.close()
                    with contextlib.suppress(OSError, asyncio.CancelledError):
                        await end.wait_closed()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        """Carry one direction of a connection to its end."""
        pieces: asyncio.Queue[tuple[float, bytes | OSError]] = asyncio.Queue(PIECES_UNDER_WAY)
        taking = asyncio.create_task(self._take(reader, pieces, is_reply=is_reply))
        try:
            await self._deliver(pieces, writer, is_reply=is_reply)
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _take(
        self,
        reader: asyncio.StreamReader,
        pieces: asyncio.Queue[tuple[float, bytes | OSError]],
        *,
        is_reply: bool,
    ) -> None:
        """Read as fast as the link carries; each piece is put with the time at which it arrives."""
        data: bytes | OSError = b" "
        while data and isinstance(data, bytes):
            # Nothing is read while nothing flows: as in a dead network, the sender's buffers fill.
            await self._flowing.wait()
            try:
                data = await reader.read(self._piece_bytes)
            except OSError as error:
                data = error  # it reaches the other side behind what was sent before
            else:
                await self._carried(len(data), is_reply=is_reply)
            await pieces.put((now_s() + self.delay_s, data))

    @property
    def _piece_bytes(self) -> int:
        rate = self.bytes_per_s
        return PIECE_BYTES if rate is None else min(max(int(rate * PIECE_S), 1), PIECE_BYTES)

    async def _carried(self, size: int, *, is_reply: bool) -> None:
        """Wait until the link has carried so many bytes, behind those of other connections."""
        if self.bytes_per_s is None:
            return
        free_s = max(self._free_s[is_reply], now_s()) + size / self.bytes_per_s
        self._free_s[is_reply] = free_s
        await asyncio.sleep(free_s - now_s())

    async def _deliver(
        self,
        pieces: asyncio.Queue[tuple[float, bytes | OSError]],
        writer: asyncio.StreamWriter,
        *,
        is_reply: bool,
    ) -> None:
        passed = 0
        while True:
            due_s, data = await pieces.get()
            await asyncio.sleep(due_s - now_s())
            await self._flowing.wait()
            if isinstance(data, OSError):
                raise data
            if not data:
                break
            ends_at = self.truncate_after if is_reply else None
            cut_at = self._cut_at(passed, len(data), is_reply=is_reply)
            if cut_at is not None:
                data = data[:cut_at]
            elif ends_at is not None:
                data = data[: max(ends_at - passed, 0)]
            passed += len(data)
            self._passed[is_reply] += len(data)
            writer.write(data)
            await writer.drain()
            if cut_at is not None:
                self._cut()
                return
            if ends_at is not None and passed >= ends_at:
                break
        if writer.can_write_eof():
            with contextlib.suppress(OSError):
                writer.write_eof()

    def _cut_at(self, passed: int, size: int, *, is_reply: bool) -> int | None:
        """How many of the next `size` bytes pass before all is reset; `None` if all of them do."""
        if not is_reply or self.cut_after is None or passed + size <= self.cut_after:
            return None
        return max(self.cut_after - passed, 0)


def now_s() -> float:
    """The seconds of the running loop's clock."""
    return asyncio.get_running_loop().time()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST instead of FIN, as a system does whose program has died."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
