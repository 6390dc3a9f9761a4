"""One HTTP request and its answer: by ASGI, or by a `DirectRoute` without it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import ASGIApp, Message, Scope

from hybrid_detect.server.bodies import HAS_COME
from hybrid_detect.server.connections import IS_GONE, STOPPING
from hybrid_detect.server.head_facts import HEAD_FACTS
from hybrid_detect.server.http1 import RequestHead, response_head
from hybrid_detect.server.replies import BUG, json_answer

if TYPE_CHECKING:
    from hybrid_detect.server.direct_route import DirectRoute

__all__ = ["HttpExchange"]

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

    def is_gone(self) -> bool:
        """Whether the peer has hung up."""
        ...


class HttpExchange:
    """Gives a request to the app or to a `DirectRoute`, and the answer to the connection.

    Args:
        head: The request's head.
        addresses: Those of `peer_addresses`.
        channel: The connection.
    """

    def __init__(self, head: RequestHead, addresses: Mapping[str, Any], channel: Channel) -> None:
        self._head = head
        self._addresses = addresses
        self._channel = channel
        self._wants_continue = head.expects_continue
        self._parts: list[bytes] = []
        self._buffered = 0
        self._has_body = False  # all of it
        self._has_told_end = False
        self._is_gone = False
        self._news: asyncio.Future[None] | None = None  # while the app waits
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

    def feed(self, part: bytes) -> None:
        """A piece of the body has come. It is dropped once the answer is complete."""
        if part and not self.is_answered:
            self._parts.append(part)
            self._buffered += len(part)
            self._tell()

    def end_body(self, last: bytes = b"") -> None:
        """The body is complete, with this last piece."""
        if last and not self.is_answered:
            self._parts.append(last)
        self._has_body = True
        if self._news is not None:
            self._tell()

    def hang_up(self) -> None:
        """The peer is not there any more."""
        self._is_gone = True
        self._parts.clear()
        self._buffered = 0
        self._tell()

    def _scope(self) -> Scope:
        head, addresses = self._head, self._addresses
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
            IS_GONE: self._channel.is_gone,
            HAS_COME: lambda: self._has_body,
        }

    async def run(self, app: ASGIApp) -> None:
        """Run `app` for this request; whatever it does, there is one answer."""
        try:
            await app(self._scope(), self._receive, self._send)
        except asyncio.CancelledError:  # the server stops and does not wait any longer
            self._answer_instead(json_answer(STOPPING))
        except Exception:
            logger.exception("a request failed with a bug")
            self._answer_instead(json_answer(BUG))
        else:
            if not self.is_answered and not self._is_gone:
                logger.error("a request was left without a whole answer")
                self._answer_instead(json_answer(BUG))

    async def run_direct(self, route: DirectRoute) -> None:
        """Have `route` answer, without messages for what comes and goes as a whole.

        Only where the peer takes what is written to it: the answer does not wait for that.
        """
        scope = self._scope()
        scope[HEAD_FACTS] = self._head.facts  # not for the app, whose middleware may change headers
        try:
            answer = await route.answer(scope, self._receive, self._whole)
        except asyncio.CancelledError:
            self._answer_instead(json_answer(STOPPING))
            return
        except Exception:
            logger.exception("a request failed with a bug")
            answer = route.bug(scope)
        if not self._is_gone:
            self.answer(answer.status, answer.as_bytes(close=self.closes), close=answer.closes)

    def _whole(self) -> bytes | None:
        if not self._has_body or self._is_gone:
            return None
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        self._has_told_end = True
        return body

    def answer(self, status: int, answer: bytes, *, close: bool = False) -> None:
        """Give a whole answer.

        Args:
            status: Its status.
            answer: It, as it is written to the connection.
            close: Whether the connection ends with it in any case.
        """
        self.status = status
        self.is_started = True
        self._channel.write(answer)
        self._complete(close=close)

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
        if self._news is not None:
            self._tell()
        self._channel.changed()

    def _tell(self) -> None:
        """Wake the app, if it waits for more of the body or for the end of the peer."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

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
            self._news = asyncio.get_running_loop().create_future()
            await self._news
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
        head = b"" if self.is_started else self._start_of(start, None if more else len(body))
        if self._head.method == "HEAD":
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

    def _start_of(self, start: Message, whole_bytes: int | None) -> bytes:
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
        elif self._head.http_version == "1.1":
            self._is_chunked = True
        else:  # HTTP/1.0: the body ends with the connection
            self.closes = True
        return response_head(status, headers, close=self.closes, chunked=self._is_chunked)
