"""Which pictures a detector is given, in which order: those that can be answered in time.

A server that lets every picture wait answers none in time once it is overloaded. So a picture is
let in only if it, and everything that is promised a turn already, is expected to end before its
deadline; the rest is refused at once, while its client can still do something else. Among those
that wait, the one with the least time left is next.

How long a look takes is measured for each level, not configured: a smoothed mean and deviation of
the looks that ended well (the estimator of RFC 6298, 2). A picture is let in if it and the others
can end in time at the quickest level; when its turn comes it gets the most thorough one, up to the
one asked for, that leaves the others their time (`level_choice`).
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import heapq
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from hybrid_detect.server.level_choice import level_for, ranked
from hybrid_detect.types import QualityLevel

__all__ = [
    "Admission",
    "Look",
    "OverloadedError",
    "ServiceTime",
    "StoppingError",
    "TooLateError",
]

PATIENCE_S = 10.0
"""Seconds for a picture whose client names no deadline."""

REPLY_SHARE = 0.05
"""Of a deadline, what is kept for the answer to get back. The server cannot know that time: its
client measures the deadline on its own clock."""

MEAN_GAIN, DEVIATION_GAIN, DEVIATIONS = 1 / 8, 1 / 4, 4
"""Of RFC 6298, 2: how much one look moves the estimate, and how many deviations make it safe."""


FORGET_S = 10.0
"""Seconds after which an estimate of a level that was not used is forgotten. A level is left alone
while it seems too slow; without this, one slow look would rule it out for ever."""


class OverloadedError(Exception):
    """It could not be looked at in time, or too many pictures are waiting already."""


class TooLateError(Exception):
    """The answer would be of no use any more: its deadline passed, or its client has gone."""


class StoppingError(Exception):
    """The server is being stopped."""


class ServiceTime:
    """What a look takes: a mean, and a bound that few looks exceed.

    Args:
        guess_s: What it is taken to be before the first look; 0 lets everything in.
    """

    def __init__(self, guess_s: float = 0.0) -> None:
        self.guess_s = self.mean_s = guess_s
        self._deviation_s = 0.0
        self.is_known = False
        """Whether a look was measured."""

    @property
    def safe_s(self) -> float:
        """A bound that few looks exceed."""
        return self.mean_s + DEVIATIONS * self._deviation_s

    def observe(self, seconds: float) -> None:
        """Take one look into account."""
        if not self.is_known:
            self.is_known = True
            self.mean_s, self._deviation_s = seconds, seconds / 2
            return
        error_s = abs(seconds - self.mean_s)
        self._deviation_s += DEVIATION_GAIN * (error_s - self._deviation_s)
        self.mean_s += MEAN_GAIN * (seconds - self.mean_s)


@dataclass(slots=True, eq=False)
class Look:
    """A picture's place at a detector, or its wait for one."""

    ends_s: float
    """When its answer must have left."""
    turn: asyncio.Future[None]
    asked: QualityLevel
    """The level that was asked for."""
    level: QualityLevel
    """The level to look at, once it has begun."""
    came_s: float
    began_s: float = 0.0
    looks: int = 1
    """Looks that it may turn into: see `Admission.may_look_again`."""

    @property
    def queue_s(self) -> float:
        """Seconds that it waited."""
        return self.began_s - self.came_s


