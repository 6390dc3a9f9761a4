"""A clock for tests: time passes only when the test says so."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

__all__ = ["FakeClock"]

START_S = 1000.0
"""Seconds that a clock shows at first. Not 0, so that a test notices code that takes 0 for "never";
and small, so that sums of tenths of a second stay exact to the picosecond."""


class FakeClock:
    """A clock that stands still until the test moves it.

    An instance stands for ``time.monotonic`` or ``time.time`` (call it), for a function that
    returns an aware `datetime` (`utc`) and for ``asyncio.sleep`` (`sleep`), so that one object
    drives everything that has to agree on the time.

    Args:
        start: Seconds, or an aware `datetime` for code that reads the calendar.

    Attributes:
        now_s: Seconds that the clock shows. May be set, also backwards: clocks of devices do that.

    Example:
        >>> clock = FakeClock()
        >>> began_s = clock()
        >>> clock.advance(minutes=1)
        >>> clock() - began_s
        60.0
    """

    def __init__(self, start: float | datetime = START_S) -> None:
        self.now_s = start.timestamp() if isinstance(start, datetime) else float(start)

    def __call__(self) -> float:
        """Return the seconds that the clock shows."""
        return self.now_s

    def utc(self) -> datetime:
        """Return the same instant as an aware `datetime` in UTC."""
        return datetime.fromtimestamp(self.now_s, UTC)

    def advance(
        self, seconds: float = 0.0, *, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0
    ) -> None:
        """Move the clock on by the sum of the arguments, or back where it is negative."""
        self.now_s += seconds + 60 * minutes + 3600 * hours + 86_400 * days

    async def sleep(self, seconds: float) -> None:
        """Move the clock on by `seconds`, and let the other tasks have a turn."""
        self.advance(seconds)
        await asyncio.sleep(0)
