"""A connection that carries HTTP/1.1: one request at a time, each under limits.

Requests may be pipelined. While one is being answered, at most `MAX_HELD_BYTES` and one read of
the socket are kept of what comes behind it, as bytes; then reading stops. So a connection holds,
beside a head of 64 KiB and 64 KiB of a body that the app has not taken yet, about 320 KiB.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import cast

from hybrid_detect.exchange.wire import ErrorReply
from hybrid_detect.server.connections import (
    BODY_BEFORE_WEBSOCKET,
    LINGER_S,
    MALFORMED_PAUSE_S,
    MAX_HELD_BYTES,
    STOPPING,
    TOO_MANY,
    TOO_SLOW,
    Context,
    Outflow,
    Timer,
    has_hung_up,
    peer_addresses,
)
from hybrid_detect.server.early_refusals import Refused, Undecided
from hybrid_detect.server.http1 import BadRequestError, ChunkedBody, HeadReader, RequestHead
from hybrid_detect.server.http_exchange import HttpExchange
from hybrid_detect.server.lingering import end_sending
from hybrid_detect.server.replies import error_reply, json_answer
from hybrid_detect.server.unread_bytes import DropPace, can_drop_unread, drop_unread
from hybrid_detect.server.websocket_connection import WebSocketConnection

__all__ = ["HttpConnection"]

REFUSALS_AT_ONCE = 3
REFUSAL_PAUSE_S, MAX_REFUSAL_PAUSE_S = 0.05, 1.0
"""A connection whose requests are refused one after the other reads the fourth after the first of
these times, the next after double that, and so on up to the second: a client that goes on asking
for what it does not get costs the others nothing."""

_REFUSALS = frozenset({401, 403, 404, 405, 413, 415, 429})
"""What a client can avoid. 422, 503 and 504 are part of a camera's day."""

FIRST_BYTES_S = 0.5
"""Seconds that a request on a busy server waits for its body to begin. A client that sends it at
once, however slow its line, needs none; for the others the app waits."""


