"""Rate control: counted on pictures that are formulas, so that every case can be made."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_detect.compression.rate_control import QUALITY_CAP, RateController
from hybrid_detect.compression.size_law import quality_at, quantiser_scale

KB = 1024


@dataclass
class Formula:
    """A picture of `body` bytes at quality 50 that obeys a power law, or `law`."""

    body: float
    exponent: float = -0.62
    growth: float = 3.1
    detail: float = 4.0
    sample_error: float = 1.0
    can_sample: bool = True
    law: Callable[[int, int], int] | None = None
    calls: list[tuple[int, int]] = field(default_factory=list)

    def size(self, step: int, quality: int) -> int:
        if self.law:
            return self.law(step, quality)
        change = (quantiser_scale(quality) / 100) ** self.exponent
        return 600 + int(self.body * change / self.growth**step)

    def encode(self, step: int, quality: int) -> bytes:
        self.calls.append((step, quality))
        return bytes(self.size(step, quality))

    def estimate(self, step: int, quality: int, part: int) -> float | None:
        return self.size(step, quality) * self.sample_error if self.can_sample else None

    def glance(self, step: int) -> float:
        return 600 + 20_000 * self.detail**0.85 / 3.1**step


@dataclass
class Scaled(Formula):
    """A formula whose sizes are those of `FINE_SCALES`."""

    power: float = 1.63

    def size(self, step: int, quality: int) -> int:
        change = (quantiser_scale(quality) / 100) ** self.exponent
        return 600 + int(self.body * change * FINE_SCALES[step] ** self.power)


FLOORS = (40, 25, 10)


@given(st.integers(1, 99))
def test_quality_and_scale_are_inverse(quality: int) -> None:
    assert quality_at(quantiser_scale(quality)) == pytest.approx(quality)


def test_a_lone_picture_takes_one_encode_if_samples_tell_the_truth() -> None:
    encoding = RateController().compress(Formula(90_000), target_bytes=80 * KB, floors=FLOORS)
    assert (encoding.encodes, encoding.step, encoding.fits) == (1, 0, True)
    assert 1 <= encoding.samples <= 3
    assert 0.93 * 80 * KB < len(encoding.data) <= 80 * KB


def test_a_steady_stream_takes_one_encode_a_frame_and_fills_the_budget() -> None:
    for noise in (0.004, 0.01, 0.03):
        rng, controller, body = random.Random(1), RateController(), 65_000.0
        encodings = []
        for _ in range(300):
            body *= math.exp(rng.gauss(0, noise))
            body = min(max(body, 45_000), 80_000)
            encodings.append(
                controller.compress(Formula(body), target_bytes=80 * KB, floors=FLOORS)
            )
        assert all(encoding.fits for encoding in encodings)
        assert sum(encoding.encodes for encoding in encodings) <= 1.05 * 300
        assert sum(encoding.samples for encoding in encodings) <= 20
        assert not any(encoding.step for encoding in encodings)
        fills = [len(encoding.data) / (80 * KB) for encoding in encodings]
        assert sum(fills) / len(fills) >= 0.95
        assert min(fills) >= 0.85


def test_cuts_are_seen_and_cost_samples_rather_than_encodes() -> None:
    rng, controller, encodings = random.Random(2), RateController(), []
    for number in range(240):
        if number % 8 == 0:
            detail = rng.uniform(2, 8)
            body = 20_000 * detail ** rng.gauss(0.85, 0.05)
        formula = Formula(body * math.exp(rng.gauss(0, 0.01)), detail=detail)
        encodings.append(controller.compress(formula, target_bytes=80 * KB, floors=FLOORS))
    assert all(encoding.fits for encoding in encodings)
    assert sum(encoding.encodes for encoding in encodings) <= 1.15 * 240
    full = [encoding for encoding in encodings if encoding.quality < QUALITY_CAP]
    assert min(len(encoding.data) for encoding in full) >= 0.75 * 80 * KB


def test_a_cut_that_looks_alike_is_corrected_by_one_encode() -> None:
    for before, after in ((60_000, 110_000), (110_000, 60_000)):
        controller = RateController()
        controller.compress(Formula(before), target_bytes=80 * KB)
        encoding = controller.compress(Formula(after), target_bytes=80 * KB)
        assert (encoding.encodes, encoding.samples) == (2, 0)
        assert 0.9 * 80 * KB <= len(encoding.data) <= 80 * KB


def test_what_cannot_be_predicted_is_sampled() -> None:
    rng, controller, encodings = random.Random(3), RateController(), []
    for _ in range(60):
        formula = Formula(80_000 * math.exp(rng.gauss(0, 0.3)))
        encodings.append(controller.compress(formula, target_bytes=80 * KB))
    late = encodings[20:]
    assert sum(encoding.encodes for encoding in late) <= 1.05 * len(late)
    assert all(encoding.samples for encoding in late)


def test_size_gives_way_before_quality_falls_below_its_floor_and_comes_back() -> None:
    controller = RateController()
    steps = []
    for target_kb in (80, 40, 20, 5, 20, 40, 80):
        for _ in range(3):
            encoding = controller.compress(
                Formula(60_000), target_bytes=target_kb * KB, floors=FLOORS
            )
            assert encoding.fits
            assert encoding.quality >= FLOORS[encoding.step]
        steps.append(encoding.step)
    assert steps == [0, 1, 1, 2, 1, 1, 0]


def test_between_two_sizes_it_does_not_swing() -> None:
    for growth in (2.4, 3.1, 3.9):
        rng, controller, steps = random.Random(4), RateController(), []
        # About the budget at the floor, a little more or less each time.
        for _ in range(200):
            body = 80 * KB * 1.15 * math.exp(rng.gauss(0, 0.02))
            formula = Formula(body, growth=growth)
            steps.append(controller.compress(formula, target_bytes=80 * KB, floors=FLOORS).step)
        assert sum(one != other for one, other in itertools.pairwise(steps)) <= 2


FINE = (40, 50, 25, 20, 10)
FINE_SCALES = (1.0, 0.75, 0.5, 0.375, 0.25)


def test_sizes_in_between_are_taken_where_they_keep_more() -> None:
    steps = {}
    for body in (60_000, 85_000, 100_000, 120_000, 150_000, 1_000_000):
        encoding = RateController().compress(
            Scaled(body), target_bytes=80 * KB, floors=FINE, scales=FINE_SCALES
        )
        assert (encoding.encodes, encoding.fits) == (1, True)
        assert encoding.quality >= FINE[encoding.step]
        steps[body] = encoding.step
    assert steps == {
        60_000: 0,
        85_000: 0,
        100_000: 1,
        120_000: 1,
        150_000: 2,
        1_000_000: 4,
    }


@pytest.mark.parametrize("growth", [1.3, 1.63, 1.95])
@pytest.mark.parametrize("body", [85_000, 95_000, 105_000, 115_000, 160_000, 200_000])
def test_between_fine_sizes_it_does_not_swing(growth: float, body: float) -> None:
    rng, controller, steps = random.Random(4), RateController(), []
    for _ in range(200):
        picture = Scaled(body * math.exp(rng.gauss(0, 0.02)), power=growth)
        encoding = controller.compress(
            picture, target_bytes=80 * KB, floors=FINE, scales=FINE_SCALES
        )
        steps.append(encoding.step)
    assert sum(one != other for one, other in itertools.pairwise(steps)) <= 2


def test_what_goes_on_changing_is_foreseen() -> None:
    controller, encodings = RateController(), []
    for index in range(200):
        body = 65_000 * math.exp(0.2 * math.cos(index / 8))
        encodings.append(controller.compress(Formula(body), target_bytes=80 * KB))
    fills = [len(encoding.data) / (80 * KB) for encoding in encodings[20:]]
    assert sum(fills) / len(fills) >= 0.97
    assert sum(encoding.encodes for encoding in encodings) <= 1.03 * len(encodings)


def test_a_calm_stream_is_not_looked_at_and_one_with_cuts_is() -> None:
    looks = 0

    class Looked(Formula):
        def glance(self, step: int) -> float:
            nonlocal looks
            looks += 1
            return super().glance(step)

    controller = RateController()
    for _ in range(50):
        controller.compress(Looked(65_000), target_bytes=80 * KB)
    assert looks == 1
    # An unexpected cut costs an encode; the next ones do not.
    sharp, dull = {"body": 120_000.0, "detail": 8.0}, {"body": 65_000.0, "detail": 4.0}
    encodes = []
    for number in range(60):
        picture = Looked(**(sharp if number // 10 % 2 == 0 else dull))
        encodes.append(controller.compress(picture, target_bytes=80 * KB).encodes)
    assert looks > 50
    assert sum(encodes) == 61
    assert encodes[0] == 2


def test_the_budget_may_change_from_frame_to_frame() -> None:
    rng, controller = random.Random(5), RateController()
    for _ in range(200):
        target = rng.randrange(3 * KB, 200 * KB)
        encoding = controller.compress(Formula(90_000), target_bytes=target, floors=FLOORS)
        assert len(encoding.data) <= target
        assert encoding.encodes <= 4


def test_a_low_ceiling_counts_more_than_the_floor() -> None:
    encoding = RateController().compress(
        Formula(90_000), target_bytes=80 * KB, max_quality=20, floors=FLOORS
    )
    assert (encoding.step, encoding.quality, encoding.encodes) == (0, 20, 1)


def test_quality_stops_at_the_cap() -> None:
    encoding = RateController().compress(Formula(100), target_bytes=80 * KB, max_quality=95)
    assert (encoding.quality, encoding.encodes) == (QUALITY_CAP, 1)


def test_an_impossible_budget_gives_the_smallest_picture() -> None:
    controller = RateController()
    first = controller.compress(Formula(1e7), target_bytes=2 * KB, floors=FLOORS)
    assert (first.fits, first.step, first.quality) == (False, 2, 1)
    again = controller.compress(Formula(1e7), target_bytes=2 * KB, floors=FLOORS)
    assert (again.fits, again.step, again.quality, again.encodes) == (False, 2, 1, 1)


def test_the_past_counts_for_nothing_where_sizes_are_fewer() -> None:
    controller = RateController()
    assert controller.compress(Formula(90_000), target_bytes=5 * KB, floors=FLOORS).step == 2
    encoding = controller.compress(Formula(90_000), target_bytes=80 * KB, floors=FLOORS[:1])
    assert encoding.step == 0


@settings(max_examples=300, deadline=None)
@given(
    st.floats(10, 1e7),
    st.floats(-1.5, -0.05),
    st.floats(1.0, 8.0),
    st.floats(0.3, 3.0),
    st.booleans(),
    st.lists(st.integers(700, 300_000), min_size=1, max_size=5),
    st.integers(1, 95),
    st.sampled_from([(1,), (40,), FLOORS, (40, 25, 10, 10, 10)]),
)
def test_for_any_law_it_ends_soon_and_below_the_budget(
    body: float,
    exponent: float,
    growth: float,
    sample_error: float,
    can_sample: bool,
    targets: list[int],
    ceiling: int,
    floors: tuple[int, ...],
) -> None:
    controller = RateController()
    for target in targets:
        formula = Formula(body, exponent, growth, sample_error=sample_error, can_sample=can_sample)
        encoding = controller.compress(
            formula, target_bytes=target, max_quality=ceiling, floors=floors
        )
        smallest = formula.size(len(floors) - 1, 1)
        assert encoding.fits == (len(encoding.data) <= target)
        assert encoding.fits or smallest > target
        assert encoding.quality <= min(ceiling, QUALITY_CAP)
        assert encoding.encodes == len(formula.calls) <= 12 * len(floors)


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(700, 100_000))
def test_sizes_without_any_law_do_no_harm(rng: random.Random, target: int) -> None:
    table: dict[tuple[int, int], int] = {}

    def law(step: int, quality: int) -> int:
        return table.setdefault((step, quality), rng.randrange(1, 200_000))

    controller = RateController()
    for _ in range(4):
        formula = Formula(0, law=law, detail=rng.random() * 9)
        encoding = controller.compress(formula, target_bytes=target, floors=FLOORS)
        assert encoding.fits == (len(encoding.data) <= target)
        assert encoding.fits or (encoding.step, encoding.quality) == (2, 1)
        assert encoding.encodes <= 36
