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
    """How long a failure at 100 s keeps frames from the backend."""
    made.on_failure(now_s=100.0, **event)
    return made.retry_at_s - 100.0


def test_it_starts_open_and_due_at_once() -> None:
    fresh = CircuitBreaker()
    assert fresh.state is OPEN
    assert fresh.retry_at_s < 0


def on_probation() -> CircuitBreaker:
    """Closed by a check after an outage; no frame has shown anything yet."""
    made = breaker(CLOSED)
    for _ in range(CircuitBreaker.FAILURES_TO_OPEN):
        made.on_failure(now_s=0.0)
    made.begin_check()
    made.on_success(now_s=0.3)
    return made


def full_of(*, failed: int = 0, slow: int = 0, quick: int = 0) -> CircuitBreaker:
    """Closed, with so many calls in its window; the failures lie apart, and slow ones are last."""
    made = breaker(CLOSED)
    for number in range(max(failed, quick)):
        if number < failed:
            made.on_failure(now_s=1.0)
        if number < quick:
            made.on_success(now_s=1.0)
    for _ in range(slow):
        made.on_success(now_s=1.0, slow=True)
    return made


START = {
    "open": lambda: breaker(OPEN),
    "half_open": lambda: breaker(HALF_OPEN),
    "closed": lambda: breaker(CLOSED),
    "failed once": lambda: full_of(failed=1),
    "half failed": lambda: full_of(failed=4, quick=5),
    "mostly slow": lambda: full_of(quick=2, slow=7),
    "probation": on_probation,
}
EVENTS = {
    "check": lambda made: made.begin_check(),
    "quick": lambda made: made.on_success(now_s=1.0),
    "slow": lambda made: made.on_success(now_s=1.0, slow=True),
    "failure": lambda made: made.on_failure(now_s=1.0),
    "refused": lambda made: made.on_failure(now_s=1.0, for_good=True),
}
NEXT = {
    #               check      quick   slow    failure refused
    "open": (HALF_OPEN, CLOSED, OPEN, OPEN, OPEN),
    "half_open": (HALF_OPEN, CLOSED, OPEN, OPEN, OPEN),
    "closed": (HALF_OPEN, CLOSED, CLOSED, CLOSED, OPEN),
    "failed once": (HALF_OPEN, CLOSED, CLOSED, OPEN, OPEN),
    "half failed": (HALF_OPEN, CLOSED, CLOSED, OPEN, OPEN),
    "mostly slow": (HALF_OPEN, CLOSED, OPEN, CLOSED, OPEN),
    "probation": (HALF_OPEN, CLOSED, OPEN, OPEN, OPEN),
}


@pytest.mark.parametrize(
    ("start", "event", "expected"),
    [
        (start, event, expected)
        for start, row in NEXT.items()
        for event, expected in zip(EVENTS, row, strict=True)
    ],
)
def test_the_transition_table(start: str, event: str, expected: BreakerState) -> None:
    made = START[start]()
    EVENTS[event](made)
    assert made.state is expected
    assert bool(made.why_open) is (expected is OPEN and start != "open")


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
        made.on_success()
    assert made.state is CLOSED


# -- the window ----------------------------------------------------------------------------------


def test_every_second_failure_opens_it_though_no_two_follow_each_other() -> None:
    made = breaker(CLOSED)
    calls = 0
    while made.state is CLOSED:
        calls += 1
        made.on_success(now_s=0.1 * calls) if calls % 2 else made.on_failure(now_s=0.1 * calls)
    assert calls == CircuitBreaker.MIN_CALLS
    assert made.why_open == "50% of the last 10 calls failed"


def test_successes_without_a_time_count_too() -> None:
    made = breaker(CLOSED)
    for number in range(200):
        made.on_failure(now_s=0.1 * number)
        made.on_success()
        made.on_success()
    assert made.state is CLOSED


def test_failures_of_before_the_window_do_not_count() -> None:
    made = breaker(CLOSED)
    for _ in range(4):
        made.on_failure(now_s=0.0)
        made.on_success(now_s=0.0)
    later_s = CircuitBreaker.WINDOW_S + 0.1
    for _ in range(9):
        made.on_success(now_s=later_s)
    made.on_failure(now_s=later_s)
    made.on_success(now_s=later_s)
    made.on_failure(now_s=later_s)
    assert made.state is CLOSED


@pytest.mark.parametrize(("slow", "quick", "expected"), [(8, 2, OPEN), (7, 3, CLOSED)])
def test_slow_answers_open_it_at_their_share(slow: int, quick: int, expected: BreakerState) -> None:
    made = full_of(quick=quick, slow=slow)
    assert made.state is expected
    assert made.why_open == ("its answers are slow" if expected is OPEN else "")


def test_a_few_slow_answers_are_no_share() -> None:
    assert full_of(slow=CircuitBreaker.MIN_CALLS - 1).state is CLOSED


def test_an_outage_clears_the_window() -> None:
    made = full_of(slow=CircuitBreaker.MIN_CALLS)
    made.begin_check()
    made.on_success(now_s=1.0)
    made.on_success(now_s=1.0)
    for _ in range(CircuitBreaker.MIN_CALLS - 2):
        made.on_success(now_s=1.0, slow=True)
    assert made.state is CLOSED


def test_memory_is_bounded_though_time_stands_still() -> None:
    made = breaker(CLOSED)
    for _ in range(10_000):
        made.on_success(now_s=0.0)
    assert len(made._calls) <= CircuitBreaker.MAX_CALLS


# -- probation -----------------------------------------------------------------------------------


def test_pauses_grow_as_long_as_checks_succeed_and_frames_fail() -> None:
    """A server that is alive and answers each picture with an error."""
    made = on_probation()
    pauses = []
    for _ in range(5):
        pauses.append(pause_s(made))
        made.begin_check()
        made.on_success()
    assert pauses == pytest.approx([0.5, 1.0, 2.0, 2.0, 2.0])


def test_one_quick_frame_ends_probation() -> None:
    made = on_probation()
    assert made.on_probation
    made.on_success()
    assert not made.on_probation
    made.on_failure(now_s=1.0)
    assert made.state is CLOSED
    assert pause_s(made) == pytest.approx(CircuitBreaker.FIRST_PAUSE_S)


def test_the_first_check_of_all_leads_to_no_probation() -> None:
    made = breaker(HALF_OPEN)
    made.on_success()
    assert not made.on_probation


# -- pauses --------------------------------------------------------------------------------------


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


events = st.lists(st.sampled_from(["check", "success", "slow", "failure", "refused"]), max_size=60)


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
        elif event == "slow":
            made.on_success(now_s=now_s, slow=True)
            failures = 0
            assert made.state is before or (before is not OPEN and made.state is OPEN)
        else:
            failures += 1
            made.on_failure(now_s=now_s, for_good=event == "refused")
            if made.state is OPEN:
                longest = made.REFUSED_PAUSE_S if event == "refused" else made.MAX_PAUSE_S
                least, most = made.JITTER
                pause = made.retry_at_s - now_s
                assert least * made.FIRST_PAUSE_S - 1e-9 <= pause <= most * longest + 1e-9
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
    assert max(times) - min(times) > 0.4 * CircuitBreaker.FIRST_PAUSE_S
