"""What may become of an upload, as equally likely latencies, and what its answer is worth then.

Worth falls with latency, so each expectation is a sum over the quickest latencies: a look-up in
sums that are made once, however long the queue is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.selection.utility import Utility

__all__ = ["UploadOdds"]

MOST_EXPONENT = 700.0
"""Of a double's exponential, with room for a sum."""

Floats = NDArray[np.float64]
Counts = NDArray[np.intp]


class UploadOdds:
    """The odds of each rung's upload behind each queue. Arrays are [rung, queue].

    Args:
        unqueued_s: Equally likely latencies without a queue: [rung, latency].
        queues_s: The queues.
        accuracies: What an answer in time is worth at each rung.
        device_worth: What the device's answer is worth.
        utility: What is left of a late answer's worth.
        deadline_s: When nothing is left of it.
    """

    def __init__(
        self,
        unqueued_s: Floats,
        queues_s: Floats,
        accuracies: Floats,
        *,
        device_worth: float,
        utility: Utility,
        deadline_s: float,
    ) -> None:
        self._unqueued_s = np.sort(unqueued_s, axis=1)
        self._queues_s = queues_s
        self._count = unqueued_s.shape[1]
        self._accuracies = accuracies[:, None]
        self._device_worth = device_worth
        on_time_s = min(utility.on_time_s, deadline_s)
        # What is left of the worth, but for the queue's part in the decay. No queue makes those
        # late that are earlier by more than the longest.
        early_s = np.minimum(on_time_s - self._unqueued_s, queues_s[-1])
        left = np.exp(np.minimum(early_s / utility.decay_s, MOST_EXPONENT))
        # From the slowest on: a sum of the quicker ones would swallow those.
        self._slower = np.zeros((len(left), self._count + 1))
        self._slower[:, :-1] = np.cumsum(left[:, ::-1], axis=1)[:, ::-1]
        self._decay = np.exp(-queues_s / utility.decay_s)
        self._on_time = self._within(on_time_s)
        self._alive = self._within(deadline_s)
        # The latest answer that is worth more than the device's.
        with np.errstate(divide="ignore"):
            better_s = on_time_s + utility.decay_s * np.log(accuracies / max(device_worth, 1e-12))
        better_s = np.where(accuracies > device_worth, np.minimum(better_s, deadline_s), -math.inf)
        self._better = self._within(better_s[:, None])
        self._every = np.full_like(self._alive, self._count)
        self.in_time: Floats = self._on_time / self._count
        """Chance of an answer that is worth everything."""
        self.alone: Floats = self._answers(self._every) / self._count
        """Expected worth of the answer."""
        self.with_device: Floats = self._best(self._every) / self._count
        """Expected worth of the better of it and the device's."""
        self.median_s: Floats = self._unqueued_s[:, self._count // 2]
        """Of the latency without a queue, by rung."""
        self.late_s: Floats = self._unqueued_s[:, -1 - self._count // 20]
        """Its 95th percentile."""

    def hedged(self, start_s: Floats) -> tuple[Floats, Floats]:
        """With a device that is started for what has no answer after `start_s`.

        Returns:
            Expected worth of the better answer, and the chance that the device is started.
        """
        early = self._within(start_s)
        worth = self._answers(early) + self._best(self._every) - self._best(early)
        return worth / self._count, 1.0 - early / self._count

    def _within(self, latency_s: float | Floats) -> Counts:
        """How many latencies are within `latency_s`, queue included."""
        unqueued_s = np.broadcast_to(latency_s - self._queues_s, self._shape)
        counts: Counts = (self._unqueued_s[:, :, None] <= unqueued_s[:, None, :]).sum(1)
        return counts

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self._unqueued_s), len(self._queues_s)

    def _answers(self, quickest: Counts) -> Floats:
        """Summed worth of the `quickest` answers."""
        late = np.clip(quickest, self._on_time, self._alive)
        sums = np.take_along_axis(self._slower, self._on_time, 1)
        sums -= np.take_along_axis(self._slower, late, 1)
        worth: Floats = np.minimum(quickest, self._on_time) + sums * self._decay
        return self._accuracies * worth

    def _best(self, quickest: Counts) -> Floats:
        """The same, of the better of each and the device's."""
        better = np.minimum(quickest, self._better)
        return self._answers(better) + self._device_worth * (quickest - better)
