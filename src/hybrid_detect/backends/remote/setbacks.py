"""What a server has refused, and is offered again later.

A gateway that is being changed answers for a while as if its server could less than it can. So
nothing that one answer has switched off stays off until a restart.
"""

from __future__ import annotations

import math
import time

from hybrid_detect.backends.pauses import doubled

__all__ = ["LONGEST_PAUSE_S", "PAUSE_S", "LearnedLimit", "Setback"]

PAUSE_S = 30.0
"""Seconds until it is offered again: a deployment is over by then. Chosen."""

LONGEST_PAUSE_S = 3600.0
"""The pause doubles with each refusal up to this: a server that never takes it costs a request an
hour. Chosen."""


class Setback:
    """One refusal, or several in a row."""

    def __init__(self) -> None:
        self._count = 0
        self._ends_s = -math.inf

    @property
    def is_over(self) -> bool:
        """Whether it may be offered again, or never was refused."""
        return time.monotonic() >= self._ends_s

    def refused(self) -> None:
        """It was refused; what was offered before the pause began says nothing new."""
        if self.is_over:
            self._ends_s = time.monotonic() + doubled(PAUSE_S, self._count, cap_s=LONGEST_PAUSE_S)
            self._count += 1

    def taken(self) -> None:
        """It was taken."""
        self._count = 0
        self._ends_s = -math.inf


class LearnedLimit:
    """The most bytes that a server takes, as far as it has refused more."""

    def __init__(self) -> None:
        self._bytes = math.inf
        self._setback = Setback()

    @property
    def most_bytes(self) -> float:
        """What to send at most; infinite if no refusal is known, or more may be offered again."""
        return math.inf if self._setback.is_over else self._bytes

    def refused(self, most_bytes: int) -> None:
        """More was refused than `most_bytes`, which may pass."""
        self._bytes = min(self._bytes, most_bytes)
        self._setback.refused()

    def taken(self, size_bytes: int) -> None:
        """So many were taken."""
        if size_bytes > self._bytes:
            self._bytes = math.inf
            self._setback.taken()
