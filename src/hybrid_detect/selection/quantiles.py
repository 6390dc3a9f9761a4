"""Quantiles of what was seen lately: of the last so many samples, or of the last so many seconds.

A mean says little about latencies: one in ten frames that takes a second moves it and describes no
frame. Pure and bounded in memory; time comes in from outside. What is no finite number is not
taken in.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

from hybrid_detect.errors import ConfigurationError

__all__ = ["DecayingQuantile", "WindowedQuantile"]


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
        self._quantile = _checked(quantile)
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


class DecayingQuantile:
    """A quantile of samples that weigh less as they age.

    For what changes with time, such as the latency over a link: a sample counts half after each
    half-life and is forgotten after `HALF_LIVES_KEPT` of them.

    Args:
        half_life_s: In seconds. Chromium takes 60 s, for web pages; 2 s are 20 frames at 10 fps.
        quantile: 0 for the least, 0.5 for the median, 1 for the greatest.
        max_samples: Samples remembered at most; the oldest go first.

    Raises:
        ConfigurationError: If `half_life_s` is not above 0, `max_samples` below 1 or `quantile`
            outside 0 to 1.

    Source:
        Chromium's ``nqe::internal::ObservationBuffer``, a weighted percentile over at most 300
        observations.
    """

    HALF_LIVES_KEPT = 10
    """An older sample weighs less than a thousandth of a new one. Without any that is younger,
    nothing is predicted."""

    def __init__(
        self, *, half_life_s: float = 2.0, quantile: float = 0.5, max_samples: int = 300
    ) -> None:
        if not half_life_s > 0:
            msg = f"expected a half_life_s above 0, got {half_life_s}"
            raise ConfigurationError(msg)
        if max_samples < 1:
            msg = f"expected max_samples of at least 1, got {max_samples}"
            raise ConfigurationError(msg)
        self._quantile = _checked(quantile)
        self._half_life_s = half_life_s
        self._samples: deque[tuple[float, float]] = deque(maxlen=max_samples)  # (seen at, value)

    def observe(self, value: float, *, now_s: float) -> None:
        """Take in a sample seen at `now_s` (monotonic seconds)."""
        if math.isfinite(value):
            self._samples.append((now_s, value))

    def predict(self, *, now_s: float) -> float | None:
        """The quantile, in the samples' unit; `None` without a sample that is young enough.

        It is one of the samples: the least that, with those below it, has that share of the
        weight. Takes about 0.2 ms for 300 samples: too long for every decision.
        """
        oldest_s = now_s - self.HALF_LIVES_KEPT * self._half_life_s
        while self._samples and self._samples[0][0] < oldest_s:
            self._samples.popleft()
        weighed = sorted(
            (value, 0.5 ** (max(now_s - seen_s, 0.0) / self._half_life_s))
            for seen_s, value in self._samples
        )
        wanted = self._quantile * math.fsum(weight for _, weight in weighed)
        reached = 0.0
        for value, weight in weighed:
            reached += weight
            if reached >= wanted:
                return value
        # Rounding may leave the sum a hair below the whole.
        return weighed[-1][0] if weighed else None


def _checked(quantile: float) -> float:
    if not 0.0 <= quantile <= 1.0:
        msg = f"expected a quantile of 0 to 1, got {quantile}"
        raise ConfigurationError(msg)
    return quantile
