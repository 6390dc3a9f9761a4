"""Rate control: the quality and size at which a picture fits its byte budget, in about one encode.

Frames of a stream resemble each other, so the last one's size at its quality says what this one
will have at any quality; how wrong that was lately says how far below the budget to aim. Where
there is no past, or the picture has changed too much for it to count, small samples are encoded
instead. Nothing here knows pixels or codecs: a `Subject` encodes, this decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

__all__ = ["QUALITY_CAP", "Outcome", "RateController", "Subject", "quality_at", "quantiser_scale"]

# The constants were measured; docs/explanation/compression.md says how, and on what.

QUALITY_CAP = 92
"""Above it a file grows by 8 % a step, and libjpeg-turbo's fast DCT loses what was gained."""

EXPONENT = -0.62
"""Size against quantiser scale is nearly a power law; spread between scenes 0.15."""

EXPONENT_RANGE = (-1.2, -0.12)
"""What measured exponents are held to, so that two sizes close together cannot mislead."""

HEADER_BYTES = 600
"""What tables and headers take in any colour JPEG of ours; the power law is about the rest."""

GROWTH = 3.1
"""How much larger a file becomes when both sides of the picture double; 2.9 to 3.3 on photos."""

RETURN_MARGIN = 1.25
"""The larger size is taken again when its predicted quality is this far above the floor."""

GLANCE_QUALITY = 60
"""The quality that glances are about: the middle of what 80 KB gives at 1280x720."""

COLD_AIM = 0.97
"""Samples are 1.9 % off in the middle (one sigma), so most first encodes fit at this aim."""

CORRECTION_AIM = 0.98
"""A correction knows the picture itself at a quality nearby."""

REFILL = 0.75
"""A file that leaves more of the budget unused than this is worth one more encode, once."""

MARGIN_PER_ERROR = 2.0
"""How many mean prediction errors to stay below the budget."""

MARGIN_RANGE = (0.006, 0.10)
"""Limits of that margin, as logarithms of size."""

ERROR_MEMORY = 0.85
"""Weight of the past in the mean prediction error: about the last six frames count."""

ERROR_LIMIT = 0.15
"""One surprise counts at most this much."""

FIRST_ERROR = 0.02
"""What is assumed before there is an error to look at: an ordinary stream has 0.004 to 0.03."""

UNPREDICTABLE = 0.08
"""With a larger mean error, samples (0.14 of an encode each) are cheaper than corrections."""

CUT = 0.12
"""A change of the glance, as a logarithm, that is no mere motion."""

_SAMPLE_TOLERANCES = (0.06, 0.25)
"""How far off the aim the first and the second sample may be to be the last one."""

_MAX_SECANT_STEPS = 3
"""Corrections of one size before quality is halved instead, for pictures that obey no law."""


class Subject(Protocol):
    """A picture to be encoded at sizes 0, 1, 2, ..., each half as wide and high as the last."""

    def encode(self, step: int, quality: int) -> bytes:
        """The whole picture."""

    def estimate(self, step: int, quality: int) -> float | None:
        """About how many bytes `encode` would give; `None` if that costs as much to know."""

    def glance(self, step: int) -> float:
        """Very roughly what it weighs at `GLANCE_QUALITY`, for next to nothing; above 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A picture encoded to a budget."""

    data: bytes = field(repr=False)
    step: int
    """How often its sides were halved."""
    quality: int
    encodes: int
    """How often the whole picture was encoded."""
    samples: int
    """How often a part of it was encoded to predict its size."""
    fits: bool
    """Whether it meets the budget; if not, this is the smallest it can be."""


@dataclass(frozen=True, slots=True)
class _Memory:
    """What one frame tells about the next. Never changed, so that threads may share it."""

    step: int
    quality: int
    size: int
    exponent: float
    error: float
    """Mean of how far predictions of the size were off lately, as a logarithm."""
    glance: float
    growth: float


