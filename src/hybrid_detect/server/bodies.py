"""Bodies of requests, under limits of size, time and number."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from hybrid_detect.exchange.wire import ErrorReply
from hybrid_detect.server.replies import error_reply

__all__ = [
    "HAS_COME",
    "RECEIVE_LIMIT_S",
    "BodyReader",
    "BodyRefusedError",
]

RECEIVE_LIMIT_S = 10.0
"""Seconds for a body. A client's usual 80 KB take them at 64 kbit/s, the largest body at 3.4
Mbit/s. A slower client has missed its frame's deadline anyway, or wants to hold the place."""

HAS_COME = "hybrid_detect.has_come"
"""Where the ASGI scope has a function without arguments: whether all of the body has been received.
Then it needs no limit of time, which would cost more than to hand it over."""

TOO_SLOW = error_reply(0, 408, "too_slow", "the body did not come in time")

RETRY_AFTER_S = 1.0
"""Seconds that a server with too many uploads asks for; how long others take to send is not known.
"""

TOO_MANY_UPLOADS = error_reply(
    0, 503, "overloaded", "too many pictures are being sent", RETRY_AFTER_S
)


class BodyRefusedError(Exception):
    """The body is not taken. `reply` says why."""

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.code)
        self.reply = reply


class BodyReader:
    """Reads bodies under limits of number, size and time.

    Args:
        limit_bytes: Size of the largest body.
        max_uploads: Bodies received at the same time.
    """

    def __init__(self, *, limit_bytes: int, max_uploads: int) -> None:
        self._limit_bytes = limit_bytes
        self._max_uploads = max_uploads
        self._uploads = 0

    async def read(self, request: Request, whole: bytes | None = None) -> tuple[bytes, float]:
        """The body, and the seconds from its first to its last byte.

        Args:
            request: Its request.
            whole: All of it, if it is known to have come; then `request` is not asked.

        Raises:
            BodyRefusedError: As soon as the announced or the real length exceeds the limit, if it
                is not there after `RECEIVE_LIMIT_S`, or if too many others are being received.
            ClientDisconnect: If the client went.
        """
        if whole is not None:
            if len(whole) > self._limit_bytes:
                raise self._too_large()
        elif self._is_announced_too_large(request.scope):
            raise self._too_large()
        if self._uploads >= self._max_uploads:
            raise BodyRefusedError(TOO_MANY_UPLOADS)
        if whole is not None:
            return whole, 0.0
        has_come: Callable[[], bool] | None = request.scope.get(HAS_COME)
        if has_come is not None and has_come():
            return await self._read(request), 0.0  # nothing is waited for
        self._uploads += 1
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(RECEIVE_LIMIT_S):
                body = await self._read(request)
        except TimeoutError:
            raise BodyRefusedError(TOO_SLOW) from None
        finally:
            self._uploads -= 1
        return body, time.monotonic() - started_s

    async def _read(self, request: Request) -> bytes:
        parts: list[bytes] = []
        size = 0
        has_more = True
        while has_more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part, has_more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > self._limit_bytes:
                raise self._too_large()
            parts.append(part)
        return b"".join(parts)

    def _is_announced_too_large(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        # Python refuses to read a number of thousands of digits.
        return given.isdigit() and (len(given) > 18 or int(given) > self._limit_bytes)

    def _too_large(self) -> BodyRefusedError:
        detail = f"the limit is {self._limit_bytes} bytes"
        return BodyRefusedError(error_reply(0, 413, "too_large", detail))
