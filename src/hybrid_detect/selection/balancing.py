"""Which of several servers of one kind gets the next frame.

Each has a peak EWMA of its latency (`PeakLatency`); `pick` compares the present one with a rival
drawn at random and moves only if the rival is clearly faster. Pure: times and chance come in from
outside.

Source: Finagle, ``PeakEwma.scala`` and ``p2cPeakEwma``; the constants are fitted to a camera's
frames, of which each is dear, rather than to thousands of requests per second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

__all__ = ["FailureShare", "PeakLatency", "pick"]

T = TypeVar("T", bound=Hashable)

HALF_LIFE_S = 1.0
"""Of a peak while faster answers come: ten frames at 10 fps, as in `LatencyEstimate`."""

FORGET_S = 30.0
"""Without answers an estimate shrinks with this time constant, so that a server which was slow is
tried again: one four times as slow as the present one after about 50 s, at the price of a frame."""

STAY_RATIO = 0.8
"""A rival must be faster than this share of the present latency, or frames would go to and fro
between servers that are alike, and every change costs a cold connection."""


FAILURE_WEIGHT = 0.07
"""Of the last request in a `FailureShare`: it looks back on about 14 of them."""

FORGET_FAILURES_S = 60.0
"""Without requests a `FailureShare` shrinks with this time constant, so that a server which failed
is tried again: one that fails a fifth of its requests every 12 s, for some five of them."""


class PeakLatency:
    """A mean of latencies that a slow answer replaces at once and fast ones lower slowly."""

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._updated_s = -math.inf

    def observe(self, latency_s: float, *, now_s: float) -> None:
        """Take in an answer (or a failure) after `latency_s` at `now_s`, in monotonic seconds."""
        mean_s = self.predict_s(now_s=now_s)
        if mean_s is not None and latency_s < mean_s:
            weight = 0.5 ** (max(now_s - self._updated_s, 0.0) / HALF_LIFE_S)
            latency_s = weight * mean_s + (1 - weight) * latency_s
        self._mean_s, self._updated_s = latency_s, now_s

    def predict_s(self, *, now_s: float) -> float | None:
        """The latency to reckon with at `now_s`, in seconds; `None` before the first answer."""
        if self._mean_s is None:
            return None
        return self._mean_s * math.exp(-max(now_s - self._updated_s, 0.0) / FORGET_S)


class FailureShare:
    """Share of the requests that failed, the last ones weighing most; it fades without requests."""

    def __init__(self) -> None:
        self._share = 0.0
        self._updated_s = 0.0

    def observe(self, *, failed: bool, now_s: float) -> None:
        """Take in the end of a request at `now_s`, in monotonic seconds."""
        share = self.predict(now_s=now_s)
        self._share = share + FAILURE_WEIGHT * (float(failed) - share)
        self._updated_s = now_s

    def predict(self, *, now_s: float) -> float:
        """The share to reckon with at `now_s`, 0 to 1."""
        return self._share * math.exp(-max(now_s - self._updated_s, 0.0) / FORGET_FAILURES_S)


def pick(costs: Mapping[T, float], *, present: T | None, choice: Callable[[Sequence[T]], T]) -> T:
    """The one of `costs` to use now, by power of two choices.

    Args:
        costs: What each that works is believed to cost, such as latency times requests under way.
            At least one. Those of equal cost are taken in their order.
        present: The one used last; it need not be among them.
        choice: Draws one at random.
    """
    if present is None or present not in costs:
        return min(costs, key=lambda each: costs[each])
    rivals = [each for each in costs if each != present]
    if not rivals:
        return present
    rival = choice(rivals)
    return rival if costs[rival] < STAY_RATIO * costs[present] else present