class Admission:
    """Places at the detectors, and the pictures that wait for one.

    Args:
        max_waiting: Pictures that may wait, whatever their deadlines.
        clock: Seconds that only grow.
    """

    def __init__(self, *, max_waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_waiting = max_waiting
        self._clock = clock
        self._places = 0
        self._running: set[Look] = set()
        self._waiting: list[Look] = []  # the least time left first
        self.is_closed = False
        """Whether nothing is let in any more."""
        self._levels: tuple[QualityLevel, ...] = (QualityLevel.FAST,)
        self.times = {QualityLevel.FAST: ServiceTime()}
        """What a look takes, by level."""
        self._last_s: dict[QualityLevel, float] = {}  # the end of the last look, by level

    @property
    def waiting(self) -> int:
        """Pictures that wait."""
        return len(self._waiting)

    @property
    def looking(self) -> int:
        """Pictures that are looked at."""
        return len(self._running)

    @property
    def places(self) -> int:
        """Pictures that can be looked at at the same time."""
        return self._places

    @property
    def offered(self) -> tuple[QualityLevel, ...]:
        """The levels that can be looked at now."""
        return self._levels

    def open(self, places: int) -> None:
        """Let pictures in, at most `places` at a time."""
        self._places = places
        self._fill()

    def offer(self, guesses_s: Mapping[QualityLevel, float]) -> None:
        """Look at these levels from now on.

        Args:
            guesses_s: For each of them, the seconds that a look is taken to need until one has
                been measured.
        """
        self._levels = ranked(tuple(guesses_s))
        for level, guess_s in guesses_s.items():
            if level not in self.times or not self.times[level].is_known:
                self.times[level] = ServiceTime(guess_s)

    def may_look_again(self, look: Look, looks: int) -> bool:
        """Whether one that has just begun may become `looks` looks; it counts as those then.

        Only if it ends in time, and leaves those their time who were promised a turn.
        """
        if looks * self.times[look.level].mean_s > look.ends_s - look.began_s:
            return False
        look.looks = looks
        if self._can_all_end():
            return True
        look.looks = 1
        return False

    def close(self) -> None:
        """Refuse what waits, and what comes from now on. Looks under way go on."""
        self.is_closed = True
        waiting, self._waiting = self._waiting, []
        for look in waiting:
            if not look.turn.done():
                look.turn.set_exception(StoppingError())

    @contextlib.asynccontextmanager
    async def place(
        self,
        deadline_s: float | None = None,
        *,
        asked: QualityLevel = QualityLevel.FAST,
        is_abandoned: Callable[[], Awaitable[bool]] | None = None,
    ) -> AsyncIterator[Look]:
        """A place for one look, with the level to look at.

        What ends without an exception is measured; what fails says nothing about a look's time.

        Args:
            deadline_s: Seconds from now after which the answer is of no use; `None` if unknown.
            asked: The most thorough level that the look may have.
            is_abandoned: Asked at the turn, because a look for a client that has gone would only
                delay the others.

        Raises:
            OverloadedError: If it would not be its turn in time, or would make another one late.
            TooLateError: If its time ran out while it waited after all, or its client went.
            StoppingError: If the server is being stopped.
        """
        came_s = self._clock()
        patience_s = PATIENCE_S if deadline_s is None else deadline_s * (1 - REPLY_SHARE)
        turn = asyncio.get_running_loop().create_future()
        look = Look(came_s + patience_s, turn, asked, self._levels[0], came_s)
        self._admit(look)
        try:
            await look.turn
            if is_abandoned is not None and await is_abandoned():
                raise TooLateError
            yield look
            self._observe(look)
        finally:
            if look in self._waiting:
                self._waiting.remove(look)
            self._running.discard(look)
            self._fill()

    def _admit(self, look: Look) -> None:
        if self.is_closed:
            raise StoppingError
        if self._clock() >= look.ends_s:
            raise TooLateError
        if not self._waiting and len(self._running) < self._places:
            # A free detector is used, even if the estimate says no: it could not recover else.
            self._begin(look)
            return
        if len(self._waiting) >= self._max_waiting:
            raise OverloadedError
        bisect.insort(self._waiting, look, key=lambda each: each.ends_s)
        if self._places and not self._can_all_end():
            self._waiting.remove(look)
            raise OverloadedError

    def _observe(self, look: Look) -> None:
        now_s = self._clock()
        if (time := self.times.get(look.level)) is not None:
            took_s = now_s - look.began_s
            # How many there were is not told. The time of one that is nearest to what is known:
            time.observe(min(max(time.mean_s, took_s / look.looks), took_s))
            self._last_s[look.level] = now_s

    def _can_all_end(self, first: QualityLevel | None = None) -> bool:
        """Whether each that waits can end in time, in their order, at the quickest level.

        Args:
            first: The level of a look that would begin before them.
        """
        now_s = self._clock()
        mean_s, margin_s = self._quickest.mean_s, self._quickest.safe_s - self._quickest.mean_s
        ends = [
            max(look.began_s + look.looks * self.times[look.level].mean_s, now_s)
            for look in self._running
        ]
        if first is not None:
            ends.append(now_s + self.times[first].mean_s)
        ends += [now_s] * (self._places - len(ends))
        heapq.heapify(ends)
        for look in self._waiting:
            end_s = ends[0] + mean_s
            if end_s + margin_s > look.ends_s:
                return False
            heapq.heapreplace(ends, end_s)
        return True

    def _fill(self) -> None:
        """Give free places to those that wait and can still end in time."""
        while self._waiting and len(self._running) < self._places:
            look = self._waiting.pop(0)
            if look.turn.done():  # cancelled
                continue
            if self._clock() + self._quickest.safe_s > look.ends_s:
                look.turn.set_exception(TooLateError())
            else:
                self._begin(look)

    @property
    def _quickest(self) -> ServiceTime:
        return self.times[self._levels[0]]

    def _level_for(self, look: Look) -> QualityLevel:
        now_s = self._clock()
        for level in self._levels[1:]:
            if now_s - self._last_s.get(level, now_s) > FORGET_S:
                self.times[level] = ServiceTime(self.times[level].guess_s)
                del self._last_s[level]
        return level_for(
            look.asked,
            self._levels,
            safe_s={level: self.times[level].safe_s for level in self._levels},
            left_s=look.ends_s - now_s,
            queue_share=len(self._waiting) / self._max_waiting,
            leaves_time=self._can_all_end,
        )

    def _begin(self, look: Look) -> None:
        look.level = self._level_for(look)
        look.began_s = self._clock()
        self._running.add(look)
        look.turn.set_result(None)
