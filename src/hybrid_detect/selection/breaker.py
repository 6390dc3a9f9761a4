"""A circuit breaker: stops giving frames to a way that fails, and finds out when it works again.

::

    state      event            next
    open       its time came    half_open   a check is under way; no frames
    half_open  check succeeded  closed
    half_open  check failed     open        for twice as long
    closed     success          closed      failures forgotten
    closed     failure          closed      below the threshold
    closed     failure          open        at the threshold, or refused for good

It starts open and due at once: a way has to prove itself before it gets a frame.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import StrEnum

__all__ = ["BreakerState", "CircuitBreaker"]


class BreakerState(StrEnum):
    """Whether frames flow."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """The breaker of one way.

    Args:
        uniform: Source of randomness for the jitter.
    """

    FAILURES_TO_OPEN = 2
    """One failure may be the frame's; two in a row at 10 fps are the way's."""

    FIRST_PAUSE_S = 0.25
    MAX_PAUSE_S = 2.0
    """Pauses in seconds, not the minute that breakers use between servers: 60 s are 600 frames.
    Source: `docs/explanation/choosing.md`, after the probing interval of the measured policy."""

    REFUSED_PAUSE_S = 30.0
    """A wrong key or address does not cure itself; asking often only fills the server's log."""

    def __init__(self, *, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._failures = 0
        self._pause_s = self.FIRST_PAUSE_S
        self.state = BreakerState.OPEN
        self.retry_at_s = float("-inf")
        """When the next check is due, in monotonic seconds."""

    def begin_check(self) -> None:
        """A check is under way."""
        self.state = BreakerState.HALF_OPEN

    def on_success(self) -> None:
        """A check or a frame succeeded."""
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._pause_s = self.FIRST_PAUSE_S

    def on_failure(self, *, now_s: float, for_good: bool = False) -> None:
        """A check or a frame failed at `now_s`.

        Args:
            now_s: Monotonic time in seconds.
            for_good: Whether every further frame would be refused as well.
        """
        self._failures += 1
        if self.state is BreakerState.CLOSED and not for_good:
            if self._failures < self.FAILURES_TO_OPEN:
                return
        elif self.state is BreakerState.HALF_OPEN:
            self._pause_s = min(self._pause_s * 2, self.MAX_PAUSE_S)
        self.state = BreakerState.OPEN
        pause_s = self.REFUSED_PAUSE_S if for_good else self._pause_s
        # Half to one and a half of the pause, so that many clients do not come back as one.
        self.retry_at_s = now_s + pause_s * self._uniform(0.5, 1.5)
