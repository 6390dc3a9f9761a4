"""The gate before every route: credentials, origins, rates and places."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from hybrid_detect.exchange.wire import (
    HEALTH_PATH,
    LIVE_PAGE_PATH,
    STREAM_PATH,
    ErrorReply,
)
from hybrid_detect.server.admitted_messages import AdmittedMessages
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.credentials import Credentials, WrongCredentialError, peer_of
from hybrid_detect.server.head_facts import facts_of
from hybrid_detect.server.observation import LIVE_PATH, METRICS_PATH, OPENAPI_PATH
from hybrid_detect.server.peer_log import PeerLog
from hybrid_detect.server.replies import SECURITY_FIELDS, error_reply, too_fast
from hybrid_detect.server.shared_state import Limit, LocalState, SharedState

__all__ = [
    "CALLER",
    "PUBLIC_PATHS",
    "RECHECK_S",
    "STILL_WELCOME",
    "TAKE_PICTURE",
    "Gate",
    "RefusedError",
]

logger = logging.getLogger("hybrid_detect.server")

CALLER = "hybrid_detect.caller"
"""Where the caller's name is in the ASGI scope of what it has let in."""

TAKE_PICTURE = "hybrid_detect.take_picture"
"""Where the ASGI scope has what counts one more picture of a request against the caller's rate: a
coroutine function that gives the seconds to wait, or 0 if the picture may be looked at."""

STILL_WELCOME = "hybrid_detect.still_welcome"
"""Where the ASGI scope has what tells whether a caller that was let in still may: its credential
may have expired or been revoked. For what lasts; to be asked each `RECHECK_S`. A coroutine function
of the connection. The scope must not hold that: they would form a reference cycle."""

PUBLIC_PATHS = frozenset({HEALTH_PATH, LIVE_PAGE_PATH, LIVE_PATH, OPENAPI_PATH})
"""Read without a credential: a load balancer has none, nor has a browser that opens a page, and the
description is no secret. A wrong credential is refused here as well, so that a client can learn
whether its own fits."""

_PROBES = PUBLIC_PATHS | {METRICS_PATH}
"""Counted apart from pictures, and in need of none of their places."""

FAILURE_PAUSE_S = 0.02
"""Seconds that such an answer is held back for each that is held back already, of the same address.
So 50 a second are refused, however many connections ask, and that costs the others nothing."""

RECHECK_S = 60.0
"""How long a stream, or who watches one, lives on after a key was revoked or a token expired."""

UNAUTHORIZED = error_reply(0, 401, "unauthorized", "send Authorization: Bearer <token>")

WRONG_ORIGIN = error_reply(0, 403, "wrong_origin", "pages of this origin may not come in")

TOO_MANY_OF_YOURS = error_reply(
    0, 429, "too_many", "too many of your requests and streams are under way", 1.0
)

TOO_MANY_STREAMS = error_reply(0, 503, "overloaded", "too many streams are open", 1.0)


