"""A circuit breaker: gives a backend that fails no frames, and finds out when it works again.

::

    state      event            next
    open       its time came    half_open   a check is running; no frames
    open       quick success    closed      a frame sent before: it works
    open       slow success     open        it works, but not well
    open       failure          open        asked again later; the pause does not grow
    half_open  quick success    closed      on probation, if it was open before for a failure
    half_open  slow or failed   open        for twice as long
    closed     quick success    closed      probation is over, the pause is short again
    closed     slow success     closed      below the share of slow ones
    closed     slow success     open        at that share, or on probation
    closed     failure          closed      below the count and the share of failures
    closed     failure          open        at one of them, on probation, or refused for good

It starts open and due at once: a backend has to prove itself before it gets a frame. A check proves
little (a server may be alive and still fail each picture), so that after an outage the first
frame decides: on probation, one that fails or is slow opens the breaker again, and for longer.

Pure, and bounded in memory: times come in from outside.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

__all__ = ["BreakerState", "CircuitBreaker"]


class BreakerState(StrEnum):
    """Whether frames flow."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class _Call(NamedTuple):
    at_s: float
    failed: bool
    slow: bool


class CircuitBreaker:
    """The breaker of one backend.

    Args:
        longest_pause_s: The longest pause between two checks.
        uniform: Source of randomness for the jitter.
    """

    FAILURES_TO_OPEN = 2
    """One failure may be the frame's; two in a row at 10 fps are the backend's."""

    WINDOW_S = 5.0
    """Calls looked back on: 50 frames at 10 fps. Chromium's window of recent observations
    (``network_quality_estimator_params.cc``); breakers between servers take a minute or 100 calls,
    which is as long as a whole session with a camera."""

    MIN_CALLS = 10
    """Fewer calls in the window make no share: one second at 10 fps."""

    FAILURE_SHARE = 0.5
    """Opens when so many of the window's calls failed, though never two in a row. Source:
    resilience4j, ``CircuitBreakerConfig.java``."""

    SLOW_SHARE = 0.8
    """Opens when so many of the window's calls were slow. A slow answer is still one, so that it
    takes more of them; resilience4j's 100 % would let one lucky frame in 50 prevent it."""

    MAX_CALLS = 300
    """Calls remembered at most: the window's at 60 fps."""

    FIRST_PAUSE_S = 0.25
    MAX_PAUSE_S = 2.0
    """Pauses in seconds, not the minute that breakers use between servers: 60 s are 600 frames.
    Source: `docs/explanation/choosing.md`, after the probing interval of the measured policy."""

    JITTER = (0.75, 1.25)
    """Range of the factor on each pause, so that many clients do not come back as one. The longest
    pause and its jitter leave half a second for the check within 3 s of the end of an outage."""

    LONGEST_WAIT_S = 30.0
    """The longest wait that Retry-After is granted: it may be wrong, and a camera goes on."""

    REFUSED_PAUSE_S = 30.0
    """A wrong key or address does not cure itself; asking often only fills the server's log."""

    def __init__(
        self,
        *,
        longest_pause_s: float = MAX_PAUSE_S,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._longest_pause_s = longest_pause_s
        self._uniform = uniform
        self._failures = 0
        self._calls: deque[_Call] = deque(maxlen=self.MAX_CALLS)
        self._last_s = float("-inf")
        self._pause_s = self.FIRST_PAUSE_S
        self._next_pause_s = self.FIRST_PAUSE_S
        self.state = BreakerState.OPEN
        self.on_probation = False
        """Whether the next frame decides alone."""
        self.why_open = ""
        """Why it opened, in words a person can read; empty before and after."""
        self.retry_at_s = float("-inf")
        """When the next check is due, in monotonic seconds."""

    def begin_check(self) -> None:
        """A check is running."""
        self.state = BreakerState.HALF_OPEN

    def on_success(self, *, now_s: float | None = None, slow: bool = False) -> None:
        """A check or a frame succeeded.

        Args:
            now_s: Monotonic time in seconds; `None` for the time of the last call that had one.
            slow: Whether it took longer than the caller finds acceptable.
        """
        at_s = self._last_s if now_s is None else now_s
        self._failures = 0
        if self.state is BreakerState.CLOSED:
            self._remember(at_s, slow=slow)
            if slow:
                if self.on_probation or self._share_slow() >= self.SLOW_SHARE:
                    self._open(at_s, "its answers are slow")
                return
            self.on_probation = False
            self._next_pause_s = self.FIRST_PAUSE_S
        elif not slow:
            self._close(on_probation=self.state is BreakerState.HALF_OPEN and bool(self.why_open))
        elif self.state is BreakerState.HALF_OPEN:
            self._open(at_s, "its check was slow")

    def on_failure(self, *, now_s: float, for_good: bool = False) -> None:
        """A check or a frame failed at `now_s`.

        Args:
            now_s: Monotonic time in seconds.
            for_good: Whether every further frame would be refused as well: a wrong key, a wrong
                address, a part that is not installed.
        """
        self._failures += 1
        if self.state is BreakerState.CLOSED:
            self._remember(now_s, failed=True)
            if for_good:
                why = "refused for good"
            elif self.on_probation:
                why = "the first frame after an outage failed"
            elif self._failures >= self.FAILURES_TO_OPEN:
                why = f"{self._failures} failures in a row"
            elif self._share_failed() >= self.FAILURE_SHARE:
                why = f"{self._share_failed():.0%} of the last {len(self._calls)} calls failed"
            else:
                return
            self._open(now_s, why, for_good=for_good)
        elif self.state is BreakerState.HALF_OPEN:
            self._open(now_s, "its check failed", for_good=for_good)
        else:
            self._wait(now_s, for_good=for_good)

    # -- transitions -------------------------------------------------------------------------

    def _open(self, now_s: float, why: str, *, for_good: bool = False) -> None:
        self.state = BreakerState.OPEN
        self.on_probation = False
        self.why_open = why
        self._calls.clear()
        if not for_good:
            self._pause_s = self._next_pause_s
            self._next_pause_s = min(2 * self._next_pause_s, self._longest_pause_s)
        self._wait(now_s, for_good=for_good)

    def _close(self, *, on_probation: bool) -> None:
        self.state = BreakerState.CLOSED
        self.on_probation = on_probation
        self.why_open = ""
        if not on_probation:
            self._next_pause_s = self.FIRST_PAUSE_S

    def _wait(self, now_s: float, *, for_good: bool) -> None:
        pause_s = self.REFUSED_PAUSE_S if for_good else self._pause_s
        self.retry_at_s = now_s + pause_s * self._uniform(*self.JITTER)

    # -- the window --------------------------------------------------------------------------

    def _remember(self, at_s: float, *, failed: bool = False, slow: bool = False) -> None:
        self._last_s = at_s
        self._calls.append(_Call(at_s, failed, slow))
        while at_s - self._calls[0].at_s > self.WINDOW_S:
            self._calls.popleft()

    def _share_failed(self) -> float:
        return self._share(sum(call.failed for call in self._calls))

    def _share_slow(self) -> float:
        return self._share(sum(call.slow for call in self._calls))

    def _share(self, count: int) -> float:
        calls = len(self._calls)
        return count / calls if calls >= self.MIN_CALLS else 0.0
