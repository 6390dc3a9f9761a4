"""Clients of streams that cost next to nothing, so that thousands fit beside the server.

They speak RFC 6455 with a mask of zeros, which leaves a message as it is, and answer pings.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import time

from links import masked_head

from hybrid_detect.exchange.wire import DetectRequest, encode_request, peek_request_id

__all__ = ["Stream", "message_of"]

RESULT = 2
"""The type of a result, at offset 3 of a message: see `docs/reference/wire-format.md`."""

_KEY = base64.b64encode(bytes(16)).decode()


def message_of(picture: bytes, *, deadline_s: float | None, session: str | None = None) -> bytes:
    """A frame of a WebSocket with a request for the faces in `picture`."""
    request = DetectRequest(
        request_id=0, image=picture, deadline_s=deadline_s, session_id=session, quality=None
    )
    return _frame(2, encode_request(request))


def _frame(opcode: int, payload: bytes) -> bytes:
    return masked_head(len(payload), opcode=opcode) + bytes(4) + payload


class Stream(asyncio.Protocol):
    """One stream.

    Counts what came: results with their times, other answers, and pings of the server.
    """

    def __init__(self, token: str = "") -> None:
        self._token = token
        self._transport: asyncio.Transport | None = None
        self._held = bytearray()
        self._sent_s: dict[int, float] = {}
        self._number = 0
        self._ping_s: float | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_open = False
        self.times_s: list[float] = []
        """Seconds that each result took."""
        self.refused = 0
        self.pings = 0
        """Pings of the server, each of which was answered at once."""
        self.pongs_s: list[float] = []
        """Seconds that the server took to answer each ping."""

    @property
    def in_flight(self) -> int:
        """Pictures that wait for their answers."""
        return len(self._sent_s)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a WebSocket."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        credential = f"Authorization: Bearer {self._token}\r\n" if self._token else ""
        transport.write(
            f"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"{credential}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """The stream has ended."""
        self.is_open = False
        self._sent_s.clear()
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("refused"))

    def send(self, frame: bytes) -> None:
        """Send a picture, a frame of `message_of`, under a number of its own."""
        assert self._transport is not None
        self._number += 1
        at = 2 + {126: 2, 127: 8}.get(frame[1] & 0x7F, 0) + 4 + 4
        self._sent_s[self._number] = time.perf_counter()
        self._transport.writelines((frame[:at], struct.pack("!I", self._number), frame[at + 4 :]))

    def ping(self) -> None:
        """Ask for a sign of life, unless one is outstanding."""
        assert self._transport is not None
        if self._ping_s is None and self.is_open:
            self._ping_s = time.perf_counter()
            self._transport.write(_frame(9, b"alive?"))

    @property
    def is_ping_late(self) -> bool:
        """Whether a ping has been without an answer for more than a second."""
        return self._ping_s is not None and time.perf_counter() - self._ping_s > 1.0

    def abort(self) -> None:
        """Hang up without a word."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read the answer to the handshake, then frames."""
        held = self._held
        held += data
        if not self.is_open:
            end = held.find(b"\r\n\r\n")
            if end < 0:
                return
            if b" 101 " not in held[:40]:
                self.abort()
                return
            del held[: end + 4]
            self.is_open = True
            self.opened.set_result(None)
        while len(held) >= 2:
            size, begin = held[1] & 0x7F, 2
            if size == 126:
                size, begin = int.from_bytes(held[2:4], "big"), 4
            elif size == 127:
                size, begin = int.from_bytes(held[2:10], "big"), 10
            if len(held) < begin + size:
                return
            self._take(held[0] & 0x0F, bytes(held[begin : begin + size]))
            del held[: begin + size]

    def _take(self, opcode: int, payload: bytes) -> None:
        assert self._transport is not None
        now_s = time.perf_counter()
        if opcode == 9:
            self.pings += 1
            self._transport.write(_frame(10, payload))
        elif opcode == 10 and self._ping_s is not None:
            self.pongs_s.append(now_s - self._ping_s)
            self._ping_s = None
        elif opcode == 8:
            self._transport.close()
        elif opcode == 2:
            sent_s = self._sent_s.pop(peek_request_id(payload), None)
            if payload[3] != RESULT:
                self.refused += 1
            elif sent_s is not None:
                self.times_s.append(now_s - sent_s)
