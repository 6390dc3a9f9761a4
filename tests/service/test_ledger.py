"""Budgets are never exceeded, whatever is asked and whatever the clock does."""

import logging
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.charges import SentRequest, amount
from hybrid_detect.config import ServiceConfig
from hybrid_detect.destination import Destination
from hybrid_detect.errors import BackendUnavailableError, ConfigurationError
from hybrid_detect.monitoring.periods import Period, hour_of
from hybrid_detect.monitoring.prices import PRICE_TABLES, PriceTable, PriceTier
from hybrid_detect.service.ledger import Ledger
from hybrid_detect.types import BackendKind

from ..clock import FakeClock
from ..monitoring.cost_rows import at

CLOUD = BackendKind.CLOUD
PAID = Target(url="https://paid.example", price_per_frame="0.5", name="paid")
FREE = Target(url="https://free.example", price_per_frame=0, name="free")


def ledger(
    now: str = "2026-11-28T12:00", *, tables: Any = (), **config: Any
) -> tuple[Ledger, FakeClock]:
    clock = FakeClock(at(now))
    made = Ledger(ServiceConfig(**config), tables=tables, clock=clock)
    made.know(CLOUD, [PAID, FREE])
    return made, clock


def pay(made: Ledger, target: Target = PAID, **options: Any) -> SentRequest:
    request = target.sent_request(CLOUD, images=options.pop("images", 1), bytes_sent=10)
    return made.charge(request, has_left=options.pop("has_left", False))


def is_refused(made: Ledger, target: Target = PAID) -> bool:
    return bool(made.refusal(CLOUD, [target.destination]))


@pytest.mark.parametrize(
    ("period", "next_one"),
    [("hour", "2026-11-28T13:00"), ("day", "2026-11-29T00:00"), ("month", "2026-12-01T00:00")],
)
def test_a_spent_budget_refuses_what_costs_until_the_next_period(
    period: str, next_one: str, caplog: pytest.LogCaptureFixture
) -> None:
    made, clock = ledger(**{f"budget_per_{period}": 1.0})
    pay(made)
    assert not is_refused(made)
    pay(made)
    with caplog.at_level(logging.WARNING, "hybrid_detect.costs"):
        for _ in range(3):
            with pytest.raises(BackendUnavailableError, match=f"for this {period} is spent"):
                pay(made)
            assert is_refused(made)
    (record,) = caplog.records
    told = next_one.replace("T", " ")
    assert f"the budget of 1.00 USD for this {period} is spent until {told} UTC" in record.message
    assert not is_refused(made, FREE)
    pay(made, FREE)
    assert made.refusal(CLOUD, [PAID.destination, FREE.destination]) == ""
    clock.advance(at(next_one) - clock.now_s - 0.001)
    assert is_refused(made)
    clock.advance(0.001)
    assert not is_refused(made)
    pay(made)
    (status,) = made.status()
    assert (status.period, status.budget, status.spent) == (period, Decimal(1), Decimal("0.5"))


def test_a_cap_holds_for_the_service() -> None:
    made, clock = ledger(spend_cap=1)
    pay(made)
    assert made.used_share() == 0.5
    pay(made)
    clock.advance(400 * 86_400)
    assert "the spending cap of 1.00 USD is reached" in made.refusal(CLOUD, [PAID.destination])


def test_a_request_that_does_not_fit_is_refused_before_the_budget_is_full() -> None:
    made, _clock = ledger(budget_per_day="0.6")
    pay(made)
    assert is_refused(made)
    assert made.status()[0].spent == Decimal("0.5")


def test_what_has_left_is_counted_even_beyond_the_budget() -> None:
    made, _clock = ledger(budget_per_day="0.6")
    for _ in range(3):
        pay(made, has_left=True)
    assert made.status()[0].spent == Decimal("1.5")


def test_a_budget_of_nothing_lets_what_is_free_pass() -> None:
    made, _clock = ledger(budget_per_month=0)
    assert is_refused(made)
    assert not is_refused(made, FREE)
    assert made.used_share() == 1.0


def test_without_a_budget_nothing_is_refused() -> None:
    made, _clock = ledger()
    pay(made, images=10**6)
    assert not is_refused(made)
    assert (made.status(), made.used_share()) == ((), 0.0)


def test_a_request_is_told_at_its_price_and_time() -> None:
    made, clock = ledger(price_per_frame=0.25, currency="EUR")
    list_price = Target(url="https://mine.example")
    made.know(CLOUD, [list_price])
    sent = pay(made, list_price, images=3)
    assert (sent.at_s, sent.price, sent.currency) == (clock.now_s, Decimal("0.75"), "EUR")
    sent = pay(made)
    assert (sent.price, sent.currency) == (Decimal("0.5"), "USD"), "a target's own price stands"
    own = SentRequest(at_s=0, backend="cloud", target="x")
    sent = made.charge(own, has_left=True)
    assert (sent.price, sent.currency) == (Decimal("0.25"), "EUR")


# -- the clock -------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_finds_what_was_spent() -> None:
    made, clock = ledger("2026-12-01T00:30", budget_per_day=1, budget_per_month=1.5)
    clock.advance(-3600)
    pay(made)
    pay(made)
    assert is_refused(made)
    clock.advance(3600)
    assert not is_refused(made)
    clock.advance(-3600)
    assert is_refused(made)


def test_a_clock_that_jumps_ahead_spends_from_the_period_it_tells() -> None:
    made, clock = ledger(budget_per_day=1)
    pay(made)
    clock.advance(86_400)
    pay(made)
    pay(made)
    assert is_refused(made)
    clock.advance(-86_400)
    assert not is_refused(made)
    pay(made)
    assert is_refused(made)


