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
    "SECURITY_FIELDS",
    "SECURITY_HEADERS",
    "answer_of",
    "error_reply",
    "http_response",
    "json_answer",
    "reply_to_values",
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


BUG = error_reply(0, 500, "internal", "the server has a bug; see its log")


def http_response(
    request: HTTPConnection, reply: ResultReply | ErrorReply, received: Received | None = None
) -> Response:
    """`reply` as HTTP: sealed if its request was, else in the format the client speaks."""
    note_reply(request, reply)
    is_sealed = False
    if received is not None and received.is_sealed:
        is_sealed = True
        body, media_type = received.protected(encode_reply(reply)), SEALED_CONTENT_TYPE
    elif request.headers.get("Accept") == CONTENT_TYPE:
        body, media_type = encode_reply(reply), CONTENT_TYPE
    else:
        body, media_type = _json(reply), "application/json"
    response = Response(body, reply.status if isinstance(reply, ErrorReply) else 200)
    response.raw_headers += _headers(reply, media_type, tells_times=not is_sealed)
    return response


def json_answer(reply: ErrorReply) -> bytes:
    """A whole HTTP answer, for a connection that ends with it."""
    return b"".join(answer_of(reply, is_wire=False, close=True))


def answer_of(reply: ErrorReply, *, is_wire: bool, close: bool) -> tuple[bytes, bytes]:
    """Head and body of the HTTP answer that `reply` is, where no app makes one.

    Args:
        reply: The error.
        is_wire: Whether the client asked for the wire format.
        close: Whether the connection ends with it.
    """
    body = encode_reply(reply) if is_wire else _json(reply)
    headers = _headers(reply, CONTENT_TYPE if is_wire else "application/json")
    headers.append((b"content-length", b"%d" % len(body)))
    return response_head(reply.status, headers, close=close), body


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


def _headers(
    reply: ResultReply | ErrorReply, media_type: str, *, tells_times: bool = True
) -> list[tuple[bytes, bytes]]:
    """As ASGI has them. An intermediary needs no times of what is sealed: they are inside."""
    headers = [*SECURITY_FIELDS, (b"content-type", media_type.encode())]
    if isinstance(reply, ErrorReply):
        if reply.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % math.ceil(reply.retry_after_s)))
        if reply.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if reply.status == 408:
            headers.append((b"connection", b"close"))  # RFC 9110, 15.5.9: the rest may not come
    elif tells_times:
        parts = (("receive", reply.receive_s), ("queue", reply.queue_s), ("detect", reply.detect_s))
        times = [f"{name};dur={took_s * 1000:.2f}" for name, took_s in parts if took_s is not None]
        headers.append((b"server-timing", ", ".join(times).encode()))
    return headers
