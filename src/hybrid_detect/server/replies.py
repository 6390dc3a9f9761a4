"""Replies as HTTP: in the wire format, sealed, or as JSON; and the headers of every answer."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from starlette.requests import HTTPConnection
from starlette.responses import Response

from hybrid_detect.exchange.envelope import SEALED_CONTENT_TYPE
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    ErrorReply,
    ResultReply,
    encode_reply,
    reply_to_json,
)
from hybrid_detect.server.head_facts import facts_of
from hybrid_detect.server.http1 import header_lines, response_start
from hybrid_detect.server.observation import note_reply
from hybrid_detect.server.sealing import Received

__all__ = [
    "BUG",
    "SECURITY_FIELDS",
    "SECURITY_HEADERS",
    "HttpAnswer",
    "answer_of",
    "error_reply",
    "head_bytes",
    "http_answer",
    "http_response",
    "json_answer",
    "plain_answer",
    "reply_to_values",
    "too_fast",
]

SECURITY_HEADERS = {
    "cache-control": "no-store",  # faces and their places are not for a cache on the route
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
"""On every answer, errors included: a browser keeps, runs, embeds and guesses nothing."""

SECURITY_FIELDS = tuple((name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items())
"""The same as ASGI has them."""


def error_reply(
    request_id: int, status: int, code: str, detail: str, retry_after_s: float | None = None
) -> ErrorReply:
    """An error reply, from positional arguments.

    The time to wait is rounded up to milliseconds: a client that is told 0 would ask again at once.
    """
    if retry_after_s is not None:
        retry_after_s = max(math.ceil(retry_after_s * 1000), 1) / 1000
    return ErrorReply(
        request_id=request_id,
        status=status,
        code=code,
        detail=detail,
        retry_after_s=retry_after_s,
    )


def too_fast(request_id: int, wait_s: float) -> ErrorReply:
    """The reply to what comes `wait_s` seconds too early for its caller's rate."""
    return error_reply(request_id, 429, "too_fast", "you send more than you may", wait_s)


BUG = error_reply(0, 500, "internal", "the server has a bug; see its log")


class HttpAnswer(NamedTuple):
    """A whole answer over HTTP."""

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    """Headers that many answers share."""
    body: bytes
    more: tuple[tuple[bytes, bytes], ...] = ()
    """Headers of this one. They are written unchecked: nothing that a caller chose may be there."""
    closes: bool = False
    """Whether the connection has to end with it."""

    def headers(self) -> list[tuple[bytes, bytes]]:
        """All headers, as ASGI has them."""
        close = ((b"connection", b"close"),) if self.closes else ()
        return [*self.fields, *self.more, *close, (b"content-length", b"%d" % len(self.body))]

    def response(self) -> Response:
        """The same, for a route of the router."""
        response = Response(status_code=self.status)
        response.body = self.body
        response.raw_headers = self.headers()
        return response

    def as_bytes(self, *, close: bool) -> bytes:
        """Head and body; `close` tells that the connection ends with it."""
        return self.head_bytes(close=close) + self.body

    def head_bytes(self, *, close: bool) -> bytes:
        """The head alone, which tells the length of `body`."""
        return head_bytes(self.status, self.more, self.head_end(close=close))

    def head_end(self, *, close: bool) -> bytes:
        """Of the head, what is the same for equal answers, whenever they are given."""
        lines = header_lines(self.fields, close=close or self.closes)
        return b"%bcontent-length: %d\r\n\r\n" % (lines, len(self.body))


def head_bytes(status: int, more: Iterable[tuple[bytes, bytes]], end: bytes) -> bytes:
    """The head of an answer that is given now.

    Args:
        status: Its status.
        more: Headers of its own; see `HttpAnswer.more`.
        end: `HttpAnswer.head_end`.
    """
    start = response_start(status, int(time.time()))
    for each in more:
        start += b"%b: %b\r\n" % each
    return start + end


def http_answer(
    connection: HTTPConnection, reply: ResultReply | ErrorReply, received: Received | None = None
) -> HttpAnswer:
    """`reply` as HTTP: sealed if its request was, else in the format the client speaks."""
    note_reply(connection, reply)
    if received is not None:
        # An intermediary needs no times of what is sealed: they are inside.
        body = received.protected(encode_reply(reply))
        return _answer(reply, SEALED_CONTENT_TYPE, body, tells_times=False)
    return answer_of(reply, is_wire=facts_of(connection.scope).accepts_wire)


def http_response(connection: HTTPConnection, reply: ResultReply | ErrorReply) -> Response:
    """`reply` as HTTP, for a route of the router."""
    return http_answer(connection, reply).response()


def answer_of(reply: ResultReply | ErrorReply, *, is_wire: bool) -> HttpAnswer:
    """The answer that `reply` is, in the clear.

    Args:
        reply: The reply.
        is_wire: Whether the client asked for the wire format.
    """
    if is_wire:
        return _answer(reply, CONTENT_TYPE, encode_reply(reply))
    return _answer(reply, "application/json", _json(reply))


def plain_answer(body: bytes, media_type: str, *, status: int = 200) -> HttpAnswer:
    """An answer with what is no reply to a picture."""
    return HttpAnswer(status, _fields(media_type), body)


def json_answer(reply: ErrorReply) -> bytes:
    """A whole HTTP answer, for a connection that ends with it."""
    return answer_of(reply, is_wire=False).as_bytes(close=True)


def reply_to_values(reply: ResultReply | ErrorReply) -> dict[str, Any]:
    """`reply` as JSON values, for people and for what is kept of it.

    A box is an object as in `DetectionResult.to_dict()`; the wire format has four numbers.
    """
    values = reply_to_json(reply)
    for face in values.get("faces", ()):
        face["box"] = dict(zip(("x_min", "y_min", "x_max", "y_max"), face["box"], strict=True))
    return values


def _json(reply: ResultReply | ErrorReply) -> bytes:
    return (json.dumps(reply_to_values(reply), indent=2) + "\n").encode()


def _answer(
    reply: ResultReply | ErrorReply, media_type: str, body: bytes, *, tells_times: bool = True
) -> HttpAnswer:
    if isinstance(reply, ResultReply):
        more = ((b"server-timing", _times(reply)),) if tells_times else ()
        return HttpAnswer(200, _fields(media_type), body, more)
    fields = _fields(media_type)
    if reply.retry_after_s is not None:
        fields += ((b"retry-after", b"%d" % math.ceil(reply.retry_after_s)),)
    if reply.status == 401:
        fields += ((b"www-authenticate", b"Bearer"),)
    # RFC 9110, 15.5.9: after 408 the rest may not come
    return HttpAnswer(reply.status, fields, body, closes=reply.status == 408)


@lru_cache(maxsize=8)
def _fields(media_type: str) -> tuple[tuple[bytes, bytes], ...]:
    return (*SECURITY_FIELDS, (b"content-type", media_type.encode()))


def _times(reply: ResultReply) -> bytes:
    parts = (("receive", reply.receive_s), ("queue", reply.queue_s), ("detect", reply.detect_s))
    times = [f"{name};dur={took_s * 1000:.2f}" for name, took_s in parts if took_s is not None]
    return ", ".join(times).encode()
