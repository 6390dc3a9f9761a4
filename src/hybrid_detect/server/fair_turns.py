"""Whose turn it is: callers take turns, whatever each of them sends.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each caller has a virtual time that
grows with the seconds of looking that it was given, and the caller that is least ahead is next. So
a flood of one caller delays another by no more than the looks that have begun. Among pictures of
the same virtual time, as those of callers that send one each, the one with the least time left is
next; among a caller's own, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Protocol, TypeVar

__all__ = ["FairTurns", "Waiting"]

LEAST_S = 0.001
"""What a look counts for at least, before any was measured: else all turns would be equal."""

MAX_CALLERS = 256
"""Callers of more than which half are forgotten, those who are ahead of the fewest first."""


class Waiting(Protocol):
    """What waits for its turn."""

    @property
    def caller(self) -> str:
        """Who sent it."""

    @property
    def ends_s(self) -> float:
        """When its answer must have left."""


_Waiting = TypeVar("_Waiting", bound=Waiting)
_ENDS_S = attrgetter("ends_s")


class FairTurns:
    """The callers' virtual times."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._ahead_s: dict[str, float] = {}

    def ordered(self, waiting: Iterable[_Waiting], *, look_s: float) -> list[_Waiting]:
        """`waiting` in the order of their turns.

        Args:
            waiting: In any order.
            look_s: Seconds that a look is expected to take.
        """
        look_s = max(look_s, LEAST_S)
        starts_s: dict[str, float] = {}
        tagged = []
        for number, each in enumerate(sorted(waiting, key=_ENDS_S)):
            start_s = starts_s.get(each.caller)
            if start_s is None:
                start_s = self._start_s(each.caller)
            starts_s[each.caller] = start_s + look_s
            tagged.append((start_s, number, each))  # the least time left first among equals
        tagged.sort()
        return [each for _, _, each in tagged]

    def first(self, waiting: Iterable[_Waiting]) -> _Waiting:
        """The first of `waiting`, of which there is one at least, in the order of their turns."""
        # The first of each caller has the caller's own start, whatever a look takes. With every
        # look that ends, one of all that wait is chosen: so there is no call for each of them.
        first, *others = waiting
        if not others:
            return first
        caller, start_s = first.caller, self._start_s(first.caller)
        first_s = start_s
        for each in others:
            if each.caller != caller:
                caller, start_s = each.caller, self._start_s(each.caller)
            if start_s < first_s or (start_s == first_s and each.ends_s < first.ends_s):
                first, first_s = each, start_s
        return first

    def begin(self, caller: str, look_s: float) -> float:
        """A look for `caller` begins, which is expected to take that long; what it counts for."""
        look_s = look_s if look_s > LEAST_S else LEAST_S
        ahead_s = self._ahead_s.get(caller, 0.0)
        if ahead_s > self._now_s:
            self._now_s = ahead_s
        self._ahead_s[caller] = self._now_s + look_s
        if len(self._ahead_s) > MAX_CALLERS:
            most_first = sorted(self._ahead_s.items(), key=lambda pair: pair[1], reverse=True)
            self._ahead_s = dict(most_first[: MAX_CALLERS // 2])
        return look_s

    def end(self, caller: str, *, counted_s: float, took_s: float) -> None:
        """A look has ended: let it count for what it took, in place of what was expected."""
        if caller in self._ahead_s:
            self._ahead_s[caller] += (took_s if took_s > LEAST_S else LEAST_S) - counted_s

    def rest(self) -> None:
        """Nothing waits or is looked at: what callers were given before counts no longer.

        Else one that was given much would have to wait behind the others whenever it came again.
        """
        self._now_s = 0.0
        self._ahead_s.clear()

    def _start_s(self, caller: str) -> float:
        ahead_s = self._ahead_s.get(caller, 0.0)
        return ahead_s if ahead_s > self._now_s else self._now_s
