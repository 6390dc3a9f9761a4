"""Which pictures a detector is given, in which order: those that can be answered in time.

A server that lets every picture wait answers none in time once it is overloaded. So a picture is
let in only if it, and everything that is promised a turn already, is expected to end before its
deadline; the rest is refused at once, while its client can still do something else. Callers take
turns (`fair_turns`), and among a caller's pictures the one with the least time left is next. A
picture of a caller that has fewer waiting takes the place of one of a caller that has more, so that
a flood is refused and not those beside it.

How long a look takes is measured for each level, not configured: a smoothed mean and deviation of
the looks that ended well (`level_times`, `service_time`). A picture is let in if it and the others
can end in time at the quickest level; when its turn comes it gets the most thorough one, up to the
one asked for, that leaves the others their time (`level_choice`).
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from hybrid_detect.server.fair_turns import FairTurns
from hybrid_detect.server.level_times import LevelTimes
from hybrid_detect.server.looks import (
    EXPECTED_S,
    Ends,
    Expected,
    Look,
    OverloadedError,
    Refusal,
    StoppingError,
    TooLateError,
    patience_of,
)
from hybrid_detect.types import QualityLevel

__all__ = ["Admission", "OverloadedError", "StoppingError", "TooLateError"]

MOST_DISPLACED = 3
"""Pictures that may have to go for one of a caller with fewer: one makes room for one, but those
behind it may have been promised more exactly than that."""

PRESSED_S = 1.0
"""Seconds after a refusal in which another is expected: a load that a server cannot take lasts
longer. Before the first, and a second after the last, no picture pays for that. Chosen."""

STARTING_S = 1.0
"""What a server asks for that is not ready yet."""


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
        self._waiting: list[Look] = []
        self._turns = FairTurns()
        self.is_closed = False
        """Whether nothing is let in any more."""
        self._times = LevelTimes()
        self.times = self._times.of
        """What a look takes, by level."""
        # By caller; until who waits, what is looked at or how long that takes changes.
        self._refusals: dict[str, Refusal] = {}
        self._expected = Expected()
        self._refused_s = -math.inf  # when the last was

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
        return self._times.levels

    @property
    def is_pressed(self) -> bool:
        """Whether as many wait as may, or one was refused in the last `PRESSED_S`."""
        is_full = len(self._waiting) >= self._max_waiting
        return is_full or self._clock() - self._refused_s < PRESSED_S

    def refusal(
        self, deadline_s: float | None = None, *, caller: str = "", expects: bool = False
    ) -> float | None:
        """What a picture would be told that came now; it is promised nothing.

        It takes little time: what is found for a caller holds until anything changes here.

        Args:
            deadline_s: As for `place`.
            caller: As for `place`.
            expects: Whether the picture is on its way. If it is let in, what comes now is weighed
                as if it were waiting already, until it comes, or for `EXPECTED_S`. If it does not
                come by then, none of its caller's is expected until one has. One that has come
                whole is let in whatever is expected.

        Returns:
            Seconds until it can be let in, if it would be refused for want of a detector; `None`
            if it would not.
        """
        now_s, patience_s = self._clock(), patience_of(deadline_s)
        if self._expected and self._expected.forget_before(now_s - EXPECTED_S):
            self._refusals.clear()
        if patience_s <= 0 or not self._places or self.is_closed:
            return None  # what waits does not decide that
        is_free = not self._waiting and len(self._running) + len(self._expected) < self._places
        if is_free and not expects:
            return None
        quick, known = self._times.quickest, None if is_free else self._refusals.get(caller)
        wait_s = 0.0 if known is None else known.wait_s(now_s, patience_s, quick.safe_s)
        if known is None or not (known.lasts or (wait_s > 0 and patience_s <= known.patience_s)):
            look = self.place(deadline_s, caller=caller)
            before = self._expected.among(self._waiting, now_s, quick.safe_s)
            displaced = self._displaced_by(look, before)
            if displaced is not None and expects and caller not in self._expected.missed:
                self._refusals.clear()
                self._expected.add(look, displaced)
            if displaced is not None or is_free:
                return None
            # The clock has gone on since `place`: by what is left, an equal one would not be known.
            known = self._refusal_of(look, before)._replace(patience_s=patience_s)
            self._refusals[caller] = known
            wait_s = known.wait_s(now_s, patience_s, quick.safe_s)
        self._refused_s = now_s
        return wait_s if wait_s > quick.mean_s else quick.mean_s

    def open(self, places: int) -> None:
        """Let pictures in, at most `places` at a time."""
        self._refusals.clear()
        self._places = places
        self._fill(self._clock())

    def offer(self, guesses_s: Mapping[QualityLevel, float]) -> None:
        """Look at these levels from now on.

        Args:
            guesses_s: For each of them, the seconds that a look is taken to need until one has
                been measured.
        """
        self._refusals.clear()
        self._times.offer(guesses_s)

    def may_look_again(self, look: Look, looks: int) -> bool:
        """Whether one that has just begun may become `looks` looks; it counts as those then.

        Only if it ends in time, and leaves those their time who were promised a turn.
        """
        if looks * self.times[look.level].mean_s > look.ends_s - look.began_s:
            return False
        self._refusals.clear()
        look.looks = looks
        if self._first_late(self._ordered(self._waiting)) is None:
            return True
        look.looks = 1
        return False

    def close(self) -> None:
        """Refuse what waits, and what comes from now on. Looks under way go on."""
        self.is_closed = True
        self._refusals.clear()
        waiting, self._waiting = self._waiting, []
        for look in waiting:
            if not look.turn.done():
                look.turn.set_exception(StoppingError())

    def place(
        self,
        deadline_s: float | None = None,
        *,
        asked: QualityLevel = QualityLevel.FAST,
        caller: str = "",
        is_abandoned: Callable[[], Awaitable[bool]] | None = None,
    ) -> Look:
        """A place for one look, with the level to look at; from the moment that it is entered.

        What ends without an exception is measured; what fails says nothing about a look's time.

        Args:
            deadline_s: Seconds from now after which the answer is of no use; `None` if unknown.
            asked: The most thorough level that the look may have.
            caller: Who sent the picture; callers take turns.
            is_abandoned: Asked at the turn, because a look for a client that has gone would only
                delay the others.

        Raises:
            OverloadedError: If it would not be its turn in time, would make another one late, or
                had to go for a caller with fewer pictures.
            TooLateError: If its time ran out while it waited after all, or its client went.
            StoppingError: If the server is being stopped.
        """
        now_s, turn = self._clock(), asyncio.get_running_loop().create_future()
        ends_s = now_s + patience_of(deadline_s)
        return Look(self, ends_s, turn, asked, self._times.levels[0], now_s, caller, is_abandoned)

    async def enter(self, look: Look) -> Look:
        """Wait for the turn of `look`, or refuse it; see `place`."""
        self._admit(look)
        try:
            await look.turn
            if look.is_abandoned is not None and await look.is_abandoned():
                raise TooLateError
        except BaseException:
            self.leave(look, has_ended_well=False)
            del look.turn  # its error holds this frame: each would hold the other, and the picture
            raise
        return look

    def leave(self, look: Look, *, has_ended_well: bool) -> None:
        """End the look, or its wait; what `has_ended_well` is measured."""
        self._refusals.clear()
        now_s = self._clock()
        if has_ended_well:
            self._times.observe(look, now_s)
        if look in self._running:
            self._running.remove(look)
            took_s = now_s - look.began_s
            self._turns.end(look.caller, counted_s=look.counted_s, took_s=took_s)
        elif look in self._waiting:
            self._waiting.remove(look)
        self._fill(now_s)
        if not (self._running or self._waiting):
            self._turns.rest()

    def _admit(self, look: Look) -> None:
        if self._expected.take(look.caller):
            self._refusals.clear()
        if self.is_closed:
            raise StoppingError
        if (now_s := self._clock()) >= look.ends_s:
            raise TooLateError
        if not self._waiting and len(self._running) < self._places:
            # A free detector is used, even if the estimate says no: it could not recover else.
            self._begin(look, now_s)
            return
        displaced = self._displaced_by(look, self._waiting)
        if displaced is None or displaced:
            self._refused_s = look.came_s
        if displaced is None:
            raise OverloadedError(self._retry_after_s(look))
        self._refusals.clear()
        self._waiting.append(look)
        for other in displaced:
            self._waiting.remove(other)
            if not other.turn.done():
                other.turn.set_exception(OverloadedError(self._retry_after_s(other)))

    def _displaced_by(self, look: Look, before: Sequence[Look]) -> list[Look] | None:
        """Those of `before` that must go so that `look` can wait; `None` if it cannot."""
        if self._places and len(before) < self._max_waiting:
            # Mostly none is late even if the place that is free first looked at all of them.
            quick = self._times.quickest
            last_s = self._free_s() + len(before) * quick.mean_s + quick.safe_s
            if last_s <= look.ends_s:
                for each in before:
                    if last_s > each.ends_s:
                        break
                else:
                    return []
        order = self._ordered([*before, look])
        displaced: list[Look] = []
        while True:
            too_late = self._first_late(order) if self._places else None
            if too_late is None and len(order) > self._max_waiting:
                too_late = len(order) - 1
            if too_late is None:
                return displaced
            counts = Counter(each.caller for each in order)
            most = max(counts, key=counts.__getitem__)
            if counts[most] <= counts[look.caller] or len(displaced) == MOST_DISPLACED:
                return None
            # Those behind it keep their times; the last before would be as late as itself else.
            theirs = [each for each in order[: too_late + 1] if each.caller == most]
            if not theirs:
                return None
            displaced.append(theirs[-1])
            order.remove(theirs[-1])

    def _retry_after_s(self, look: Look) -> float:
        """Seconds until a picture like `look` can be let in behind those that wait now."""
        if not self._places:
            return STARTING_S
        now_s, quick = self._clock(), self._times.quickest
        refusal = self._refusal_of(look, self._waiting)
        return max(refusal.wait_s(now_s, look.ends_s - now_s, quick.safe_s), quick.mean_s)

    def _refusal_of(self, look: Look, before: Sequence[Look]) -> Refusal:
        order, first_s = self._ordered(before), self._free_s()
        ends, safe_s = self._ends(order), self._times.quickest.safe_s
        # A place among those that wait is free once so many have begun.
        begun = len(order) - self._max_waiting
        room_s = ends.begins_s[begun] if begun >= 0 else -math.inf
        # It would make no other go, and what is late now is late behind it as well.
        count = Counter(each.caller for each in order)
        has_most = count[look.caller] + 1 >= max(count.values(), default=0)
        lasts = has_most and (begun >= 0 or ends.first_late(order, safe_s) is not None)
        patience_s = look.ends_s - self._clock()
        return Refusal(patience_s, min(ends.free_s), room_s, first_s, lasts)

    def _ordered(self, looks: Iterable[Look]) -> list[Look]:
        return self._turns.ordered(looks, look_s=self._times.quickest.mean_s)

    def _can_all_end(self, first: QualityLevel) -> bool:
        """Whether each that waits can end in time behind a look at that level."""
        return self._first_late(self._ordered(self._waiting), first) is None

    def _first_late(self, order: Sequence[Look], first: QualityLevel | None = None) -> int | None:
        """Where in `order` the first is that could not end in time; `None` if all can.

        Args:
            order: Those that wait, in the order of their turns.
            first: The level of a look that would begin before them.
        """
        return self._ends(order, first).first_late(order, self._times.quickest.safe_s)

    def _ends(self, order: Sequence[Look], first: QualityLevel | None = None) -> Ends:
        """When each of `order` begins at the quickest level, and when places are free then."""
        now_s, mean_s = self._clock(), self._times.quickest.mean_s
        free_s = [
            max(look.began_s + look.looks * self.times[look.level].mean_s, now_s)
            for look in self._running
        ]
        if first is not None:
            free_s.append(now_s + self.times[first].mean_s)
        free_s += [now_s] * (self._places - len(free_s))
        heapq.heapify(free_s)
        begins_s = [heapq.heapreplace(free_s, free_s[0] + mean_s) for _ in order]
        return Ends(begins_s, free_s)

    def _free_s(self) -> float:
        """When the first place is free that those who wait could have."""
        now_s, first_s = self._clock(), math.inf
        if len(self._running) < self._places:
            return now_s
        for look in self._running:
            ends_s = look.began_s + look.looks * self.times[look.level].mean_s
            if ends_s < first_s:
                first_s = ends_s
        return first_s if first_s > now_s else now_s

    def _fill(self, now_s: float) -> None:
        """Give free places to those that wait and can still end in time.

        A bound that none of them can keep is not held against them: it may be that of one slow
        look, and the detector would be idle.
        """
        while self._waiting and len(self._running) < self._places:
            quick, look = self._times.quickest, self._turns.first(self._waiting)
            ends_s = now_s + quick.safe_s
            if ends_s > look.ends_s and ends_s > max(each.ends_s for each in self._waiting):
                ends_s = now_s + quick.mean_s
            self._waiting.remove(look)
            if look.turn.done():  # cancelled
                continue
            if ends_s > look.ends_s:
                look.turn.set_exception(TooLateError())
            else:
                self._begin(look, now_s)

    def _begin(self, look: Look, now_s: float) -> None:
        look.level = self._times.levels[0]
        if look.asked is not look.level:  # else the others are too thorough, whatever they take
            share = len(self._waiting) / self._max_waiting
            look.level = self._times.level_for(
                look, now_s, queue_share=share, leaves_time=self._can_all_end
            )
        look.began_s, look.queue_s = now_s, now_s - look.came_s
        look.counted_s = self._turns.begin(look.caller, self.times[look.level].mean_s)
        self._running.add(look)
        look.turn.set_result(None)
