from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.monitoring.periods import HOUR_S, MAX_HOUR, Period, hour_of

from .cost_rows import at


def hour(text: str) -> int:
    return hour_of(at(text))


def test_a_month_ends_where_the_calendar_says() -> None:
    for first, last, following in (
        ("2026-01-01", "2026-01-31T23:59", "2026-02-01"),
        ("2026-02-01", "2026-02-28T23:59", "2026-03-01"),
        ("2028-02-01", "2028-02-29T23:59", "2028-03-01"),
        ("2026-12-01", "2026-12-31T23:59", "2027-01-01"),
    ):
        for moment in (first, last):
            assert Period.MONTH.start(hour(moment)) == hour(first)
            assert Period.MONTH.end(hour(moment)) == hour(following)


@given(st.integers(0, MAX_HOUR), st.sampled_from(list(Period)))
def test_periods_follow_each_other(now: int, period: Period) -> None:
    start, end = period.start(now), period.end(now)
    assert start <= now < end
    assert period.start(end) == end
    assert period.start(end - 1) == start
    assert period.label(start) == period.label(end - 1) != period.label(end)


@given(st.datetimes(datetime(1970, 1, 1), datetime(9997, 12, 31)))
def test_labels_are_the_calendar_s(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)
    now = hour_of(moment.timestamp())
    assert now == int(moment.timestamp()) // HOUR_S
    assert Period.DAY.label(now) == moment.strftime("%Y-%m-%d")
    assert Period.MONTH.label(now) == f"{moment.year:04}-{moment.month:02}"