class HttpConnection(asyncio.BufferedProtocol):
    """Reads requests from a socket and lets the app answer them in turn.

    A head is read with little of what is behind it: under overload it decides on a picture that
    then need not be read (`early_refusals`).
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._limits = context.limits
        self._patience = Timer()  # for what the peer sends
        self._outflow = Outflow(self._limits.answer_s, lambda: self._transport.abort())
        self._head = HeadReader()
        self._exchange: HttpExchange | None = None
        self._undecided: tuple[RequestHead, bytes] | None = None
        """A request whose body has to begin before it is let in, and what has come behind it."""
        self._drops_unread = False
        self._body: ChunkedBody | int | None = None
        """What is still to come of the body: chunks, or so many bytes; `None` if it is complete."""
        self._held = bytearray()
        self._is_reading = True
        self._is_idle = False
        """Whether the next byte begins a request that has a limit of its own."""
        self._is_ending = False
        self._refusals = 0  # one after the other
        self._is_resting = False
        """Whether it is too early for the next request."""
        self._dropping = DropPace(self._control_reading)

    # -- what asyncio calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and refuse it if there is no room."""
        # A cast, because uvloop's are transports in all but their base class.
        self._transport = transport = cast("asyncio.Transport", transport)
        self._addresses = peer_addresses(transport)
        self._drops_unread = can_drop_unread(transport)
        if not self._context.connections.add(self, self._addresses["peer"]):
            # Not lingered for: that would hold what there is no room for.
            self._context.refused(TOO_MANY)
            transport.write(json_answer(TOO_MANY))
            self._close()
            return
        self._patience.start(self._limits.head_s, self._time_out)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything; a request under way learns that its peer has gone."""
        self._patience.end()
        self._outflow.end()
        self._context.connections.discard(self)
        self._undecided = None
        self._held.clear()
        if self._exchange is not None:
            self._exchange.hang_up()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go, which nothing keeps."""
        exchange, context = self._exchange, self._context
        if exchange is None:
            early = context.early_pictures
            is_little_wanted = early is not None and early.are_likely
        else:
            is_little_wanted = exchange.is_answered and self._drops_unread
        return context.read_little if is_little_wanted else context.read

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has been read."""
        self.data_received(bytes(self._context.read[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Read on, or hold what belongs to a later request."""
        if self._is_ending:
            self._dropping.note(len(data))
        elif self._held or self._is_resting or (self._exchange is not None and self._body is None):
            self._held += data
            self._control_reading()
        else:
            self._read(data)

    def pause_writing(self) -> None:
        """Wait for the peer to take what was written, for a time."""
        self._outflow.block()

    def resume_writing(self) -> None:
        """Go on writing."""
        self._outflow.unblock()

    # -- reading -----------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        try:
            while data and not self._is_ending:
                if self._exchange is None and not self._is_resting:
                    data = self._read_head(data)
                elif self._exchange is not None and self._body is not None:
                    data = self._read_body(self._exchange, self._body, data)
                else:
                    self._held += data
                    break
        except BadRequestError as error:
            refusal = error_reply(0, error.status, error.code, str(error))
            if self._context.malformed.take(self._addresses["peer"]):
                self._is_resting = True
                self._patience.start(MALFORMED_PAUSE_S, partial(self._refuse, refusal))
            else:
                self._refuse(refusal)
        if self._exchange is not None or self._held or not self._is_reading:
            self._control_reading()  # else there is room

    def _read_head(self, data: bytes) -> bytes:
        was_idle, self._is_idle = self._is_idle, False
        if self._undecided is not None:
            head, rest = self._undecided
            rest += data
        else:
            read, rest = self._head.feed(data)
            if read is None:
                if was_idle:
                    self._patience.start(self._limits.head_s, self._time_out)
                return b""
            head, size = read, read.body_bytes
            if head.method == "GET" and head.opens_websocket:
                self._upgrade(head, rest)
                return b""
            self._body = ChunkedBody() if size is None else size or None
        # The app waits for a peer that takes no answers; here they would pile up.
        early = self._context.early_pictures if not self._outflow.is_blocked else None
        if early is not None:
            verdict = early.verdict(head, self._addresses["peer"], rest)
            if isinstance(verdict, Refused):
                return self._refuse_picture(head, verdict, rest)
            if verdict is Undecided.MORE:
                if self._undecided is None:
                    self._patience.start(FIRST_BYTES_S, self._stop_waiting)
                self._undecided = head, rest
                return b""
        return self._begin(head, rest)

    def _stop_waiting(self) -> None:
        """Let in a request whose body has not begun."""
        if self._undecided is not None and not self._is_ending:
            self._read(self._begin(*self._undecided))

    def _begin(self, head: RequestHead, rest: bytes) -> bytes:
        """Have a request answered; returns what has come behind it."""
        self._undecided, context = None, self._context
        exchange = self._exchange = HttpExchange(head, self._addresses, self)
        body = self._body
        if body is None or (isinstance(body, int) and len(rest) >= body):
            self._patience.stop()
            self._body = None
            exchange.end_body(rest[:body] if body else b"")
            rest = rest[body:] if body else rest
        else:
            self._patience.start(self._limits.body_s, self._time_out)
        route = context.direct if not self._outflow.is_blocked else None
        if route is not None and route.takes(head.method, head.path):
            context.run(exchange.run_direct(route))
        else:
            context.run(exchange.run(context.app))
        return rest

    def _refuse_picture(self, head: RequestHead, verdict: Refused, rest: bytes) -> bytes:
        """Answer a refused picture, and drop what has come of it, most of which was not read."""
        self._undecided = None
        size = head.body_bytes or 0
        left = size - len(rest) if size > len(rest) else 0
        if left and self._drops_unread:
            left -= drop_unread(self._transport, left)
        self._body = left or None
        if left or not head.keep_alive:
            self._patience.start(self._limits.body_s, self._time_out)
            exchange = self._exchange = HttpExchange(head, self._addresses, self)
            exchange.peer_closes = False  # what came behind it may be unread as well
            exchange.answer(verdict.status, verdict.answer)
        else:
            self.write(verdict.answer)
            self._turn_from(verdict.status)
        return rest[size:]

    def _read_body(self, exchange: HttpExchange, body: ChunkedBody | int, data: bytes) -> bytes:
        if isinstance(body, ChunkedBody):
            for part in body.feed(data):
                exchange.feed(part)
            rest = b""
            is_complete = body.is_complete
            exchange.closes = exchange.closes or body.has_more
        else:
            part, rest = data[:body], data[body:]
            exchange.feed(part)
            left = body - len(part)
            # A 4xx is the client's fault: its bytes are read at the pace of `DropPace`.
            if left and exchange.status == 503 and self._drops_unread:
                left -= drop_unread(self._transport, left)
            self._body = left
            is_complete = not left
        if exchange.is_answered:
            self._dropping.note(len(data) - len(rest))
        if is_complete:
            self._body = None
            self._patience.stop()
            exchange.end_body()
            self.changed()
        return rest

    def _upgrade(self, head: RequestHead, rest: bytes) -> None:
        if head.body_bytes != 0:
            self._refuse(BODY_BEFORE_WEBSOCKET)
            return
        self._is_ending = True  # for this protocol
        self._patience.end()
        self._dropping.end()
        self._control_reading()  # the successor begins with a transport that reads
        successor = WebSocketConnection(self._context, self._transport, head, self._addresses)
        self._context.connections.replace(self, successor)
        self._transport.set_protocol(successor)
        if self._outflow.is_blocked:  # which the transport does not tell twice
            successor.pause_writing()
        self._outflow.end()
        successor.open(rest)

    def _control_reading(self) -> None:
        """Read while there is room for what comes."""
        exchange = self._exchange
        is_full = self._body is not None and exchange is not None and exchange.is_full
        has_room = len(self._held) < MAX_HELD_BYTES and not is_full
        wanted = (self._is_ending or has_room) and not self._dropping.is_paused
        if wanted == self._is_reading or self._transport.is_closing():
            return
        self._is_reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def is_gone(self) -> bool:
        """Whether the peer has hung up."""
        return has_hung_up(self._transport)

    # -- answering ---------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; dropped once the connection ends."""
        if not (self._is_ending or self._transport.is_closing()):
            self._transport.write(data)

    async def drained(self) -> None:
        """Wait until the peer takes what was written."""
        await self._outflow.wait()

    def changed(self) -> None:
        """The app has taken a piece of the body, or has answered."""
        exchange = self._exchange
        if exchange is not None and exchange.is_answered and not self._is_ending:
            if exchange.closes or self._context.is_stopping:
                self._end()
            elif self._body is None:
                self._exchange = None
                self._turn_from(exchange.status)
        if not self._is_reading:
            self._control_reading()

    def _turn_from(self, status: int) -> None:
        """Turn to the next request behind an answer, of which a part may have come."""
        if self._context.is_stopping:
            self._end()
            return
        self._refusals = self._refusals + 1 if status in _REFUSALS else 0
        self._is_idle = True
        self._patience.start(self._limits.keep_alive_s, self._close)
        if self._refusals > REFUSALS_AT_ONCE:
            self._is_resting = True
            pause_s = REFUSAL_PAUSE_S * 2 ** min(self._refusals - REFUSALS_AT_ONCE - 1, 10)
            loop = asyncio.get_running_loop()
            loop.call_later(min(pause_s, MAX_REFUSAL_PAUSE_S), self._read_held)
        elif self._held:
            # Not from here: a thousand requests in a row would be as many calls deep.
            asyncio.get_running_loop().call_soon(self._read_held)

    def _read_held(self) -> None:
        self._is_resting = False
        if self._held and not (self._is_ending or self._transport.is_closing()):
            held, self._held = bytes(self._held), bytearray()
            self._read(held)

    # -- ending ------------------------------------------------------------------------------

    def stop(self) -> None:
        """Answer the request under way, take nothing more, and close."""
        if self._is_ending:
            return
        if self._exchange is None:
            if self._head.has_begun or self._undecided is not None:
                self._refuse(STOPPING)
            else:
                self._close()
        elif self._exchange.is_answered:
            self._end()

    def give_up(self) -> None:
        """Refuse what has not been answered by now, and close."""
        self._refuse(STOPPING)
        self._close()

    def _time_out(self) -> None:
        if self._exchange is None:
            self._refuse(TOO_SLOW)
        else:
            self._transport.abort()  # it has its answer, or there was none in all this time

    def _refuse(self, error: ErrorReply) -> None:
        """Answer without the app, and close."""
        if self._exchange is not None:
            if self._exchange.is_started and not self._exchange.is_answered:
                self._transport.abort()  # an answer amid another would be read as a part of it
                return
            was_answered = self._exchange.is_answered
            self._exchange.hang_up()
            if was_answered:
                self._end()
                return
        self._context.refused(error)
        self.write(json_answer(error))
        self._end(lingers=True)

    def _end(self, *, lingers: bool = False) -> None:
        """Close once the peer has had time to read the last answer."""
        if self._is_ending:
            return
        self._is_ending = True
        # A peer that asked for the end sends nothing more; any other may be about to.
        asked = self._exchange is not None and self._exchange.peer_closes
        lingers = lingers or not asked or self._body is not None or bool(self._held)
        self._held.clear()
        if not lingers:  # nothing is on its way here
            self._close()
            return
        self._control_reading()
        end_sending(self._transport)
        self._patience.start(LINGER_S, self._close)

    def _close(self) -> None:
        """Close, at the latest when the peer has had its time to take what was written."""
        self._is_ending = True
        self._outflow.limit()
        self._transport.close()
