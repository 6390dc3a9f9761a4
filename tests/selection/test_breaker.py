import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.selection.breaker import BreakerState, CircuitBreaker

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def exact(low: float, high: float) -> float:
    """No jitter: the middle."""
    return (low + high) / 2


def breaker(state: BreakerState) -> CircuitBreaker:
    made = CircuitBreaker(uniform=exact)
    if state is HALF_OPEN:
        made.begin_check()
    elif state is CLOSED:
        made.on_success()
    return made


def pause_s(made: CircuitBreaker, **event: bool) -> float:
    """How long a failure at 100 s closes the way for."""
    made.on_failure(now_s=100.0, **event)
    return made.retry_at_s - 100.0


def test_it_starts_open_and_due_at_once() -> None:
    fresh = CircuitBreaker()
    assert fresh.state is OPEN
    assert fresh.retry_at_s < 0


@pytest.mark.parametrize("state", list(BreakerState))
def test_success_closes_it(state: BreakerState) -> None:
    made = breaker(state)
    made.on_success()
    assert made.state is CLOSED


def test_a_check_half_opens_it() -> None:
    made = breaker(OPEN)
    made.begin_check()
    assert made.state is HALF_OPEN


@pytest.mark.parametrize(
    ("state", "for_good", "expected"),
    [
        (CLOSED, False, CLOSED),
        (CLOSED, True, OPEN),
        (HALF_OPEN, False, OPEN),
        (HALF_OPEN, True, OPEN),
        (OPEN, False, OPEN),
        (OPEN, True, OPEN),
    ],
)
def test_one_failure(state: BreakerState, for_good: bool, expected: BreakerState) -> None:
    made = breaker(state)
    made.on_failure(now_s=0.0, for_good=for_good)
    assert made.state is expected


def test_failures_in_a_row_open_it_at_the_threshold() -> None:
    made = breaker(CLOSED)
    for _ in range(CircuitBreaker.FAILURES_TO_OPEN - 1):
        made.on_failure(now_s=0.0)
        assert made.state is CLOSED
    made.on_failure(now_s=0.0)
    assert made.state is OPEN


def test_a_success_between_failures_makes_them_forgotten() -> None:
    made = breaker(CLOSED)
    for _ in range(20):
        made.on_failure(now_s=0.0)
        made.on_success()
    assert made.state is CLOSED


def test_the_first_pause_is_short_and_doubles_with_each_failed_check_up_to_the_cap() -> None:
    made = breaker(CLOSED)
    made.on_failure(now_s=0.0)
    pauses = [pause_s(made)]
    for _ in range(6):
        made.begin_check()
        pauses.append(pause_s(made))
    first, cap = CircuitBreaker.FIRST_PAUSE_S, CircuitBreaker.MAX_PAUSE_S
    assert pauses == pytest.approx([min(first * 2**n, cap) for n in range(7)])


def test_success_makes_the_next_pause_short_again() -> None:
    made = breaker(CLOSED)
    for _ in range(5):
        made.begin_check()
        made.on_failure(now_s=0.0)
    made.on_success()
    made.on_failure(now_s=0.0)
    assert pause_s(made) == pytest.approx(CircuitBreaker.FIRST_PAUSE_S)


def test_frames_that_fail_while_it_is_open_do_not_double_the_pause() -> None:
    made = breaker(CLOSED)
    made.on_failure(now_s=0.0)
    assert [pause_s(made) for _ in range(4)] == pytest.approx([CircuitBreaker.FIRST_PAUSE_S] * 4)


def test_a_refusal_for_good_is_asked_about_rarely() -> None:
    assert pause_s(breaker(CLOSED), for_good=True) == CircuitBreaker.REFUSED_PAUSE_S


events = st.lists(st.sampled_from(["check", "success", "failure", "refused"]), max_size=60)


@given(events, st.integers(0, 2**32))
def test_pauses_stay_in_bounds_and_frames_flow_only_after_a_success(
    happened: list[str], seed: int
) -> None:
    made = CircuitBreaker(uniform=random.Random(seed).uniform)
    now_s = failures = 0.0
    for event in happened:
        now_s += 0.1
        before = made.state
        if event == "check":
            made.begin_check()
            assert made.state is HALF_OPEN
        elif event == "success":
            made.on_success()
            failures = 0
            assert made.state is CLOSED
        else:
            failures += 1
            made.on_failure(now_s=now_s, for_good=event == "refused")
            if made.state is OPEN:
                longest = made.REFUSED_PAUSE_S if event == "refused" else made.MAX_PAUSE_S
                assert 0.5 * made.FIRST_PAUSE_S <= made.retry_at_s - now_s <= 1.5 * longest
            else:
                assert before is CLOSED
                assert failures < made.FAILURES_TO_OPEN


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_breakers_do_not_come_back_as_one(seed: int) -> None:
    """Recorded seeds: the jitter spreads the checks over the pause."""
    rng = random.Random(seed)
    times = []
    for _ in range(50):
        made = CircuitBreaker(uniform=rng.uniform)
        made.on_failure(now_s=0.0)
        times.append(made.retry_at_s)
    assert max(times) - min(times) > 0.5 * CircuitBreaker.FIRST_PAUSE_S
