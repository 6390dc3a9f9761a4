"""What a picture weighs and is worth at any quality and size."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.selection.rungs import RUNGS, Rung
from hybrid_detect.simulation.environment import FRAMING_BITS, MAX_BITS, worth
from hybrid_detect.simulation.simulated_run import compressed, slow_start_rounds

RAW = 100e3 * 8
BUDGET = 80 * 1024
QUALITIES = st.integers(1, 95)
SIDES = st.integers(64, 4000)


@pytest.mark.parametrize("rung", RUNGS, ids=str)
@pytest.mark.parametrize("raw_bits", [RAW, 0.6 * RAW, 2 * RAW])
def test_the_four_rungs_are_exact(rung: Rung, raw_bits: float) -> None:
    bits, accuracy = compressed(raw_bits, rung.quality, rung.max_side_px, BUDGET)
    assert bits == min(raw_bits * rung.share, MAX_BITS) + FRAMING_BITS
    assert accuracy == rung.accuracy


@pytest.mark.parametrize("rung", RUNGS, ids=str)
@pytest.mark.parametrize(("quality", "side_px"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_nothing_jumps_at_the_rungs(rung: Rung, quality: int, side_px: int) -> None:
    raw_bits = 0.5 * RAW
    bits, accuracy = compressed(raw_bits, rung.quality, rung.max_side_px, BUDGET)
    near = compressed(raw_bits, rung.quality + quality, rung.max_side_px + side_px, BUDGET)
    assert near == (pytest.approx(bits, rel=0.04), pytest.approx(accuracy, abs=0.002))


@given(QUALITIES, QUALITIES, SIDES)
def test_more_quality_weighs_more_and_is_worth_no_less(one: int, other: int, side_px: int) -> None:
    less, more = sorted((one, other))
    light, heavy = (compressed(1e5, each, side_px, 1 << 30) for each in (less, more))
    assert light[0] <= heavy[0]
    assert 0 <= light[1] <= heavy[1] <= 1


@given(QUALITIES, SIDES, SIDES)
def test_more_pixels_weigh_more_and_are_worth_no_less(quality: int, one: int, other: int) -> None:
    less, more = sorted((one, other))
    light, heavy = (compressed(1e5, quality, each, 1 << 30) for each in (less, more))
    assert light[0] <= heavy[0]
    assert 0 <= light[1] <= heavy[1] <= 1


@given(QUALITIES, SIDES, st.integers(1, BUDGET))
def test_a_budget_is_kept_and_paid_for(quality: int, side_px: int, budget: int) -> None:
    bits, accuracy = compressed(RAW, quality, side_px, budget)
    free_bits, free_accuracy = compressed(RAW, quality, side_px, BUDGET)
    assert bits - FRAMING_BITS <= 8 * budget
    assert bits <= free_bits
    assert accuracy <= free_accuracy


def test_a_small_budget_is_no_way_round_the_rungs() -> None:
    # As light as the lightest rung, at full size: worth less than at a quarter of the pixels.
    light, accuracy = compressed(RAW, 50, 640, BUDGET)
    same, worse = compressed(RAW, 80, 1280, round((light - FRAMING_BITS) / 8))
    assert same == pytest.approx(light, rel=1e-4)
    assert worse <= accuracy + 0.01


def test_no_side_is_the_usual_one() -> None:
    assert compressed(RAW, 80, None, BUDGET) == compressed(RAW, 80, 1280, BUDGET)


def test_an_answer_loses_its_worth() -> None:
    assert worth(0.0) == worth(0.2) == 1.0
    assert worth(0.4) == pytest.approx(math.exp(-1))
    assert worth(1.0) > 0
    assert worth(1.0001) == worth(math.inf) == 0.0


@pytest.mark.parametrize(("kilobytes", "rounds"), [(1, 0), (14, 0), (15, 1), (40, 1), (80, 2)])
def test_tcp_starts_slowly(kilobytes: int, rounds: int) -> None:
    # Windows of 14.6, 29.2, 58.4 kB: 14.6, 43.8 and 102.2 kB together.
    assert slow_start_rounds(8e3 * kilobytes) == rounds
