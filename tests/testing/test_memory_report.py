"""Sizes as text, and what is said of a curve."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.testing.memory_report import MB, parse_size, slope, steepest_tenth, text_curve


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10 MB", 10_000_000),
        ("10MB", 10_000_000),
        ("10 mb", 10_000_000),
        ("10 MiB", 10 * 1024 * 1024),
        ("1.5 GB", 1_500_000_000),
        ("512 KiB", 512 * 1024),
        ("80 kB", 80_000),
        ("5 b", 5),
        (12345, 12345),
        (0, 0),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["10", "ten MB", "10 Mb it", "-1 MB", "", "MB", -1, True, 1.5, None]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigurationError, match="expected a size like '10 MB'"):
        parse_size(text)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans()))
def test_any_size_is_either_read_or_refused(value):
    try:
        size = parse_size(value)
    except ConfigurationError:
        return
    assert size >= 0


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=300))
def test_any_curve_can_be_drawn(values):
    lines = text_curve(enumerate(values)).splitlines()
    assert len(lines) == 10
    assert all(len(line) <= 80 for line in lines)


@given(st.integers(-1000, 1000), st.integers(2, 400), st.integers(0, 10**6))
def test_the_slope_of_a_line_with_one_outlier_is_the_line_s(rise, count, outlier):
    points = [(call, rise * call) for call in range(1, count + 4)]
    points[count // 2] = (points[count // 2][0], outlier)
    if count > 10:
        assert slope(points) == pytest.approx(rise, abs=0.01)


def test_where_it_rose():
    levels = [(call, 0 if call < 750 else 5 * MB) for call in range(1001)]
    assert steepest_tenth(levels) == "most in calls 701 to 800: +5.00 MB of +5.00 MB"
    assert steepest_tenth([(0, 0), (10, 0)]) == "nowhere"
    steady = [(call, call * 1000) for call in range(1001)]
    assert steepest_tenth(steady) == "evenly, +1.00 MB in all"
