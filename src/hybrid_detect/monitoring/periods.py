"""Hours, days and months of UTC, as whole hours since 1970. Pure.

Hours are the finest that money is counted by, and the budgets' other periods consist of them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum

__all__ = ["HOUR_S", "Period", "hour_of"]

HOUR_S = 3600

MAX_HOUR = int(datetime(9998, 1, 1, tzinfo=UTC).timestamp()) // HOUR_S
"""A clock beyond it counts as this hour, so that a broken clock breaks no sum."""


def hour_of(at_s: float) -> int:
    """The hour of a time in seconds since 1970, within what a calendar can name."""
    # 0 stands first so that NaN, which compares as neither, becomes it.
    return int(min(max(0.0, at_s), MAX_HOUR * HOUR_S)) // HOUR_S


class Period(StrEnum):
    """What a budget is for."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"

    def start(self, hour: int) -> int:
        """The first hour of the period that `hour` is in."""
        if self is Period.HOUR:
            return hour
        if self is Period.DAY:
            return hour - hour % 24
        return _hours(_moment(hour).replace(day=1, hour=0))

    def end(self, hour: int) -> int:
        """The first hour after the period that `hour` is in."""
        if self is not Period.MONTH:
            return self.start(hour) + (1 if self is Period.HOUR else 24)
        # The 28th and four days are in the next month, whichever month it is.
        return _hours((_moment(hour).replace(day=28, hour=0) + timedelta(days=4)).replace(day=1))

    def label(self, hour: int) -> str:
        """The period that `hour` is in, such as ``2026-11-28``; sorts as time does."""
        return _moment(hour).strftime(_LABELS[self])


_LABELS = {Period.HOUR: "%Y-%m-%dT%H", Period.DAY: "%Y-%m-%d", Period.MONTH: "%Y-%m"}


def _moment(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * HOUR_S, UTC)


def _hours(moment: datetime) -> int:
    return int(moment.timestamp()) // HOUR_S
