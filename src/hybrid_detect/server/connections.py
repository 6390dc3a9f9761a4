"""What the connections of one server share: their limits, their number, and how each one ends.

A connection is an `asyncio.Protocol`: `http_connection` reads requests, `websocket_connection`
takes over after an upgrade. Everything a peer can hold has a limit of time and of size here,
because a head that never ends, a body that stops half-way or an answer that is not taken would
each keep its connection for ever (slow loris).
"""

from __future__ import annotations

import asyncio
import select
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import ASGIApp

from hybrid_detect.exchange.wire import ErrorReply
from hybrid_detect.server.bodies import RECEIVE_LIMIT_S
from hybrid_detect.server.credentials import network_of
from hybrid_detect.server.rate_limit import RateLimiter
from hybrid_detect.server.replies import error_reply

if TYPE_CHECKING:
    from hybrid_detect.server.direct_route import DirectRoute
    from hybrid_detect.server.early_refusals import EarlyRefusals

__all__ = [
    "BODY_BEFORE_WEBSOCKET",
    "IS_GONE",
    "LINGER_S",
    "MALFORMED_PAUSE_S",
    "MAX_HELD_BYTES",
    "STOPPING",
    "TOO_MANY",
    "TOO_SLOW",
    "Connection",
    "ConnectionLimits",
    "Connections",
    "Context",
    "Outflow",
    "Timer",
    "has_hung_up",
    "peer_addresses",
]

IS_GONE = "hybrid_detect.is_gone"
"""Where the ASGI scope has a function without arguments: whether the peer has hung up."""

BODY_GRACE_S = 10.0
"""`BodyReader` answers 408 first; what is left for here is the body of a request that was refused
without being read, and of one that had to wait for an issuer's keys."""

KEEP_ALIVE_S = 5.0
"""An idle connection between two requests. Our client lets go of one after 4 s, so that it never
sends into one that is being closed."""

MAX_HELD_BYTES = 64 * 1024
"""Bytes of later requests or messages that are read while an earlier one is being answered; then
reading stops and TCP holds the peer back. Not 0, because a peer that hangs up is noticed by
reading."""

READ_BYTES = 128 * 1024
"""Bytes that are read at once: a usual picture of 80 KB, whole."""

HEAD_READ_BYTES = 4096
"""Bytes that are read at once where a head or a message is expected while pictures are refused.
Most heads and headers of messages have fewer; of a picture of 80 KB that is refused by them, the
rest is not copied."""

LINGER_S = 1.0
"""Seconds that a connection is read on, and what comes is dropped, after its last answer. Closing
at once, while bytes are on their way here, would reset it and may cost the peer the answer
(RFC 9112, 9.6)."""

MALFORMED_PER_S = 1.0
MALFORMED_AT_ONCE = 20
"""Of one address, what is no HTTP and is answered at once; beyond it the answer is held back."""

MALFORMED_PAUSE_S = 1.0
"""Seconds that an answer to what is no HTTP is held back when too much of it comes."""

STOPPING: ErrorReply = error_reply(0, 503, "stopping", "the server is being stopped", 1.0)
TOO_SLOW = error_reply(0, 408, "too_slow", "the request did not come in time")
TOO_MANY = error_reply(0, 503, "overloaded", "too many connections", 1.0)
BODY_BEFORE_WEBSOCKET = error_reply(
    0, 400, "bad_request", "a request that opens a WebSocket has no body"
)
"""Answers of a connection itself, which no app has made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How many connections, and how long each may take for what it does."""

    connections: int
    connections_per_peer: int
    head_s: float = RECEIVE_LIMIT_S
    """From the connection, or a request's first byte, to the end of its headers."""
    body_s: float = RECEIVE_LIMIT_S + BODY_GRACE_S
    """From there to the end of its body."""
    message_s: float = RECEIVE_LIMIT_S
    """From the first byte of a WebSocket message that is seen alone to its last."""
    answer_s: float = RECEIVE_LIMIT_S
    """For a peer to take the bytes that wait for it."""
    keep_alive_s: float = KEEP_ALIVE_S
    """From an answer to the next request's first byte."""


class Connection(Protocol):
    """What the server asks of a connection when it stops."""

    def stop(self) -> None:
        """Answer what has been received, take nothing more, and close."""
        ...

    def give_up(self) -> None:
        """Refuse what has not been answered by now, and close."""
        ...


