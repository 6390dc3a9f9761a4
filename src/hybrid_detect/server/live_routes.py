"""Watching a session: over a WebSocket in the wire format, or as server-sent events in JSON.

Watching costs the session nothing: what a watcher does not take in time is left out for it alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from hybrid_detect.exchange.wire import (
    LIVE_PAGE_PATH,
    SESSIONS_PATH,
    SUBPROTOCOL,
    ErrorReply,
    ResultReply,
    encode_reply,
)
from hybrid_detect.exchange.wire_values import MAX_TEXT_CHARS
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.connections import STOPPING
from hybrid_detect.server.gate import RECHECK_S, STILL_WELCOME
from hybrid_detect.server.live import (
    GONE,
    IDLE,
    NOT_WELCOME,
    LiveSessions,
    TooManyWatchersError,
    Watcher,
)
from hybrid_detect.server.live_page import PAGE, PAGE_POLICY
from hybrid_detect.server.replies import error_reply, reply_to_values
from hybrid_detect.server.retention import BAD_SESSION, SEALED_ONLY, owner_of

__all__ = ["LiveRoutes"]

WATCH_PATH = SESSIONS_PATH + "/{session:path}/live"

BEAT_S = 15.0
"""Seconds of silence after which events carry a comment: proxies end what is silent for 30."""

TOO_MANY_WATCHERS = error_reply(0, 503, "overloaded", "too many watch sessions", 1.0)

TOO_MANY_OF_SESSION = error_reply(0, 429, "too_many", "too many watch this session", 1.0)

NOTHING_TO_SAY = "a watcher sends nothing"


class LiveRoutes:
    """Shows the results of a session, as they come, to callers whose session it is.

    Args:
        live: Has the results.
        config: The limits.
        respond: Makes an HTTP answer of an error.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        live: LiveSessions,
        config: ServerConfig,
        *,
        respond: Callable[[HTTPConnection, ErrorReply], Response],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live = live
        self._config = config
        self._respond = respond
        self._clock = clock

    @property
    def routes(self) -> list[BaseRoute]:
        """The page, the events, and the WebSocket."""
        return [
            Route(LIVE_PAGE_PATH, self._page, methods=["GET"]),
            Route(WATCH_PATH, self._events, methods=["GET"]),
            WebSocketRoute(WATCH_PATH, self._socket),
        ]

    async def _page(self, _: Request) -> Response:
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": PAGE_POLICY})

    async def _socket(self, websocket: WebSocket) -> None:
        watcher = self._watcher(websocket)
        if isinstance(watcher, ErrorReply):
            await websocket.send_denial_response(self._respond(websocket, watcher))
            return
        offered = websocket["subprotocols"]
        async with _closed_at_end(watcher, _hang_up(websocket)):
            await websocket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
            # The peer may have gone meanwhile; Starlette then raises either of the two.
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                async for reply in self._replies(watcher, websocket):
                    if reply is not None:
                        await websocket.send_bytes(encode_reply(reply))
                if watcher.end not in (None, GONE):
                    await websocket.close(watcher.end.code, watcher.end.reason)

    async def _events(self, request: Request) -> Response:
        watcher = self._watcher(request)
        if isinstance(watcher, ErrorReply):
            return self._respond(request, watcher)

        async def events() -> AsyncIterator[bytes]:
            async with _closed_at_end(watcher, _hang_up(request)):
                yield b": watching\n\n"  # the head does not leave before the first piece
                async for reply in self._replies(watcher, request):
                    yield b": \n\n" if reply is None else _event("result", reply_to_values(reply))
                if watcher.end is not None:
                    yield _event("end", {"reason": watcher.end.reason})

        if request.method == "HEAD":
            watcher.close()
            return Response(media_type="text/event-stream")
        return _Events(
            watcher,
            events(),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},  # nginx would keep them until it has 8 KiB
        )

    def _watcher(self, connection: HTTPConnection) -> Watcher | ErrorReply:
        """Of the session that the path names, or why there is none."""
        session: str = connection.path_params["session"]
        if not 0 < len(session) <= MAX_TEXT_CHARS:
            return BAD_SESSION
        if self._config.require_encryption:
            return SEALED_ONLY
        try:
            watcher = self._live.watch(owner_of(connection), session)
        except TooManyWatchersError as error:
            return TOO_MANY_OF_SESSION if error.of_session else TOO_MANY_WATCHERS
        if watcher.end is not None:
            return STOPPING
        return watcher

    async def _replies(
        self, watcher: Watcher, connection: HTTPConnection
    ) -> AsyncIterator[ResultReply | None]:
        """The results, and `None` after each `BEAT_S` of silence.

        They end with the session, with the credential of who watches, and when nothing has come for
        as long as a stream may be without pictures.
        """
        is_welcome: Callable[[HTTPConnection], Awaitable[bool]] = connection.scope[STILL_WELCOME]
        checked_s = result_s = self._clock()
        while True:
            idle_s = self._config.stream_idle_s - (self._clock() - result_s)
            reply = None
            try:
                async with asyncio.timeout(max(min(BEAT_S, idle_s), 0.0)):
                    reply = await watcher.next()
                if reply is None:
                    return
                result_s = self._clock()
            except TimeoutError:
                if idle_s <= BEAT_S:
                    watcher.close(IDLE)
                    return
            if self._clock() - checked_s >= RECHECK_S:
                checked_s = self._clock()
                if not await is_welcome(connection):
                    watcher.close(NOT_WELCOME)
                    return
            yield reply


class _Events(StreamingResponse):
    """Events for `watcher`, which is let go even if the peer went before the first of them."""

    def __init__(self, watcher: Watcher, content: AsyncIterator[bytes], **options: Any) -> None:
        super().__init__(content, **options)
        self._watcher = watcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._watcher.close()


@contextlib.asynccontextmanager
async def _closed_at_end(watcher: Watcher, hang_up: Awaitable[None]) -> AsyncIterator[None]:
    """Close `watcher` when its connection hangs up, and at the end."""
    waiting = asyncio.ensure_future(hang_up)
    waiting.add_done_callback(lambda _: watcher.close())
    try:
        yield
    finally:
        waiting.cancel()
        watcher.close()


async def _hang_up(connection: Request | WebSocket) -> None:
    """Return when nothing more is to be shown over `connection`."""
    while True:
        message = await connection.receive()
        if message["type"] == "websocket.receive":
            assert isinstance(connection, WebSocket)  # noqa: S101 - by the message's type
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await connection.close(1008, NOTHING_TO_SAY)
            return
        if message["type"].endswith(".disconnect"):
            return


def _event(name: str, values: dict[str, object]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(values, separators=(',', ':'))}\n\n".encode()
