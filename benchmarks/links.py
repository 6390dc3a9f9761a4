"""Clients that cost next to nothing: finished requests over sockets, answers read by their length.

Where the load shares its cores with the server, what a client spends is taken from what it
measures. These write a request that was made beforehand and keep the answer as bytes, to be read
when the run has ended: about 0.1 ms of processor time a picture of 80 KB, of which the kernel takes
two thirds, where `httpx` takes ten times as much.
"""

from __future__ import annotations

import secrets
import select
import socket
import struct
from dataclasses import dataclass

from hybrid_detect.exchange.wire import CONTENT_TYPE, DETECT_PATH, STREAM_PATH, SUBPROTOCOL

ANSWER_LIMIT_S = 60.0
READ_BYTES = 64 * 1024


class LostError(Exception):
    """The connection ended without an answer."""


class Link:
    """A connection that waits for one answer after the other.

    Args:
        port: Of the server, on this machine.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), ANSWER_LIMIT_S)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""
        self._unsent = memoryview(b"")

    def fileno(self) -> int:
        """What a selector waits for."""
        return self._socket.fileno()

    @property
    def is_sending(self) -> bool:
        """Whether a part of a request is to be sent once the socket takes it."""
        return len(self._unsent) > 0

    def send(self, request: bytes = b"") -> None:
        """Send a request, or go on with what is unsent, as far as the socket takes it.

        Raises:
            LostError: If the connection has ended.
        """
        unsent = memoryview(bytes(self._unsent) + request if self._unsent else request)
        try:
            while unsent:
                unsent = unsent[self._socket.send(unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            raise LostError from None
        self._unsent = unsent

    def answers(self) -> list[bytes]:
        """Read what has come; the bodies of the answers that are whole.

        Raises:
            LostError: If the connection has ended.
        """
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            raise LostError from None
        if not data:
            raise LostError
        self._data = self._data + data if self._data else data
        found = []
        while (body := self._taken()) is not None:
            found.append(body)
        return found

    def ask(self, request: bytes, *, limit_s: float = ANSWER_LIMIT_S) -> bytes:
        """Send a request, and wait for its answer.

        Raises:
            LostError: If the connection ends first, or nothing comes for `limit_s` seconds.
        """
        self.send(request)
        while True:
            sending = [self] if self.is_sending else []
            readable, writable, _ = select.select([self], sending, [], limit_s)
            if not readable and not writable:
                raise LostError
            if writable:
                self.send()
            if readable and (found := self.answers()):
                return found[0]

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def _taken(self) -> bytes | None:
        """The next whole answer in what has come."""
        raise NotImplementedError


class HttpLink(Link):
    """HTTP/1.1, the connection kept."""

    def _taken(self) -> bytes | None:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return None
        _, _, after = self._data[:end].lower().partition(b"content-length: ")
        stop = end + 4 + int(after.split(b"\r\n", 1)[0])
        if len(self._data) < stop:
            return None
        body, self._data = self._data[end + 4 : stop], self._data[stop:]
        return body


class StreamLink(Link):
    """A WebSocket; its frames from the server are whole messages without a mask (RFC 6455, 5.2).

    Args:
        port: Of the server.
        handshake: The request that opens it.

    Raises:
        LostError: If the server lets in no stream.
    """

    def __init__(self, port: int, handshake: bytes) -> None:
        super().__init__(port)
        self._is_upgraded = False
        answer = self.ask(handshake)
        if b" 101 " not in answer.partition(b"\r\n")[0]:
            self.close()
            raise LostError

    def _taken(self) -> bytes | None:
        if not self._is_upgraded:
            end = self._data.find(b"\r\n\r\n") + 4
            if end < 4:
                return None
            self._is_upgraded = True
            head, self._data = self._data[:end], self._data[end:]
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
            opcode, body = self._data[0] & 0x0F, self._data[start : start + length]
            self._data = self._data[start + length :]
            if opcode == 0x9:  # a heartbeat
                self.send(masked(body, opcode=0xA))
            elif opcode == 0x2:
                return body
        return None


def masked(payload: bytes, *, opcode: int = 0x2) -> bytes:
    """A frame as a client sends it."""
    mask = secrets.token_bytes(4)
    size = len(payload)
    keys = (mask * (size // 4 + 1))[:size]
    mixed = int.from_bytes(payload) ^ int.from_bytes(keys)
    return masked_head(size, opcode=opcode) + mask + mixed.to_bytes(size)


def masked_head(size: int, *, opcode: int) -> bytes:
    """What stands before the mask of a whole message of `size` bytes (RFC 6455, 5.2)."""
    if size < 126:
        return struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    return struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)


@dataclass(frozen=True)
class Target:
    """A server, and how it is spoken to."""

    port: int
    token: str = ""
    is_stream: bool = False

    def wrapped(self, message: bytes) -> bytes:
        """A message of the wire format as the bytes that are written."""
        if self.is_stream:
            return masked(message)
        head = (
            f"POST {DETECT_PATH} HTTP/1.1\r\nHost: x\r\n{self._credential}"
            f"Content-Type: {CONTENT_TYPE}\r\nAccept: {CONTENT_TYPE}\r\n"
            f"Content-Length: {len(message)}\r\n\r\n"
        )
        return head.encode() + message

    def link(self) -> Link:
        """A new connection.

        Raises:
            OSError: If the server cannot be reached.
            LostError: If it lets in no stream.
        """
        if not self.is_stream:
            return HttpLink(self.port)
        handshake = (
            f"GET {STREAM_PATH} HTTP/1.1\r\nHost: x\r\n{self._credential}"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {'A' * 22}==\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
        )
        return StreamLink(self.port, handshake.encode())

    @property
    def _credential(self) -> str:
        return f"Authorization: Bearer {self.token}\r\n" if self.token else ""