@given(
    budgets=st.fixed_dictionaries(
        {},
        optional={
            "budget_per_hour": st.integers(0, 4),
            "budget_per_day": st.integers(0, 6),
            "budget_per_month": st.integers(0, 9),
            "spend_cap": st.integers(0, 12),
        },
    ),
    steps=st.lists(
        st.tuples(st.sampled_from([0, 1, 1800, 3600, -3600, 86_400, -86_400, 27 * 86_400]))
        | st.integers(1, 3)
        | st.just("others"),
        max_size=60,
    ),
)
def test_no_budget_is_ever_exceeded(budgets: dict[str, int], steps: list[Any]) -> None:
    """By another road: each payment is kept with its time, and each period summed from scratch."""
    made, clock = ledger("2026-11-29T22:40", **budgets)
    paid: list[tuple[int, int]] = []
    others: dict[tuple[int, str], tuple[int, int]] = {}
    for step in steps:
        hour = hour_of(clock.now_s)
        if isinstance(step, tuple):
            clock.advance(step[0])
        elif step == "others":
            others[hour, "google"] = (1, others.get((hour, "google"), (0, 0))[1] + 500_000_000)
            made.learn(dict(others))
        else:
            wanted = step * 500_000_000
            spent_by_others = [(hour, nanos) for (hour, _), (_, nanos) in others.items()]

            def spent(period: Period, hour: int = hour, more: Any = spent_by_others) -> int:
                return sum(n for h, n in [*paid, *more] if period.start(h) == period.start(hour))

            fits = (
                all(
                    spent(period) + wanted <= budgets[f"budget_per_{period}"] * 10**9
                    for period in Period
                    if f"budget_per_{period}" in budgets
                )
                and sum(nanos for _, nanos in paid) + wanted <= budgets.get("spend_cap", 99) * 10**9
            )
            try:
                sent = pay(made, images=step)
            except BackendUnavailableError:
                assert not fits
            else:
                assert fits
                paid.append((hour, sent.price_nanos))
    for status in made.status():
        if status.period == "service":
            assert status.spent == amount(sum(nanos for _, nanos in paid))


def test_a_long_life_holds_two_months_of_hours() -> None:
    made, clock = ledger(budget_per_month=10**6)
    for _ in range(9000):
        clock.advance(3600)
        pay(made)
    assert len(made._own) <= 4 * 62 * 24
    hour = hour_of(clock.now_s)
    hours = hour - Period.MONTH.start(hour) + 1
    made.learn({})
    assert made.status()[0].spent == hours * Decimal("0.5")


# -- prices by volume ------------------------------------------------------------------------


def google(**options: Any) -> Target:
    class Named:
        name = "google"
        capabilities = FREE.protocol.capabilities

        def __getattr__(self, name: str) -> Any:
            return getattr(FREE.protocol, name)

    return Target(url="https://vision.example", protocol=Named(), **options)  # type: ignore[arg-type]


def test_free_pictures_come_first_each_month_and_others_use_them_too(tmp_path: Any) -> None:
    made, clock = ledger(
        tables=[PRICE_TABLES["google"]], costs_path=tmp_path / "costs.db", budget_per_month="0.003"
    )
    target = google(price_per_frame=7)
    made.know(CLOUD, [target])
    made.learn({(hour_of(clock.now_s), "google"): (997, 0)})
    assert [pay(made, target).price_nanos for _ in range(5)] == [0, 0, 0, 1_500_000, 1_500_000]
    assert is_refused(made, target)
    clock.advance(5 * 86_400)
    assert pay(made, target).price_nanos == 0


@pytest.mark.parametrize(
    ("config", "tables"),
    [
        ({}, [PRICE_TABLES["google"]]),
        ({"costs_path": "costs.db"}, [PRICE_TABLES["google"]] * 2),
    ],
)
def test_tables_that_cannot_hold_are_refused(config: dict[str, Any], tables: Any) -> None:
    with pytest.raises(ConfigurationError, match="prices"):
        Ledger(ServiceConfig(**config), tables=tables)


def test_targets_that_cost_differently_have_names_of_their_own() -> None:
    made = Ledger(ServiceConfig())
    cheap, dear = (Target(url="https://one.example", price_per_frame=price) for price in (1, 2))
    with pytest.raises(ConfigurationError, match=r"a name for each, got 'one\.example'"):
        made.know(CLOUD, [cheap, dear])
    made = Ledger(ServiceConfig())
    made.know(CLOUD, [cheap, cheap, replace(dear, name="dear")])
    assert [pay(made, target).price for target in (cheap, replace(dear, name="dear"))] == [1, 2]


def test_a_budget_counts_one_currency() -> None:
    made = Ledger(ServiceConfig(budget_per_day=1))
    with pytest.raises(ConfigurationError, match="expected EUR, in which euro is paid"):
        made.know(CLOUD, [replace(PAID, currency="EUR", name="euro")])
    made.know(CLOUD, [replace(FREE, currency="EUR")])
    Ledger(ServiceConfig()).know(CLOUD, [replace(PAID, currency="EUR")])
    table = PriceTable(provider="custom_backend", tiers=(PriceTier(price=1),), currency="EUR")
    made = Ledger(ServiceConfig(budget_per_day=1, costs_path="costs.db"), tables=[table])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="EUR"):
        made.know(CLOUD, [FREE])


def test_the_device_is_always_free() -> None:
    made, _clock = ledger(budget_per_day=0, price_per_frame=1)
    assert made.refusal(BackendKind.DEVICE, [Destination()]) == ""
    assert made.refusal(CLOUD, [Destination(host="a backend of one's own")])
