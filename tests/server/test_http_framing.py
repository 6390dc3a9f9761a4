"""Upgrades, pipelined requests and handshakes: what a peer sends is read as what it is."""

import asyncio
import contextlib
import json
import socket

import pytest
from websockets.asyncio.client import connect

from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.server import connections
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection

from ..waiting import LIMIT_S, until
from .either_loop import anyio_backend  # noqa: F401 - a fixture
from .loopback import OneFace, Served, answer_of, jpeg, served
from .test_connections import limits

pytestmark = pytest.mark.anyio

HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n"
OPENING = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Slow(OneFace):
    """A detector that looks until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def detect(self, request: DetectRequest, **_: object) -> Detection:
        found = await super().detect(request)
        await self.go.wait()
        return found


async def answers(server: Served, sent: bytes) -> list[int]:
    """The statuses of the answers to `sent`, whose last request asks to close."""
    whole = await server.raw(sent)
    return [int(part[:3]) for part in whole.split(b"HTTP/1.1 ")[1:]]


def detect(*headers: bytes, body: bytes, close: bool = True) -> bytes:
    lines = [b"POST /v1/detect HTTP/1.1", b"Host: x", *headers]
    if close:
        lines.append(b"Connection: close" if not headers else b"X: y")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


# -- Upgrade ---------------------------------------------------------------------------------

H2C = (b"Connection: Upgrade, HTTP2-Settings, close", b"HTTP2-Settings: AAEAAEAAAAIAAAAA")


@pytest.mark.parametrize("upgrade", [b"h2c", b"TLS/1.0", b"IRC/6.9", b"websocket, h2c"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_another_upgrade_is_ignored_and_the_picture_looked_at(
    upgrade: bytes, chunked: bool
) -> None:
    """Java's HTTP client offers HTTP/2 this way with each first request on plain http."""
    picture = jpeg()
    if chunked:
        length = b"Transfer-Encoding: chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(picture), picture)
    else:
        length, body = b"Content-Length: %d" % len(picture), picture
    request = detect(*H2C, b"Upgrade: " + upgrade, length, body=body)
    async with served(limits=limits()) as server:
        assert await answers(server, request) == [200]
        assert server.detector.looks == 1


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
async def test_a_request_in_the_body_of_one_with_an_upgrade_is_not_read(upgrade: bytes) -> None:
    hidden = detect(b"Content-Length: %d" % len(jpeg()), body=jpeg())
    request = detect(*H2C, b"Upgrade: " + upgrade, b"Content-Length: %d" % len(hidden), body=hidden)
    async with served(limits=limits()) as server:
        found = await answers(server, request)
        assert len(found) == 1
        assert server.detector.looks <= 1  # the whole body, taken for a picture


async def test_a_handshake_with_a_body_is_refused() -> None:
    async with served(limits=limits()) as server:
        opening = OPENING + b"Content-Length: 5\r\n\r\n\x82\x80abc"
        assert await answers(server, opening) == [400]


async def test_after_an_ignored_upgrade_the_connection_goes_on() -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAE\r\n\r\n"
    first = HEALTH[:-2] + offer
    async with served(limits=limits()) as server:
        last = HEALTH[:-2] + b"Connection: close\r\n\r\n"
        assert await answers(server, first + last) == [200, 200]


# -- the handshake of a WebSocket ------------------------------------------------------------


async def test_a_token_of_eight_thousand_characters_opens_a_stream() -> None:
    token = "t" * 8180
    async with (
        served(ServerConfig(auth_token=token), limits=limits()) as server,
        connect(
            f"ws://127.0.0.1:{server.port}/v1/stream",
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
        ) as link,
    ):
        pong = await link.ping()
        async with asyncio.timeout(LIMIT_S):
            await pong


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Sec-WebSocket-Protocol: " + b"p" * 9000, 431),
        (b"X: " + b"x" * 70_000, 431),
        (b"Sec-WebSocket-Key: second", 400),
        (b"Sec-WebSocket-Protocol: ,", 400),
    ],
    ids=["a long protocol", "a long header", "two keys", "no protocol"],
)
async def test_a_handshake_that_cannot_be_read_is_answered_and_closed(
    header: bytes, status: int
) -> None:
    async with served(limits=limits()) as server:
        whole = await server.raw(OPENING + header + b"\r\n\r\n")
        assert whole.startswith(b"HTTP/1.1 %d " % status)
        assert json.loads(whole.partition(b"\r\n\r\n")[2])["status"] == status
        await until(lambda: server.connections == 0)


async def test_a_handshake_with_a_long_header_and_without_a_credential_is_refused() -> None:
    config = ServerConfig(auth_token="a-token")
    async with served(config, limits=limits()) as server:
        assert await answers(server, OPENING + b"X: " + b"x" * 9000 + b"\r\n\r\n") == [401]