class Gate:
    """ASGI middleware before the router: a route cannot forget to check the credential.

    It checks the origin and the credential, counts what each caller asks for, and sees to it that
    every answer carries `SECURITY_FIELDS`. Only `PUBLIC_PATHS` can be read without a credential.

    `DirectRoute` asks it as well, for what it answers itself.

    Args:
        app: What is behind the gate; `None` if `before` tells.
        config: The limits.
        credentials: Who may come in.
        respond: Makes an HTTP answer of an error.
        state: Counts rates; `None` for counts of its own.
        metrics: Who may read the metrics, where they are beside the pictures.
        log: Tells of wrong credentials.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        app: ASGIApp | None = None,
        *,
        config: ServerConfig,
        credentials: Credentials,
        respond: Callable[[HTTPConnection, ErrorReply], Response],
        state: SharedState | None = None,
        metrics: Credentials | None = None,
        log: PeerLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app or _nothing
        self._config = config
        self._credentials = credentials
        self._metrics = metrics or credentials
        self._clock = clock
        self._respond = respond
        self._state = state or LocalState(config, steady_clock=clock)
        self._log = log or PeerLog(logger, clock=clock)
        self._under_way: Counter[str] = Counter()
        self._held_back: Counter[str] = Counter()
        self._streams = 0

    def before(self, app: ASGIApp) -> Gate:
        """Stand before `app`, for a `Middleware` of what is made already."""
        self._app = app
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in what may come in; answer the rest."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        send = _with_security_headers(send)
        try:
            caller = await self.admitted(connection)
            scope[TAKE_PICTURE] = partial(self._state.take, Limit.PICTURES, caller)
            scope[STILL_WELCOME] = self._is_welcome
            if scope["path"] in _PROBES:  # which need no place
                await self._app(scope, receive, send)
                return
            # A WebSocket to watch a session over brings no pictures.
            is_stream = scope["type"] == "websocket" and scope["path"] == STREAM_PATH
            self.take_place(caller, is_stream=is_stream)
            messages: AdmittedMessages | None = None
            try:
                if is_stream:
                    messages = self._messages(connection, receive, send)
                await self._app(scope, messages.receive if messages else receive, send)
            finally:
                if messages is not None:
                    messages.end()
                self.give_place_back(caller, is_stream=is_stream)
        except RefusedError as refusal:
            response = self._respond(connection, refusal.reply)
            if scope["type"] == "websocket":
                await WebSocket(scope, receive, send).send_denial_response(response)
            else:
                await response(scope, receive, send)

    async def admitted(self, connection: HTTPConnection) -> str:
        """The caller's name, which its scope has from now on.

        Raises:
            RefusedError: If it may not come in, or asks for too much.
        """
        # Browsers send it with whatever a page does to another site, and cannot leave it out.
        facts, peer = facts_of(connection.scope), peer_of(connection)
        origins = facts.origins
        if origins and any(each not in self._config.allowed_origins for each in origins):
            raise RefusedError(WRONG_ORIGIN)
        path = connection.scope["path"]
        credentials = self._metrics if path == METRICS_PATH else self._credentials
        try:
            # As `Credentials.caller`, without a coroutine for each request.
            caller = credentials.caller_at_once(facts, peer, is_public=path in PUBLIC_PATHS)
            if caller is None:
                caller = await credentials.caller_by_issuer(facts)
        except WrongCredentialError:
            self._log.note("no or a wrong credential", peer)
            if wait_s := await self._state.take(Limit.FAILURES, peer):
                await self._hold_back(peer)
                raise RefusedError(too_fast(0, wait_s)) from None
            raise RefusedError(UNAUTHORIZED) from None
        limit = Limit.PROBES if path in _PROBES else Limit.PICTURES
        is_http = connection.scope["type"] == "http"
        if is_http and (wait_s := await self._state.take(limit, caller)):
            raise RefusedError(too_fast(0, wait_s))
        connection.scope[CALLER] = caller
        return caller

    async def _is_welcome(self, connection: HTTPConnection) -> bool:
        try:
            await self._credentials.caller(connection)
        except WrongCredentialError:
            return False
        return True

    async def _hold_back(self, peer: str) -> None:
        """Wait the longer, the more of `peer` wait; not all until the same moment.

        No more wait than there may be connections: the others are of peers that have gone, which
        it does not hold up any more.
        """
        if self._held_back.total() >= self._config.max_connections:
            return
        self._held_back[peer] += 1
        try:
            share = random.uniform(0.5, 1.5)  # noqa: S311 - no secret
            await asyncio.sleep(share * FAILURE_PAUSE_S * self._held_back[peer])
        finally:
            self._held_back[peer] -= 1
            if not self._held_back[peer]:
                del self._held_back[peer]

    def take_place(self, caller: str, *, is_stream: bool = False) -> None:
        """Count one more request or stream of `caller`, until `give_place_back`.

        Raises:
            RefusedError: If there are too many.
        """
        if self._under_way[caller] >= self._config.max_per_caller:
            raise RefusedError(TOO_MANY_OF_YOURS)
        if is_stream and self._streams >= self._config.max_streams:
            raise RefusedError(TOO_MANY_STREAMS)
        self._under_way[caller] += 1
        self._streams += is_stream

    def give_place_back(self, caller: str, *, is_stream: bool = False) -> None:
        """Count it no longer."""
        self._streams -= is_stream
        self._under_way[caller] -= 1
        if not self._under_way[caller]:
            del self._under_way[caller]  # or names would pile up

    def _messages(
        self, connection: HTTPConnection, receive: Receive, send: Send
    ) -> AdmittedMessages:
        caller: str = connection.scope[CALLER]
        at_once = self._state.take_at_once if isinstance(self._state, LocalState) else None
        return AdmittedMessages(
            connection,
            receive,
            send,
            is_welcome=self._is_welcome,
            take=partial(self._state.take, Limit.PICTURES, caller),
            take_at_once=at_once and partial(at_once, Limit.PICTURES, caller),
            idle_s=self._config.stream_idle_s,
            recheck_s=RECHECK_S,
            clock=self._clock,
        )


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    msg = "expected something behind the gate"
    raise RuntimeError(msg)


class RefusedError(Exception):
    """What is not let in. `reply` says why."""

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.code)
        self.reply = reply


def _with_security_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] in _STARTS:
            given: list[tuple[bytes, bytes]] = message["headers"]
            names = {name for name, _ in given}
            missing = [header for header in SECURITY_FIELDS if header[0] not in names]
            message = {**message, "headers": [*given, *missing]} if missing else message
        await send(message)

    return send_with_headers


_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})
