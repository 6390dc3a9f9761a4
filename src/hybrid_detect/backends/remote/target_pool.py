"""Which target of a remote backend gets the next request, and what is known of each.

Each target has a breaker and a latency estimate of its own; the link is measured by its host
(`LinkMeters`). Of the targets that work, those of the best preference are used; of these the
present one stays until a rival is clearly faster (`selection.balancing`). One whose breaker is open
is passed over until its pause is over; then one frame tries it. So is one that has asked to wait
(Retry-After), while others serve.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.config import DEFAULT_DEADLINE_S
from hybrid_detect.destination import Destination
from hybrid_detect.errors import BackendError, BackendResponseError, Refusal, SupersededError
from hybrid_detect.selection.balancing import FailureShare, PeakLatency, pick
from hybrid_detect.selection.breaker import BreakerState, CircuitBreaker

__all__ = ["TargetPool", "TargetStatus", "is_about_the_picture"]

FAILED_S = DEFAULT_DEADLINE_S
"""A failure counts as an answer that came when it was worth nothing any more, however soon."""

UNHEALTHY_SHARE = 0.15
"""One that fails a larger share of its requests is asked after every one that does not, preferred
or not: each failure is a request that is paid for twice. Two failures in a row stay below it, and
are the breaker's to judge."""

USUAL_FACTOR = 2.0
"""While another target could still answer, an attempt gets at least this often its usual latency:
cut off earlier, a merely slow answer would be paid for twice."""

LONGEST_PAUSE_S = 30.0
"""The longest pause before a frame tries a target again that failed: others serve meanwhile, and
each try is a request that is paid for. At 10 fps a target that stays dead costs one frame in 300
an extra attempt; with a lone backend's pause of 2 s it would be one in 20."""

_ABOUT_THE_PICTURE = frozenset({Refusal.PICTURE, Refusal.SIZE})


def is_about_the_picture(error: BackendError) -> bool:
    """Whether another target of the same provider would say the same: it is the picture's fault."""
    if isinstance(error, BackendResponseError):
        return error.refusal in _ABOUT_THE_PICTURE
    return isinstance(error, SupersededError)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetStatus:
    """One target of a backend, in `HybridDetectionService.status()`."""

    name: str
    """Its name; its host if it has none of its own."""
    host: str
    """The host that it is asked at."""
    provider: str
    """Whose protocol it speaks."""
    region: str
    """Where it processes pictures; empty if it does not say."""
    preference: int
    """Targets with the lowest number are asked first."""
    breaker: str = ""
    """``closed``, ``open`` or ``half_open``, as it is before it was asked for the first time; empty
    if it is never asked, or is the only one: then the backend's breaker is its own."""
    latency_s: float | None = None
    """Predicted seconds for one frame; `None` when there is no recent measurement, and for the only
    one: then the backend's latency is its own."""
    answered: int = 0
    """Requests it answered."""
    failed: int = 0
    """Requests it failed."""
    denied_reason: str = ""
    """Why it is never asked, by the privacy policy; empty if it may be."""


def _status_of(target: Target) -> TargetStatus:
    return TargetStatus(
        name=target.name,
        host=target.host,
        provider=target.provider,
        region=target.region,
        preference=target.preference,
    )


@dataclass(slots=True)
class _Known:
    breaker: CircuitBreaker = field(
        default_factory=lambda: CircuitBreaker(longest_pause_s=LONGEST_PAUSE_S)
    )
    latency: PeakLatency = field(default_factory=PeakLatency)
    """Of its answers, a failure counted as `FAILED_S`: how dear it is to ask."""
    answers: PeakLatency = field(default_factory=PeakLatency)
    """Of its answers alone: how long to wait for one."""
    failing: FailureShare = field(default_factory=FailureShare)
    has_failed: bool = False
    asked_to_wait_until_s: float = -math.inf
    pending: int = 0
    answered: int = 0
    failed: int = 0

    def may_try(self, now_s: float) -> bool:
        if now_s < self.asked_to_wait_until_s:
            return False
        if self.breaker.state is BreakerState.CLOSED or not self.has_failed:
            return True
        # One frame at a time finds out whether it works again.
        return now_s >= self.breaker.retry_at_s and not self.pending

    @property
    def breaker_state(self) -> BreakerState:
        """The breaker's, which begins open; but a target that has not failed yet may be tried."""
        state = self.breaker.state
        is_new = state is BreakerState.OPEN and not self.has_failed
        return BreakerState.HALF_OPEN if is_new else state

    @property
    def may_try_at_s(self) -> float:
        """When it may be tried at the earliest."""
        return max(self.breaker.retry_at_s, self.asked_to_wait_until_s)

    def usual_s(self, now_s: float) -> float | None:
        """Seconds in which an answer is to be expected; `None` if that is unknown."""
        is_working = self.breaker.state is BreakerState.CLOSED
        return self.answers.predict_s(now_s=now_s) if is_working else None


