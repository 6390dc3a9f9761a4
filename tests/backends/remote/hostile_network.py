"""What stands between a client and its server on other people's networks, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from hybrid_detect.backends.remote import addresses
from hybrid_detect.backends.remote.addresses import Address, Connected

__all__ = ["Gateway", "Names", "RelayProxy", "black_hole", "page", "raw_server"]

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Names:
    """The system's resolver, with host names of a test's own.

    Attributes:
        asked: The names looked up, in order.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._addresses: dict[str, Sequence[str]] = {}
        self._hung: set[str] = set()
        self._go_on = threading.Event()
        self.asked: list[str] = []
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def set(self, name: str, *addresses: str) -> None:
        """Give `name` these addresses, in this order."""
        self._addresses[name] = addresses
        self._hung.discard(name)

    def hang(self, name: str) -> None:
        """Look-ups of `name` do not end, until `release`."""
        self._hung.add(name)

    def answer_with(self, look_up: Callable[..., Any]) -> None:
        """Every look-up is answered by `look_up`."""
        self._monkeypatch.setattr(socket, "getaddrinfo", look_up)

    def release(self) -> None:
        """End the look-ups that hang, without an answer."""
        self._go_on.set()

    def route(self, *hosts: str, delay_s: float = 0.0, took_s: float = 0.0) -> None:
        """Connections to these addresses are made to 127.0.0.1.

        Args:
            hosts: The addresses.
            delay_s: Seconds that connecting really takes.
            took_s: Seconds more that it is said to have taken.
        """
        real = addresses._connect

        async def connect(address: Address) -> Connected:
            host, port = address.sockaddr[:2]
            if host not in hosts:
                return await real(address)
            await asyncio.sleep(delay_s)
            made = await real(Address(socket.AF_INET, ("127.0.0.1", port)))
            return Connected(made.sock, made.took_s + delay_s + took_s)

        self._monkeypatch.setattr(addresses, "_connect", connect)

    def _look_up(self, host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        if host not in self._addresses and host not in self._hung:
            return list(self._real(host, port, *args, **options))
        self.asked.append(host)
        if host in self._hung:
            self._go_on.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        found = []
        for address in self._addresses[host]:
            found += self._real(address, port, type=socket.SOCK_STREAM)
        return found


@contextlib.contextmanager
def black_hole(address: str, port: int) -> Iterator[None]:
    """Connections to `address` are neither made nor refused: its queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as queued:
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(3):
            client = queued.enter_context(socket.socket())
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect((address, port))
        yield


@contextlib.asynccontextmanager
async def raw_server(serve: Serve, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A TCP server on some port, whose connections end with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(run, host, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def page(
    status: int,
    body: bytes = b"<html>words</html>",
    *headers: str,
    kind: str = "text/html",
) -> bytes:
    """An HTTP answer that ends its connection."""
    lines = [
        f"HTTP/1.1 {status} Some words",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Gateway:
    """What stands in front of a server: it passes on, or answers itself.

    Args:
        port: The server's, on 127.0.0.1; `None` if there is none.

    Attributes:
        answer: What it says to every request; `None` to pass on.
        requests: How many requests it answered itself.
    """

    def __init__(self, port: int | None = None, answer: bytes | None = None) -> None:
        self._port = port
        self.answer = answer
        self.requests = 0
        self._writers: set[asyncio.StreamWriter] = set()

    def fail(self, answer: bytes) -> None:
        """Break all connections, and answer from now on."""
        self.answer = answer
        for writer in self._writers:
            writer.transport.abort()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if self.answer is None:
                await _relay(reader, writer, head, self._port)
                return
            self.requests += 1
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line.partition(b":")[2]))
            writer.write(self.answer)
            await writer.drain()
        finally:
            self._writers.discard(writer)


class RelayProxy:
    """An HTTP or SOCKS 5 proxy that leads every connection to one server.

    Args:
        port: The server's, on 127.0.0.1.
        status: What an HTTP proxy answers; what is not 200 ends the connection.
        user: The user and password it asks for, ``name:password``.
        socks_reply: What a SOCKS proxy answers; what is not 0 ends the connection.

    Attributes:
        asked: What it was asked for: the first line of each HTTP request, or SOCKS's host.
        heads: The HTTP requests' heads.
    """

    def __init__(
        self, port: int, *, status: int = 200, user: str | None = None, socks_reply: int = 0
    ) -> None:
        self._port = port
        self._status = status
        self._user = user
        self._socks_reply = socks_reply
        self.asked: list[str] = []
        self.heads: list[bytes] = []

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection as an HTTP proxy that tunnels, or forwards what is no CONNECT."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        self.asked.append(head.partition(b"\r\n")[0].decode())
        is_tunnel = head.startswith(b"CONNECT ")
        if self._status != 200 or (self._user and b"Basic " not in head):
            status = 407 if self._status == 200 else self._status
            writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            return
        if is_tunnel:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await _relay(reader, writer, b"" if is_tunnel else head, self._port)

    async def socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection as a SOCKS 5 proxy."""
        version, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        assert version == 5
        if self._user is None:
            writer.write(b"\x05\x00")
        elif 2 not in methods:
            writer.write(b"\x05\xff")
            return
        else:
            writer.write(b"\x05\x02")
            _, length = await reader.readexactly(2)
            name = await reader.readexactly(length)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            is_right = b":".join([name, password]) == self._user.encode()
            writer.write(b"\x01\x00" if is_right else b"\x01\x01")
            if not is_right:
                return
        _, _, _, kind = await reader.readexactly(4)
        length = {1: 4, 4: 16}.get(kind) or (await reader.readexactly(1))[0]
        host = await reader.readexactly(length)
        await reader.readexactly(2)
        self.asked.append(host.decode() if kind == 3 else socket.inet_ntop(_FAMILY[kind], host))
        writer.write(bytes([5, self._socks_reply, 0, 1]) + bytes(6))
        await writer.drain()
        if self._socks_reply == 0:
            await _relay(reader, writer, b"", self._port)


_FAMILY = {1: socket.AF_INET, 4: socket.AF_INET6}


async def _relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes, port: int | None
) -> None:
    far_reader, far = await asyncio.open_connection("127.0.0.1", port)
    far.write(first)
    pumps = [
        asyncio.ensure_future(_pump(reader, far)),
        asyncio.ensure_future(_pump(far_reader, writer)),
    ]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        far.close()  # before anything that may be cancelled
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await far.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 * 1024):
        writer.write(data)
        await writer.drain()
