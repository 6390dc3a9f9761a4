"""What holds of a pool of targets whatever they do: by hypothesis, and on a clock of its own."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.remote.failover import first_answer
from hybrid_detect.backends.remote.health import require_one_healthy
from hybrid_detect.backends.remote.providers.face_mapping import FaceMapping
from hybrid_detect.backends.remote.providers.json_endpoint import JsonEndpoint
from hybrid_detect.backends.remote.retries import RetryBudget
from hybrid_detect.backends.remote.target_pool import UNHEALTHY_SHARE, TargetPool
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    BackendUnavailableError,
    SupersededError,
)
from hybrid_detect.selection.breaker import BreakerState, CircuitBreaker
from hybrid_detect.testing import FakeClock

INTERVAL_S = 0.1


class Acme(JsonEndpoint):
    name = "acme"


def targets_of(*preferences: int, protocol: Any = None) -> list[Target]:
    made = protocol or JsonEndpoint(FaceMapping())
    return [
        Target(url=f"https://{n}.example", preference=preference, protocol=made)
        for n, preference in enumerate(preferences)
    ]


steps = st.lists(
    st.tuples(
        st.sampled_from(["pick", "other", "answer", "fail", "refuse", "blame", "leave"]),
        st.floats(0.0, 40.0),
        st.sets(st.integers(0, 3), max_size=3),
    ),
    max_size=60,
)


@given(preferences=st.lists(st.integers(-2, 2), min_size=1, max_size=4), steps=steps)
def test_no_frame_goes_where_it_may_not_and_each_attempt_has_time(
    preferences: list[int], steps: list[tuple[str, float, set[int]]]
) -> None:
    clock = FakeClock()
    pool = TargetPool(targets_of(*preferences), clock=clock)
    under_way: list[Target] = []
    for step, seconds, chosen in steps:
        clock.advance(seconds)
        denied = [pool.targets[n] for n in chosen if n < len(pool.targets)]
        if step == "pick" and len(denied) < len(pool.targets):
            target = pool.pick(denied)
            if len(pool.targets) > 1:
                assert target not in denied
            limit_s = pool.limit_s(target, 1.0, denied)
            assert 0 < limit_s <= 1.0
            pool.begin(target)
            under_way.append(target)
        elif step == "other":
            other = pool.other(denied, left_s=seconds)
            assert other is None or other not in denied
        elif under_way:
            target = under_way.pop()
            if step == "answer":
                pool.answered(target, took_s=seconds)
            elif step in {"fail", "refuse", "blame"}:
                status = {"fail": 503, "refuse": 403, "blame": 422}[step]
                pool.failed(target, BackendResponseError("no", status_code=status))
            else:
                pool.left(target)
    assert all(status.denied_reason == "" for status in pool.statuses())
    assert all(known.pending >= 0 for known in pool._known)


@given(
    preferences=st.permutations([0, 1, 2]),
    broken=st.sets(st.integers(0, 2), max_size=2),
    took_s=st.floats(0.01, 0.5),
)
def test_the_best_preference_that_works_gets_nearly_every_frame(
    preferences: list[int], broken: set[int], took_s: float
) -> None:
    clock = FakeClock()
    pool = TargetPool(targets_of(*preferences), clock=clock)
    best = min(
        (target for n, target in enumerate(pool.targets) if n not in broken),
        key=lambda target: target.preference,
    )
    answered: Counter[str] = Counter()
    extra = 0
    for _ in range(600):
        clock.advance(INTERVAL_S)
        tried: list[Target] = []
        target: Target | None = pool.pick()
        while target is not None:
            pool.begin(target)
            if pool.targets.index(target) in broken:
                pool.failed(target, BackendUnavailableError("down", retryable=True))
                tried.append(target)
                extra += 1
                target = pool.other(tried)
                assert target is not None, "one of them works"
            else:
                pool.answered(target, took_s=took_s)
                answered[target.name] += 1
                break
    assert answered == {best.name: 600}, "every frame was answered, and by the best"
    assert extra <= 0.05 * 600


def test_each_target_has_a_breaker_of_its_own() -> None:
    pool = TargetPool(targets_of(0, 0), clock=FakeClock())
    for _ in range(CircuitBreaker.FAILURES_TO_OPEN):
        pool.begin(pool.targets[0])
        pool.failed(pool.targets[0], BackendUnavailableError("down"))
    pool.begin(pool.targets[1])
    pool.answered(pool.targets[1], took_s=0.1)
    states = [status.breaker for status in pool.statuses()]
    assert states == [BreakerState.OPEN, BreakerState.CLOSED]
    assert [status.failed for status in pool.statuses()] == [2, 0]


def test_a_preferred_target_that_fails_a_fifth_of_its_requests_is_asked_after_the_others() -> None:
    clock = FakeClock()
    pool = TargetPool(targets_of(0, 1), clock=clock)
    preferred, other = pool.targets
    requests, failures = 0, 0
    for _ in range(3000):
        clock.advance(INTERVAL_S)
        target = pool.pick()
        pool.begin(target)
        if target is other:
            pool.answered(other, took_s=0.3)
            continue
        requests += 1
        if requests % 5:
            pool.answered(preferred, took_s=0.1)
        else:
            failures += 1
            pool.failed(preferred, BackendUnavailableError("down", retryable=True))
    assert failures <= 0.02 * 3000
    assert requests > failures * 3, "it is tried again and again"
    assert 0 < UNHEALTHY_SHARE < 0.2


def test_a_failing_frame_goes_where_an_answer_can_come_in_time() -> None:
    clock = FakeClock()
    pool = TargetPool(targets_of(0, 0, 1), clock=clock)
    first, slow, quick = pool.targets
    for target, took_s in ((slow, 0.5), (quick, 0.05)):
        pool.begin(target)
        pool.answered(target, took_s=took_s)
    assert pool.other([first], left_s=1.0) is slow, "preferred"
    assert pool.other([first], left_s=0.3) is quick
    assert pool.other([first], left_s=0.01) is slow, "none can: the preferred one as ever"


def test_a_target_that_hangs_leaves_the_others_what_they_usually_take() -> None:
    clock = FakeClock()
    pool = TargetPool(targets_of(0, 1), clock=clock)
    slow, quick = pool.targets
    for target, took_s in ((slow, 0.6), (quick, 0.1)):
        pool.begin(target)
        pool.answered(target, took_s=took_s)
    assert pool.limit_s(slow, 1.0) == pytest.approx(0.8), "twice its usual would be all of it"
    assert pool.limit_s(quick, 1.0) == pytest.approx(0.5), "its share"
    for _ in range(CircuitBreaker.FAILURES_TO_OPEN):
        pool.begin(slow)
        pool.failed(slow, BackendTimeoutError())
    clock.advance(60)
    assert pool.limit_s(slow, 1.0) == pytest.approx(0.5), "a try has no right to more"


def test_a_target_that_asks_to_wait_is_not_asked_until_then_while_another_serves() -> None:
    clock = FakeClock()
    pool = TargetPool(targets_of(0, 1), clock=clock)
    busy, other = pool.targets
    pool.begin(busy)
    pool.failed(busy, BackendResponseError("slower", status_code=429, retry_after_s=10.0))
    assert pool.other([busy]) is other
    for _ in range(99):
        clock.advance(INTERVAL_S)
        assert pool.pick() is other
    clock.advance(2 * INTERVAL_S)
    assert pool.pick() is busy
    pool.begin(busy)
    pool.failed(busy, BackendResponseError("slower", status_code=429, retry_after_s=1e9))
    clock.advance(CircuitBreaker.LONGEST_WAIT_S + 1)
    assert pool.pick() is busy, "a wait that may be wrong is not waited for"


@pytest.mark.anyio
async def test_a_check_that_asks_nothing_is_no_sign_of_life() -> None:
    pool = TargetPool(targets_of(0, 0), clock=FakeClock())
    dead, well = pool.targets
    for _ in range(CircuitBreaker.FAILURES_TO_OPEN):
        pool.begin(dead)
        pool.failed(dead, BackendUnavailableError("down"))

    async def check(target: Target) -> bool:
        return target is well

    await require_one_healthy(pool, check)
    states = [status.breaker for status in pool.statuses()]
    assert states == [BreakerState.OPEN, BreakerState.CLOSED]


# ---- failover, on a clock of its own


class Frame:
    """A frame with a deadline, asked of targets that answer as a test says."""

    def __init__(self, pool: TargetPool, deadline_s: float) -> None:
        self.pool = pool
        self.ends_s = asyncio.get_running_loop().time() + deadline_s
        self.asked: list[str] = []
        self.answers: dict[str, float | BackendError] = {}

    def left_s(self) -> float:
        return self.ends_s - asyncio.get_running_loop().time()

    async def ask(self, target: Target, out: Sequence[Target]) -> str:
        self.asked.append(target.name)
        self.pool.begin(target)
        answer = self.answers[target.name]
        limit_s = self.pool.limit_s(target, self.left_s(), out)
        try:
            if isinstance(answer, BackendError):
                raise answer
            async with asyncio.timeout(limit_s):
                await asyncio.sleep(answer)
        except TimeoutError as error:
            if not isinstance(error, BackendError):
                error = BackendTimeoutError()
            self.pool.failed(target, error)
            raise error from None
        except BackendError as error:
            self.pool.failed(target, error)
            raise
        self.pool.answered(target, took_s=answer)
        return target.name

    async def answer(self, **options: Any) -> str:
        options.setdefault("retries", 0)
        return await first_answer(
            self.ask, self.pool, left_s=self.left_s, budget=RetryBudget(), **options
        )


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize("count", [2, 3, 4])
async def test_however_many_hang_the_last_one_still_answers_in_time(count: int) -> None:
    frame = Frame(TargetPool(targets_of(*range(count))), deadline_s=1.0)
    names = [target.name for target in frame.pool.targets]
    frame.answers = dict.fromkeys(names[:-1], math.inf) | {names[-1]: 0.05}
    assert await frame.answer() == names[-1]
    assert frame.asked == names
    assert frame.left_s() >= 0


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_if_all_hang_the_frame_ends_with_its_deadline() -> None:
    frame = Frame(TargetPool(targets_of(0, 0, 0)), deadline_s=1.0)
    frame.answers = dict.fromkeys((target.name for target in frame.pool.targets), math.inf)
    with pytest.raises(BackendTimeoutError):
        await frame.answer()
    assert frame.left_s() == pytest.approx(0.0, abs=0.01)


@pytest.mark.anyio
async def test_a_picture_that_one_provider_refuses_is_offered_to_another_one_not_its_regions() -> (
    None
):
    ours = targets_of(0, 0)
    theirs = Target(url="https://acme.example", protocol=Acme(FaceMapping()), preference=1)
    frame = Frame(TargetPool([*ours, theirs]), deadline_s=math.inf)
    blamed = BackendResponseError("unreadable", status_code=422)
    frame.answers = {ours[0].name: blamed, ours[1].name: blamed, theirs.name: 0.0}
    assert await frame.answer() == theirs.name
    assert len(frame.asked) == 2, "one region and the other provider"
    assert frame.pool.statuses()[0].failed == 1, "the picture was fine: another one could read it"
    frame.answers[theirs.name] = BackendResponseError("unreadable", status_code=422)
    with pytest.raises(BackendResponseError):
        await frame.answer()


@pytest.mark.anyio
async def test_a_frame_that_a_newer_one_replaced_is_not_sent_on() -> None:
    frame = Frame(TargetPool(targets_of(0, 0)), deadline_s=math.inf)
    frame.answers = dict.fromkeys(
        (target.name for target in frame.pool.targets), SupersededError("newer")
    )
    with pytest.raises(SupersededError):
        await frame.answer()
    assert len(frame.asked) == 1


@pytest.mark.anyio
async def test_a_frame_is_never_sent_where_it_may_not_go_not_even_to_retry() -> None:
    pool = TargetPool(targets_of(0, 1, 2))
    denied = [pool.targets[0], pool.targets[2]]
    frame = Frame(pool, deadline_s=5.0)
    down = BackendUnavailableError("down", retryable=True)
    frame.answers = dict.fromkeys((target.name for target in pool.targets), down)
    with pytest.raises(BackendUnavailableError):
        await frame.answer(denied=denied, retries=2)
    assert set(frame.asked) == {pool.targets[1].name}
    assert len(frame.asked) == 3
