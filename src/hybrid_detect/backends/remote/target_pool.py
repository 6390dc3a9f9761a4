"""Which target of a remote backend gets the next request, and what is known of each.

Each target has a breaker and a latency estimate of its own; the link is measured by its host
(`LinkMeters`). The present target stays until a rival is clearly faster (`selection.balancing`).
One whose breaker is open is passed over until its pause is over; then a frame tries it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.config import DEFAULT_DEADLINE_S
from hybrid_detect.errors import BackendError, BackendResponseError, Refusal, SupersededError
from hybrid_detect.selection.balancing import PeakLatency, pick
from hybrid_detect.selection.breaker import BreakerState, CircuitBreaker

__all__ = ["TargetPool", "is_about_the_picture"]

FAILED_S = DEFAULT_DEADLINE_S
"""A failure counts as an answer that came when it was worth nothing any more, however soon."""

USUAL_FACTOR = 2.0
"""While another target could still answer, an attempt gets at least this often its usual latency:
cut off earlier, a merely slow answer would be paid for twice."""

_ABOUT_THE_PICTURE = frozenset({Refusal.PICTURE, Refusal.SIZE})


def is_about_the_picture(error: BackendError) -> bool:
    """Whether another target would say the same: it is the picture's fault, or the frame's."""
    if isinstance(error, BackendResponseError):
        return error.refusal in _ABOUT_THE_PICTURE
    return isinstance(error, SupersededError)


@dataclass(slots=True)
class _Known:
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    latency: PeakLatency = field(default_factory=PeakLatency)
    pending: int = 0

    def may_try(self, now_s: float) -> bool:
        if self.breaker.state is BreakerState.CLOSED:
            return True
        # One frame at a time finds out whether it works again.
        return now_s >= self.breaker.retry_at_s and not self.pending


class TargetPool:
    """The targets of one backend.

    Args:
        targets: At least one; while nothing is known, the cheapest and then the first is used.
        clock: Monotonic time in seconds.
        choice: Draws one at random.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        clock: Callable[[], float] = time.monotonic,
        choice: Callable[[Sequence[int]], int] = random.choice,
    ) -> None:
        self.targets = tuple(targets)
        self._is_single = len(self.targets) == 1  # nothing to choose, nothing to learn
        self._clock = clock
        self._choice = choice
        self._known = [_Known() for _ in self.targets]
        self._present: int | None = None

    @property
    def present(self) -> Target:
        """The target that the next frame most likely goes to."""
        if self._present is None:
            return min(self.targets, key=lambda target: target.price_nanos)
        return self.targets[self._present]

    def pick(self) -> Target:
        """The target for the next frame: the fastest that works, or the next that may be tried."""
        if self._is_single:
            return self.targets[0]
        usable = self._usable(())
        if usable:
            self._present = pick(self._costs(usable), present=self._present, choice=self._choice)
        else:
            self._present = min(
                range(len(self.targets)), key=lambda i: self._known[i].breaker.retry_at_s
            )
        return self.targets[self._present]

    def other(self, tried: Collection[Target]) -> Target | None:
        """A target for a frame that all of `tried` failed; `None` if no other may be tried."""
        if self._is_single:
            return None
        usable = self._usable(tried)
        if not usable:
            return None
        costs = self._costs(usable)
        self._present = min(usable, key=lambda i: costs[i])
        return self.targets[self._present]

    def limit_s(self, target: Target, left_s: float, tried: Collection[Target] = ()) -> float:
        """Seconds that an attempt at `target` gets of the `left_s` that its frame has.

        All of them if no other target could answer; else its share, so that one which hangs
        leaves the others their time.
        """
        others = [] if self._is_single else self._usable((*tried, target))
        if not others:
            return left_s
        usual_s = self._of(target).latency.predict_s(now_s=self._clock()) or 0.0
        return min(max(left_s / (len(others) + 1), USUAL_FACTOR * usual_s), left_s)

    def begin(self, target: Target) -> None:
        """An attempt at `target` begins; end it with `answered`, `failed` or `left`."""
        if self._is_single:
            return
        known = self._of(target)
        known.pending += 1
        if known.breaker.state is not BreakerState.CLOSED:
            known.breaker.begin_check()

    def answered(self, target: Target, *, took_s: float) -> None:
        """The attempt was answered after `took_s`."""
        if self._is_single:
            return
        known = self._of(target)
        known.pending -= 1
        known.latency.observe(took_s, now_s=self._clock())
        known.breaker.on_success(now_s=self._clock())

    def failed(self, target: Target, error: BackendError) -> None:
        """The attempt ended with `error`."""
        if self._is_single:
            return
        if is_about_the_picture(error):
            self.left(target)
            return
        known = self._of(target)
        known.pending -= 1
        known.latency.observe(FAILED_S, now_s=self._clock())
        known.breaker.on_failure(now_s=self._clock(), for_good=error.is_configuration)

    def left(self, target: Target) -> None:
        """The attempt was given up, which says nothing about the target."""
        if not self._is_single:
            self._of(target).pending -= 1

    def checked(self, target: Target, error: BackendError | None) -> None:
        """A check of `target` has succeeded, or ended with `error`."""
        breaker = self._of(target).breaker
        if error is not None:
            breaker.on_failure(now_s=self._clock(), for_good=error.is_configuration)
        elif breaker.state is not BreakerState.CLOSED:
            breaker.begin_check()
            breaker.on_success(now_s=self._clock())

    def _of(self, target: Target) -> _Known:
        return self._known[self.targets.index(target)]

    def _usable(self, tried: Collection[Target]) -> list[int]:
        now_s = self._clock()
        usable = [
            index
            for index, known in enumerate(self._known)
            if known.may_try(now_s) and not any(self.targets[index] is each for each in tried)
        ]
        return sorted(usable, key=lambda i: self.targets[i].price_nanos)

    def _costs(self, indices: Iterable[int]) -> dict[int, float]:
        now_s = self._clock()
        return {
            index: (self._known[index].latency.predict_s(now_s=now_s) or 0.0)
            * (self._known[index].pending + 1)
            for index in indices
        }
