"""No request is admitted twice, none outside the window, whatever the order and the clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.errors import ReplayError, StaleRequestError
from hybrid_detect.exchange.replays import ReplayGuard

START_S = 1_000_000.0


def guard(**options: float) -> ReplayGuard:
    return ReplayGuard(started_at_s=START_S - 1000, **options)  # type: ignore[arg-type]


def ms(seconds: float) -> int:
    return int(seconds * 1000)


def test_a_request_is_admitted_once() -> None:
    replays = guard()
    replays.admit(b"a", sealed_at_ms=ms(START_S), now_s=START_S)
    for later_s in (0.0, 1.0, 30.0):
        with pytest.raises(ReplayError):
            replays.admit(b"a", sealed_at_ms=ms(START_S), now_s=START_S + later_s)
    replays.admit(b"b", sealed_at_ms=ms(START_S), now_s=START_S)


@pytest.mark.parametrize("age_s", [-30.0, -29.9, 0.0, 29.9, 30.0])
def test_a_request_inside_the_window_is_fresh(age_s: float) -> None:
    guard().admit(b"a", sealed_at_ms=ms(START_S - age_s), now_s=START_S)


@pytest.mark.parametrize("age_s", [-1e9, -60.0, -30.1, 30.1, 60.0, 1e6])
def test_a_request_outside_the_window_is_stale(age_s: float) -> None:
    replays = guard()
    with pytest.raises(StaleRequestError):
        replays.admit(b"a", sealed_at_ms=ms(START_S - age_s), now_s=START_S)
    assert len(replays) == 0


def test_what_was_sealed_before_the_start_may_have_been_answered() -> None:
    replays = ReplayGuard(started_at_s=START_S)
    with pytest.raises(StaleRequestError, match="before the server started"):
        replays.admit(b"a", sealed_at_ms=ms(START_S) - 1, now_s=START_S + 1)
    replays.admit(b"a", sealed_at_ms=ms(START_S), now_s=START_S + 1)


def test_nonces_are_forgotten_when_they_can_be_no_more() -> None:
    replays = guard()
    for second in range(200):
        now_s = START_S + second
        replays.admit(str(second).encode(), sealed_at_ms=ms(now_s), now_s=now_s)
    assert len(replays) == 31


def test_an_old_request_is_no_fresh_one_because_its_nonce_was_forgotten() -> None:
    replays = guard(max_nonces=3)
    for number in range(10):
        replays.admit(bytes([number]), sealed_at_ms=ms(START_S) + number, now_s=START_S + 1)
    assert len(replays) == 3
    for number in range(10):
        with pytest.raises((ReplayError, StaleRequestError)):
            replays.admit(bytes([number]), sealed_at_ms=ms(START_S) + number, now_s=START_S + 1)
    replays.admit(b"new", sealed_at_ms=ms(START_S) + 10, now_s=START_S + 1)


def test_a_clock_that_is_set_back_lets_nothing_in_twice() -> None:
    replays = guard()
    replays.admit(b"a", sealed_at_ms=ms(START_S), now_s=START_S)
    replays.admit(b"b", sealed_at_ms=ms(START_S + 60), now_s=START_S + 60)  # forgets a
    assert len(replays) == 1
    with pytest.raises(StaleRequestError):
        replays.admit(b"a", sealed_at_ms=ms(START_S), now_s=START_S)


def test_a_guard_that_starts_over_believes_the_time_it_is_given() -> None:
    replays = ReplayGuard(started_at_s=START_S + 3600)  # an hour ahead
    ahead = START_S + 3600
    replays.admit(b"by the wrong time", sealed_at_ms=ms(ahead), now_s=ahead)
    with pytest.raises(StaleRequestError):
        replays.admit(b"a", sealed_at_ms=ms(START_S), now_s=START_S)
    replays.start_over(now_s=START_S)
    replays.admit(b"a", sealed_at_ms=ms(START_S), now_s=START_S)
    with pytest.raises(ReplayError):
        replays.admit(b"a", sealed_at_ms=ms(START_S), now_s=START_S + 1)
    with pytest.raises(StaleRequestError, match="before the server started"):
        replays.admit(b"b", sealed_at_ms=ms(START_S) - 1, now_s=START_S)
    with pytest.raises(ReplayError):
        replays.admit(b"by the wrong time", sealed_at_ms=ms(ahead), now_s=ahead)


def test_starting_over_after_a_small_step_forgets_nothing_of_the_window() -> None:
    replays = guard()
    replays.admit(b"a", sealed_at_ms=ms(START_S), now_s=START_S)
    replays.start_over(now_s=START_S - 5)
    for sealed_at_s in (START_S - 29, START_S - 6, START_S - 5):
        replays.admit(str(sealed_at_s).encode(), sealed_at_ms=ms(sealed_at_s), now_s=START_S - 5)
    with pytest.raises(ReplayError):
        replays.admit(b"a", sealed_at_ms=ms(START_S), now_s=START_S - 5)


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(-40_000, 40_000), st.integers(0, 20_000)),
        max_size=60,
    ),
    st.integers(1, 8),
)
def test_whatever_comes_nothing_is_admitted_twice_and_memory_is_bounded(
    requests: list[tuple[int, int, int]], max_nonces: int
) -> None:
    """Each request has one nonce and one time, as the seal sees to; it comes in any order."""
    replays = guard(max_nonces=max_nonces)
    times: dict[int, int] = {}
    admitted = set()
    now_ms = ms(START_S)
    for nonce, age_ms, pause_ms in requests:
        now_ms += pause_ms
        sealed_at_ms = times.setdefault(nonce, now_ms - age_ms)
        try:
            replays.admit(bytes([nonce]), sealed_at_ms=sealed_at_ms, now_s=now_ms / 1000)
        except (ReplayError, StaleRequestError):
            continue
        assert nonce not in admitted
        assert abs(now_ms - sealed_at_ms) <= 30_000
        admitted.add(nonce)
        assert len(replays) <= max_nonces
