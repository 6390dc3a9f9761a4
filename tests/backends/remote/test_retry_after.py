"""Every form in which a server asks to wait, and those that are none."""

from __future__ import annotations

import email.utils
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.remote.retry_after import date_s, duration_s, retry_after_s

NOW_S = 1_795_000_000.0

SECONDS = st.floats(0, 1e6)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-2"}, 0.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"x-ms-retry-after-ms": "250"}, 0.25),
        ({"x-amz-retry-after": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1.0),
        ({"retry-after": email.utils.formatdate(NOW_S + 7, usegmt=True)}, 7.0),
        ({"retry-after": email.utils.formatdate(NOW_S - 7, usegmt=True)}, 0.0),
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1_0"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Mon, 99 Nov 2026 99:99:99 GMT"}, None),
    ],
)
def test_each_form_is_read(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers, now_s=NOW_S) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_each_form_of_a_date_is_utc_wherever_the_device_is(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert date_s(text) == 784_111_777.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_date_counts_from_the_servers_own_clock() -> None:
    hours_off = {
        "date": email.utils.formatdate(NOW_S + 7200, usegmt=True),
        "retry-after": email.utils.formatdate(NOW_S + 7205, usegmt=True),
    }
    assert retry_after_s(hours_off, now_s=NOW_S) == 5.0


@given(SECONDS)
def test_seconds_and_milliseconds_come_back(seconds: float) -> None:
    assert retry_after_s({"retry-after": f"{seconds:.3f}"}) == pytest.approx(seconds, abs=1e-3)
    for name in ("retry-after-ms", "x-ms-retry-after-ms", "x-amz-retry-after"):
        assert retry_after_s({name: f"{seconds * 1000:.0f}"}) == pytest.approx(seconds, abs=1e-3)
    assert duration_s(f"{seconds:.9f}s") == pytest.approx(seconds, abs=1e-6)


@given(st.integers(0, 2**32))
def test_a_date_comes_back(then_s: int) -> None:
    date = email.utils.formatdate(then_s, usegmt=True)
    assert retry_after_s({"retry-after": date}, now_s=0.0) == then_s


@given(
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "x-amz-retry-after", "date"]),
        st.text(st.characters(max_codepoint=255), max_size=40),
    )
)
def test_no_header_does_harm(headers: dict[str, str]) -> None:
    seconds = retry_after_s(headers)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


@pytest.mark.parametrize("value", ["1.5", "s", "", None, 1.5, "1,5s", "-infs", {}])
def test_what_is_no_duration_is_none(value: object) -> None:
    assert duration_s(value) is None
