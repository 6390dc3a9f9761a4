"""One HTTP request and its answer, as ASGI has them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Scope

from hybrid_detect.server.bodies import HAS_COME
from hybrid_detect.server.connections import IS_GONE, STOPPING
from hybrid_detect.server.http1 import RequestHead, response_head
from hybrid_detect.server.replies import BUG, json_answer

__all__ = ["HttpExchange", "http_scope"]

logger = logging.getLogger("hybrid_detect.server")

HIGH_WATER_BYTES = 64 * 1024
"""Bytes of a body that wait for the app; beyond it reading stops until the app has taken them."""


class Channel(Protocol):
    """What an exchange needs of its connection."""

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; dropped if that is closing."""
        ...

    async def drained(self) -> None:
        """Wait until the peer takes what was written."""
        ...

    def changed(self) -> None:
        """Told when the app has taken a piece of the body, or has answered."""
        ...


def http_scope(
    head: RequestHead,
    addresses: Mapping[str, Any],
    *,
    is_gone: Callable[[], bool],
    has_come: Callable[[], bool],
) -> Scope:
    """The ASGI scope of a request.

    Args:
        head: Its head.
        addresses: Those of `peer_addresses`.
        is_gone: Tells whether its peer has hung up.
        has_come: Tells whether all of its body has been received.
    """
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": head.http_version,
        "server": addresses["server"],
        "client": addresses["client"],
        "scheme": "https" if addresses["is_tls"] else "http",
        "method": head.method,
        "root_path": "",
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "headers": head.headers,
        "state": {},
        IS_GONE: is_gone,
        HAS_COME: has_come,
    }


class HttpExchange:
    """Gives a request to the app and its answer to the connection.

    Args:
        head: The request's head.
        scope: The ASGI scope of it.
        channel: The connection.
    """

    def __init__(self, head: RequestHead, scope: Scope, channel: Channel) -> None:
        self._scope = scope
        self._channel = channel
        self._is_head_method = head.method == "HEAD"
        self._may_chunk = head.http_version == "1.1"
        self._wants_continue = head.expects_continue
        self._parts: list[bytes] = []
        self._buffered = 0
        self._has_body = False  # all of it
        self._has_told_end = False
        self._is_gone = False
        self._news = asyncio.Event()
        self._start: Message | None = None
        self.is_started = False
        self._is_chunked = False
        self._left_bytes: int | None = None  # of the answer's body; `None` if it has no length
        self.status = 0
        """Of the answer, once it has begun."""
        self.is_answered = False
        self.peer_closes = not head.keep_alive
        """Whether the peer itself sends nothing after this request."""
        self.closes = self.peer_closes
        """Whether the connection ends with the answer."""

    @property
    def is_full(self) -> bool:
        """Whether enough of the body waits for the app."""
        return self._buffered > HIGH_WATER_BYTES

    def refuse(self, status: int, answer: bytes) -> None:
        """Answer without the app, with a whole `answer`, which the connection may outlive."""
        self._channel.write(answer)
        self.status = status
        self.is_started = self.is_answered = True

    def feed(self, part: bytes) -> None:
        """A piece of the body has come. It is dropped once the answer is complete."""
        if part and not self.is_answered:
            self._parts.append(part)
            self._buffered += len(part)
            self._news.set()

    def end_body(self) -> None:
        """The body is complete."""
        self._has_body = True
        self._news.set()

    def hang_up(self) -> None:
        """The peer is not there any more."""
        self._is_gone = True
        self._parts.clear()
        self._buffered = 0
        self._news.set()

    async def run(self, app: ASGIApp) -> None:
        """Run `app` for this request; whatever it does, there is one answer."""
        try:
            await app(self._scope, self._receive, self._send)
        except asyncio.CancelledError:  # the server stops and does not wait any longer
            self._answer_instead(json_answer(STOPPING))
        except Exception:
            logger.exception("a request failed with a bug")
            self._answer_instead(json_answer(BUG))
        else:
            if not self.is_answered and not self._is_gone:
                logger.error("a request was left without a whole answer")
                self._answer_instead(json_answer(BUG))

    def _answer_instead(self, answer: bytes) -> None:
        if self.is_answered or self._is_gone:
            return
        if not self.is_started:
            self._channel.write(answer)
        self._complete(close=True)  # a second answer amid the first would be read as part of it

    def _complete(self, *, close: bool) -> None:
        self.is_answered = True
        self.closes = self.closes or close
        self._parts.clear()
        self._buffered = 0
        self._news.set()
        self._channel.changed()

    async def _receive(self) -> Message:
        if self._wants_continue and not self.is_started and not self._has_body:
            self._channel.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._wants_continue = False
        while not (
            self._is_gone
            or self.is_answered
            or self._parts
            or (self._has_body and not self._has_told_end)
        ):
            self._news.clear()
            await self._news.wait()
        if self._is_gone or self.is_answered:
            return {"type": "http.disconnect"}
        self._has_told_end = self._has_body
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        self._channel.changed()
        return {"type": "http.request", "body": body, "more_body": not self._has_body}

    async def _send(self, message: Message) -> None:
        await self._channel.drained()
        if self._is_gone:
            return
        if message["type"] == "http.response.start" and self._start is None:
            self._start = message  # sent with the first piece of the body, in one packet
        elif message["type"] == "http.response.body" and self._start and not self.is_answered:
            self._send_body(self._start, message)
        else:
            msg = f"expected the next part of an answer, got {message['type']!r}"
            raise RuntimeError(msg)

    def _send_body(self, start: Message, message: Message) -> None:
        body: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        head = b"" if self.is_started else self._head(start, None if more else len(body))
        if self._is_head_method:
            body = b""
        elif self._is_chunked:
            pieces = [b"%x\r\n" % len(body), body, b"\r\n"] if body else []
            body = b"".join([*pieces, b"" if more else b"0\r\n\r\n"])
        elif self._left_bytes is not None:
            self._left_bytes -= len(body)
            if self._left_bytes < 0 or (self._left_bytes and not more):
                msg = f"expected as many bytes as announced, {self._left_bytes} are left"
                raise RuntimeError(msg)
        self.is_started = True
        self._channel.write(head + body)
        if not more:
            self._complete(close=False)

    def _head(self, start: Message, whole_bytes: int | None) -> bytes:
        """The head of the answer; `whole_bytes` is the length of its body if it is one piece."""
        headers: list[tuple[bytes, bytes]] = list(start.get("headers", ()))
        names: dict[bytes, Any] = {name.lower(): value for name, value in headers}
        status: int = start["status"]
        self.status = status
        if b"close" in names.get(b"connection", b"").lower():
            self.closes = True
        if b"content-length" in names:
            self._left_bytes = int(names[b"content-length"])
        elif status in {204, 304}:
            self._left_bytes = 0
        elif whole_bytes is not None:
            self._left_bytes = whole_bytes
            headers.append((b"content-length", b"%d" % whole_bytes))
        elif self._may_chunk:
            self._is_chunked = True
        else:  # HTTP/1.0: the body ends with the connection
            self.closes = True
        return response_head(status, headers, close=self.closes, chunked=self._is_chunked)
