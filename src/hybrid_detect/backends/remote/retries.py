"""When a remote backend may send a frame again: how often, how soon, out of which budget."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity

from hybrid_detect.backends.pauses import doubled
from hybrid_detect.errors import BackendError

__all__ = ["RetryBudget", "let_go", "retry"]

T = TypeVar("T")

BACKOFF_BASE_S = 0.05
"""First back-off; a frame lives for a second, so it starts at a twentieth of that."""

BACKOFF_CAP_S = 1.0
"""Longest back-off, a frame's default deadline; gRPC's proposal A6 caps at 1 s, too."""


class RetryBudget:
    """A token bucket that lets retries help against a hiccup but never feed an outage.

    Every failure takes a token, every success returns a tenth; below half there are no
    retries.

    Source: gRPC proposal A6, "retry throttling" (maxTokens 10, tokenRatio 0.1).
    """

    MAX_TOKENS = 10.0
    TOKEN_RATIO = 0.1

    def __init__(self) -> None:
        self._tokens = self.MAX_TOKENS

    @property
    def allows_retry(self) -> bool:
        """Whether a failed request may be sent again."""
        return self._tokens > self.MAX_TOKENS / 2

    def on_success(self) -> None:
        """Count a request that was answered."""
        self._tokens = min(self._tokens + self.TOKEN_RATIO, self.MAX_TOKENS)

    def on_failure(self) -> None:
        """Count a request that failed and could be sent again."""
        self._tokens = max(self._tokens - 1.0, 0.0)


async def retry(
    send: Callable[[], Awaitable[T]],
    *,
    after: BackendError,
    retries: int,
    deadline_s: float,
    budget: RetryBudget,
    sleep: Callable[[float], Awaitable[None]],
    uniform: Callable[[float, float], float] = random.uniform,
) -> T:
    """Send a request again that failed with `after`, until it is answered or refused for good.

    The first attempt is the caller's, so that a request that is answered at once pays nothing for
    this. Waits between attempts with full jitter (source: AWS, "Exponential backoff and jitter"),
    and at least as long as the other side asked for.

    Args:
        send: Sends the request once; raises a `BackendError` that says whether it is retryable.
        after: What the first attempt ended with.
        retries: How often `send` may be called.
        deadline_s: Seconds from now in which everything must have happened.
        budget: Shared by all requests of one backend. The caller counts its successes.
        sleep: Waits so many seconds.
        uniform: Source of randomness.

    Raises:
        BackendError: `after`, or the last one `send` raised.
    """
    failed: list[BackendError] = [after]

    def may_retry(error: BaseException) -> bool:
        if not isinstance(error, BackendError) or not error.retryable:
            return False
        budget.on_failure()
        return budget.allows_retry

    def wait(state: tenacity.RetryCallState) -> float:
        ceiling = doubled(BACKOFF_BASE_S, state.attempt_number - 1, cap_s=BACKOFF_CAP_S)
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_s if isinstance(error, BackendError) else None
        return max(uniform(0.0, ceiling), asked or 0.0)

    async def attempt() -> T:
        if failed:  # tenacity is told of the first attempt as if it had made it
            raise failed.pop()
        return await send()

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(may_retry),
        wait=wait,
        stop=tenacity.stop_after_attempt(retries + 1) | tenacity.stop_before_delay(deadline_s),
        sleep=sleep,
        reraise=True,
    )
    answer: T = await retrying(attempt)
    return answer


def let_go(error: BaseException | None) -> None:
    """Forget the tracebacks of `error` and its causes, which hold the frame and its request.

    tenacity's record of a failed call and the call's exception hold each other, so over a dead link
    twenty frames at a time would wait for the garbage collector.
    """
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
