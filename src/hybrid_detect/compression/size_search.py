"""The search for a picture's size and quality, by samples where no past frame tells them.

Nothing here knows pixels or codecs: an `Encodable` encodes, this module decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hybrid_detect.compression.size_law import GROWTH, SizeLaw

__all__ = ["COLD_AIM", "Encodable", "Encoding", "SizeSearch"]

# The constants were measured; docs/explanation/compression.md says how, and on what.

_GROWTH_RANGE = (0.8, 2.4)
"""What a measured growth is held to."""

RETURN_MARGIN = 1.25
"""A larger size is taken again when its predicted quality is this far above the floor."""

COLD_AIM = 0.97
"""Two samples are 1.5 % off in the middle (one sigma), so nearly all first encodes fit."""

CORRECTION_AIM = 0.98
"""A correction knows the picture itself at a quality nearby."""

REFILL = 0.75
"""A file that leaves more of the budget unused than this is worth one more encode, once."""

REFILL_AIM = 0.94
"""That encode is far from the first, and in vain if it does not fit."""

_HOPELESS = 1.5
"""What is predicted to miss the floor even at so many times its quality needs no closer look."""

_SAMPLE_TOLERANCE = 0.12
"""How far off the aim a second sample may be to be the last one."""

_ROOM = 0.04
"""A sample at the highest quality that leaves this much, as a logarithm, needs no second."""

_MAX_SAMPLES = 3

_MAX_SECANT_STEPS = 3
"""Corrections of one size before quality is halved instead, for pictures that obey no law."""


class Encodable(Protocol):
    """An image that can be encoded at sizes 0, 1, 2, ..., each smaller than the last."""

    def encode(self, step: int, quality: int) -> bytes:
        """Encode the whole image."""

    def estimate(self, step: int, quality: int, part: int) -> float | None:
        """Estimate how many bytes `encode` would give; `None` if that costs as much as encoding.

        Args:
            step: The size.
            quality: The quality.
            part: 0, 1 or 2: the part of the image to sample; part 0 is half as large.
        """

    def glance(self, step: int) -> float:
        """Guess the bytes at `GLANCE_QUALITY` at almost no cost; above 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """An image encoded to a budget, and how that was reached."""

    data: bytes = field(repr=False)
    step: int
    """The size: 0 is the largest."""
    quality: int
    encodes: int
    """How often the whole image was encoded."""
    samples: int
    """How often a part of it was encoded to predict the size."""
    fits: bool
    """Whether it meets the budget; if not, this is the smallest encoding there is."""


