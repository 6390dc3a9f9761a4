import threading
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.monitoring.costs import DIMENSIONS, CostMeter, CostSummary, summarise
from hybrid_detect.monitoring.events import FrameEvent, FrameOutcome
from hybrid_detect.types import BackendKind

from .cost_rows import NOON_S, at, frame, request


def total(meter: CostMeter) -> CostSummary:
    (everything,) = meter.summary()
    return everything


def test_every_request_counts_whatever_became_of_it() -> None:
    meter = CostMeter()
    lost = request(answered=False)
    meter.on_frame(frame(lost, lost, request(), session_id="ann"))
    meter.on_frame(frame(lost, session_id="ann", backend=BackendKind.DEVICE))
    meter.on_frame(frame(outcome=FrameOutcome.FAILED, backend=None))
    seen = total(meter)
    assert (seen.frames, seen.requests, seen.answered, seen.images) == (3, 4, 1, 4)
    assert seen.bytes_sent == 320_000
    assert seen.costs == {"USD": Decimal("0.006")}


def test_a_frame_counts_where_it_was_answered() -> None:
    meter = CostMeter()
    meter.on_frame(frame(request(target="a", answered=False), request(target="b")))
    meter.on_frame(frame(request(target="a"), backend=BackendKind.DEVICE))
    meter.on_frame(frame())
    frames = {each.labels: each.frames for each in summarise(meter.rows(), by=("target",))}
    assert frames == {("",): 2, ("a",): 0, ("b",): 1}
    frames = {each.labels: each.frames for each in summarise(meter.rows(), by=("backend",))}
    assert frames == {("cloud",): 1, ("device",): 2}


def test_sums_of_a_million_are_exact() -> None:
    """A million times 0.1 in floats is 100000.00000133288."""
    meter = CostMeter()
    event = frame(request(price_nanos=100_000_000))
    for _ in range(1000):
        meter.on_frame(event)
    rows = meter.take()
    for _ in range(1000):
        meter.add(rows)
    assert total(meter).costs == {"USD": Decimal(100_000)}


def test_hours_days_and_months_are_those_of_utc() -> None:
    meter = CostMeter()
    for moment in ("2026-11-30T23:59:59.9", "2026-12-01T00:00", "2026-12-01T01:00"):
        meter.on_frame(frame(request(at(moment)), at_s=at("2026-12-01T02:00")))
    images = {each.labels[0]: each.images for each in summarise(meter.rows(), by=("hour",))}
    assert images == {"2026-11-30T23": 1, "2026-12-01T00": 1, "2026-12-01T01": 1}
    images = {each.labels[0]: each.images for each in summarise(meter.rows(), by=("month",))}
    assert images == {"2026-11": 1, "2026-12": 2}


@pytest.mark.parametrize("at_s", [-1e30, -1.0, float("nan"), float("inf"), 1e30])
def test_a_broken_clock_breaks_no_sum(at_s: float) -> None:
    meter = CostMeter()
    meter.on_frame(frame(request(at_s), at_s=at_s))
    assert sum(each.images for each in summarise(meter.rows(), by=("day",))) == 1


def test_the_app_says_whose_a_session_is() -> None:
    meter = CostMeter(user_of=lambda session: session.partition("/")[0])
    for session in ("ann/1", "ann/2", "bob/1"):
        meter.on_frame(frame(request(), session_id=session))
    users = {each.labels[0]: each.images for each in summarise(meter.rows(), by=("user",))}
    assert users == {"ann": 2, "bob": 1}


def test_currencies_are_not_added_to_each_other() -> None:
    meter = CostMeter()
    meter.on_frame(frame(request(), request(currency="EUR", price_nanos=7)))
    assert total(meter).nanos == {"EUR": 7, "USD": 1_500_000}


def test_what_it_cannot_group_by_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="'colour'"):
        summarise((), by=("day", "colour"))
    assert summarise((), by=("day",)) == []
    assert summarise(())[0].costs == {}


EVENTS = st.lists(
    st.builds(
        lambda requests, **values: frame(*requests, **values),
        requests=st.lists(
            st.builds(
                request,
                at_s=st.floats(NOON_S - 40 * 86_400, NOON_S + 40 * 86_400),
                backend=st.sampled_from(["cloud", "streaming"]),
                target=st.sampled_from("ab"),
                provider=st.sampled_from(["google", "aws"]),
                region=st.sampled_from(["", "eu"]),
                currency=st.sampled_from(["USD", "EUR"]),
                images=st.integers(1, 16),
                bytes_sent=st.integers(0, 10**7),
                price_nanos=st.integers(0, 10**12),
                answered=st.booleans(),
            ),
            max_size=4,
        ),
        session_id=st.none() | st.sampled_from(["ann", "bob"]),
        backend=st.none() | st.sampled_from(list(BackendKind)),
        at_s=st.floats(NOON_S - 40 * 86_400, NOON_S + 40 * 86_400),
    ),
    max_size=30,
)
GROUPINGS = st.lists(st.sampled_from(DIMENSIONS), unique=True)


def plain(events: list[FrameEvent]) -> tuple[int, int, int, int, dict[str, int]]:
    """The sums, by another road."""
    requests = [each for event in events for each in event.requests]
    nanos: dict[str, int] = {}
    for each in requests:
        nanos[each.currency] = nanos.get(each.currency, 0) + each.price_nanos
    images = sum(each.images for each in requests)
    return len(events), len(requests), images, sum(each.bytes_sent for each in requests), nanos


@given(events=EVENTS, by=GROUPINGS, max_rows=st.integers(1, 40))
def test_the_sum_over_any_grouping_is_the_total(
    events: list[FrameEvent], by: list[str], max_rows: int
) -> None:
    meter = CostMeter(max_rows=max_rows)
    for event in events:
        meter.on_frame(event)
    groups = summarise(meter.rows(), by=by)
    nanos: dict[str, int] = {}
    for group in groups:
        for currency, value in group.nanos.items():
            nanos[currency] = nanos.get(currency, 0) + value
    assert (
        sum(group.frames for group in groups),
        sum(group.requests for group in groups),
        sum(group.images for group in groups),
        sum(group.bytes_sent for group in groups),
        nanos,
    ) == plain(events)


@given(events=EVENTS, cut=st.integers(0, 30))
def test_what_was_taken_and_put_back_is_the_same(events: list[FrameEvent], cut: int) -> None:
    whole, taken = CostMeter(), CostMeter()
    for number, event in enumerate(events):
        whole.on_frame(event)
        taken.on_frame(event)
        if number == cut:
            taken.add(taken.take())
    assert sorted(whole.rows(), key=repr) == sorted(taken.rows(), key=repr)


def test_memory_is_bounded_and_the_names_of_the_past_go_first() -> None:
    meter = CostMeter(max_rows=50)
    for number in range(1000):
        moment = NOON_S + number * 600
        meter.on_frame(frame(request(moment), at_s=moment, session_id=f"s{number}"))
        assert len(meter.rows()) <= 51
    assert total(meter).images == 1000
    assert {each.key.session for each in meter.rows()} >= {"", "s999"}


def test_threads_lose_nothing() -> None:
    meter = CostMeter()
    taken: list[Any] = []

    def count() -> None:
        for _ in range(500):
            meter.on_frame(frame(request()))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken.extend(meter.take())
    taken.extend(meter.take())
    assert summarise(taken)[0].images == 2000
