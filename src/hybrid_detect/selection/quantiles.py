"""A quantile of the last samples.

A mean says little about latencies: one in ten frames that takes a second moves it and describes no
frame. Pure and bounded in memory. A sample that is no finite number is left out.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

from hybrid_detect.errors import ConfigurationError

__all__ = ["WindowedQuantile"]


class WindowedQuantile:
    """A quantile of the last samples, all of the same weight, however old.

    For what depends on load rather than on time, such as how long a device takes for a frame: the
    median of the last 50 is not moved by 24 frames that were slow.

    Args:
        count: Samples remembered; 50 are 5 s at 10 fps.
        quantile: 0 for the least, 0.5 for the median, 1 for the greatest.

    Raises:
        ConfigurationError: If `count` is below 1 or `quantile` outside 0 to 1.
    """

    def __init__(self, *, count: int = 50, quantile: float = 0.5) -> None:
        if count < 1:
            msg = f"expected a count of at least 1, got {count}"
            raise ConfigurationError(msg)
        if not 0.0 <= quantile <= 1.0:
            msg = f"expected a quantile of 0 to 1, got {quantile}"
            raise ConfigurationError(msg)
        self._quantile = quantile
        self._count = count
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def observe(self, value: float) -> None:
        """Take in a sample, and forget the oldest if there are too many."""
        if not math.isfinite(value):
            return
        self._recent.append(value)
        insort(self._sorted, value)
        if len(self._recent) > self._count:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]

    def predict(self) -> float | None:
        """The quantile, in the samples' unit; `None` without a sample.

        Between two samples it is interpolated, as NumPy does by default (Hyndman and Fan's
        definition 7).
        """
        if not self._sorted:
            return None
        at = self._quantile * (len(self._sorted) - 1)
        below = math.floor(at)
        low, high = self._sorted[below], self._sorted[math.ceil(at)]
        return low + (at - below) * (high - low)