async def test_silent_handshakes_hold_no_connection() -> None:
    async with served(limits=limits(head_s=0.05)) as server:
        async with contextlib.AsyncExitStack() as dialled:
            for _ in range(5):
                reader, writer = await dialled.enter_async_context(server.dialled())
                writer.write(OPENING + b"X: " + b"x" * 9000)
                assert (await answer_of(reader)).startswith(b"HTTP/1.1 408 ")
        await until(lambda: server.connections == 0)


async def test_a_handshake_that_the_app_never_answers_ends() -> None:
    async with served(limits=limits(head_s=0.05)) as server:

        async def never(*_: object) -> None:
            await asyncio.Event().wait()

        assert server.server._context is not None
        server.server._context.app = never
        assert await server.raw(OPENING + b"\r\n") == b""


# -- pipelined requests ----------------------------------------------------------------------


async def test_no_more_is_read_while_an_answer_is_outstanding() -> None:
    """What waits on a connection is counted: it stays with the peer, in TCP."""
    detector = Slow()
    flood = HEALTH * 1000
    async with served(limits=limits(), detector=detector) as server, asyncio.timeout(LIMIT_S):
        loop = asyncio.get_running_loop()
        with socket.socket() as peer:
            peer.setblocking(False)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            await loop.sock_connect(peer, ("127.0.0.1", server.port))
            await loop.sock_sendall(
                peer, detect(b"Content-Length: %d" % len(jpeg()), body=jpeg(), close=False)
            )
            await until(lambda: detector.looks == 1)
            (connection,) = server.server._context.connections.each()  # type: ignore[union-attr]
            sent = refused = 0
            while refused < 50 and sent < 2**25:
                try:
                    sent += peer.send(flood)
                    refused = 0
                except BlockingIOError:
                    refused += 1
                await asyncio.sleep(0.001)
            assert sent < 2**25
            held = len(connection._held)  # type: ignore[attr-defined]
            assert held <= connections.MAX_HELD_BYTES + 256 * 1024
            detector.go.set()


async def test_pipelined_requests_are_answered_in_turn() -> None:
    picture = detect(b"Content-Length: %d" % len(jpeg()), body=jpeg(), close=False)
    last = HEALTH[:-2] + b"Connection: close\r\n\r\n"
    config = ServerConfig(rate_per_s=0)
    async with served(config, limits=limits()) as server:
        whole = await server.raw((picture + HEALTH) * 200 + last)
    assert whole.count(b"HTTP/1.1 200 ") == 401
    assert whole.index(b'"faces"') < whole.index(b'"status": "ok"'.replace(b" ", b""))


async def test_a_client_that_hangs_up_is_seen_behind_the_request_it_has_pipelined() -> None:
    gone = asyncio.Event()

    class Asking(OneFace):
        async def detect(self, request: DetectRequest, **asked: object) -> Detection:
            found = await super().detect(request)
            is_abandoned = asked["is_abandoned"]
            while not await is_abandoned():  # type: ignore[operator]
                await asyncio.sleep(0.005)
            gone.set()
            return found

    detector = Asking()
    picture = detect(b"Content-Length: %d" % len(jpeg()), body=jpeg(), close=False)
    behind = detect(b"Content-Length: 100000", body=bytes(100_000), close=False)
    async with served(limits=limits(), detector=detector) as server, asyncio.timeout(LIMIT_S):
        for later in (b"", HEALTH, behind):
            gone.clear()
            async with server.dialled() as (_, writer):
                writer.write(picture + later)
                await writer.drain()
            await gone.wait()


# -- the end ---------------------------------------------------------------------------------


async def test_a_refusal_is_read_by_a_peer_that_is_still_sending() -> None:
    """Closing at once would reset the connection, and the answer with it."""
    config = ServerConfig(auth_token="a-token")
    async with served(config, limits=limits()) as server, server.dialled() as (reader, writer):
        writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
        writer.write(b"Content-Length: 3000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(30):
                writer.write(bytes(100_000))
                await writer.drain()
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")


async def test_a_client_that_waits_to_be_told_to_go_on_is_told() -> None:
    head = detect(b"Expect: 100-continue", b"Content-Length: %d" % len(jpeg()), body=b"")
    async with served(limits=limits()) as server, server.dialled() as (reader, writer):
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(jpeg())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


async def test_http_1_0_is_answered_and_closed() -> None:
    request = b"POST /v1/detect HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b"
    async with served(limits=limits()) as server:
        assert await answers(server, request % (len(jpeg()), jpeg())) == [200]
