"""A picture at the detectors' door: its wait for a place, the place, and why it gets none."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hybrid_detect.types import QualityLevel

if TYPE_CHECKING:
    from hybrid_detect.server.admission import Admission

__all__ = [
    "EXPECTED_S",
    "Ends",
    "Expected",
    "Look",
    "OverloadedError",
    "Refusal",
    "StoppingError",
    "TooLateError",
    "patience_of",
]

PATIENCE_S = 10.0
"""Seconds for a picture whose client names no deadline."""

REPLY_SHARE = 0.05
"""Of a deadline, what is kept for the answer to get back. The server cannot know that time: its
client measures the deadline on its own clock."""

EXPECTED_S = 0.05
"""Seconds in which a picture that was let in by its first bytes has to come whole; after that it
is not expected any more. Chosen: 80 KB at 13 Mbit/s."""


MAX_MISSED = 256
"""Callers whose pictures did not come that are known; more are forgotten."""


class OverloadedError(Exception):
    """It could not be looked at in time, or too many pictures are waiting already.

    Args:
        retry_after_s: Seconds until one like it can be let in, if no other comes meanwhile.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class TooLateError(Exception):
    """The answer would be of no use any more: its deadline passed, or its client has gone."""


class StoppingError(Exception):
    """The server is being stopped."""


@dataclass(slots=True, eq=False)
class Look:
    """A picture's wait for a place at a detector, and the place, while its block lasts."""

    admission: Admission = field(repr=False)
    ends_s: float
    """When its answer must have left."""
    turn: asyncio.Future[None]
    asked: QualityLevel
    """The level that was asked for."""
    level: QualityLevel
    """The level to look at, once it has begun."""
    came_s: float
    caller: str
    """Who sent it."""
    is_abandoned: Callable[[], Awaitable[bool]] | None = None
    """Tells whether its client has gone; asked at the turn."""
    began_s: float = 0.0
    queue_s: float = 0.0
    """Seconds that it waited."""
    counted_s: float = 0.0
    """What it counts for among its caller's looks while it goes on."""
    looks: int = 1
    """Looks that it may turn into: see `admission.Admission.may_look_again`."""
    yields_until_s: float = -math.inf
    """Until when another picture is expected, for which this one would have to go."""

    def __aenter__(self) -> Awaitable[Look]:
        return self.admission.enter(self)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.admission.leave(self, has_ended_well=kind is None)


class Expected(deque[Look]):
    """Pictures that were let in by their first bytes and have not come whole; the oldest first.

    A place that the first of them will take is not promised to others that begin to come meanwhile.
    Otherwise each of these would be let in for it, and be refused only once all of it was read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missed: set[str] = set()
        """Callers whose pictures did not come, and have not since. Else a caller that begins many
        and ends none would keep places free without a cost."""

    def add(self, look: Look, displaced: list[Look]) -> None:
        """Expect `look`, for which the `displaced` would have to go: they wait or are expected."""
        self.append(look)
        for other in displaced:  # else the next one would have to displace them as well
            other.yields_until_s = look.came_s + EXPECTED_S

    def among(self, waiting: list[Look], now_s: float, safe_s: float) -> list[Look]:
        """The pictures that one which comes now is weighed against, for a look of `safe_s`.

        An expected one that cannot be in time any more is none of them. It may have been let in
        for a free detector, which takes a picture however little time it has.
        """
        if not self:
            return waiting
        in_time = (each for each in self if each.ends_s >= now_s + safe_s)
        return [each for each in (*waiting, *in_time) if each.yields_until_s <= now_s]

    def take(self, caller: str) -> bool:
        """A picture of this caller has come whole: forget the one that was let in first, if any.

        Returns:
            Whether any was expected, of whichever caller.
        """
        self.missed.discard(caller)
        for look in self:
            if look.caller == caller:
                self.remove(look)
                return True
        return bool(self)

    def forget_before(self, began_s: float) -> bool:
        """Forget those that began to come before then; returns whether there were any."""
        count = len(self)
        while self and self[0].came_s < began_s:
            self.missed.add(self.popleft().caller)
        if len(self.missed) > MAX_MISSED:
            self.missed.clear()
        return len(self) < count


class Ends(NamedTuple):
    """What is expected of those that wait."""

    begins_s: list[float]
    """When each begins, in their order."""
    free_s: list[float]
    """When each place is free after them."""

    def first_late(self, order: Sequence[Look], safe_s: float) -> int | None:
        """Where in `order` the first is that could not end a look of `safe_s` in time, if any."""
        for number, (look, begins_s) in enumerate(zip(order, self.begins_s, strict=True)):
            if begins_s + safe_s > look.ends_s:
                return number
        return None


class Refusal(NamedTuple):
    """Why a caller's pictures are refused until anything changes."""

    patience_s: float
    """The time that the refused one had; one with less is refused as well."""
    free_s: float
    """When a place is free behind those that wait."""
    room_s: float
    """When there is room among those that wait; long ago if there is."""
    ends_s: float
    """When the first look under way is expected to end. Past that, each moment that it goes on puts
    off what is behind it, so that nothing comes nearer."""
    lasts: bool
    """Whether all of the caller's are refused meanwhile, however much time they have: as many wait
    as may, or one that waits is late by itself."""

    def wait_s(self, now_s: float, patience_s: float, safe_s: float) -> float:
        """Seconds until one with so much time, for a look of `safe_s`, can be let in."""
        # One that comes to a free place is looked at, however little time it has.
        spare_s = patience_s - safe_s
        begins_s = self.free_s - spare_s if spare_s > 0 else self.free_s
        if begins_s < self.room_s:
            begins_s = self.room_s
        return begins_s - (now_s if now_s < self.ends_s else self.ends_s)


def patience_of(deadline_s: float | None) -> float:
    """Seconds until an answer must have left, by the deadline that its client names."""
    return PATIENCE_S if deadline_s is None else deadline_s * (1 - REPLY_SHARE)
