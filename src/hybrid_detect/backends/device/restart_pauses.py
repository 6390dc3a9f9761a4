"""How long to wait before a process that keeps dying is started again."""

from __future__ import annotations

import time

from hybrid_detect.backends.pauses import doubled

__all__ = ["RestartPauses"]

BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 5.0
"""Pause before the second restart in a row, doubling up to the cap. The first is immediate: a lone
crash costs one picture. Without a pause a model that always crashes would take a core."""


class RestartPauses:
    """Counts deaths in a row and says how long the next start has to wait."""

    def __init__(self) -> None:
        self.deaths = 0
        """Deaths since the beginning."""
        self.failures = 0
        """Deaths since the last success."""
        self._start_after_s = float("-inf")

    def left_s(self) -> float:
        """Seconds until the next start; 0 or less if it may be now."""
        return self._start_after_s - time.monotonic()

    def count_death(self) -> None:
        """A process died, or did not start."""
        self.deaths += 1
        self.failures += 1
        if self.failures > 1:
            pause_s = doubled(BACKOFF_BASE_S, self.failures - 2, cap_s=BACKOFF_CAP_S)
            self._start_after_s = time.monotonic() + pause_s

    def forget_failures(self) -> None:
        """A process answered."""
        self.failures = 0
