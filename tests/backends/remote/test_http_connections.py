"""Requests that are cancelled at any moment, in bursts: no place and no connection is lost."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from hybrid_detect.backends.remote.dialling import Dialler
from hybrid_detect.backends.remote.http_connections import (
    MAX_CONNECTIONS,
    HttpConnections,
    _Reader,
    _Stream,
)
from hybrid_detect.endpoint import Endpoint
from hybrid_detect.errors import BackendError

from ...waiting import LIMIT_S, until
from .hostile_network import raw_server

trustme = pytest.importorskip("trustme")

pytestmark = pytest.mark.anyio

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"


class Server:
    """Answers at once, or not at all while it is slow.

    Attributes:
        slow: Whether requests are left unanswered.
        asked: Requests read so far.
        connections: Connections made so far.
        open: Connections that stand.
    """

    def __init__(self, tls: Any = None) -> None:
        self._tls = tls
        self.slow = False
        self.asked = 0
        self.connections = 0
        self.open = 0

    async def __aenter__(self) -> Server:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        scheme = "https" if self._tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.open += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                if self.slow:
                    await reader.read()  # until the client goes
                    return
                writer.write(ANSWER)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.transport.abort()


@asynccontextmanager
async def connected(server: Server, **options: Any) -> AsyncIterator[HttpConnections]:
    dialler = Dialler(Endpoint.parse(server.url), **options)
    async with HttpConnections(dialler) as connections:
        yield connections


async def ask(connections: HttpConnections, server: Server) -> bytes:
    request = httpx.Request("GET", server.url + "/")
    response = await connections.handle_async_request(request)
    try:
        return await response.aread()
    finally:
        await response.aclose()


async def burst(
    connections: HttpConnections, server: Server, *, count: int, turns: int, slow: bool = True
) -> None:
    """`count` requests, all cancelled after so many turns of the event loop."""
    server.slow = slow
    tasks = [asyncio.create_task(ask(connections, server)) for _ in range(count)]
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    server.slow = False


async def assert_nothing_lost(connections: HttpConnections, server: Server) -> None:
    """All places are free: as many requests as places are under way at once, and no more."""
    async with asyncio.timeout(LIMIT_S):
        server.slow, before = True, server.asked
        tasks = [asyncio.create_task(ask(connections, server)) for _ in range(MAX_CONNECTIONS + 1)]
        await until(lambda: server.asked == before + MAX_CONNECTIONS)
        server.slow = False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await ask(connections, server) == b"fine"
        await until(lambda: server.open <= MAX_CONNECTIONS)
    assert not connections._busy


@asynccontextmanager
async def tls_server() -> AsyncIterator[tuple[Server, Any]]:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    async with Server(context) as server:
        yield server, trusting


async def rounds(connections: HttpConnections, server: Server, count: int) -> None:
    """Bursts of 1 to 32 requests, cancelled after 0 to 40 turns; the next request is answered."""
    moments = itertools.cycle((0, 1, 2, 3, 5, 8, 13, 21, 40))
    for number in range(count):
        await burst(connections, server, count=1 + number % 32, turns=next(moments))
        async with asyncio.timeout(LIMIT_S):
            assert await ask(connections, server) == b"fine", f"round {number}"
    await assert_nothing_lost(connections, server)


async def test_bursts_of_cancelled_requests_cost_no_place() -> None:
    async with Server() as server, connected(server) as connections:
        await rounds(connections, server, 40)


async def test_nor_do_they_over_tls() -> None:
    async with (
        tls_server() as (server, trusting),
        connected(server, ssl_context=trusting) as connections,
    ):
        await rounds(connections, server, 20)


@pytest.mark.hostile
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_two_hundred_bursts_cost_no_place(tls: bool) -> None:
    async with tls_server() as (secure, trusting), Server() as plain:
        server = secure if tls else plain
        options = {"ssl_context": trusting} if tls else {}
        async with connected(server, **options) as connections:
            await rounds(connections, server, 200)


@pytest.mark.parametrize("slow", [True, False])
async def test_a_request_may_be_cancelled_at_every_turn_of_the_loop(slow: bool) -> None:
    async with Server() as server, connected(server) as connections:
        for turns in range(40):
            await burst(connections, server, count=MAX_CONNECTIONS + 2, turns=turns, slow=slow)
        await assert_nothing_lost(connections, server)


async def test_requests_past_the_last_place_wait_their_turn() -> None:
    async with Server() as server, connected(server) as connections:
        answers = await asyncio.gather(*[ask(connections, server) for _ in range(32)])
        assert set(answers) == {b"fine"}
        assert server.connections <= MAX_CONNECTIONS


async def test_a_response_that_is_not_read_to_its_end_ends_its_connection() -> None:
    async with Server() as server, connected(server) as connections:
        request = httpx.Request("GET", server.url + "/")
        response = await connections.handle_async_request(request)
        await response.aclose()
        assert await ask(connections, server) == b"fine"
        assert server.connections == 2


async def test_cookies_are_neither_kept_nor_sent() -> None:
    heads: list[bytes] = []

    async def bake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            heads.append(head)
            writer.write(ANSWER.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n"))

    async with raw_server(bake) as port:
        server = Server()
        server.url = f"http://127.0.0.1:{port}"
        async with connected(server) as connections:
            for _ in range(3):
                await ask(connections, server)
    assert len(heads) == 3
    assert not any(b"cookie" in head.lower() for head in heads)


async def test_what_waits_for_a_place_fails_when_the_connections_are_closed() -> None:
    async with Server() as server, connected(server) as connections:
        server.slow = True
        tasks = [asyncio.create_task(ask(connections, server)) for _ in range(16)]
        await until(lambda: server.asked == MAX_CONNECTIONS)
        await connections.aclose()
        async with asyncio.timeout(LIMIT_S):
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, BackendError | httpx.TransportError) for answer in answers)
        assert server.asked == MAX_CONNECTIONS


@pytest.mark.parametrize("messages", [0, 1, 2, 3])
async def test_what_is_written_over_tls_leaves_whatever_came_before_it(messages: int) -> None:
    """Session tickets that came at another moment than usual once stopped every request."""
    ca = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(tls)
    trust = ssl.create_default_context()
    ca.configure_trust(trust)
    arrived = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(messages):
            writer.write(b"x")
            await writer.drain()
            await reader.readexactly(1)
        arrived.set_result(await reader.readexactly(5))
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server, asyncio.timeout(LIMIT_S):
        port = server.sockets[0].getsockname()[1]
        reader = _Reader()
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(
            lambda: asyncio.StreamReaderProtocol(reader, loop=loop),
            "localhost",
            port,
            ssl=trust,
        )
        stream = _Stream(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        for _ in range(messages):
            assert await stream.read(1) == b"x"
            await stream.write(b"y")
        await stream.write(b"hello")
        assert await arrived == b"hello"
        await stream.aclose()
