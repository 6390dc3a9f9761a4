"""What a look takes: measured, not configured."""

from __future__ import annotations

__all__ = ["ServiceTime"]

MEAN_GAIN, DEVIATION_GAIN, DEVIATIONS = 1 / 8, 1 / 4, 4
"""Of RFC 6298, 2: how much one look moves the estimate, and how many deviations make it safe."""

MOST_GROWTH = 2.0
"""Of the bound, what one look counts for at most. One caller's picture of a second among those of
20 ms would else have the others refused, who have less time than the bound, and its caller alone
let in again. If all looks have become slower, a few tell: five where they take 45 times as long."""

LEAST_S = 0.001
"""The bound that `MOST_GROWTH` is of, at least: no look is quicker, but a clock may be coarse."""


class ServiceTime:
    """A smoothed mean of looks, and a bound that few of them exceed.

    Args:
        guess_s: What a look is taken to be before the first; 0 lets everything in.
    """

    def __init__(self, guess_s: float = 0.0) -> None:
        self.guess_s = self.mean_s = guess_s
        self._deviation_s = 0.0
        self.safe_s = guess_s
        """A bound that few looks exceed."""
        self.is_known = False
        """Whether a look was measured."""

    def observe(self, seconds: float) -> None:
        """Take one look into account."""
        if not self.is_known:
            self.is_known = True
            self.mean_s, self._deviation_s = seconds, seconds / 2
        else:
            seconds = min(seconds, MOST_GROWTH * max(self.safe_s, LEAST_S))
            error_s = abs(seconds - self.mean_s)
            self._deviation_s += DEVIATION_GAIN * (error_s - self._deviation_s)
            self.mean_s += MEAN_GAIN * (seconds - self.mean_s)
        self.safe_s = self.mean_s + DEVIATIONS * self._deviation_s