class SizeSearch:
    """Finds one picture's size and quality.

    Args:
        encodable: The image.
        target: The budget in bytes.
        ceiling: Highest quality worth spending.
        floors: For each size, the quality below which a smaller one shows more.
        scales: For each size, its sides as a share of the largest's.
        growth: The power of its sides that a file goes with, as far as it is known.
    """

    def __init__(
        self,
        encodable: Encodable,
        target: int,
        ceiling: int,
        floors: Sequence[int],
        scales: Sequence[float],
        growth: float = GROWTH,
    ) -> None:
        self.encodable = encodable
        self.target = target
        self.ceiling = ceiling
        self.floors = floors
        self.scales = scales
        self.last_step = len(floors) - 1
        self.growth = growth
        self.encodes = 0
        self.samples = 0

    def search(
        self, step: int, guess: SizeLaw, *, largest: int = 0, came_from: int | None = None
    ) -> tuple[int, int, float]:
        """Find size, quality and exponent by samples.

        Args:
            step: The size to start at.
            guess: The law that is assumed so far.
            largest: The largest size still open; larger ones were tried in vain.
            came_from: The size that `guess` was measured at, if not `step`.
        """
        if self.is_below_floor(step, _HOPELESS * self.fitting(guess, COLD_AIM)):
            smaller = self._smaller(step, guess)
            step, guess = smaller, self._at_size(guess, step, smaller)
            came_from = None  # The guess was not measured.
        while True:
            sampled = self._sampled(step, guess)
            if sampled is not None and came_from is not None:
                self._learn_growth(came_from, step, sampled.size / guess.size_at(sampled.quality))
            # One too small to take a part of is cheap to try.
            law = guess if sampled is None else sampled
            quality = self.fitting(law, COLD_AIM)
            if sampled is not None and self.is_below_floor(step, quality):
                largest = step + 1
                wanted = self._smaller(step, law)
            else:
                wanted = self.larger(step, law, largest)
            if wanted == step:
                return step, quality, law.exponent
            came_from, step, guess = step, wanted, self._at_size(law, step, wanted)

    def _sampled(self, step: int, guess: SizeLaw) -> SizeLaw | None:
        """The law of this picture at this size, from samples of it."""
        quality = min(max(self.fitting(guess, COLD_AIM), 10), self.ceiling)
        aim = COLD_AIM * self.target
        law: SizeLaw | None = None
        for part in range(_MAX_SAMPLES):
            size = self.encodable.estimate(step, quality, part)
            if size is None:
                return None
            self.samples += 1
            law = guess.moved(quality, size) if law is None else law.with_sample(quality, size)
            off = math.log(size / aim)
            wanted = self.fitting(law, COLD_AIM)
            has_room = quality == self.ceiling and off < -_ROOM
            hopeless = self.is_below_floor(step, _HOPELESS * wanted)
            if has_room or hopeless or (part and abs(off) < _SAMPLE_TOLERANCE):
                break
            quality = wanted
        return law

    def encode(self, step: int, quality: int, exponent: float) -> tuple[Encoding, SizeLaw]:
        """Encode until it fits, and once more if it leaves much unused."""
        law: SizeLaw | None = None
        ceiling, failures = self.ceiling, 0
        while True:
            data = self._encoded(step, quality)
            size = len(data)
            law = SizeLaw(quality, size, exponent) if law is None else law.through(quality, size)
            if size <= self.target or (quality == 1 and step == self.last_step):
                break
            failures += 1
            ceiling = quality - 1
            quality = min(self.fitting(law, CORRECTION_AIM), ceiling)
            if self.is_below_floor(step, quality):
                smaller = self._smaller(step, law)
                guess = self._at_size(law, step, smaller)
                step, quality, exponent = self.search(
                    smaller, guess, largest=step + 1, came_from=step
                )
                law, ceiling, failures = None, self.ceiling, 0
            elif failures > _MAX_SECANT_STEPS:
                quality = max(1, min(quality, ceiling // 2))
        if size < REFILL * self.target and quality < ceiling:
            higher = min(self.fitting(law, REFILL_AIM), ceiling)
            if higher > quality:
                more = self._encoded(step, higher)
                law = law.through(higher, len(more))
                if len(more) <= self.target:
                    data, quality = more, higher
        if law.quality != quality:
            law = law.moved(quality, len(data))
        encoding = Encoding(
            data=data,
            step=step,
            quality=quality,
            encodes=self.encodes,
            samples=self.samples,
            fits=len(data) <= self.target,
        )
        return encoding, law

    def _encoded(self, step: int, quality: int) -> bytes:
        self.encodes += 1
        return self.encodable.encode(step, quality)

    def fitting(self, law: SizeLaw, aim: float) -> int:
        """The highest quality whose predicted size is within `aim` of the budget."""
        return max(1, min(int(law.quality_for(aim * self.target)), self.ceiling))

    def is_below_floor(self, step: int, quality: float) -> bool:
        """Whether a smaller size would show more than this one at `quality`."""
        return step < self.last_step and quality < min(self.floors[step], self.ceiling)

    def _smaller(self, step: int, law: SizeLaw) -> int:
        """The largest of the smaller sizes that would keep its quality above its floor."""
        for smaller in range(step + 1, self.last_step):
            quality = self.fitting(self._at_size(law, step, smaller), COLD_AIM)
            if not self.is_below_floor(smaller, quality):
                return smaller
        return self.last_step

    def larger(self, step: int, law: SizeLaw, largest: int = 0) -> int:
        """The largest size from `largest` on that would keep a quality well above its floor."""
        for larger in range(step - 1, largest - 1, -1):
            quality = self.fitting(self._at_size(law, step, larger), COLD_AIM)
            if quality < min(RETURN_MARGIN * self.floors[larger], self.ceiling):
                break
            step, law = larger, self._at_size(law, step, larger)
        return step

    def _learn_growth(self, step: int, other: int, surprise: float) -> None:
        """Correct the growth by how far off the size was that `_at_size` predicted."""
        low, high = _GROWTH_RANGE
        growth = self.growth + math.log(surprise) / math.log(self.scales[other] / self.scales[step])
        self.growth = min(max(growth, low), high)

    def _at_size(self, law: SizeLaw, step: int, other: int) -> SizeLaw:
        change = self.scales[other] / self.scales[step]
        return law.moved(law.quality, law.size * math.pow(change, self.growth))
