import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.selection.estimators import FastSlowEwma, LatencyEstimate, Throughput

latencies = st.floats(min_value=0.0, max_value=60.0)
gaps = st.floats(min_value=0.0, max_value=10.0)
rates = st.floats(min_value=0.0, max_value=1e9)
weights = st.floats(min_value=1e-6, max_value=100.0)
no_numbers = st.sampled_from([math.nan, math.inf, -math.inf])


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


# -- two means -----------------------------------------------------------------------------------


def means(*samples: tuple[float, float]) -> FastSlowEwma:
    """Means that saw each (value, weight)."""
    made = FastSlowEwma(fast_half_life_s=3.0, slow_half_life_s=8.0)
    for value, weight_s in samples:
        made.observe(value, weight_s=weight_s)
    return made


def told(made: FastSlowEwma) -> tuple[float, float]:
    """The lower and the higher mean, which are there."""
    assert made.lower is not None
    assert made.higher is not None
    return made.lower, made.higher


def test_there_is_no_mean_of_nothing() -> None:
    assert (means().lower, means().higher) == (None, None)
    weightless = means((5.0, 0.0))
    assert (weightless.lower, weightless.higher) == (None, None)


def test_a_step_is_halfway_after_each_half_life() -> None:
    """Once the start is forgotten, which is what the long first sample is for."""
    for half_life_s, index in ((3.0, 0), (8.0, 1)):
        assert told(means((8.0, 1000.0), (0.0, half_life_s)))[index] == pytest.approx(4.0)


def test_the_lower_mean_falls_at_once_and_rises_late() -> None:
    down = told(means((8.0, 1000.0), (0.0, 3.0)))
    up = told(means((0.0, 1000.0), (8.0, 3.0)))
    assert down[0] == pytest.approx(4.0)  # the fast one
    assert up[0] == pytest.approx(8.0 * (1 - 0.5 ** (3 / 8)))  # the slow one


@given(st.lists(st.tuples(rates, weights), min_size=1, max_size=30))
def test_means_stay_between_the_least_and_the_greatest_sample(
    samples: list[tuple[float, float]],
) -> None:
    lower, higher = told(means(*samples))
    values = [value for value, _ in samples]
    slack = 1e-9 * max(values)
    assert min(values) - slack <= lower <= higher <= max(values) + slack


@given(rates, st.lists(weights, min_size=1, max_size=30))
def test_a_constant_is_predicted_as_it_is(value: float, of_weights: list[float]) -> None:
    assert told(means(*((value, weight) for weight in of_weights))) == pytest.approx((value, value))


@given(rates, weights, weights)
def test_a_sample_counts_as_its_halves_do(value: float, before: float, weight: float) -> None:
    whole = told(means((1e6, before), (value, weight)))
    halves = told(means((1e6, before), (value, weight / 2), (value, weight / 2)))
    assert whole == pytest.approx(halves, rel=1e-6, abs=1e-6)


@given(
    st.lists(st.tuples(rates, weights), min_size=1, max_size=10),
    st.integers(0, 9),
    st.floats(min_value=0.0, max_value=1e9),
)
def test_a_greater_sample_never_lowers_a_mean(
    samples: list[tuple[float, float]], which: int, more: float
) -> None:
    which %= len(samples)
    raised = list(samples)
    raised[which] = (raised[which][0] + more, raised[which][1])
    slack = 1e-9 * max(value for value, _ in raised)
    for before, after in zip(told(means(*samples)), told(means(*raised)), strict=True):
        assert after >= before - slack


@given(st.tuples(rates, weights), rates, weights)
def test_the_later_of_two_samples_of_one_weight_counts_more(
    first: tuple[float, float], other: float, weight: float
) -> None:
    low, high = sorted((first[0], other))
    rising = told(means((low, weight), (high, weight)))
    falling = told(means((high, weight), (low, weight)))
    slack = 1e-9 * high
    assert rising[0] >= falling[0] - slack
    assert rising[1] >= falling[1] - slack


@given(st.lists(st.tuples(rates, weights), min_size=1, max_size=10), no_numbers)
def test_no_number_is_not_taken_in(samples: list[tuple[float, float]], bad: float) -> None:
    assert told(means(*samples, (bad, 1.0), (1.0, bad))) == told(means(*samples))


# -- throughput ----------------------------------------------------------------------------------


def carried(*transfers: tuple[float, float]) -> float | None:
    """What is predicted after transfers of (bytes, seconds), one after the other."""
    throughput, now_s = Throughput(), 0.0
    for size_bytes, duration_s in transfers:
        now_s += duration_s
        throughput.observe(size_bytes, duration_s=duration_s, now_s=now_s)
    return throughput.predict_bits_per_s(now_s=now_s)


def test_no_throughput_without_a_transfer() -> None:
    assert carried() is None
    assert carried((0, 1.0)) is None
    assert carried((-5, 1.0)) is None
    assert carried((80_000, math.nan)) is None
    assert carried((math.nan, 0.1)) is None


def test_a_transfer_is_bits_per_second() -> None:
    assert carried((80_000, 0.1)) == pytest.approx(6.4e6)


def test_transfers_add_up_to_bits_over_seconds() -> None:
    """Not to the mean of their rates, which would be 35 Mbit/s."""
    assert carried((80_000, 0.01), (80_000, 0.1)) == pytest.approx(160_000 * 8 / 0.11, rel=0.02)


def test_a_small_transfer_counts_little() -> None:
    """A ping of 60 bytes takes a round trip whatever the link carries."""
    frames = [(80_000, 0.1)] * 20
    assert carried(*frames, (60, 0.1)) == pytest.approx(6.4e6, rel=0.001)
    assert carried(*frames, (16_000, 0.1)) == pytest.approx(6.4e6 * (1 - 0.8 / 21), rel=0.02)


def test_a_duration_of_nothing_gives_a_number() -> None:
    predicted = carried((80_000, 0.0))
    assert predicted is not None
    assert predicted < 1e9


def test_an_old_throughput_is_forgotten() -> None:
    throughput = Throughput()
    throughput.observe(80_000, duration_s=0.1, now_s=10.0)
    assert throughput.predict_bits_per_s(now_s=10.0 + Throughput.MAX_AGE_S) is not None
    assert throughput.predict_bits_per_s(now_s=10.1 + Throughput.MAX_AGE_S) is None


sizes = st.integers(1, 10_000_000)
durations = st.floats(min_value=0.003, max_value=10.0)


@given(st.lists(st.tuples(sizes, durations), min_size=1, max_size=30))
def test_throughput_stays_between_the_slowest_and_the_fastest(
    transfers: list[tuple[float, float]],
) -> None:
    predicted = carried(*transfers)
    of_each = [8 * size_bytes / duration_s for size_bytes, duration_s in transfers]
    assert predicted is not None
    assert min(of_each) * (1 - 1e-9) <= predicted <= max(of_each) * (1 + 1e-9)


@given(st.lists(st.tuples(sizes, durations), min_size=1, max_size=10), sizes, durations)
def test_a_transfer_draws_the_throughput_to_its_own_side(
    before: list[tuple[float, float]], size_bytes: int, duration_s: float
) -> None:
    believed, after = carried(*before), carried(*before, (size_bytes, duration_s))
    assert believed is not None
    assert after is not None
    if 8 * size_bytes / duration_s <= believed:
        assert after <= believed * (1 + 1e-9)
    else:
        assert after >= believed * (1 - 1e-9)
