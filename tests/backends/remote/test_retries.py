"""Retries: how often, how soon, and when no longer. Time and chance are injected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from hybrid_detect.backends.remote.retries import BACKOFF_BASE_S, BACKOFF_CAP_S, RetryBudget, retry
from hybrid_detect.errors import BackendError, BackendUnavailableError, ClosedError, SupersededError


class Flaky:
    """Raises each error in turn, then answers; notes how long it was waited for in between."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.waits: list[float] = []

    async def send(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def run(
        self,
        *,
        retries: int = 4,
        deadline_s: float = 100.0,
        budget: RetryBudget | None = None,
        uniform: Callable[[float, float], float] = lambda _low, high: high,
    ) -> str:
        budget = budget or RetryBudget()
        try:
            answer = await self.send()
        except BackendError as error:
            answer = await retry(
                self.send,
                after=error,
                retries=retries,
                deadline_s=deadline_s,
                budget=budget,
                sleep=self.sleep,
                uniform=uniform,
            )
        budget.on_success()
        return answer


def down(retry_after_s: float | None = None) -> BackendUnavailableError:
    return BackendUnavailableError("down", retryable=True, retry_after_s=retry_after_s)


@pytest.mark.anyio
async def test_an_answer_at_once_is_asked_for_once() -> None:
    flaky = Flaky()
    assert await flaky.run() == "answer"
    assert (flaky.calls, flaky.waits) == (1, [])


@pytest.mark.anyio
async def test_a_retryable_failure_is_tried_again() -> None:
    flaky = Flaky(down(), down())
    assert await flaky.run() == "answer"
    assert flaky.calls == 3


@pytest.mark.parametrize(
    "error",
    [
        BackendUnavailableError("refused for good", retryable=False),
        SupersededError("newer"),
        ClosedError("closed"),
        ZeroDivisionError("a bug"),
    ],
)
@pytest.mark.anyio
async def test_what_cannot_succeed_is_not_tried_again(error: Exception) -> None:
    flaky = Flaky(error)
    budget = RetryBudget()
    with pytest.raises(type(error)) as caught:
        await flaky.run(budget=budget)
    assert caught.value is error
    assert (flaky.calls, flaky.waits) == (1, [])


@pytest.mark.anyio
async def test_the_last_error_is_raised_once_the_retries_are_used_up() -> None:
    errors = [down() for _ in range(5)]
    flaky = Flaky(*errors)
    with pytest.raises(BackendUnavailableError) as caught:
        await flaky.run(retries=2)
    assert caught.value is errors[2]
    assert flaky.calls == 3


@pytest.mark.anyio
async def test_no_retries_means_one_call() -> None:
    flaky = Flaky(down())
    with pytest.raises(BackendUnavailableError):
        await flaky.run(retries=0)
    assert flaky.calls == 1


@pytest.mark.anyio
async def test_the_jitter_is_drawn_between_nothing_and_a_doubling_ceiling_with_a_cap() -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    budget = RetryBudget()
    budget.on_failure = lambda: None  # type: ignore[method-assign]
    flaky = Flaky(*[down() for _ in range(8)])
    await flaky.run(retries=8, uniform=uniform, budget=budget)
    assert all(low == 0.0 for low, _ in drawn)
    assert [high for _, high in drawn] == [
        min(BACKOFF_BASE_S * 2**n, BACKOFF_CAP_S) for n in range(8)
    ]
    assert flaky.waits == [0.0] * 8


@pytest.mark.anyio
async def test_it_waits_at_least_as_long_as_the_other_side_asked_for() -> None:
    flaky = Flaky(down(retry_after_s=2.5), down(retry_after_s=0.0))
    await flaky.run(uniform=lambda _low, _high: 0.01)
    assert flaky.waits == [2.5, 0.01]


@pytest.mark.anyio
async def test_it_does_not_wait_past_the_deadline() -> None:
    flaky = Flaky(down(retry_after_s=2.5))
    with pytest.raises(BackendUnavailableError):
        await flaky.run(deadline_s=2.0)
    assert (flaky.calls, flaky.waits) == (1, [])


@pytest.mark.parametrize("asked", [1e300, float("inf")])
@pytest.mark.anyio
async def test_a_wait_without_end_ends_the_retries(asked: float) -> None:
    flaky = Flaky(down(retry_after_s=asked))
    with pytest.raises(BackendUnavailableError):
        await flaky.run()
    assert flaky.waits == []


@pytest.mark.anyio
async def test_no_time_left_means_no_retry() -> None:
    flaky = Flaky(down())
    with pytest.raises(BackendUnavailableError):
        await flaky.run(deadline_s=0.0)
    assert flaky.calls == 1


@pytest.mark.anyio
async def test_an_outage_uses_up_the_budget_and_then_gets_one_call_a_frame() -> None:
    budget = RetryBudget()
    calls = []
    for _ in range(4):
        flaky = Flaky(*[down() for _ in range(9)])
        with pytest.raises(BackendUnavailableError):
            await flaky.run(budget=budget)
        calls.append(flaky.calls)
    assert calls == [5, 1, 1, 1]


@pytest.mark.anyio
async def test_answers_fill_the_budget_again_a_tenth_each() -> None:
    budget = RetryBudget()
    for _ in range(5):
        budget.on_failure()
    assert not budget.allows_retry
    for _ in range(10):
        await Flaky().run(budget=budget)
    budget.on_failure()
    assert not budget.allows_retry, "one token came back and went again"
    for _ in range(11):
        await Flaky().run(budget=budget)
    assert budget.allows_retry


def test_the_budget_neither_overflows_nor_runs_into_debt() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.on_success()
    for _ in range(4):
        budget.on_failure()
    assert budget.allows_retry
    budget.on_failure()
    assert not budget.allows_retry
    for _ in range(1000):
        budget.on_failure()
    for _ in range(60):
        budget.on_success()
    assert budget.allows_retry


@pytest.mark.anyio
async def test_cancellation_is_not_a_failure() -> None:
    budget = RetryBudget()
    entered = asyncio.Event()
    calls = 0

    async def hang() -> None:
        nonlocal calls
        calls += 1
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(
        retry(
            hang,
            after=down(),
            retries=4,
            deadline_s=100,
            budget=budget,
            sleep=lambda _: asyncio.sleep(0),
        )
    )
    async with asyncio.timeout(5):
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert calls == 1
