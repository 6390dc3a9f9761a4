"""Which of several servers gets the next frame: peaks, forgetting, stickiness."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.selection.balancing import (
    FORGET_FAILURES_S,
    FORGET_S,
    HALF_LIFE_S,
    STAY_RATIO,
    FailureShare,
    PeakLatency,
    pick,
)


def never(_: Sequence[str]) -> str:
    raise AssertionError("nothing to draw")


def test_nothing_is_predicted_before_the_first_answer() -> None:
    assert PeakLatency().predict_s(now_s=5.0) is None


def test_a_slow_answer_counts_at_once_and_fast_ones_bring_it_down_slowly() -> None:
    latency = PeakLatency()
    latency.observe(0.1, now_s=0.0)
    latency.observe(1.0, now_s=0.1)
    assert latency.predict_s(now_s=0.1) == 1.0
    latency.observe(0.1, now_s=0.1 + HALF_LIFE_S)
    halfway = latency.predict_s(now_s=0.1 + HALF_LIFE_S)
    assert halfway == pytest.approx(0.5 * math.exp(-HALF_LIFE_S / FORGET_S) + 0.05)


def test_a_server_that_was_slow_is_forgotten_while_it_is_not_used() -> None:
    latency = PeakLatency()
    latency.observe(0.4, now_s=0.0)
    assert latency.predict_s(now_s=FORGET_S) == pytest.approx(0.4 / math.e)


def test_without_a_present_one_the_cheapest_is_taken_and_the_first_of_equals() -> None:
    assert pick({"a": 0.3, "b": 0.2}, present=None, choice=never) == "b"
    assert pick({"a": 0.2, "b": 0.2}, present=None, choice=never) == "a"
    assert pick({"a": 0.2}, present="gone", choice=never) == "a"


def test_the_present_one_stays_until_a_rival_is_clearly_faster() -> None:
    at_the_edge = STAY_RATIO * 0.5
    assert pick({"a": 0.5, "b": at_the_edge}, present="a", choice=lambda r: r[0]) == "a"
    assert pick({"a": 0.5, "b": at_the_edge - 1e-9}, present="a", choice=lambda r: r[0]) == "b"


def test_the_only_one_needs_no_chance() -> None:
    assert pick({"a": 9.0}, present="a", choice=never) == "a"


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 100), min_size=1),
    st.none() | st.sampled_from("abcdefg"),
    st.integers(),
)
def test_whatever_is_known_one_that_works_is_picked(
    costs: dict[str, float], present: str | None, seed: int
) -> None:
    choice = random.Random(seed).choice
    picked = pick(costs, present=present, choice=choice)
    assert picked in costs
    if present in costs:
        assert costs[picked] <= costs[present]


def test_a_failure_share_looks_back_and_fades() -> None:
    share = FailureShare()
    assert share.predict(now_s=0.0) == 0.0
    for n in range(200):
        share.observe(failed=n % 5 == 0, now_s=0.1 * n)
    assert share.predict(now_s=20.0) == pytest.approx(0.2, abs=0.07)
    assert share.predict(now_s=20.0 + FORGET_FAILURES_S) == pytest.approx(
        share.predict(now_s=20.0) / math.e
    )
    for n in range(100):
        share.observe(failed=True, now_s=30.0 + 0.1 * n)
    assert 0.95 < share.predict(now_s=40.0) <= 1.0
