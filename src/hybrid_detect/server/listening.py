"""The server itself: a listening socket, the app behind it, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

from starlette.applications import Starlette

from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.connections import ConnectionLimits, Connections, Context
from hybrid_detect.server.http_connection import HttpConnection
from hybrid_detect.server.tls import server_context
from hybrid_detect.server.tls_greeting import TlsGreeting

if TYPE_CHECKING:
    from hybrid_detect.server.direct_route import DirectRoute
    from hybrid_detect.server.early_refusals import EarlyRefusals
    from hybrid_detect.server.management import Management

__all__ = ["GRACE_S", "Server", "loop_factory"]

GRACE_S = 2.0
"""Seconds for pictures under way when the server is stopped."""

LAST_WORDS_S = 0.2
"""Seconds for the last refusals to be sent."""

BACKLOG = 128
"""Connections that the system keeps until they are accepted, and asyncio accepts in a row."""


class Server:
    """Serves an app that `create_app` made, under the limits of `config`.

    Within an event loop it is an asynchronous context manager; `run` makes a loop of its own::

        async with Server(create_app(config), config) as server:
            print(server.url)

    Leaving stops it: no new connection is taken, what is being looked at is answered, what waits
    for a detector gets 503 with Retry-After, streams get their answers and are closed with 1012.
    After `GRACE_S` whatever is left is ended. Metrics and probes at a port of their own are served
    until then.

    Args:
        app: The app; its ``state.drain()``, if there is one, is called at the stop. Its
            ``state.management`` is told of refused connections, and has the app of a second port;
            its ``state.early_refusals`` refuse pictures by their first bytes, and its
            ``state.direct_route`` answers requests without ASGI between. Where middleware stands
            before that route, it has to see each request: then there is neither for requests.
        config: Address, TLS and limits.
        limits: Limits of connections, instead of those of `config`.
        grace_s: Seconds for what is under way at the end.

    Raises:
        ConfigurationError: If a file of the TLS configuration cannot be used.
    """

    def __init__(
        self,
        app: Starlette,
        config: ServerConfig,
        *,
        limits: ConnectionLimits | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self._app = app
        self._config = config
        self._limits = limits or ConnectionLimits(
            connections=config.max_connections, connections_per_peer=config.max_connections_per_peer
        )
        self._grace_s = grace_s
        self._tls = server_context(config.tls) if config.tls is not None else None
        self._ends = AsyncExitStack()
        self._context: Context | None = None
        self.port = config.port
        """The port it listens on, once it does."""
        self.management: Server | None = None
        """What serves metrics and probes at a port of their own, once it does."""

    @property
    def url(self) -> str:
        """Its address."""
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}"

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._context.connections) if self._context is not None else 0

    async def __aenter__(self) -> Self:
        """Start the app and listen.

        Raises:
            HybridDetectError: If the app cannot start.
            OSError: If the address cannot be listened on.
        """
        early: EarlyRefusals | None = getattr(self._app.state, "early_refusals", None)
        direct = self._direct_route()
        context = self._context = Context(
            app=self._app,
            limits=self._limits,
            max_message_bytes=self._config.max_body_bytes,
            connections=Connections(self._limits),
            direct=direct,
            early=early,
            # Middleware may say who is asking, or refuse the request.
            early_pictures=early if direct is not None else None,
        )
        management: Management | None = getattr(self._app.state, "management", None)
        if management is not None:
            context.refused = management.refused
        async with AsyncExitStack() as ends:
            await ends.enter_async_context(self._app.router.lifespan_context(self._app))
            tls = self._tls

            if management is not None and (own := management.own_port()) is not None:
                self.management = await ends.enter_async_context(Server(*own))

            def connection() -> HttpConnection | TlsGreeting:
                return HttpConnection(context) if tls is None else TlsGreeting(context, tls)

            listener = await asyncio.get_running_loop().create_server(
                connection, self._config.host, self._config.port, backlog=BACKLOG
            )
            ends.push_async_callback(self._stop, listener, context)
            self.port = listener.sockets[0].getsockname()[1]
            self._ends = ends.pop_all()
        return self

    def _direct_route(self) -> DirectRoute | None:
        route: DirectRoute | None = getattr(self._app.state, "direct_route", None)
        # Middleware that the app was given later has to see each request.
        return route if route is not None and route.is_first_in(self._app) else None

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop as the class says."""
        await self._ends.aclose()

    async def _stop(self, listener: asyncio.Server, context: Context) -> None:
        listener.close()
        context.is_stopping = True
        drain: Callable[[], None] | None = getattr(self._app.state, "drain", None)
        if drain is not None:
            drain()
        for connection in context.connections.each():
            connection.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                while context.tasks:
                    await asyncio.wait(context.tasks)
                await context.connections.wait_closed()
        for connection in context.connections.each():
            connection.give_up()
        for task in context.tasks:
            task.cancel()
        # A detector that hangs keeps its task; it is killed when the app ends, after this.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await context.connections.wait_closed()
        await listener.wait_closed()

    def run(self, ready: Callable[[str], None] = lambda _: None) -> None:
        """Serve until the process is asked to end (SIGINT, SIGTERM), then pass the signal on.

        Args:
            ready: Called with the address once the server listens.

        Raises:
            HybridDetectError: If the app cannot start.
            OSError: If the address cannot be listened on.
        """
        signals = _Signals()

        async def serve() -> None:
            end = signals.ask(asyncio.get_running_loop())
            async with self:
                ready(self.url)
                await end.wait()

        with signals, asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve())


class _Signals:
    """Turns SIGINT and SIGTERM into an orderly end, and raises them again after it.

    So the process ends as its parent expects of one that was sent a signal.
    """

    def __init__(self) -> None:
        self._came: list[int] = []
        self._before: dict[int, object] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()

    def ask(self, loop: asyncio.AbstractEventLoop) -> asyncio.Event:
        """The event that is set by the first signal, even by one that has come already."""
        self._loop = loop
        if self._came:
            self._end.set()
        return self._end

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other gets any
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        for number in self._came:
            signal.raise_signal(number)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._came.append(number)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end.set)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop's where it is installed (not on Windows)."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop
