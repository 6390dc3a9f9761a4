"""Bodies of requests, under limits of size, time and number."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request

__all__ = [
    "HAS_COME",
    "RECEIVE_LIMIT_S",
    "BodyReader",
    "BodyTooLargeError",
    "BodyTooSlowError",
    "TooManyUploadsError",
]

RECEIVE_LIMIT_S = 10.0
"""Seconds for a body. A client's usual 80 KB take them at 64 kbit/s, the largest body at 3.4
Mbit/s. A slower client has missed its frame's deadline anyway, or wants to hold the place."""


HAS_COME = "hybrid_detect.has_come"
"""Where the ASGI scope has a function without arguments: whether all of the body has been received.
Then it needs no limit of time, which would cost more than to hand it over."""


class BodyTooLargeError(Exception):
    """The body exceeds the limit."""


class BodyTooSlowError(Exception):
    """The body was not there in time."""


class TooManyUploadsError(Exception):
    """Too many bodies are being received already."""


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

    async def read(self, request: Request) -> tuple[bytes, float]:
        """The body, and the seconds from its first to its last byte.

        Raises:
            BodyTooLargeError: As soon as the announced or the real length exceeds the limit.
            BodyTooSlowError: If it is not there after `RECEIVE_LIMIT_S`.
            TooManyUploadsError: If too many others are being received.
            ClientDisconnect: If the client went.
        """
        announced = request.headers.get("Content-Length", "")
        # Python refuses to read a number of thousands of digits.
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > self._limit_bytes):
            raise BodyTooLargeError
        if self._uploads >= self._max_uploads:
            raise TooManyUploadsError
        has_come: Callable[[], bool] | None = request.scope.get(HAS_COME)
        if has_come is not None and has_come():
            return await self._read(request), 0.0  # nothing is waited for
        self._uploads += 1
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(RECEIVE_LIMIT_S):
                body = await self._read(request)
        except TimeoutError as exc:
            raise BodyTooSlowError from exc
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
                raise BodyTooLargeError
            parts.append(part)
        return b"".join(parts)
