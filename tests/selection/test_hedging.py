"""How many frames may be looked at twice."""

import random

from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.selection.hedging import HedgeBudget


def test_a_burst_is_granted_and_then_every_second_frame() -> None:
    budget = HedgeBudget()
    granted = []
    for _ in range(100):
        budget.on_frame()
        granted.append(budget.take())
    burst = granted.index(False)
    assert burst >= HedgeBudget.BURST
    assert sum(granted[60:]) == 40 * HedgeBudget.SHARE
    assert budget.denied == granted.count(False)


def test_a_quiet_time_fills_it_up_again_and_no_further() -> None:
    budget = HedgeBudget()
    while budget.take():
        pass
    for _ in range(10_000):
        budget.on_frame()
    granted = 0
    while budget.take():
        granted += 1
    assert granted == HedgeBudget.BURST


def test_nothing_is_denied_to_who_hedges_a_third_of_the_frames() -> None:
    chance = random.Random(7)
    budget = HedgeBudget()
    for _ in range(10_000):
        budget.on_frame()
        if chance.random() < 1 / 3:
            assert budget.take()
    assert budget.denied == 0


@given(st.lists(st.booleans(), max_size=300))
def test_no_order_of_frames_and_hedges_grants_more_than_the_share(hedged: list[bool]) -> None:
    budget = HedgeBudget()
    granted = asked = 0
    for frames, hedge in enumerate(hedged, start=1):
        budget.on_frame()
        if hedge:
            asked += 1
            granted += budget.take()
        assert granted <= HedgeBudget.BURST + HedgeBudget.SHARE * frames
    assert budget.denied == asked - granted
