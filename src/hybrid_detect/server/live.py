"""Live results: what the pictures of a session are answered with, to all who watch it.

A session has no end of its own: pictures that name it may come at any time. For those who watch, it
ends when the last stream that brought its pictures says goodbye.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hybrid_detect.exchange.wire import CREDENTIAL_ENDED, ResultReply

__all__ = [
    "GONE",
    "IDLE",
    "NOT_WELCOME",
    "PRESENCE",
    "SESSION_ENDED",
    "LiveSessions",
    "Presence",
    "TooManyWatchersError",
    "WatchEnd",
    "Watcher",
]

MAX_WAITING = 2
"""Results that wait for a watcher. Of more the oldest are left out: what is live is the newest."""

MAX_SESSIONS_PER_STREAM = 16
"""Sessions that a stream is remembered to have brought. A camera has one; what a stream names
beyond these is shown, but does not end with the stream."""


PRESENCE = "hybrid_detect.presence"
"""Where the ASGI scope of a stream has its `Presence`."""


@dataclass(frozen=True, slots=True)
class WatchEnd:
    """Why there is nothing more to watch."""

    code: int
    """The close code of a WebSocket that says so."""
    reason: str


SESSION_ENDED = WatchEnd(1000, "the session has ended")
IDLE = WatchEnd(1001, "idle")
NOT_WELCOME = WatchEnd(1008, CREDENTIAL_ENDED)
_STOPPING = WatchEnd(1012, "the server is being stopped")
GONE = WatchEnd(1006, "")
"""Who watched has gone itself."""


class TooManyWatchersError(Exception):
    """As many watch as may.

    Args:
        of_session: Whether it is this session that has as many, rather than the server.
    """

    def __init__(self, *, of_session: bool) -> None:
        super().__init__("of this session" if of_session else "of all sessions")
        self.of_session = of_session


@dataclass(slots=True, eq=False)
class _Session:
    results: int = 0
    streams: int = 0
    watchers: set[Watcher] = field(default_factory=set)


class Watcher:
    """One who watches; made by `LiveSessions.watch`, and let go with `close`."""

    def __init__(self, forget: Callable[[Watcher], None]) -> None:
        self._forget = forget
        self._waiting: deque[ResultReply] = deque(maxlen=MAX_WAITING)
        self._news = asyncio.Event()
        self.end: WatchEnd | None = None
        """Why there is nothing more; `None` while there may be."""

    async def next(self) -> ResultReply | None:
        """The next result, as soon as there is one; `None` once there will be none."""
        while not self._waiting:
            if self.end is not None:
                return None
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    def give(self, reply: ResultReply) -> None:
        """Have it see `reply`, unless it is so slow that newer ones come first."""
        self._waiting.append(reply)
        self._news.set()

    def close(self, end: WatchEnd = GONE) -> None:
        """Let it see what waits already and nothing more."""
        if self.end is None:
            self.end = end
            self._news.set()
            self._forget(self)


class LiveSessions:
    """Hands each result to all who watch its session. Nothing is kept for those who come later.

    Args:
        max_watchers: Watchers at the same time, of all sessions.
        max_per_session: Watchers of one session.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        *,
        max_watchers: int,
        max_per_session: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_watchers = max_watchers
        self._max_per_session = max_per_session
        self._clock = clock
        # Those alone that are watched, or brought by a stream; by owner and name.
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._watchers = 0
        self._is_closed = False
        self.elsewhere: Callable[[str, str, ResultReply], None] = lambda *_: None
        """Is given each result with its owner and session, for those who watch elsewhere."""

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def watchers(self) -> int:
        """Those who watch."""
        return self._watchers

    def watch(self, owner: str, name: str) -> Watcher:
        """Watch the session `name` of `owner` from now on, whether or not it has begun.

        Raises:
            TooManyWatchersError: If as many watch already as may.
        """
        known = self._sessions.get((owner, name))
        if self._watchers >= self._max_watchers:
            raise TooManyWatchersError(of_session=False)
        if known is not None and len(known.watchers) >= self._max_per_session:
            raise TooManyWatchersError(of_session=True)
        session = self._session(owner, name)

        def forget(watcher: Watcher) -> None:
            session.watchers.discard(watcher)
            self._watchers -= 1
            self._forget_if_unused(owner, name)

        watcher = Watcher(forget)
        session.watchers.add(watcher)
        self._watchers += 1
        if self._is_closed:
            watcher.close(_STOPPING)
        return watcher

    def watched(self) -> list[tuple[str, str]]:
        """Owner and name of each session that is watched here."""
        return [key for key, session in self._sessions.items() if session.watchers]

    def publish(self, owner: str, name: str | None, reply: ResultReply) -> None:
        """Show `reply` to all who watch its session; never waits for any of them."""
        if name:
            self.elsewhere(owner, name, reply)
            self.show(owner, name, reply)

    def show(self, owner: str, name: str, reply: ResultReply) -> None:
        """Show `reply` to those who watch its session at this server."""
        session = self._sessions.get((owner, name))
        if session is None:
            return
        session.results += 1
        if session.watchers:
            shown = replace(reply, number=session.results, at_s=self._clock())
            for watcher in session.watchers:
                watcher.give(shown)

    def presence(self, owner: str) -> Presence:
        """The sessions that one stream of `owner` brings; none yet."""
        return Presence(self, owner)

    def close(self) -> None:
        """The server is being stopped: nothing more is shown."""
        self._is_closed = True
        for session in list(self._sessions.values()):
            _end(session, _STOPPING)

    def joined(self, owner: str, name: str) -> None:
        """A stream brings pictures of the session."""
        self._session(owner, name).streams += 1

    def left(self, owner: str, name: str, *, for_good: bool) -> None:
        """A stream that had joined has ended; `for_good` if it said goodbye."""
        session = self._session(owner, name)
        session.streams -= 1
        if for_good and not session.streams:
            _end(session, SESSION_ENDED)
        self._forget_if_unused(owner, name)

    def _session(self, owner: str, name: str) -> _Session:
        return self._sessions.setdefault((owner, name), _Session())

    def _forget_if_unused(self, owner: str, name: str) -> None:
        session = self._sessions.get((owner, name))
        if session is not None and not session.watchers and not session.streams:
            del self._sessions[owner, name]


class Presence:
    """The sessions that one stream brings pictures of."""

    def __init__(self, live: LiveSessions, owner: str) -> None:
        self._live = live
        self._owner = owner
        self._names: set[str] | None = set()  # `None` once it has ended

    def note(self, name: str | None) -> None:
        """A picture of the session `name` has come; `None` if it names none."""
        names = self._names
        if names is None or not name or name in names:
            return
        if len(names) < MAX_SESSIONS_PER_STREAM:
            names.add(name)
            self._live.joined(self._owner, name)

    def leave(self, *, for_good: bool) -> None:
        """The stream has ended; `for_good` if it said goodbye, rather than broke."""
        names, self._names = self._names, None
        for name in names or ():
            self._live.left(self._owner, name, for_good=for_good)


def _end(session: _Session, end: WatchEnd) -> None:
    for watcher in list(session.watchers):
        watcher.close(end)