@dataclass(frozen=True, slots=True)
class _Point:
    """A size known or estimated at one quality, and the law through it."""

    quality: int
    size: float
    exponent: float = EXPONENT

    def size_at(self, quality: float) -> float:
        change = quantiser_scale(quality) / quantiser_scale(self.quality)
        return HEADER_BYTES + self._body * math.pow(change, self.exponent)

    def quality_for(self, size: float) -> float:
        change = max(1.0, size - HEADER_BYTES) / self._body
        return quality_at(quantiser_scale(self.quality) * change ** (1 / self.exponent))

    @property
    def _body(self) -> float:
        return max(1.0, self.size - HEADER_BYTES)

    def through(self, quality: int, size: float) -> _Point:
        """The law through this point and another, held to what is plausible."""
        run = math.log(quantiser_scale(quality) / quantiser_scale(self.quality))
        if not run:
            return _Point(quality, size, self.exponent)
        rise = math.log(max(1.0, size - HEADER_BYTES) / self._body)
        low, high = EXPONENT_RANGE
        return _Point(quality, size, min(max(rise / run, low), high))


class RateController:
    """Chooses qualities and sizes for the pictures of one stream.

    What it remembers is replaced as a whole after each picture, so several threads may share
    one; streams that look different had better have one each.
    """

    def __init__(self) -> None:
        self._memory: _Memory | None = None

    def reset(self) -> None:
        """Forget the past: the next picture is taken for the first."""
        self._memory = None

    def compress(
        self,
        subject: Subject,
        *,
        target_bytes: int,
        max_quality: int = QUALITY_CAP,
        floors: Sequence[int] = (1,),
    ) -> Outcome:
        """Encode `subject` to at most `target_bytes`, at the best size and quality for them.

        Args:
            subject: The picture.
            target_bytes: The budget.
            max_quality: Highest quality worth spending; `QUALITY_CAP` at most.
            floors: For each size the subject may have, the quality below which the next
                smaller one shows more. The last size has no floor.
        """
        run = _Run(subject, target_bytes, min(max_quality, QUALITY_CAP), floors)
        outcome, self._memory = run.finish(self._memory)
        return outcome


