"""A network that misbehaves: a TCP proxy on loopback whose faults are switched on and off."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

__all__ = ["FaultyLink"]


class FaultyLink:
    """A TCP proxy in front of `upstream`, to be used as an async context manager.

    Args:
        upstream: The server's URL, such as ``http://127.0.0.1:8000``.

    Attributes:
        delay_s: Seconds every piece of data waits, in each direction.
        refuse: Whether new connections are reset at once.
        truncate_after: Replies end, with a proper close, after so many bytes of a connection.
        cut_after: Connections are reset after so many bytes of reply.
        connections: How many connections were made so far.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self._scheme = parts.scheme
        self.delay_s = 0.0
        self.refuse = False
        self.truncate_after: int | None = None
        self.cut_after: int | None = None
        self.connections = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """What to connect to instead of `upstream`."""
        assert self._server is not None
        return f"{self._scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def lead_to(self, upstream: str) -> None:
        """Pass new connections on to another server."""
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)

    def stall(self) -> None:
        """Take data no longer, in either direction, and say nothing: a black hole."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let data flow again, what was held back included."""
        self._flowing.set()

    def cut(self) -> None:
        """Reset every connection, as a lost route or a restarted router does."""
        for writer in list(self._writers):
            reset(writer)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            if self.refuse:
                reset(writer)
                return
            far_reader, far = await asyncio.open_connection(*self._upstream)
            self._writers.add(far)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, far, is_reply=False))
                pumps.create_task(self._pump(far_reader, writer, is_reply=True))
        except (OSError, ExceptionGroup):
            reset(writer)
        except asyncio.CancelledError:
            pass  # the proxy is being closed; asyncio's server would log this as an error
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
        passed = 0
        while True:
            # Nothing is read while nothing flows: as in a dead network, the sender's buffers fill.
            await self._flowing.wait()
            data = await reader.read(16 * 1024)
            await self._flowing.wait()
            if not data:
                break
            await asyncio.sleep(self.delay_s)
            if is_reply and self.cut_after is not None and passed + len(data) > self.cut_after:
                writer.write(data[: self.cut_after - passed])
                await writer.drain()
                self.cut()
                return
            if is_reply and self.truncate_after is not None:
                data = data[: self.truncate_after - passed]
            passed += len(data)
            writer.write(data)
            await writer.drain()
            if is_reply and passed == self.truncate_after:
                break
        if writer.can_write_eof():
            with contextlib.suppress(OSError):
                writer.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
