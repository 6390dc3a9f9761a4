"""The latency to expect next, from the latencies seen so far. Pure: time comes in from outside.

A reading that is no finite number is left out: it would spoil every prediction after it.
"""

from __future__ import annotations

import math

__all__ = ["LatencyEstimate"]


class LatencyEstimate:
    """An exponentially weighted mean of latencies that is quick to fear and slow to forget.

    A sample above the mean replaces it; a sample below pulls it down with a half-life. So one
    slow answer is believed at once, and a few fast ones are needed to disbelieve it.

    Source: Finagle's ``PeakEwma``, with a half-life that fits frames rather than requests of a
    data centre (10 s there).
    """

    HALF_LIFE_S = 1.0
    """Ten frames at 10 fps."""

    MAX_AGE_S = 5.0
    """An older estimate says nothing about a mobile link: 5 s is Chromium's window of recent
    observations (``network_quality_estimator_params.cc``)."""

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._updated_s = 0.0

    def observe(self, latency_s: float, *, now_s: float) -> None:
        """Take in a latency seen at `now_s` (monotonic seconds)."""
        if not math.isfinite(latency_s):
            return
        if self._mean_s is None or latency_s >= self._mean_s:
            self._mean_s = latency_s
        else:
            weight = 0.5 ** (max(now_s - self._updated_s, 0.0) / self.HALF_LIFE_S)
            self._mean_s = weight * self._mean_s + (1 - weight) * latency_s
        self._updated_s = now_s

    def observe_at_least(self, latency_s: float, *, now_s: float) -> None:
        """Take in that a frame had no answer yet after `latency_s`, seen at `now_s`."""
        if latency_s >= (self.predict_s(now_s=now_s) or 0.0):
            self.observe(latency_s, now_s=now_s)

    def predict_s(self, *, now_s: float) -> float | None:
        """The expected latency in seconds; `None` without a recent sample."""
        if self._mean_s is None or now_s - self._updated_s > self.MAX_AGE_S:
            return None
        return self._mean_s
