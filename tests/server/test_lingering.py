"""The end of a stream that broke the protocol: its peer reads why, however late it reads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from hybrid_detect.exchange.wire import STREAM_PATH
from hybrid_detect.server import lingering
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.connections import LINGER_S, READ_BYTES
from hybrid_detect.server.unread_bytes import DROP_PAUSE_S, DROPPED_BYTES, DropPace

from ..virtual_time import VIRTUAL_TIME
from ..waiting import LIMIT_S, until
from .either_loop import anyio_backend  # noqa: F401 - a fixture
from .loopback import Served, served

pytestmark = pytest.mark.anyio

MASK = bytes(4)
PIECE = bytes(64 * 1024)
PIECES = 16
TOO_LARGE = b"\x82\xff" + (len(PIECE) * PIECES).to_bytes(8, "big") + MASK
CONFIG = ServerConfig(max_body_bytes=len(PIECE), rate_per_s=0)


class Peer:
    """A client that reads when it is told to, and not before."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._link, data)

    def has_something(self) -> bool:
        """Whether there is something to read."""
        try:
            return bool(self._link.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    async def read_to_end(self) -> bytes:
        parts = []
        while part := await asyncio.get_running_loop().sock_recv(self._link, 65536):
            parts.append(part)
        return b"".join(parts)


@asynccontextmanager
async def streaming(server: Served) -> AsyncIterator[Peer]:
    """A peer whose stream is open."""
    opening = (
        f"GET {STREAM_PATH} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    with socket.socket() as link:
        link.setblocking(False)
        async with asyncio.timeout(LIMIT_S):
            await loop.sock_connect(link, ("127.0.0.1", server.port))
            await loop.sock_sendall(link, opening.encode())
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += await loop.sock_recv(link, 1)
            assert answer.startswith(b"HTTP/1.1 101 ")
            yield Peer(link)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (TOO_LARGE, 1009),
        (b"\x82\x05hello", 1002),  # without a mask
        (b"\x83\x80" + MASK, 1002),  # of no known kind
        (b"\x88\x84" + MASK + b"\x03\xe8\xff\xfe", 1007),  # a reason that is no text
    ],
    ids=["too large", "unmasked", "unknown", "no text"],
)
async def test_a_peer_that_reads_after_all_was_sent_is_told(
    fault: bytes, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "LINGER_S", LIMIT_S)
    async with served(CONFIG) as server:
        async with streaming(server) as peer:
            await peer.send(fault)
            await until(peer.has_something)
            await until(lambda: not server.server._context.tasks)  # type: ignore[union-attr]
            assert server.connections == 1
            for _ in range(PIECES):
                await peer.send(PIECE)
            told = await peer.read_to_end()
        await until(lambda: server.connections == 0)
    assert told[0] == 0x88
    assert int.from_bytes(told[2:4], "big") == code
    assert len(told) == 2 + told[1], "one frame, and the end"


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many bytes were read and dropped."""
    sizes: list[int] = []
    note = DropPace.note

    def noted(self: DropPace, size: int) -> None:
        sizes.append(size)
        note(self, size)

    monkeypatch.setattr(DropPace, "note", noted)
    return lambda: sum(sizes)


@pytest.mark.virtual_time
@pytest.mark.parametrize("anyio_backend", [VIRTUAL_TIME])
async def test_a_peer_that_sends_on_is_read_at_a_pace_and_not_for_long(
    dropped: Callable[[], int],
) -> None:
    async with served(CONFIG) as server, streaming(server) as peer:
        loop = asyncio.get_running_loop()
        await peer.send(TOO_LARGE)
        await until(peer.has_something)
        began_s = loop.time()
        with contextlib.suppress(ConnectionError):
            while True:
                await peer.send(PIECE)
        assert 0.9 * LINGER_S < loop.time() - began_s < 2 * LINGER_S
        assert server.connections == 0
    assert 0 < dropped() <= (LINGER_S / DROP_PAUSE_S + 1) * (DROPPED_BYTES + READ_BYTES)
