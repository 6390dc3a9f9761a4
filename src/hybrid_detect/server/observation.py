"""What becomes of requests, streams and pictures, told to the metrics and the request log.

An `Observation` keeps a `Record` of each request and stream. Where a reply leaves, `note_reply`
adds it to the record of its connection, so that what counts needs no place of its own in the app. A
record holds nothing that a caller chose: a route is one of `ROUTES`, a status and a code are the
server's own, and the trace id is 32 hexadecimal digits.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from hybrid_detect.exchange.batch import BATCH_PATH
from hybrid_detect.exchange.envelope import KEYS_PATH
from hybrid_detect.exchange.wire import (
    DETECT_PATH,
    HEALTH_PATH,
    LIVE_PAGE_PATH,
    SESSIONS_PATH,
    STREAM_PATH,
    ErrorReply,
    ResultReply,
)
from hybrid_detect.server.counted_messages import (
    CountedLink,
    counted_receive,
    counted_send,
)
from hybrid_detect.server.credentials import peer_of
from hybrid_detect.server.direct_messages import DIRECT
from hybrid_detect.server.head_facts import HeadFacts, facts_of

if TYPE_CHECKING:
    from hybrid_detect.server.detectors import Detection

__all__ = [
    "CLIENT_GONE",
    "LIVE_PATH",
    "METRICS_PATH",
    "OPENAPI_PATH",
    "OTHER_ROUTE",
    "PICTURE_ROUTES",
    "REQUEST_ID_HEADER",
    "ROUTES",
    "SESSION_ROUTE",
    "WATCH_ROUTE",
    "Observation",
    "Observed",
    "Observer",
    "Record",
    "note_look",
    "note_read",
    "note_reply",
]

LIVE_PATH = "/v1/health/live"
METRICS_PATH = "/metrics"
OPENAPI_PATH = "/v1/openapi.json"

SESSION_ROUTE = SESSIONS_PATH + "/{session}"
WATCH_ROUTE = SESSION_ROUTE + "/live"
"""Stand for every path below ``/v1/sessions/``: sessions are names of people's visits."""

OTHER_ROUTE = "other"
"""Every path that the server does not have. Paths themselves would be as many as callers like."""

PICTURE_ROUTES = (DETECT_PATH, BATCH_PATH, STREAM_PATH)

ROUTES = (
    *PICTURE_ROUTES,
    KEYS_PATH,
    HEALTH_PATH,
    LIVE_PATH,
    METRICS_PATH,
    OPENAPI_PATH,
    LIVE_PAGE_PATH,
    WATCH_ROUTE,
    SESSION_ROUTE,
    OTHER_ROUTE,
)

REQUEST_ID_HEADER = "X-Request-ID"
"""Of an answer: the id that the request's line in the log has. One that comes with a request is not
taken over, because it may be anything, a session's name or a token included."""

CLIENT_GONE = 499
"""The status of a request whose client went before there was an answer (nginx's number)."""

_RECORD = "hybrid_detect.record"


@dataclass(slots=True, eq=False, kw_only=True)
class Record:
    """A request, or a stream from its handshake to its end."""

    route: str
    """One of `ROUTES`."""
    is_stream: bool
    peer: str
    """The address at the other end, as limits count it."""
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    traceparent: str = ""
    """The caller's trace; empty without one."""
    tracestate: str = ""
    is_read: bool = False
    """Whether a picture of it was read: it is looked at, and a part of its trace by itself."""
    began_s: float = field(default_factory=time.monotonic)
    duration_s: float = 0.0
    """Until the answer was handed over, or the stream had ended."""
    status: int = 0
    """Of the answer; 101 for a stream that was let in."""
    cause: str = ""
    """The code of the last error reply; empty without one."""
    close_code: int | None = None
    """Of a stream that has ended, by whichever end; 1006 if its client went without a word."""
    received_bytes: int = 0
    """Of bodies and messages, without headers."""
    sent_bytes: int = 0
    answered: int = 0
    """Pictures that were looked at."""
    refused: int = 0
    """Pictures, or the request itself, that got an error."""
    level: str = ""
    """The level that the last of them was looked at with."""
    queue_s: float = 0.0
    """Seconds that they waited, together."""
    detect_s: float = 0.0
    """Seconds that decoding and looking at them took, together."""

    @property
    def trace_id(self) -> str:
        """Of the caller's trace; empty without one."""
        return _trace_id_in(self.traceparent)


class Observer(Protocol):
    """Is told what happens; called on the event loop, so it must neither block nor raise."""

    def on_begin(self, record: Record) -> None:
        """A request has come, or a stream is asked for."""
        ...

    def on_look(self, record: Record, seen: Detection, trace_id: str) -> None:
        """A picture was looked at; `trace_id` is of its trace, empty if that is not sampled."""
        ...

    def on_reply(
        self, record: Record, reply: ResultReply | ErrorReply, message: bytes = b""
    ) -> None:
        """A reply leaves: the one of a request, or that of one picture of several.

        Of several, `message` is the picture's, if it was refused unread.
        """
        ...

    def on_end(self, record: Record) -> None:
        """A request has been answered, or a stream has ended."""
        ...

    def on_refused_connection(self, error: ErrorReply) -> None:
        """A connection was refused before there was a request that the app could see."""
        ...


