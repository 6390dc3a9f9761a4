"""Replies as HTTP: in the wire format, sealed, or as JSON; and the headers of every answer."""

from __future__ import annotations

import json
import math
from typing import Any

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
from hybrid_detect.server.http1 import response_head
from hybrid_detect.server.observation import note_reply
from hybrid_detect.server.sealing import Received

__all__ = [
    "BUG",
    "SECURITY_HEADERS",
    "error_reply",
    "http_response",
    "json_answer",
    "reply_to_values",
]

SECURITY_HEADERS = {
    "Cache-Control": "no-store",  # faces and their places are not for a cache on the route
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
"""On every answer, errors included: a browser keeps, runs, embeds and guesses nothing."""


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


BUG = error_reply(0, 500, "internal", "the server has a bug; see its log")


def http_response(
    request: HTTPConnection, reply: ResultReply | ErrorReply, received: Received | None = None
) -> Response:
    """`reply` as HTTP: sealed if its request was, else in the format the client speaks."""
    note_reply(request, reply)
    if received is not None and received.is_sealed:
        headers = _headers(reply)
        headers.pop("Server-Timing", None)  # it is inside; an intermediary needs no timings
        sealed = received.protected(encode_reply(reply))
        return Response(sealed, _status(reply), media_type=SEALED_CONTENT_TYPE, headers=headers)
    if request.headers.get("Accept") != CONTENT_TYPE:
        return Response(
            _json(reply), _status(reply), media_type="application/json", headers=_headers(reply)
        )
    return Response(
        encode_reply(reply), _status(reply), media_type=CONTENT_TYPE, headers=_headers(reply)
    )


def json_answer(reply: ErrorReply) -> bytes:
    """A whole HTTP answer, for a connection that ends with it."""
    body = _json(reply)
    headers = {**_headers(reply), "Content-Type": "application/json", "Content-Length": len(body)}
    pairs = ((name.encode(), str(value).encode()) for name, value in headers.items())
    return response_head(reply.status, pairs, close=True) + body


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


def _status(reply: ResultReply | ErrorReply) -> int:
    return reply.status if isinstance(reply, ErrorReply) else 200


def _headers(reply: ResultReply | ErrorReply) -> dict[str, str]:
    headers = dict(SECURITY_HEADERS)
    if isinstance(reply, ErrorReply):
        if reply.retry_after_s is not None:
            headers["Retry-After"] = str(math.ceil(reply.retry_after_s))
        if reply.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if reply.status == 408:
            headers["Connection"] = "close"  # RFC 9110, 15.5.9: the rest is not waited for
        return headers
    parts = {"receive": reply.receive_s, "queue": reply.queue_s, "detect": reply.detect_s}
    headers["Server-Timing"] = ", ".join(
        f"{name};dur={seconds * 1000:.2f}" for name, seconds in parts.items() if seconds is not None
    )
    return headers
