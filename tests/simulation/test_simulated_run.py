"""What a picture weighs and is worth at any quality and size."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.selection.rungs import CENTERFACE_LADDER, PictureLadder, Rung
from hybrid_detect.simulation.environment import worth
from hybrid_detect.simulation.pictures import FRAMING_BITS, LADDERS, Pictures
from hybrid_detect.simulation.simulated_run import slow_start_rounds

RAW = 100e3 * 8
BUDGET = 80 * 1024
QUALITIES = st.integers(1, 95)
SIDES = st.integers(64, 4000)
PICTURES = {name: Pictures(ladder) for name, ladder in LADDERS.items()}
SERVERS = st.sampled_from(list(PICTURES.values()))
RUNGS = [(pictures, rung) for pictures in PICTURES.values() for rung in pictures.ladder.rungs]


@pytest.mark.parametrize(("pictures", "rung"), RUNGS)
@pytest.mark.parametrize("raw_bits", [RAW, 0.6 * RAW, 2 * RAW])
def test_the_four_rungs_are_exact(pictures: Pictures, rung: Rung, raw_bits: float) -> None:
    bits, accuracy = pictures.compressed(raw_bits, rung.quality, rung.max_side_px, BUDGET)
    assert bits == min(raw_bits * rung.share, pictures.max_bits) + FRAMING_BITS
    assert accuracy == rung.accuracy


@pytest.mark.parametrize(("pictures", "rung"), RUNGS)
@pytest.mark.parametrize(("quality", "side_px"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_nothing_jumps_at_the_rungs(
    pictures: Pictures, rung: Rung, quality: int, side_px: int
) -> None:
    raw_bits = 0.5 * RAW
    bits, accuracy = pictures.compressed(raw_bits, rung.quality, rung.max_side_px, BUDGET)
    near = pictures.compressed(raw_bits, rung.quality + quality, rung.max_side_px + side_px, BUDGET)
    assert near == (pytest.approx(bits, rel=0.04), pytest.approx(accuracy, abs=0.002))


@given(SERVERS, QUALITIES, QUALITIES, SIDES)
def test_more_quality_weighs_more_and_is_worth_no_less(
    pictures: Pictures, one: int, other: int, side_px: int
) -> None:
    less, more = sorted((one, other))
    light, heavy = (pictures.compressed(1e5, each, side_px, 1 << 30) for each in (less, more))
    assert light[0] <= heavy[0]
    assert 0 <= light[1] <= heavy[1] <= 1


@given(SERVERS, QUALITIES, SIDES, SIDES)
def test_more_pixels_weigh_more_and_are_worth_no_less(
    pictures: Pictures, quality: int, one: int, other: int
) -> None:
    less, more = sorted((one, other))
    light, heavy = (pictures.compressed(1e5, quality, each, 1 << 30) for each in (less, more))
    assert light[0] <= heavy[0]
    assert 0 <= light[1] <= heavy[1] <= 1


@given(SERVERS, QUALITIES, SIDES, st.integers(1, BUDGET))
def test_a_budget_is_kept_and_paid_for(
    pictures: Pictures, quality: int, side_px: int, budget: int
) -> None:
    bits, accuracy = pictures.compressed(RAW, quality, side_px, budget)
    free_bits, free_accuracy = pictures.compressed(RAW, quality, side_px, BUDGET)
    assert bits - FRAMING_BITS <= 8 * budget
    assert bits <= free_bits
    assert accuracy <= free_accuracy


@pytest.mark.parametrize("pictures", PICTURES.values(), ids=PICTURES)
def test_a_small_budget_is_no_way_round_the_rungs(pictures: Pictures) -> None:
    # As light as the lightest rung, at full size: worth less than at fewer pixels.
    best, *_, last = pictures.ladder.rungs
    light, accuracy = pictures.compressed(RAW, last.quality, last.max_side_px, BUDGET)
    budget = round((light - FRAMING_BITS) / 8)
    same, worse = pictures.compressed(RAW, best.quality, best.max_side_px, budget)
    assert same == pytest.approx(light, rel=1e-4)
    assert worse <= accuracy + 0.01


def test_no_side_is_the_usual_one() -> None:
    pictures = PICTURES["usual"]
    assert pictures.compressed(RAW, 80, None, BUDGET) == pictures.compressed(RAW, 80, 1280, BUDGET)


def test_pixels_beyond_what_the_server_gains_by_are_weight_alone() -> None:
    pictures = PICTURES["centerface"]
    small, accuracy = pictures.compressed(0.3 * RAW, 80, 640, BUDGET)
    large, same = pictures.compressed(0.3 * RAW, 80, 1280, BUDGET)
    assert (large > small, same) == (True, accuracy)


@pytest.mark.parametrize(
    "rungs",
    [
        (),
        CENTERFACE_LADDER.rungs[:3],
        CENTERFACE_LADDER.rungs[::-1],
        tuple(Rung(rung.quality, rung.max_side_px, 1.0) for rung in CENTERFACE_LADDER.rungs),
    ],
)
def test_a_ladder_of_another_shape_is_refused(rungs: Any) -> None:
    with pytest.raises(ConfigurationError, match="four rungs"):
        Pictures(PictureLadder(rungs=rungs))


def test_an_answer_loses_its_worth() -> None:
    assert worth(0.0) == worth(0.2) == 1.0
    assert worth(0.4) == pytest.approx(math.exp(-1))
    assert worth(1.0) > 0
    assert worth(1.0001) == worth(math.inf) == 0.0


@pytest.mark.parametrize(("kilobytes", "rounds"), [(1, 0), (14, 0), (15, 1), (40, 1), (80, 2)])
def test_tcp_starts_slowly(kilobytes: int, rounds: int) -> None:
    # Windows of 14.6, 29.2, 58.4 kB: 14.6, 43.8 and 102.2 kB together.
    assert slow_start_rounds(8e3 * kilobytes) == rounds
