import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.server.rate_limit import RateLimiter

from ..clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def limiter(
    clock: FakeClock, rate_per_s: float = 10.0, burst: int = 3, **options: int
) -> RateLimiter:
    return RateLimiter(rate_per_s=rate_per_s, burst=burst, clock=clock, **options)


def test_a_burst_then_the_rate(clock: FakeClock) -> None:
    bucket = limiter(clock)
    assert [bucket.take("a") for _ in range(3)] == [0, 0, 0]
    assert bucket.take("a") == pytest.approx(0.1)
    clock.now_s += 0.1
    assert bucket.take("a") == 0
    assert bucket.take("a") > 0


def test_waiting_as_long_as_told_is_enough(clock: FakeClock) -> None:
    bucket = limiter(clock, rate_per_s=3.0, burst=1)
    bucket.take("a")
    for _ in range(1000):
        clock.now_s += bucket.take("a")
        assert bucket.take("a") == 0


def test_asking_too_early_costs_nothing(clock: FakeClock) -> None:
    bucket = limiter(clock, burst=1)
    bucket.take("a")
    for _ in range(100):
        assert bucket.take("a") > 0
    clock.now_s += 0.1
    assert bucket.take("a") == 0


@pytest.mark.parametrize(("left", "wait_s"), [(1.5, 0.0), (1.0, 0.0), (0.75, 0.25), (0.0, 1.0)])
def test_one_is_taken_if_at_least_one_is_there(
    clock: FakeClock, left: float, wait_s: float
) -> None:
    bucket = limiter(clock, rate_per_s=1.0, burst=2)
    bucket.take("a")
    bucket.take("a")
    clock.advance(left)
    assert bucket.take("a") == wait_s
    clock.advance(max(1 - left, 0.0))  # what was asked for too early is not lost
    assert bucket.take("a") == (0.0 if wait_s else pytest.approx(2 - left))


def test_the_name_that_was_not_seen_for_longest_is_forgotten(clock: FakeClock) -> None:
    bucket = limiter(clock, rate_per_s=0.1, burst=1, max_buckets=2)
    for name in ("first", "second", "third"):
        assert bucket.take(name) == 0.0
    assert bucket.take("third") > 0
    assert bucket.take("second") > 0
    assert bucket.take("first") == 0.0


def test_each_name_has_a_bucket_of_its_own(clock: FakeClock) -> None:
    bucket = limiter(clock, burst=1)
    assert bucket.take("a") == bucket.take("b") == 0
    assert bucket.take("a") > 0


def test_a_pause_fills_no_more_than_the_bucket(clock: FakeClock) -> None:
    bucket = limiter(clock)
    bucket.take("a")
    clock.now_s += 1e6
    assert [bucket.take("a") == 0 for _ in range(4)] == [True, True, True, False]


def test_0_is_no_limit_and_remembers_nobody(clock: FakeClock) -> None:
    bucket = limiter(clock, rate_per_s=0, burst=1)
    assert not any(bucket.take("a") for _ in range(100))
    assert len(bucket) == 0


def test_what_is_remembered_is_bounded_and_the_busy_are_not_forgotten(clock: FakeClock) -> None:
    bucket = limiter(clock, burst=1, max_buckets=10)
    bucket.take("busy")
    for number in range(1000):
        bucket.take(f"made up {number}")
        assert bucket.take("busy") > 0
    assert len(bucket) == 10


@given(
    steps=st.lists(st.floats(0, 3), min_size=1, max_size=100),
    rate=st.floats(0.1, 50),
    burst=st.integers(1, 20),
)
def test_never_more_than_the_burst_and_the_rate_together(
    steps: list[float], rate: float, burst: int
) -> None:
    clock = FakeClock()
    bucket = RateLimiter(rate_per_s=rate, burst=burst, clock=clock)
    began_s, granted = clock.now_s, 0
    for step_s in steps:
        clock.now_s += step_s
        granted += bucket.take("a") == 0
        assert granted <= burst + (clock.now_s - began_s) * rate + 1e-6
