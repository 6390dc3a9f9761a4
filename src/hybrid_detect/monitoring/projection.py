"""What a month will cost: from what was spent so far, or from assumptions. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from hybrid_detect.charges import DEFAULT_CURRENCY, CostRow, amount
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.monitoring.periods import Period, hour_of
from hybrid_detect.monitoring.prices import PriceTable

__all__ = ["SCALES", "Assumptions", "Estimate", "Projection", "monthly_cost", "project_month"]

WINDOW_DAYS = 28
"""Whole weeks, so that each day of the week weighs the same."""

LEAST_DAYS = 3
"""Whole days from which a spread can be told. With fewer, what is still to come is taken to be
between half and twice what it was so far; chosen, not measured."""

QUANTILE_80 = statistics.NormalDist().inv_cdf(0.9)
"""Four months of five end inside the range, if days are alike and independent."""

SCALES = (100, 1_000, 10_000)
"""Users of a small, a middle and a large app."""

DAYS = 30


class Estimate(NamedTuple):
    """A number that is not known."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What a month of UTC will have cost at its end."""

    month: str
    """Such as ``2026-11``."""
    currency: str
    """What is paid in."""
    spent: Decimal
    """What was spent so far."""
    low: Decimal
    """The lower end of the range."""
    likely: Decimal
    """What it will cost if the days to come are as those seen were on average."""
    high: Decimal
    """The upper end of the range: four months of five end inside it."""
    days_seen: int
    """Whole days that this is taken from."""


def project_month(
    rows: Iterable[CostRow], *, now_s: float, currency: str = DEFAULT_CURRENCY
) -> Projection:
    """What the month of `now_s` will cost, from the days before.

    The days from the first one with a row, at most four weeks of them, are taken as alike; a day
    without any counts as one that cost nothing. What lies after `now_s` is left out.

    Args:
        rows: What was spent; rows in other currencies are left out.
        now_s: The time, in seconds since 1970.
        currency: What is to be paid in.
    """
    hour = hour_of(now_s)
    today, start, end = (
        Period.DAY.start(hour),
        Period.MONTH.start(hour),
        Period.MONTH.end(hour),
    )
    days: dict[int, int] = {}
    spent = latest = 0
    first_hour = hour
    for row in rows:
        if row.key.currency != currency or row.key.hour > hour:
            continue
        first_hour = min(first_hour, row.key.hour)
        day = Period.DAY.start(row.key.hour)
        days[day] = days.get(day, 0) + row.price_nanos
        if row.key.hour >= start:
            spent += row.price_nanos
        if row.key.hour >= hour - 24:
            latest += row.price_nanos
    first_day = max(min(days, default=today), today - 24 * WINDOW_DAYS)
    seen = [days.get(day, 0) for day in range(first_day, today, 24)]
    left_days = (end * 3600 - max(now_s, start * 3600)) / 86_400
    if len(seen) >= LEAST_DAYS:
        rest = statistics.fmean(seen) * left_days
        # That of the days to come, and that of the mean of the days seen.
        spread = statistics.stdev(seen) * math.sqrt(left_days + left_days**2 / len(seen))
        low, high = rest - QUANTILE_80 * spread, rest + QUANTILE_80 * spread
    else:
        hours = min(hour - first_hour + 1, 25)
        rest = latest / hours * 24 * left_days
        low, high = rest / 2, rest * 2
    return Projection(
        month=Period.MONTH.label(hour),
        currency=currency,
        spent=amount(spent),
        low=amount(spent + max(round(low), 0)),
        likely=amount(spent + round(rest)),
        high=amount(spent + round(high)),
        days_seen=len(seen),
    )


_FRAMES = Estimate(200, 600, 3_000)
_SHARE = Estimate(0.1, 0.3, 1.0)
_EXTRA = Estimate(0.0, 0.02, 0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What the cost of an app's month depends on. The defaults are chosen, not measured.

    Raises:
        ConfigurationError: If an estimate is negative or not in order, or a share above 1.
    """

    frames_per_user_per_day: Estimate = _FRAMES
    """At 10 frames a second: 20 seconds, a minute, five minutes."""
    share_sent: Estimate = _SHARE
    """Frames that are sent at all: only those the device is unsure of, a network that is often
    worse than the device, every frame."""
    extra_attempts: Estimate = _EXTRA
    """Retries and hedges for each frame that is sent: each is paid for."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            low, likely, high = getattr(self, name)
            most = 1.0 if name == "share_sent" else math.inf
            if not 0 <= low <= likely <= high <= most or high == math.inf:
                msg = f"{name}: expected low <= likely <= high of 0 or more, got {low}, {likely}, "
                msg += f"{high}"
                raise ConfigurationError(msg)

    def images_per_month(self, users: int) -> tuple[int, int, int]:
        """Pictures that are paid for in 30 days, rounded: low, likely and high."""
        low, likely, high = (
            round(users * DAYS * frames * share * (1 + extra))
            for frames, share, extra in zip(
                self.frames_per_user_per_day, self.share_sent, self.extra_attempts, strict=True
            )
        )
        return low, likely, high


def monthly_cost(
    users: int, table: PriceTable, assumptions: Assumptions | None = None
) -> tuple[Decimal, Decimal, Decimal]:
    """What 30 days of an app with so many users cost, as one account: low, likely and high."""
    low, likely, high = (
        amount(table.cost_nanos(images))
        for images in (assumptions or Assumptions()).images_per_month(users)
    )
    return low, likely, high