class TargetPool:
    """The targets of one backend.

    Args:
        targets: At least one; while nothing is known, the cheapest and then the first of the best
            preference is used.
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
        self._clock = clock
        self._choice = choice
        self._left_out: tuple[tuple[Target, str], ...] = ()
        self._use(targets)

    def _use(self, targets: Sequence[Target]) -> None:
        self.targets = tuple(targets)
        self._is_single = len(self.targets) == 1  # nothing to choose, nothing to learn
        self._known = [_Known() for _ in self.targets]
        self._present: int | None = None

    def restrict(self, denied_reason: Callable[[Destination], str]) -> str:
        """Leave out the targets that may have no frame: they are never asked for anything.

        Returns:
            Why none is left, and none is left out then; empty if one is.
        """
        reasons = [denied_reason(target.destination) for target in self.targets]
        if all(reasons):
            return reasons[0]
        judged = tuple(zip(self.targets, reasons, strict=True))
        self._left_out += tuple((target, reason) for target, reason in judged if reason)
        self._use([target for target, reason in judged if not reason])
        return ""

    @property
    def present(self) -> Target:
        """The target that the next frame most likely goes to."""
        if self._present is None:
            return min(self.targets, key=lambda target: (target.preference, target.price_nanos))
        return self.targets[self._present]

    def pick(self, without: Collection[Target] = ()) -> Target:
        """The target for the next frame: the fastest that works, or the next that may be tried.

        Args:
            without: Targets that this frame may not go to; at least one other is left.
        """
        if self._is_single:
            return self.targets[0]
        best = self._best(self._usable(without))
        if best:
            self._present = pick(self._costs(best), present=self._present, choice=self._choice)
        else:
            self._present = min(self._others(without), key=lambda i: self._known[i].may_try_at_s)
        return self.targets[self._present]

    def other(self, tried: Collection[Target], left_s: float = math.inf) -> Target | None:
        """A target for a frame that all of `tried` failed; `None` if no other may be tried.

        One that usually answers in the `left_s` seconds that are left comes before a preferred one
        that does not.
        """
        if self._is_single:
            return None
        usable = self._usable(tried)
        now_s = self._clock()
        in_time = [i for i in usable if (self._known[i].usual_s(now_s) or 0.0) < left_s]
        best = self._best(in_time or usable)
        if not best:
            return None
        costs = self._costs(best)
        self._present = min(best, key=lambda i: costs[i])
        return self.targets[self._present]

    def limit_s(self, target: Target, left_s: float, tried: Collection[Target] = ()) -> float:
        """Seconds that an attempt at `target` gets of the `left_s` that its frame has.

        All of them if no other target could answer; else its share, so that one which hangs
        leaves the others their time. One that usually takes longer gets more, as long as the
        quickest of the others has the time that it usually takes.
        """
        others = [] if self._is_single else self._usable((*tried, target))
        if not others:
            return left_s
        now_s = self._clock()
        share_s = left_s / (len(others) + 1)
        usual_s = USUAL_FACTOR * (self._of(target).usual_s(now_s) or 0.0)
        reserves_s = (self._known[i].usual_s(now_s) for i in others)
        reserve_s = min(USUAL_FACTOR * s if s is not None else share_s for s in reserves_s)
        return max(share_s, min(usual_s, left_s - reserve_s))

    def begin(self, target: Target) -> None:
        """An attempt at `target` begins; end it with `answered`, `failed` or `left`."""
        known = self._of(target)
        known.pending += 1
        if not self._is_single and known.breaker.state is not BreakerState.CLOSED:
            known.breaker.begin_check()

    def answered(self, target: Target, *, took_s: float) -> None:
        """The attempt was answered after `took_s`."""
        known = self._of(target)
        known.pending -= 1
        known.answered += 1
        if self._is_single:
            return
        known.latency.observe(took_s, now_s=self._clock())
        known.answers.observe(took_s, now_s=self._clock())
        known.failing.observe(failed=False, now_s=self._clock())
        known.breaker.on_success(now_s=self._clock())

    def failed(self, target: Target, error: BackendError) -> None:
        """The attempt ended with `error`."""
        self.left(target)
        if is_about_the_picture(error):
            return
        if error.retry_after_s is not None:
            wait_s = min(error.retry_after_s, CircuitBreaker.LONGEST_WAIT_S)
            self._of(target).asked_to_wait_until_s = self._clock() + wait_s
        self._on_failure(target, for_good=error.is_configuration)

    def disproved(self, target: Target) -> None:
        """`target` blamed a picture that another provider could read: it has failed."""
        self._on_failure(target, for_good=False)

    def left(self, target: Target) -> None:
        """The attempt was given up, which says nothing about the target."""
        self._of(target).pending -= 1

    def checked(self, target: Target, error: BackendError | None) -> None:
        """A check of `target` has succeeded, or ended with `error`."""
        known = self._of(target)
        breaker = known.breaker
        if error is not None:
            known.has_failed = True
            breaker.on_failure(now_s=self._clock(), for_good=error.is_configuration)
        elif breaker.state is not BreakerState.CLOSED:
            breaker.begin_check()
            breaker.on_success(now_s=self._clock())

    def statuses(self) -> tuple[TargetStatus, ...]:
        """How each target stands now, for a person; those that were left out come last."""
        now_s = self._clock()
        asked = (
            replace(
                _status_of(target),
                breaker="" if self._is_single else known.breaker_state.value,
                latency_s=known.latency.predict_s(now_s=now_s),
                answered=known.answered,
                failed=known.failed,
            )
            for target, known in zip(self.targets, self._known, strict=True)
        )
        left_out = (
            replace(_status_of(target), denied_reason=reason) for target, reason in self._left_out
        )
        return (*asked, *left_out)

    def _on_failure(self, target: Target, *, for_good: bool) -> None:
        known = self._of(target)
        known.failed += 1
        if self._is_single:
            return
        known.has_failed = True
        known.failing.observe(failed=True, now_s=self._clock())
        known.latency.observe(FAILED_S, now_s=self._clock())
        known.breaker.on_failure(now_s=self._clock(), for_good=for_good)

    def _of(self, target: Target) -> _Known:
        if self._is_single:
            return self._known[0]
        return next(k for k, each in zip(self._known, self.targets, strict=True) if each is target)

    def _others(self, tried: Collection[Target]) -> list[int]:
        return [
            index
            for index, target in enumerate(self.targets)
            if not any(target is each for each in tried)
        ]

    def _usable(self, tried: Collection[Target]) -> list[int]:
        now_s = self._clock()
        usable = [index for index in self._others(tried) if self._known[index].may_try(now_s)]
        return sorted(usable, key=lambda i: self.targets[i].price_nanos)

    def _best(self, usable: Sequence[int]) -> list[int]:
        """Those of `usable` that are healthy, and of these those with the best preference."""
        ranks = {i: self._rank(i) for i in usable}
        best = min(ranks.values(), default=None)
        return [i for i in usable if ranks[i] == best]

    def _rank(self, index: int) -> tuple[bool, int]:
        share = self._known[index].failing.predict(now_s=self._clock())
        return share > UNHEALTHY_SHARE, self.targets[index].preference

    def _costs(self, indices: Iterable[int]) -> dict[int, float]:
        now_s = self._clock()
        return {
            index: (self._known[index].latency.predict_s(now_s=now_s) or 0.0)
            * (self._known[index].pending + 1)
            for index in indices
        }
