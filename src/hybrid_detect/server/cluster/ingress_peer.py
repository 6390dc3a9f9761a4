"""Who is at the other end of HAProxy: told by a header that only HAProxy can have written."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from hybrid_detect.exchange.wire import ErrorReply
from hybrid_detect.server.connections import STOPPING
from hybrid_detect.server.replies import error_reply, http_response

__all__ = ["GATEWAY", "PEER_HEADER", "IngressPeer", "peer_value"]

PEER_HEADER = "x-hybrid-detect-ingress"
"""Has a secret of the cluster, a space, and the client's address."""

GATEWAY = "gateway"
"""The address that the gateway gives for itself when it asks whether a replica is well. Those
questions count against no rate: they would use it up, with many replicas or a low rate."""

NOT_BY_INGRESS = error_reply(0, 403, "refused", "replicas answer their own gateway only")


def peer_value(secret: str, address: str) -> str:
    """The header's value."""
    return f"{secret} {address}"


class IngressPeer:
    """ASGI middleware before everything else: puts the client's own address into the scope.

    Limits are counted by it, and a replica must not be asked past its gateway, which could be told
    any address. So what comes without the secret is refused.

    Args:
        app: What is behind it.
        secret: What HAProxy sends.
        is_stopping: Whether the replica takes no new work.
        count_streams: Told 1 for each stream that is opened, and -1 when it has ended.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        secret: str,
        is_stopping: Callable[[], bool],
        count_streams: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._app = app
        self._secret = secret.encode()
        self._is_stopping = is_stopping
        self._count_streams = count_streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what the gateway sent; refuse the rest."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        name = PEER_HEADER.encode()
        given = [value for key, value in scope["headers"] if key == name]
        secret, _, address = (given[0] if len(given) == 1 else b"").partition(b" ")
        if not hmac.compare_digest(secret, self._secret):
            await _refuse(NOT_BY_INGRESS, scope, receive, send)
        elif address == GATEWAY.encode():
            if self._is_stopping():
                await _refuse(STOPPING, scope, receive, send)
            else:
                await Response("ok")(scope, receive, send)
        else:
            headers = [pair for pair in scope["headers"] if pair[0] != name]
            client = (address.decode("latin-1"), 0)
            await self._pass_on({**scope, "headers": headers, "client": client}, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_stream = scope["type"] == "websocket"
        self._count_streams(int(is_stream))
        try:
            await self._app(scope, receive, send)
        finally:
            self._count_streams(-int(is_stream))


async def _refuse(reply: ErrorReply, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        websocket = WebSocket(scope, receive, send)
        await websocket.send_denial_response(http_response(websocket, reply))
    else:
        await http_response(Request(scope), reply)(scope, receive, send)
