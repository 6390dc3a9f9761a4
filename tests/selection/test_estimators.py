import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.selection.estimators import LatencyEstimate

latencies = st.floats(min_value=0.0, max_value=60.0)
gaps = st.floats(min_value=0.0, max_value=10.0)


def fed(*samples: tuple[float, float]) -> LatencyEstimate:
    """An estimate that saw each (latency, time)."""
    estimate = LatencyEstimate()
    for latency_s, now_s in samples:
        estimate.observe(latency_s, now_s=now_s)
    return estimate


def test_nothing_is_predicted_before_the_first_sample() -> None:
    assert LatencyEstimate().predict_s(now_s=0.0) is None


def test_the_first_sample_is_the_prediction() -> None:
    assert fed((0.2, 0.0)).predict_s(now_s=0.0) == 0.2


def test_a_slower_sample_is_believed_at_once() -> None:
    assert fed((0.1, 0.0), (0.9, 0.1)).predict_s(now_s=0.1) == 0.9


def test_a_faster_sample_pulls_down_by_half_in_a_half_life() -> None:
    estimate = fed((1.0, 0.0), (0.0, LatencyEstimate.HALF_LIFE_S))
    assert estimate.predict_s(now_s=LatencyEstimate.HALF_LIFE_S) == pytest.approx(0.5)


def test_a_faster_sample_of_the_same_moment_changes_nothing() -> None:
    assert fed((1.0, 3.0), (0.1, 3.0)).predict_s(now_s=3.0) == 1.0


@pytest.mark.parametrize(
    ("age_s", "known"),
    [(0.0, True), (LatencyEstimate.MAX_AGE_S, True), (LatencyEstimate.MAX_AGE_S + 0.001, False)],
)
def test_an_old_estimate_is_forgotten(age_s: float, known: bool) -> None:
    assert (fed((0.2, 0.0)).predict_s(now_s=age_s) is not None) is known


def test_the_spike_of_before_hardly_counts_after_a_long_silence() -> None:
    predicted = fed((4.0, 0.0), (0.1, 20.0)).predict_s(now_s=20.0)
    assert predicted == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_latency_is_not_taken_in(bad: float) -> None:
    assert fed((0.2, 0.0), (bad, 1.0)).predict_s(now_s=1.0) == 0.2


def test_a_sample_that_comes_out_of_order_does_not_overshoot() -> None:
    assert fed((1.0, 10.0), (0.5, 0.0)).predict_s(now_s=0.0) == 1.0


@given(st.lists(st.tuples(latencies, gaps), min_size=1, max_size=30))
def test_a_prediction_stays_between_the_last_and_the_slowest_sample(
    samples: list[tuple[float, float]],
) -> None:
    estimate, now_s, slowest = LatencyEstimate(), 0.0, 0.0
    for latency_s, gap_s in samples:
        now_s += gap_s
        slowest = max(slowest, latency_s)
        estimate.observe(latency_s, now_s=now_s)
        predicted = estimate.predict_s(now_s=now_s)
        assert predicted is not None
        assert latency_s - 1e-9 <= predicted <= slowest + 1e-9
