"""Rates: a token bucket for each caller, and a bounded number of buckets."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["RateLimiter"]

MAX_BUCKETS = 10_000
"""About 2 MiB. A new name replaces the one that was unused for longest. Its bucket is most likely
full again, so that nothing is lost."""


class RateLimiter:
    """A token bucket for each name: `burst` at once, then `rate_per_s`.

    Args:
        rate_per_s: What flows back each second; 0 for no limit.
        burst: What a full bucket holds.
        max_buckets: Names remembered at the same time.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        *,
        rate_per_s: float,
        burst: int,
        max_buckets: int = MAX_BUCKETS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._max_buckets = max_buckets
        self._clock = clock
        # What was in the bucket, and when; the longest unused first.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str) -> float:
        """Take one from the bucket of `name`.

        Returns:
            0 if it was there, else the seconds until it will be. Asking too early costs nothing.
        """
        if not self._rate_per_s:
            return 0.0
        now_s = self._clock()
        left = self._left(name, now_s)
        wait_s = 0.0
        # A bucket that just misses one by rounding would be asked for again after 0.0 seconds.
        if left >= 1 or math.isclose(left, 1):
            left = max(left - 1, 0.0)
        else:
            wait_s = (1 - left) / self._rate_per_s
        self._buckets[name] = (left, now_s)
        self._buckets.move_to_end(name)
        if len(self._buckets) > self._max_buckets:
            self._buckets.popitem(last=False)
        return wait_s

    def lease(self, name: str, most: int) -> tuple[int, float]:
        """Take several from the bucket of `name`, to be spent elsewhere without asking again.

        More than one is given only of a bucket that stays at least half full, so that one who
        nears the limit is counted exactly.

        Args:
            name: Whose bucket.
            most: How many are wanted at most.

        Returns:
            How many there were; and 0, or the seconds until there will be one.
        """
        wait_s = self.take(name)
        if wait_s or not self._rate_per_s:
            return (0 if wait_s else most), wait_s
        left, then_s = self._buckets[name]
        more = max(min(most - 1, int(left - self._burst / 2)), 0)
        self._buckets[name] = (left - more, then_s)
        return 1 + more, 0.0

    def _left(self, name: str, now_s: float) -> float:
        """What is in the bucket of `name`."""
        left, then_s = self._buckets.get(name, (float(self._burst), now_s))
        return min(left + (now_s - then_s) * self._rate_per_s, float(self._burst))
