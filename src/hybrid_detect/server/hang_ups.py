"""Whether the client of a request or a stream is still there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import HTTPConnection, Request

from hybrid_detect.server.connections import IS_GONE

__all__ = ["hang_up_of"]


def hang_up_of(connection: HTTPConnection) -> Callable[[], Awaitable[bool]]:
    """Tells whether the peer of `connection` has hung up.

    `Server` knows at any time. Another ASGI server tells of a request's peer only.
    """
    is_gone: Callable[[], bool] | None = connection.scope.get(IS_GONE)

    async def is_abandoned() -> bool:
        if is_gone is not None:
            return is_gone()
        return isinstance(connection, Request) and await connection.is_disconnected()

    return is_abandoned
