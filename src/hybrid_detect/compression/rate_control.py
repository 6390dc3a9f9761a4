"""Rate control: the quality and size at which a picture fits its byte budget, in about one encode.

Frames of a stream resemble each other, so the last one's size at its quality says what this one
will have at any quality; how wrong that was lately says how far below the budget to aim. Where
there is no past, or the picture has changed too much for it to count, small samples are encoded
instead. Nothing here knows pixels or codecs: an `Encodable` encodes, this module decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from hybrid_detect.compression.size_law import SizeLaw
from hybrid_detect.compression.size_search import Encodable, Encoding, SizeSearch

__all__ = ["QUALITY_CAP", "Encodable", "Encoding", "RateController"]

# The constants were measured; docs/explanation/compression.md says how, and on what.

QUALITY_CAP = 92
"""Above it a file grows by 8 % a step, and libjpeg-turbo's fast DCT loses what was gained."""

GLANCE_QUALITY = 60
"""The quality that glances assume: the middle of what 80 KB gives at 1280x720."""

MARGIN_PER_ERROR = 2.0
"""How many mean prediction errors to stay below the budget."""

MARGIN_RANGE = (0.006, 0.10)
"""Limits of that margin, as logarithms of size."""

ERROR_MEMORY = 0.85
"""Weight of the past in the mean prediction error: about the last six frames count."""

ERROR_LIMIT = 0.15
"""One surprise counts at most this much."""

FIRST_ERROR = 0.01
"""What is assumed before there is an error to look at: an ordinary stream has 0.004 to 0.03."""

UNPREDICTABLE = 0.08
"""With a larger mean error, samples (0.15 of an encode each) are cheaper than corrections."""

CUT = 0.08
"""A change of the glance or the size, as a logarithm, that is no mere motion: that of glances
stays below 0.045.
"""

WATCH = 100
"""After a cut more are likely: so many frames are looked at before they are encoded."""


class _Trend(NamedTuple):
    """Whether changes from frame to frame go on, as they do while the light changes."""

    change: float = 0.0
    """Logarithm of this frame's size over the last one's, at one quality."""
    repeats: float = 0.0
    """Mean of the products of neighbouring changes, lately."""
    square: float = 1e-4
    """Mean of their squares, lately."""

    @property
    def next_change(self) -> float:
        """What the next change will be, by how much they repeated lately."""
        return min(max(self.repeats / self.square, 0.0), 1.0) * self.change

    def after(self, change: float) -> _Trend:
        """The trend once there is one more change."""
        change = min(max(change, -ERROR_LIMIT), ERROR_LIMIT)
        old, new = ERROR_MEMORY, 1 - ERROR_MEMORY
        return _Trend(
            change,
            old * self.repeats + new * change * self.change,
            old * self.square + new * change * change,
        )


_NO_TREND = _Trend()


class _Memory(NamedTuple):
    """What is known of one frame, to predict the next. Immutable, so threads may share it."""

    step: int
    law: SizeLaw
    error: float
    """Mean of how far predictions of the size were off lately, as a logarithm."""
    growth: float
    trend: _Trend = _NO_TREND
    watch: int = 0
    """How many more frames are looked at for cuts."""
    glance: float | None = None
    """What that gave, if it was done."""


class RateController:
    """Chooses qualities and sizes for the pictures of one stream.

    What it remembers is replaced as a whole after each picture, so several threads may share
    one; streams that look different had better have one each.
    """

    def __init__(self) -> None:
        self._memory: _Memory | None = None

    def compress(
        self,
        encodable: Encodable,
        *,
        target_bytes: int,
        max_quality: int = QUALITY_CAP,
        floors: Sequence[int] = (1,),
        scales: Sequence[float] | None = None,
    ) -> Encoding:
        """Encode `encodable` to at most `target_bytes`, at the best size and quality for them.

        Args:
            encodable: The image.
            target_bytes: The budget.
            max_quality: Highest quality worth spending; `QUALITY_CAP` at most.
            floors: For each size the image may have, the quality below which the next
                smaller one shows more. The last size has no floor.
            scales: For each size, its sides as a share of the largest's; `None` halves them
                each time.
        """
        if scales is None:
            scales = [0.5**step for step in range(len(floors))]
        search = SizeSearch(encodable, target_bytes, min(max_quality, QUALITY_CAP), floors, scales)
        memory = self._memory
        if memory is None or memory.step > search.last_step:
            encoding, self._memory = _first(search)
        else:
            encoding, self._memory = _next(search, memory)
        return encoding


def _first(search: SizeSearch) -> tuple[Encoding, _Memory]:
    """Compress the first frame of a stream."""
    glance = search.encodable.glance(0)
    found = search.search(0, SizeLaw(GLANCE_QUALITY, glance))
    encoding, law = search.encode(*found)
    return encoding, _Memory(encoding.step, law, FIRST_ERROR, search.growth)


def _next(search: SizeSearch, memory: _Memory) -> tuple[Encoding, _Memory]:
    """Compress the picture that follows the one remembered."""
    step, past, error, search.growth, trend, watch, last_glance = memory
    glance = None
    if watch:
        glance = search.encodable.glance(step)
        change = glance / (last_glance or glance)
        # Where the last frame was a cut, so is this one, more likely than not.
        if abs(math.log(change)) >= (CUT / 2 if watch == WATCH else CUT):
            found = search.search(step, past.moved(past.quality, past.size * change))
            encoding, law = search.encode(*found)
            if encoding.step != step:
                glance = search.encodable.glance(encoding.step)
            return encoding, _Memory(
                encoding.step, law, error, search.growth, watch=WATCH, glance=glance
            )
        watch -= 1
    drift = trend.next_change
    expected = past.moved(past.quality, past.size * math.exp(drift)) if drift else past
    quality = search.fitting(expected, math.exp(-_margin(error)))
    found = step, quality, past.exponent
    if (
        error > UNPREDICTABLE
        or search.is_below_floor(step, quality)
        or search.larger(step, expected) != step
    ):
        found = search.search(step, expected)
    encoding, law = search.encode(*found)
    if encoding.step != step:
        glance = search.encodable.glance(encoding.step) if watch else None
        return encoding, _Memory(
            encoding.step, law, error, search.growth, watch=watch, glance=glance
        )
    surprise = math.log(law.size / expected.size_at(law.quality))
    if abs(surprise) >= CUT:
        watch = WATCH
    error = ERROR_MEMORY * error + (1 - ERROR_MEMORY) * min(abs(surprise), ERROR_LIMIT)
    trend = trend.after(surprise + drift)
    return encoding, _Memory(step, law, error, search.growth, trend, watch, glance)


def _margin(error: float) -> float:
    low, high = MARGIN_RANGE
    return min(max(MARGIN_PER_ERROR * error, low), high)
