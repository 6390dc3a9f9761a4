import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.charges import amount
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.monitoring.periods import hour_of
from hybrid_detect.monitoring.prices import PRICE_TABLES
from hybrid_detect.monitoring.projection import (
    SCALES,
    Assumptions,
    Estimate,
    monthly_cost,
    project_month,
)

from .cost_rows import at, row

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "control-costs.md"


def days(first: str, costs: list[int], **key: str) -> list[Any]:
    """A row at noon of each day, that costs so many nanos."""
    start = hour_of(at(first)) + 12
    return [row(start + 24 * n, nanos=cost, **key) for n, cost in enumerate(costs)]


def test_days_that_are_alike_leave_no_doubt() -> None:
    seen = project_month(days("2026-11-01", [10**9] * 15), now_s=at("2026-11-16"))
    assert (seen.month, seen.spent, seen.days_seen) == ("2026-11", Decimal(15), 15)
    assert seen.low == seen.likely == seen.high == Decimal(30)


def test_the_range_widens_with_the_spread_and_with_what_is_still_to_come() -> None:
    costs = [10**9, 3 * 10**9] * 10
    early = project_month(days("2026-10-20", costs), now_s=at("2026-11-05"))
    late = project_month(days("2026-11-01", costs), now_s=at("2026-11-21"))
    for seen in (early, late):
        assert seen.spent < seen.low < seen.likely < seen.high
    assert early.high - early.low > late.high - late.low
    assert late.likely == Decimal(40) + 10 * 2


def test_days_of_the_month_before_are_seen_but_not_counted() -> None:
    seen = project_month(days("2026-10-22", [10**9] * 10), now_s=at("2026-11-01"))
    assert (seen.spent, seen.days_seen) == (Decimal(0), 10)
    assert seen.likely == Decimal(30)


def test_a_day_without_a_row_cost_nothing() -> None:
    rows = days("2026-11-01", [10**9]) + days("2026-11-10", [10**9])
    seen = project_month(rows, now_s=at("2026-11-11"))
    assert (seen.spent, seen.days_seen) == (Decimal(2), 10)
    assert seen.likely == Decimal("2") + amount(4 * 10**9)


def test_with_little_seen_the_range_is_wide() -> None:
    rows = [row(hour_of(at("2026-11-28T08:00")), nanos=10**9)]
    seen = project_month(rows, now_s=at("2026-11-28T12:00"))
    rest = seen.likely - seen.spent
    assert seen.days_seen == 0
    assert seen.likely > seen.spent == 1
    assert (seen.low, seen.high) == (seen.spent + rest / 2, seen.spent + rest * 2)


def test_nothing_seen_costs_nothing() -> None:
    seen = project_month([], now_s=at("2026-11-28"))
    assert (seen.low, seen.likely, seen.high) == (0, 0, 0)


def test_other_currencies_and_the_future_are_left_out() -> None:
    rows = days("2026-11-01", [10**9] * 5, currency="EUR") + days("2026-11-20", [10**12])
    assert project_month(rows, now_s=at("2026-11-10")).likely == 0
    assert project_month(rows, now_s=at("2026-11-10"), currency="EUR").spent == 5


def test_at_a_month_s_end_it_is_what_was_spent() -> None:
    rows = days("2026-11-01", [10**9, 2 * 10**9] * 15)
    seen = project_month(rows, now_s=at("2026-11-30T23:59:59"))
    assert seen.spent == 45
    assert abs(seen.high - seen.low) < Decimal("0.1")


@given(
    st.lists(st.tuples(st.integers(-1500, 100), st.integers(0, 10**13)), max_size=60),
    st.floats(at("2026-01-01"), at("2027-01-01")),
)
def test_a_range_is_in_order_and_never_below_what_was_spent(
    found: list[tuple[int, int]], now_s: float
) -> None:
    rows = [row(hour_of(now_s) + hours, nanos=nanos) for hours, nanos in found]
    seen = project_month(rows, now_s=now_s)
    assert 0 <= seen.spent <= seen.low <= seen.likely <= seen.high


# -- the three scales ------------------------------------------------------------------------


def test_a_month_of_an_app_is_what_its_users_send() -> None:
    exactly = Assumptions(
        frames_per_user_per_day=Estimate(10, 100, 1000),
        share_sent=Estimate(0.5, 0.5, 1.0),
        extra_attempts=Estimate(0, 0.1, 0.2),
    )
    assert exactly.images_per_month(10) == (1_500, 16_500, 360_000)
    costs = monthly_cost(10, PRICE_TABLES["google"], exactly)
    assert costs == (Decimal("0.75"), Decimal("23.25"), Decimal("538.5"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"share_sent": Estimate(0, 0.5, 1.5)},
        {"extra_attempts": Estimate(-1, 0, 0)},
        {"frames_per_user_per_day": Estimate(3, 2, 1)},
        {"frames_per_user_per_day": Estimate(1, 2, float("inf"))},
        {"frames_per_user_per_day": Estimate(float("nan"), 2, 3)},
    ],
)
def test_assumptions_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Assumptions(**wrong)


def test_the_table_of_the_documentation_is_recomputed() -> None:
    """Each row of the page's table: users, provider, pictures, cost; low, likely, high."""
    number = r"([\d,]+)"
    pattern = rf"^\| {number} \| (\w+) \| {number} \({number} to {number}\) "
    pattern += rf"\| \${number} \(\${number} to \${number}\) \|$"
    found = re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {
        (int(users.replace(",", "")), provider): tuple(int(n.replace(",", "")) for n in numbers)
        for users, provider, *numbers in found
    }
    assert set(told) == {(users, provider) for users in SCALES for provider in PRICE_TABLES}
    for (users, provider), numbers in told.items():
        low, likely, high = Assumptions().images_per_month(users)
        cheap, usual, dear = (round(c) for c in monthly_cost(users, PRICE_TABLES[provider]))
        assert numbers == (likely, low, high, usual, cheap, dear)
