import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.selection.quantiles import WindowedQuantile

values = st.floats(min_value=0.0, max_value=60.0)
shares = st.floats(min_value=0.0, max_value=1.0)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_a_quantile_is_a_share(bad: float) -> None:
    with pytest.raises(ConfigurationError, match="0 to 1"):
        WindowedQuantile(quantile=bad)


def test_bounds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="count"):
        WindowedQuantile(count=0)


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
