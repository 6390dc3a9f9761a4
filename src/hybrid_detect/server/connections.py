"""Connections that cannot be held for nothing: uvicorn's protocols, with limits of time and size.

uvicorn closes an idle connection between two requests, and nothing else: a head that never ends, a
body nobody reads any more, a half-sent message or an answer that is not taken would each keep their
connection for ever (slow loris). Here each has a limit, and so has the number of connections.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from hybrid_detect.exchange.wire import ErrorReply, reply_to_json
from hybrid_detect.server.bodies import RECEIVE_LIMIT_S
from hybrid_detect.server.gate import SECURITY_HEADERS

__all__ = ["ConnectionLimits", "http_protocol", "websocket_protocol"]

BODY_GRACE_S = 10.0
"""`BodyReader` answers 408 first; what is left for here is the body of a request that was refused
without being read, and of one that had to wait for an issuer's keys."""

MAX_HEAD_BYTES = 64 * 1024
"""What of a request is not its body: request line, headers, chunk sizes and trailers, all of which
the parser keeps. Ours have 400 bytes, and a token at most 8 KiB."""

MAX_FRAGMENTS = 1024
"""Pieces of a WebSocket message: the largest in pieces of 4 KiB. Empty ones weigh nothing on the
wire and much in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How many connections, and how long each may take for what it does."""

    connections: int
    connections_per_peer: int
    head_s: float = RECEIVE_LIMIT_S
    """From the connection, or a request's first byte, to the end of its headers."""
    body_s: float = RECEIVE_LIMIT_S + BODY_GRACE_S
    """From there to the end of its body."""
    message_s: float = RECEIVE_LIMIT_S
    """From the first byte of a WebSocket message that is seen alone to its last."""
    answer_s: float = RECEIVE_LIMIT_S
    """For a peer to take the bytes that wait for it."""


class _Timer:
    """One limit of time at a time; starting another ends the one before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        return self._handle is not None

    def start(self, limit_s: float, act: Any, *args: object) -> None:
        self.stop()
        self._handle = self._loop.call_later(limit_s, act, *args)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class _HttpProtocol(HttpToolsProtocol):
    limits: ConnectionLimits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience = _Timer(self.loop)  # for what the peer sends
        self._unsent = _Timer(self.loop)  # for what it should take
        self._is_head = True  # or before one
        self._is_upgraded = False
        self._received = 0
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._has_room():
            self._refuse(503, "overloaded", "too many connections")
            return
        self._patience.start(self.limits.head_s, self._give_up)

    def _has_room(self) -> bool:
        """Whether this connection, already counted, is not one too many."""
        if len(self.connections) > self.limits.connections:
            return False
        peer = _host(self)
        mates = sum(_host(connection) == peer for connection in self.connections)
        return mates <= self.limits.connections_per_peer

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.stop()
        self._unsent.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # refused: what was on its way is of no interest
        self._received = len(data)
        self._head_bytes += len(data)
        super().data_received(data)
        if self._is_upgraded or self.transport.is_closing():
            return  # a WebSocket has another protocol, with limits of its own
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "too_large", "the request's head is too large")
        elif not self._patience.is_running and (self.cycle is None or self.cycle.response_complete):
            # Bytes that begin no request, such as empty lines, have ended uvicorn's own timer.
            self._patience.start(self.limits.head_s, self._give_up)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_head = True
        self._head_bytes = self._received
        if not self._patience.is_running:  # a connection's first request has its time already
            self._patience.start(self.limits.head_s, self._give_up)

    def on_headers_complete(self) -> None:
        self._is_head = False
        self._patience.start(self.limits.body_s, self._give_up)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_head = True
        self._head_bytes = self._received = 0  # what is left of it is the next one's
        self._patience.stop()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._is_upgraded = True
        self._patience.stop()
        self._unsent.stop()
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        self._unsent.start(self.limits.answer_s, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unsent.stop()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "bad_request", "that is not HTTP as this server reads it")

    def _give_up(self) -> None:
        if self._is_head:
            self._refuse(408, "too_slow", "the request did not come in time")
        else:
            self._mute()
            self.transport.abort()  # it has its answer, or there was none in all this time

    def _mute(self) -> None:
        """Tell the app that nobody listens any more: uvloop would raise over what it still says."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer without the app, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started:
                self.transport.abort()  # an answer amid another would be read as a part of it
                return
            self._mute()
        error = ErrorReply(request_id=0, status=status, code=code, detail=detail)
        body = json.dumps(reply_to_json(error)).encode()
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            *(f"{name}: {value}" for name, value in SECURITY_HEADERS.items()),
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        self.transport.write("\r\n".join([*lines, "\r\n"]).encode("ascii") + body)
        self.transport.close()


class _WebSocketProtocol(WebSocketsSansIOProtocol):
    limits: ConnectionLimits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience = _Timer(self.loop)
        self._unsent = _Timer(self.loop)
        reject = self.conn.reject

        def reject_with_headers(status: Any, text: str) -> Any:
            response = reject(status, text)
            for name, value in SECURITY_HEADERS.items():
                response.headers[name] = value
            return response

        self.conn.reject = reject_with_headers  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.stop()
        self._unsent.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def handle_text(self, event: Any) -> None:
        # No message of ours is text. Each that is not even UTF-8 would be logged as an exception.
        self.handle_bytes(event)

    def handle_cont(self, event: Any) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self._give_up()
            return
        super().handle_cont(event)

    async def receive(self) -> Any:
        message = await super().receive()
        if self._unsent.is_running:
            self.transport.pause_reading()  # which uvicorn has just resumed
        self._watch()
        return message

    def _watch(self) -> None:
        """Give a message that is half there its time, while it is the peer that we wait for."""
        is_deaf = self.read_paused or self._unsent.is_running
        if is_deaf or not (self.frames or self.conn.reader.buffer):
            self._patience.stop()
        elif not self._patience.is_running:
            self._patience.start(self.limits.message_s, self._give_up)

    def _give_up(self) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        # RFC 6455, 7.4.1: a policy was broken.
        self.conn.fail(1008, "too slow or in too many pieces")
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        # Closing would wait for a peer that takes nothing to take what is in the buffer.
        self.transport.abort()

    def pause_writing(self) -> None:
        self._unsent.start(self.limits.answer_s, self.transport.abort)
        # Each ping has its answer: whoever takes none must not go on asking for more.
        self.transport.pause_reading()
        self._watch()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unsent.stop()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()
        self._watch()
        super().resume_writing()


def _host(connection: object) -> str | None:
    client: tuple[str, int] | None = getattr(connection, "client", None)
    return client[0] if client else None


def http_protocol(with_limits: ConnectionLimits) -> type[HttpToolsProtocol]:
    """The HTTP protocol of uvicorn (its setting ``http``) under these limits."""

    class LimitedHttpProtocol(_HttpProtocol):
        limits = with_limits

    return LimitedHttpProtocol


def websocket_protocol(with_limits: ConnectionLimits) -> type[WebSocketsSansIOProtocol]:
    """The WebSocket protocol of uvicorn (its setting ``ws``) under these limits."""

    class LimitedWebSocketProtocol(_WebSocketProtocol):
        limits = with_limits

    return LimitedWebSocketProtocol