class Observation:
    """Keeps records, and tells those who observe the server.

    Args:
        observers: Who is told.
        tells_ids: Whether answers carry `REQUEST_ID_HEADER`.
    """

    def __init__(self, observers: Sequence[Observer] = (), *, tells_ids: bool = False) -> None:
        self._observers = observers
        self._tells_ids = tells_ids

    @property
    def is_on(self) -> bool:
        """Whether anyone is told."""
        return bool(self._observers)

    @contextmanager
    def kept(self, scope: Scope) -> Iterator[Record]:
        """The record of one request or stream while its block lasts."""
        record = _record_of(
            scope["path"], scope["type"], peer_of(HTTPConnection(scope)), facts_of(scope)
        )
        scope[_RECORD] = _Noting(record, self._observers)
        for observer in self._observers:
            observer.on_begin(record)
        try:
            yield record
        except asyncio.CancelledError:  # the server ends what it has no time for
            record.status = record.status or 503
            record.cause = record.cause or "stopping"
            raise
        except Exception:
            record.status = record.status or 500
            record.cause = "internal"
            raise
        finally:
            record.status = record.status or CLIENT_GONE
            record.duration_s = time.monotonic() - record.began_s
            for observer in self._observers:
                observer.on_end(record)

    def identity(self, record: Record) -> tuple[tuple[bytes, bytes], ...]:
        """The header that tells its id, where one is told."""
        return ((_ID_NAME, record.request_id.encode()),) if self._tells_ids else ()

    def refused_picture(
        self,
        peer: str,
        facts: HeadFacts,
        reply: ErrorReply,
        *,
        received_bytes: int,
        sent_bytes: int,
        is_read: bool,
    ) -> tuple[tuple[bytes, bytes], ...]:
        """Tell of one that is refused before there is a request for the app.

        Args:
            peer: The address at the other end, as limits count it.
            facts: What its head says.
            reply: What it is told.
            received_bytes: As in `Record`.
            sent_bytes: As in `Record`.
            is_read: As in `Record`.

        Returns:
            What `identity` gives for its record.
        """
        record = _record_of(DETECT_PATH, "http", peer, facts)
        record.status = reply.status
        record.is_read = is_read
        record.received_bytes = received_bytes
        record.sent_bytes = sent_bytes
        for observer in self._observers:
            observer.on_begin(record)
        _Noting(record, self._observers).reply(reply, b"")
        for observer in self._observers:
            observer.on_end(record)
        return self.identity(record)


class Observed:
    """ASGI middleware around the gate.

    Args:
        app: What is observed.
        observation: Keeps the records.
    """

    def __init__(self, app: ASGIApp, *, observation: Observation) -> None:
        self._app = app
        self._observation = observation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Keep a record of one request or stream."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        with self._observation.kept(scope) as record:
            if DIRECT in scope:
                scope[DIRECT] = CountedLink(record, scope[DIRECT])
            identity = self._observation.identity(record)
            await self._app(
                scope, counted_receive(record, receive), counted_send(record, send, identity)
            )


class _Noting:
    """A record with those who are told of its replies."""

    __slots__ = ("observers", "record")

    def __init__(self, record: Record, observers: Sequence[Observer]) -> None:
        self.record = record
        self.observers = observers

    def look(self, seen: Detection, trace_id: str) -> None:
        record = self.record
        record.level = "" if seen.quality is None else seen.quality.value
        record.queue_s += seen.queue_s
        record.detect_s += seen.detect_s
        for observer in self.observers:
            observer.on_look(record, seen, trace_id)

    def reply(self, reply: ResultReply | ErrorReply, message: bytes) -> None:
        record = self.record
        if isinstance(reply, ErrorReply):
            record.refused += 1
            record.cause = reply.code
        else:
            record.answered += 1
        for observer in self.observers:
            observer.on_reply(record, reply, message)


def note_reply(
    connection: HTTPConnection, reply: ResultReply | ErrorReply, message: bytes = b""
) -> None:
    """Tell that `reply` leaves over `connection`; does nothing where it is not observed.

    Args:
        connection: A request, or a stream.
        reply: The reply.
        message: What it is the reply to, if that is one of several and was refused unread.
    """
    noting: _Noting | None = connection.scope.get(_RECORD)
    if noting is not None:
        noting.reply(reply, message)


def note_read(connection: HTTPConnection) -> None:
    """Tell that a picture that came over `connection` was read."""
    noting: _Noting | None = connection.scope.get(_RECORD)
    if noting is not None:
        noting.record.is_read = True


def note_look(connection: HTTPConnection, seen: Detection, traceparent: str = "") -> None:
    """Tell that a picture that came over `connection` was looked at, as a part of a trace."""
    noting: _Noting | None = connection.scope.get(_RECORD)
    if noting is not None:
        is_sampled = bool(traceparent) and bool(int(traceparent[-2:], 16) & 1)
        noting.look(seen, _trace_id_in(traceparent) if is_sampled else "")


def _record_of(path: str, kind: str, peer: str, facts: HeadFacts) -> Record:
    traceparent, tracestate = facts.trace
    return Record(
        route=_route_of(path),
        is_stream=kind == "websocket",
        peer=peer,
        traceparent=traceparent,
        tracestate=tracestate,
    )


def _route_of(path: str) -> str:
    if path in _KNOWN:
        return path
    if not path.startswith(SESSIONS_PATH + "/"):
        return OTHER_ROUTE
    return WATCH_ROUTE if path.endswith("/live") else SESSION_ROUTE


_KNOWN = frozenset(ROUTES) - {WATCH_ROUTE, SESSION_ROUTE, OTHER_ROUTE}


def _trace_id_in(traceparent: str) -> str:
    return traceparent[3:35]  # behind the version


_ID_NAME = REQUEST_ID_HEADER.lower().encode()
