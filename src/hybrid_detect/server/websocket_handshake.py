"""The opening handshake of a WebSocket (RFC 6455, 4.2), checked by `websockets`; and its scope."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Message, Scope
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from hybrid_detect.exchange.wire import ErrorReply
from hybrid_detect.server.connections import IS_GONE
from hybrid_detect.server.http1 import RequestHead, response_head
from hybrid_detect.server.replies import error_reply

__all__ = ["answer_to", "completed", "denial", "scope_of"]

MAX_FIELD_BYTES = 8000
"""A header of the handshake itself; `websockets` reads lines of up to 8 KiB. Other headers, such
as a token, may be as long as a head allows."""

_HANDSHAKE_FIELDS = (
    b"connection",
    b"upgrade",
    b"sec-websocket-key",
    b"sec-websocket-version",
    b"sec-websocket-protocol",
)


FIELD_TOO_LARGE = error_reply(0, 431, "too_large", "a header of the handshake is too large")


def answer_to(head: RequestHead, frames: ServerProtocol) -> Response | ErrorReply:
    """The response that accepts the handshake in `head`, or why it is refused.

    `frames` is given the headers that a handshake is made of and no other, so that the rest, such
    as a long token, need not meet its bounds.
    """
    fields = [(name, value) for name, value in head.headers if name in _HANDSHAKE_FIELDS]
    if any(len(value) > MAX_FIELD_BYTES for _, value in fields):
        return FIELD_TOO_LARGE
    lines = [b"GET / HTTP/1.1", *(b"%b: %b" % field for field in fields), b"", b""]
    frames.receive_data(b"\r\n".join(lines))
    requests = [event for event in frames.events_received() if isinstance(event, Request)]
    response = frames.accept(requests[0]) if requests else None
    if response is None or response.status_code != 101:
        status = 400 if response is None else response.status_code
        return error_reply(0, status, "bad_request", "that opens no WebSocket")
    return response


def completed(response: Response, message: Message) -> Response:
    """`response` with the headers and the subprotocol of the app's `message`."""
    for name, value in message.get("headers") or ():
        response.headers[name.decode("latin-1")] = value.decode("latin-1")
    if message.get("subprotocol"):
        response.headers["Sec-WebSocket-Protocol"] = message["subprotocol"]
    return response


def denial(start: Message, message: Message) -> bytes:
    """The HTTP answer of an app that lets no WebSocket in: how it begins, and its body.

    Raises:
        RuntimeError: If that is not all of the body.
    """
    if message.get("more_body"):
        msg = "expected a refusal's body in one piece"
        raise RuntimeError(msg)
    body: bytes = message.get("body", b"")
    names = {name.lower() for name, _ in start["headers"]}
    length = [] if b"content-length" in names else [(b"content-length", b"%d" % len(body))]
    return response_head(start["status"], [*start["headers"], *length], close=True) + body


def scope_of(
    head: RequestHead, addresses: Mapping[str, Any], *, is_gone: Callable[[], bool]
) -> Scope:
    """The ASGI scope of the WebSocket that `head` asks for, between `peer_addresses`."""
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": head.http_version,
        "scheme": "wss" if addresses["is_tls"] else "ws",
        "server": addresses["server"],
        "client": addresses["client"],
        "root_path": "",
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "headers": head.headers,
        "subprotocols": _offered_subprotocols(head),
        "state": {},
        "extensions": {"websocket.http.response": {}},
        IS_GONE: is_gone,
    }


def _offered_subprotocols(head: RequestHead) -> list[str]:
    """The subprotocols that the client speaks, the preferred one first."""
    offered = b",".join(head.values(b"sec-websocket-protocol")).decode("latin-1")
    return [word.strip() for word in offered.split(",") if word.strip()]
