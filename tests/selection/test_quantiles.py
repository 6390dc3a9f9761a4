import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.selection.quantiles import DecayingQuantile, WindowedQuantile

values = st.floats(min_value=0.0, max_value=60.0)
shares = st.floats(min_value=0.0, max_value=1.0)
samples = st.lists(st.tuples(values, st.floats(min_value=0.0, max_value=3.0)), min_size=1)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_a_quantile_is_a_share(bad: float) -> None:
    with pytest.raises(ConfigurationError, match="0 to 1"):
        WindowedQuantile(quantile=bad)
    with pytest.raises(ConfigurationError, match="0 to 1"):
        DecayingQuantile(quantile=bad)


def test_bounds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="count"):
        WindowedQuantile(count=0)
    with pytest.raises(ConfigurationError, match="half_life_s"):
        DecayingQuantile(half_life_s=0.0)
    with pytest.raises(ConfigurationError, match="max_samples"):
        DecayingQuantile(max_samples=0)


# -- of the last samples -------------------------------------------------------------------------


def windowed(given_values: list[float], *, count: int = 50, quantile: float = 0.5) -> float | None:
    made = WindowedQuantile(count=count, quantile=quantile)
    for value in given_values:
        made.observe(value)
    return made.predict()


def test_nothing_is_predicted_from_nothing() -> None:
    assert windowed([]) is None
    assert windowed([math.nan, math.inf]) is None


def test_the_median_is_not_moved_by_a_minority() -> None:
    assert windowed([0.05] * 26 + [3.0] * 24) == 0.05


@given(st.lists(values, min_size=1, max_size=120), st.integers(1, 60), shares)
def test_it_is_numpy_s_quantile_of_the_last_samples(
    given_values: list[float], count: int, quantile: float
) -> None:
    expected = np.quantile(given_values[-count:], quantile)
    found = windowed(given_values, count=count, quantile=quantile)
    assert found == pytest.approx(expected, abs=1e-9)


@given(st.lists(values, min_size=1, max_size=50), st.randoms(), shares)
def test_order_does_not_matter_inside_the_window(
    given_values: list[float], random: object, quantile: float
) -> None:
    shuffled = list(given_values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert windowed(shuffled, quantile=quantile) == windowed(given_values, quantile=quantile)


# -- of the last seconds -------------------------------------------------------------------------


def decaying(
    of_samples: list[tuple[float, float]],
    *,
    quantile: float = 0.5,
    half_life_s: float = 2.0,
    max_samples: int = 300,
    after_s: float = 0.0,
) -> float | None:
    """What is predicted `after_s` the last of samples (value, seconds since the one before)."""
    made = DecayingQuantile(half_life_s=half_life_s, quantile=quantile, max_samples=max_samples)
    now_s = 0.0
    for value, gap_s in of_samples:
        now_s += gap_s
        made.observe(value, now_s=now_s)
    return made.predict(now_s=now_s + after_s)


def test_nothing_is_predicted_before_the_first_sample() -> None:
    assert decaying([]) is None
    assert decaying([(math.nan, 0.0), (math.inf, 0.0)]) is None


def test_a_sample_is_forgotten_after_ten_half_lives() -> None:
    assert decaying([(0.3, 0.0)], after_s=20.0) == 0.3
    assert decaying([(0.3, 0.0)], after_s=20.1) is None


@pytest.mark.parametrize(("gap_s", "expected"), [(3.9, 1.0), (4.1, 0.1)])
def test_four_old_samples_weigh_as_one_new_one_after_two_half_lives(
    gap_s: float, expected: float
) -> None:
    assert decaying([(1.0, 0.0)] * 4 + [(0.1, gap_s)], quantile=0.5) == expected


def test_the_least_and_the_greatest_are_quantiles_too() -> None:
    of_samples = [(0.5, 0.0), (0.1, 1.0), (0.9, 1.0), (0.3, 1.0)]
    assert decaying(of_samples, quantile=0.0) == 0.1
    assert decaying(of_samples, quantile=1.0) == 0.9


def test_the_oldest_go_first_when_there_are_too_many() -> None:
    of_samples = [(float(number), 0.0) for number in range(100)]
    assert decaying(of_samples, quantile=0.0, max_samples=10) == 90.0


@given(samples, shares)
def test_it_is_one_of_the_samples(of_samples: list[tuple[float, float]], quantile: float) -> None:
    assert decaying(of_samples, quantile=quantile) in [value for value, _ in of_samples]


@given(samples, shares, shares)
def test_a_higher_quantile_is_never_lower(
    of_samples: list[tuple[float, float]], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert decaying(of_samples, quantile=low) <= decaying(of_samples, quantile=high)  # type: ignore[operator]


@given(samples, shares, st.integers(0, 100), values)
def test_a_greater_sample_never_lowers_it(
    of_samples: list[tuple[float, float]], quantile: float, which: int, more: float
) -> None:
    which %= len(of_samples)
    raised = list(of_samples)
    raised[which] = (raised[which][0] + more, raised[which][1])
    before, after = decaying(of_samples, quantile=quantile), decaying(raised, quantile=quantile)
    assert before is not None
    assert after is not None
    assert after >= before


@given(st.lists(values, min_size=1, max_size=30), st.floats(min_value=0.0, max_value=19.0))
def test_waiting_changes_nothing_as_all_samples_age_alike(
    of_values: list[float], after_s: float
) -> None:
    of_samples = [(value, 0.01) for value in of_values]
    assert decaying(of_samples, quantile=0.9, after_s=after_s) == decaying(of_samples, quantile=0.9)
