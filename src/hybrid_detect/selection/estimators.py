"""Numbers in, predictions out. Time comes in from outside.

Latencies in seconds: `LatencyEstimate` for the usual, `quantiles` for the unusual. Rates in bits
per second: `Throughput`, on `FastSlowEwma`. What is no finite number is not taken in: one bad
reading would otherwise poison every prediction after it.
"""

from __future__ import annotations

import math

__all__ = ["FastSlowEwma", "LatencyEstimate", "Throughput"]


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


class _Ewma:
    """A weighted mean in which a sample counts half once later ones weigh `half_life`."""

    def __init__(self, half_life: float) -> None:
        self._half_life = half_life
        self._mean = 0.0
        self._total = 0.0  # weight so far, 1.0 after a long time: makes up for the empty start

    def observe(self, value: float, weight: float) -> None:
        share = -math.expm1(-math.log(2) * weight / self._half_life)
        self._total += share * (1.0 - self._total)
        if self._total > 0.0:
            self._mean += share / self._total * (value - self._mean)

    @property
    def mean(self) -> float | None:
        return self._mean if self._total > 0.0 else None


class FastSlowEwma:
    """Two exponentially weighted means of the same samples, one quick and one slow to change.

    The lower of the two falls at once and rises late, which is the safe side for a throughput; the
    higher one is the safe side for a latency. A constant is predicted from the first sample on.

    Half-lives are in the unit of the weights: seconds if a sample weighs the seconds it lasted or
    the seconds since the one before.

    Args:
        fast_half_life_s: Of the quick mean.
        slow_half_life_s: Of the slow mean.

    Source:
        dash.js v5, ``Settings.js`` (3 s and 8 s); hls.js and Shaka do the same with 3 s and 9 s,
        2 s and 5 s.
    """

    FAST_HALF_LIFE_S = 3.0
    SLOW_HALF_LIFE_S = 8.0

    def __init__(
        self,
        *,
        fast_half_life_s: float = FAST_HALF_LIFE_S,
        slow_half_life_s: float = SLOW_HALF_LIFE_S,
    ) -> None:
        self._fast = _Ewma(fast_half_life_s)
        self._slow = _Ewma(slow_half_life_s)

    def observe(self, value: float, *, weight_s: float) -> None:
        """Take in a sample that weighs `weight_s` seconds; one that weighs nothing is left out."""
        if math.isfinite(value) and math.isfinite(weight_s) and weight_s > 0.0:
            self._fast.observe(value, weight_s)
            self._slow.observe(value, weight_s)

    @property
    def lower(self) -> float | None:
        """The lower mean, in the samples' unit; `None` without a sample."""
        fast, slow = self._fast.mean, self._slow.mean
        return None if fast is None or slow is None else min(fast, slow)

    @property
    def higher(self) -> float | None:
        """The higher mean, in the samples' unit; `None` without a sample."""
        fast, slow = self._fast.mean, self._slow.mean
        return None if fast is None or slow is None else max(fast, slow)


class Throughput:
    """What a link carries, from transfers and how long each took.

    A `FastSlowEwma` of bits per second, the lower of its two means. A transfer weighs the seconds
    it took, so that together they give bits over seconds rather than a mean of rates that the
    shortest would dominate. One of less than `FULL_WEIGHT_BYTES` is discounted in proportion: it
    ends while the connection is still being tried out, and its duration is mostly round trip.

    Leave the round trip and the server's time out of the durations, where they are known.

    Args:
        fast_half_life_s: In seconds of transfer.
        slow_half_life_s: In seconds of transfer.
    """

    FULL_WEIGHT_BYTES = 16_000
    """Shaka leaves smaller transfers out altogether (``ewma_bandwidth_estimator.js``), Chromium
    those below 32 KB; on a slow link the smallest frames of 18 KB are all there is."""

    MIN_DURATION_S = 0.003
    """Below this a duration says more about clocks than about the link."""

    MAX_AGE_S = 5.0
    """An older estimate says nothing about a mobile link. Source: as `LatencyEstimate`."""

    def __init__(
        self,
        *,
        fast_half_life_s: float = FastSlowEwma.FAST_HALF_LIFE_S,
        slow_half_life_s: float = FastSlowEwma.SLOW_HALF_LIFE_S,
    ) -> None:
        self._rates = FastSlowEwma(
            fast_half_life_s=fast_half_life_s, slow_half_life_s=slow_half_life_s
        )
        self._updated_s = -math.inf

    def observe(self, size_bytes: float, *, duration_s: float, now_s: float) -> None:
        """Take in a transfer of `size_bytes` that took `duration_s` and ended at `now_s`."""
        if not (math.isfinite(duration_s) and 0 < size_bytes < math.inf):
            return
        duration_s = max(duration_s, self.MIN_DURATION_S)
        trust = min(size_bytes / self.FULL_WEIGHT_BYTES, 1.0)
        self._rates.observe(8 * size_bytes / duration_s, weight_s=trust * duration_s)
        self._updated_s = now_s

    def predict_bits_per_s(self, *, now_s: float) -> float | None:
        """The expected throughput in bits per second; `None` without a recent transfer."""
        if now_s - self._updated_s > self.MAX_AGE_S:
            return None
        return self._rates.lower