class Connections:
    """The connections that are open, counted in total and by peer."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._open: dict[Connection, str] = {}
        self._of_peer: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection, peer: str) -> bool:
        """Count `connection`; returns whether there is room for it.

        One that gets no room is counted as well, until it is discarded.
        """
        self._open[connection] = peer
        self._of_peer[peer] += 1
        self._empty.clear()
        return (
            len(self._open) <= self._limits.connections
            and self._of_peer[peer] <= self._limits.connections_per_peer
        )

    def replace(self, old: Connection, new: Connection) -> None:
        """Let `new` stand for `old`, whose socket it has taken over."""
        self._open[new] = self._open.pop(old)

    def discard(self, connection: Connection) -> None:
        """Count `connection` no longer."""
        peer = self._open.pop(connection, None)
        if peer is None:
            return
        self._of_peer[peer] -= 1
        if not self._of_peer[peer]:
            del self._of_peer[peer]  # or addresses would pile up
        if not self._open:
            self._empty.set()

    def each(self) -> list[Connection]:
        """The open connections."""
        return list(self._open)

    async def wait_closed(self) -> None:
        """Return when none is open."""
        await self._empty.wait()


@dataclass(slots=True, kw_only=True)
class Context:
    """What the connections of one server share."""

    app: ASGIApp
    limits: ConnectionLimits
    max_message_bytes: int
    connections: Connections
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Runs of the app, one for each request or WebSocket under way."""
    is_stopping: bool = False
    direct: DirectRoute | None = None
    """Answers what asks for it without the app; `None` for an app that has no such route."""
    early: EarlyRefusals | None = None
    """Refuses a stream's pictures by their first bytes; `None` for an app that does not."""
    early_pictures: EarlyRefusals | None = None
    """The same for those of requests; `None` as well if middleware has to see each of them."""
    read: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BYTES)))
    """What the connections are read into, one at a time: none keeps anything in it."""
    read_little: memoryview = field(init=False)
    """The first `HEAD_READ_BYTES` of it."""
    refused: Callable[[ErrorReply], object] = lambda _: None
    """Told of each answer that the app knows nothing of."""
    malformed: RateLimiter = field(
        default_factory=lambda: RateLimiter(rate_per_s=MALFORMED_PER_S, burst=MALFORMED_AT_ONCE)
    )
    """Of each peer, what is no HTTP."""

    def __post_init__(self) -> None:
        self.read_little = self.read[:HEAD_READ_BYTES]

    def run(self, work: Any) -> asyncio.Task[None]:
        """Run the coroutine `work` as a task that is counted."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


class Timer:
    """One limit of time at a time; starting another ends the one before.

    Nearly all limits are kept, and each request has several. So the event loop is told of an end
    only if it is to wake earlier than it will anyway.
    """

    def __init__(self) -> None:
        self._act: Callable[[], object] = _nothing
        self.is_running = False
        """Whether a limit has been started, and not stopped."""
        self._ends_s = 0.0
        self._handle: asyncio.TimerHandle | None = None
        self._wakes_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None  # from the first start on

    def start(self, limit_s: float, act: Callable[[], object]) -> None:
        """Call `act` after `limit_s`, instead of what was to be called before."""
        if self._loop is None:  # each time, it would be a call to the system
            self._loop = asyncio.get_running_loop()
        self._act, self.is_running = act, True
        self._ends_s = self._loop.time() + limit_s
        if self._handle is None or self._ends_s < self._wakes_s:
            self._wake_at_end()

    def stop(self) -> None:
        """Call nothing."""
        self._act, self.is_running = _nothing, False

    def end(self) -> None:
        """Call nothing; the event loop lets go of this at once."""
        self.stop()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _wake_at_end(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._wakes_s = self._ends_s
        self._handle = asyncio.get_running_loop().call_at(self._wakes_s, self._wake)

    def _wake(self) -> None:
        self._handle = None
        if not self.is_running:
            return
        # Not by the clock: a loop may wake a little early, and would be asked again at once.
        if self._wakes_s < self._ends_s:
            self._wake_at_end()
            return
        act = self._act
        self.stop()
        act()


def _nothing() -> None:
    pass


class Outflow:
    """Whether a peer takes what is written to it, and how long it may not.

    Args:
        limit_s: Seconds that it may leave something; after them its connection is aborted.
        abort: Does that.
    """

    def __init__(self, limit_s: float, abort: Callable[[], object]) -> None:
        self._limit_s = limit_s
        self._abort = abort
        self._timer = Timer()
        self._taken = asyncio.Event()
        self._is_last = False
        self.is_blocked = False
        """Whether too much waits for the peer."""

    def limit(self) -> None:
        """Give the peer its time for all that waits, from now on: nothing more is written."""
        self._is_last = True
        self._timer.start(self._limit_s, self._abort)

    def block(self) -> None:
        """Too much waits."""
        self.is_blocked = True
        self._taken.clear()
        self._timer.start(self._limit_s, self._abort)

    def unblock(self) -> None:
        """The peer has taken most of it, or has gone."""
        if not self._is_last:
            self._timer.stop()
        self.is_blocked = False
        self._taken.set()

    def end(self) -> None:
        """Forget the peer, which has gone or which another one writes to."""
        self.unblock()
        self._timer.end()

    async def wait(self) -> None:
        """Return once it is not blocked."""
        while self.is_blocked:
            await self._taken.wait()


def peer_addresses(transport: asyncio.Transport) -> dict[str, Any]:
    """Both ends and the scheme, as an ASGI scope has them; and the peer that limits count."""

    def pair(name: str) -> tuple[str, int] | None:
        found = transport.get_extra_info(name)
        return (found[0], found[1]) if isinstance(found, tuple) else None

    client = pair("peername")
    return {
        "client": client,
        "server": pair("sockname"),
        "is_tls": transport.get_extra_info("sslcontext") is not None,
        "peer": network_of(client[0]) if client is not None else "",
    }


def has_hung_up(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed its end, even behind bytes that have not been read.

    A peer that closes its sending half alone counts, too: no HTTP client of note does so. Where
    the system does not tell (only Linux does), the answer is `False` until the bytes are read.
    """
    if transport.is_closing():
        return True
    if not hasattr(select, "POLLRDHUP"):
        return False
    socket = transport.get_extra_info("socket")
    if socket is None or socket.fileno() < 0:
        return socket is not None
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