class _Run:
    """The search for one picture."""

    def __init__(self, subject: Subject, target: int, ceiling: int, floors: Sequence[int]) -> None:
        self.subject = subject
        self.target = target
        self.ceiling = ceiling
        self.floors = floors
        self.last_step = len(floors) - 1
        self.growth = GROWTH
        self.encodes = 0
        self.samples = 0

    def finish(self, memory: _Memory | None) -> tuple[Outcome, _Memory]:
        if memory is not None and memory.step > self.last_step:
            memory = None
        step = looked_at = 0 if memory is None else memory.step
        glance = self.subject.glance(step)
        error, past, is_known = FIRST_ERROR, _Point(GLANCE_QUALITY, glance), False
        if memory is not None:
            self.growth = memory.growth
            error = memory.error
            change = glance / memory.glance
            is_known = abs(math.log(change)) < CUT
            size = memory.size if is_known else memory.size * change
            past = _Point(memory.quality, size, memory.exponent)
        if not is_known or error > UNPREDICTABLE:
            step, quality, exponent = self._search(step, past)
        else:
            quality, exponent = self._fitting(past, math.exp(-_margin(error))), past.exponent
            if self._is_below_floor(step, quality) or self._is_larger_size_better(step, past):
                step, quality, exponent = self._search(step, past)
        outcome, exponent = self._encode(step, quality, exponent)
        size = len(outcome.data)
        if is_known and outcome.step == looked_at:
            surprise = abs(math.log(size / past.size_at(outcome.quality)))
            error = ERROR_MEMORY * error + (1 - ERROR_MEMORY) * min(surprise, ERROR_LIMIT)
        if outcome.step != looked_at:
            glance = self.subject.glance(outcome.step)
        return outcome, _Memory(
            outcome.step, outcome.quality, size, exponent, error, glance, self.growth
        )

    def _search(
        self, step: int, guess: _Point, *, came_from: int | None = None
    ) -> tuple[int, int, float]:
        """Size, quality and exponent for a picture whose past does not say them.

        Args:
            step: The size to start at.
            guess: What is thought of it so far.
            came_from: The size it was tried at before, which is not gone back to.
        """
        came_from = step if came_from is None else came_from
        while True:
            law = self._sampled(step, guess)
            if law is None:
                # Too small to take a part of; trying is cheap.
                if came_from < step or not self._is_larger_size_better(step, guess):
                    return step, self._fitting(guess, COLD_AIM), guess.exponent
                came_from, step, guess = step, step - 1, self._at_double_size(guess)
                continue
            if step != came_from:
                factor = guess.size_at(law.quality) / law.size
                self.growth *= factor if step > came_from else 1 / factor
            quality = self._fitting(law, COLD_AIM)
            if self._is_below_floor(step, quality):
                came_from, step, guess = step, step + 1, self._at_half_size(law)
            elif came_from >= step and self._is_larger_size_better(step, law):
                came_from, step, guess = step, step - 1, self._at_double_size(law)
            else:
                return step, quality, law.exponent

    def _sampled(self, step: int, guess: _Point) -> _Point | None:
        """The law of this picture at this size, from samples of it."""
        quality = min(max(self._fitting(guess, COLD_AIM), 10), self.ceiling)
        aim = COLD_AIM * self.target
        law: _Point | None = None
        for tolerance in (*_SAMPLE_TOLERANCES, math.inf):
            size = self.subject.estimate(step, quality)
            if size is None:
                return None
            self.samples += 1
            law = _through(law, quality, size, guess.exponent)
            off = math.log(size / aim)
            wanted = self._fitting(law, COLD_AIM)
            at_limit = (quality == self.ceiling and off < 0) or wanted == quality
            # Half a floor is so far off that the next smaller size is better for sure.
            hopeless = self._is_below_floor(step, 2 * wanted)
            if abs(off) < tolerance or at_limit or hopeless:
                break
            quality = wanted
        return law

    def _encode(self, step: int, quality: int, exponent: float) -> tuple[Outcome, float]:
        """Encode until it fits, and once more if it leaves much unused."""
        law: _Point | None = None
        ceiling, failures = self.ceiling, 0
        while True:
            data = self._encoded(step, quality)
            law = _through(law, quality, len(data), exponent)
            if len(data) <= self.target or (quality == 1 and step == self.last_step):
                break
            failures += 1
            ceiling = quality - 1
            quality = min(self._fitting(law, CORRECTION_AIM), ceiling)
            if self._is_below_floor(step, quality):
                step, quality, exponent = self._search(
                    step + 1, self._at_half_size(law), came_from=step
                )
                law, ceiling, failures = None, self.ceiling, 0
            elif failures > _MAX_SECANT_STEPS:
                quality = max(1, min(quality, ceiling // 2))
        higher = min(self._fitting(law, COLD_AIM), ceiling)
        if len(data) < REFILL * self.target and higher > quality:
            more = self._encoded(step, higher)
            law = law.through(higher, len(more))
            if len(more) <= self.target:
                data, quality = more, higher
        outcome = Outcome(
            data=data,
            step=step,
            quality=quality,
            encodes=self.encodes,
            samples=self.samples,
            fits=len(data) <= self.target,
        )
        return outcome, law.exponent

    def _encoded(self, step: int, quality: int) -> bytes:
        self.encodes += 1
        return self.subject.encode(step, quality)

    def _fitting(self, law: _Point, aim: float) -> int:
        """The highest quality whose predicted size is within `aim` of the budget."""
        return max(1, min(int(law.quality_for(aim * self.target)), self.ceiling))

    def _is_below_floor(self, step: int, quality: int) -> bool:
        return step < self.last_step and quality < min(self.floors[step], self.ceiling)

    def _is_larger_size_better(self, step: int, law: _Point) -> bool:
        """Whether twice the size would keep a quality well above its floor."""
        if step == 0:
            return False
        larger = self._at_double_size(law)
        wanted = min(RETURN_MARGIN * self.floors[step - 1], self.ceiling)
        return self._fitting(larger, COLD_AIM) >= wanted

    def _at_half_size(self, law: _Point) -> _Point:
        return replace(law, size=law.size / self.growth)

    def _at_double_size(self, law: _Point) -> _Point:
        return replace(law, size=law.size * self.growth)


def _through(law: _Point | None, quality: int, size: float, exponent: float) -> _Point:
    return _Point(quality, size, exponent) if law is None else law.through(quality, size)


def quantiser_scale(quality: float) -> float:
    """What libjpeg multiplies its tables by, in percent. Source: libjpeg, `jcparam.c`."""
    return 5000 / quality if quality < 50 else 200 - 2 * quality


def quality_at(scale: float) -> float:
    """The quality at which libjpeg multiplies its tables by `scale` percent."""
    return (200 - scale) / 2 if scale <= 100 else 5000 / scale


def _margin(error: float) -> float:
    low, high = MARGIN_RANGE
    return min(max(MARGIN_PER_ERROR * error, low), high)
