"""The proxy with faults: what it carries, how fast, and what it does to connections."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest

from hybrid_detect.errors import ClosedError, ConfigurationError
from hybrid_detect.testing import FaultyLink

from ..waiting import LIMIT_S, until, wait_until

SIZE = 100_000


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(4096):
            self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Connections that are reset are what the tests are about."""


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    """The address of a server that sends back what it is sent, in threads."""
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def connected(link: FaultyLink) -> socket.socket:
    port = urlsplit(link.url).port
    assert port is not None
    return socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)


def received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := connection.recv(size - len(data))):
        data += piece
    return data


# ---- in code without an event loop


def test_it_carries_what_it_is_given_both_ways(echo: str) -> None:
    with FaultyLink(echo) as link, connected(link) as connection:
        connection.sendall(b"x" * SIZE)
        connection.shutdown(socket.SHUT_WR)
        assert received(connection, SIZE + 1) == b"x" * SIZE  # and the end after it
        assert (link.bytes_up, link.bytes_down, link.connections) == (SIZE, SIZE, 1)


def test_a_black_hole_says_nothing_and_loses_nothing(echo: str) -> None:
    with FaultyLink(echo) as link, connected(link) as connection:
        link.stall()
        connection.sendall(b"hello")
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert link.bytes_up == 0
        link.resume()
        connection.settimeout(LIMIT_S)
        assert received(connection, 5) == b"hello"


def test_connections_are_cut_and_new_ones_work(echo: str) -> None:
    with FaultyLink(echo) as link:
        for _ in range(2):
            with connected(link) as connection:
                connection.sendall(b"a")
                assert received(connection, 1) == b"a"
                link.cut()
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)
        assert link.connections == 2


def test_connections_are_refused_until_they_are_not(echo: str) -> None:
    with FaultyLink(echo) as link:
        link.refuse = True
        with pytest.raises(ConnectionResetError), connected(link) as connection:
            connection.recv(1)
        link.refuse = False
        with connected(link) as connection:
            connection.sendall(b"a")
            assert received(connection, 1) == b"a"


@pytest.mark.parametrize("is_reset", [True, False], ids=["cut", "truncated"])
def test_a_reply_ends_in_its_middle(is_reset: bool, echo: str) -> None:
    with FaultyLink(echo) as link:
        if is_reset:
            link.cut_after = 10
        else:
            link.truncate_after = 10
        with connected(link) as connection:
            connection.sendall(b"0123456789ABC")
            if is_reset:
                wait_until(lambda: link.bytes_down == 10)
                with pytest.raises(ConnectionResetError):
                    received(connection, 11)
            else:
                assert received(connection, 11) == b"0123456789"
        assert link.bytes_down == 10


def test_where_no_server_is_connections_are_reset(echo: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with FaultyLink(nowhere) as link:
        with pytest.raises(ConnectionResetError), connected(link) as connection:
            connection.recv(1)
        link.lead_to(echo)
        with connected(link) as connection:
            connection.sendall(b"a")
            assert received(connection, 1) == b"a"


def test_an_open_connection_does_not_keep_it_from_closing_or_opening_again(echo: str) -> None:
    link = FaultyLink(echo)
    for _ in range(2):
        with link, connected(link) as connection:
            connection.sendall(b"a")
            assert received(connection, 1) == b"a"
            link.stall()
            connection.sendall(b"b")
            wait_until(lambda: len(link._writers) == 2)
        link.resume()
    with pytest.raises(ClosedError, match="with block"):
        _ = link.url


def test_one_that_is_open_is_not_opened_again(echo: str) -> None:
    with FaultyLink(echo) as link:
        with pytest.raises(ClosedError, match="open already"):
            link.__enter__()
        with connected(link) as connection:
            connection.sendall(b"a")
            assert received(connection, 1) == b"a"


def test_its_url_has_the_scheme_and_path_of_the_server() -> None:
    with FaultyLink("https://127.0.0.1:1/base/") as link:
        assert link.url.startswith("https://127.0.0.1:")
        assert link.url.endswith("/base")


@pytest.mark.parametrize("upstream", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x:y"])
def test_what_is_no_address_of_a_server_is_refused(upstream: str) -> None:
    with pytest.raises(ConfigurationError, match="upstream"):
        FaultyLink(upstream)


@pytest.mark.parametrize(
    ("name", "value"),
    [("delay_s", -1), ("delay_s", float("nan")), ("bytes_per_s", 0), ("bytes_per_s", -1.0)],
)
def test_what_is_no_delay_and_no_rate_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=name):
        FaultyLink("http://127.0.0.1:8000", **{name: value})
    with pytest.raises(ConfigurationError, match=name):
        setattr(FaultyLink("http://127.0.0.1:8000"), name, value)


# ---- in an event loop, whose clock says how long things take


@asynccontextmanager
async def echoing() -> AsyncIterator[str]:
    """The address of a server that sends back what it is sent, in this loop."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):  # the test has ended
            while data := await reader.read(1 << 20):
                writer.write(data)
                await writer.drain()
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def exchanged(link: FaultyLink, size: int) -> float:
    """How many seconds `size` bytes took, there and back."""
    clock = asyncio.get_running_loop().time
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(link.url).port)
    begun_s = clock()
    sending = asyncio.create_task(send(writer, size))
    await reader.readexactly(size)
    took_s = clock() - begun_s
    await sending
    writer.close()
    await writer.wait_closed()
    return took_s


async def send(writer: asyncio.StreamWriter, size: int) -> None:
    writer.write(b"x" * size)
    await writer.drain()


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize("size", [1, 2_000_000])
async def test_a_delay_is_no_limit_of_the_rate(size: int) -> None:
    async with echoing() as url, FaultyLink(url, delay_s=0.8) as link:
        assert await exchanged(link, size) == pytest.approx(1.6, abs=0.2)


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_rate_is_shared_by_all_connections() -> None:
    async with echoing() as url, FaultyLink(url, bytes_per_s=50_000) as link:
        assert await exchanged(link, SIZE) == pytest.approx(2.0, abs=0.1)
        took_s = await asyncio.gather(exchanged(link, SIZE), exchanged(link, SIZE))
        assert max(took_s) == pytest.approx(4.0, abs=0.2)
        assert min(took_s) > 3.0, "neither has the link for itself"
        link.bytes_per_s = None
        assert await exchanged(link, SIZE) < 0.1


@pytest.mark.anyio
async def test_a_dead_link_fills_the_buffers_of_the_sender(echo: str) -> None:
    async with FaultyLink(echo) as link:
        link.stall()
        _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(link.url).port)
        writer.write(b"x" * 20_000_000)
        await until(lambda: link.connections == 1)
        await asyncio.sleep(0)
        assert link.bytes_up == 0
        assert writer.transport.get_write_buffer_size() > 0
        link.cut()
        writer.transport.abort()
