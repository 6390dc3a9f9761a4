"""The law of a picture's size: the bytes of a file at any quality and scale, given one size.

Every part of the library that predicts bytes uses this law: the rate control for one picture, the
policies and the link meter for the next frame, and the simulation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = [
    "EXPONENT",
    "GROWTH",
    "HEADER_BYTES",
    "SizeLaw",
    "quality_at",
    "quality_within",
    "quantiser_scale",
    "size_share",
]

# The constants were measured; docs/explanation/compression.md says how, and on what.

EXPONENT = -0.62
"""Size against quantiser scale is nearly a power law; this is the mean over scenes."""

GROWTH = 1.63
"""The power of its sides that a file goes with: 3.1 for twice the sides; 2.9 to 3.3 on photos."""

_REFERENCE_QUALITY = 80
"""The quality that `size_share` compares with: the preset for a good link."""

_EXPONENT_SPREAD = 0.15
"""How far scenes are off that mean (one sigma)."""

_EXPONENT_RANGE = (-1.2, -0.12)
"""Limits of measured exponents, so that two sizes close together cannot mislead."""

HEADER_BYTES = 600
"""Tables and headers of a colour JPEG that the codecs write; the power law holds for the rest."""

_SAMPLE_SPREAD = 0.02
"""How far a sample's size is off the whole picture's (one sigma), as a logarithm."""

_FIRST_SAMPLE = 0.5
"""Weight of a first sample beside the second, which is twice as large."""


class SizeLaw(NamedTuple):
    """A size known or estimated at one quality, and the law through it."""

    quality: int
    size: float
    exponent: float = EXPONENT

    def size_at(self, quality: float) -> float:
        """Bytes at `quality`."""
        change = quantiser_scale(quality) / quantiser_scale(self.quality)
        return HEADER_BYTES + self._body * math.pow(change, self.exponent)

    def quality_for(self, size: float) -> float:
        """The quality at which it has `size` bytes."""
        change = max(1.0, size - HEADER_BYTES) / self._body
        return quality_at(quantiser_scale(self.quality) * math.pow(change, 1 / self.exponent))

    def moved(self, quality: int, size: float) -> SizeLaw:
        """A law of the same exponent through another point."""
        return SizeLaw(quality, size, self.exponent)

    def through(self, quality: int, size: float) -> SizeLaw:
        """The law through this point and another, held to what is plausible."""
        run = math.log(quantiser_scale(quality) / quantiser_scale(self.quality))
        if not run:
            return SizeLaw(quality, size, self.exponent)
        rise = math.log(max(1.0, size - HEADER_BYTES) / self._body)
        low, high = _EXPONENT_RANGE
        return SizeLaw(quality, size, min(max(rise / run, low), high))

    def with_sample(self, quality: int, size: float) -> SizeLaw:
        """The law through the mean of its own prediction and another sample.

        The further apart the qualities, the less its own point counts, and the more the exponent
        that both give.
        """
        measured = self.through(quality, size).exponent
        run = math.log(quantiser_scale(quality) / quantiser_scale(self.quality))
        own = math.log(self.size_at(quality))
        weight = _FIRST_SAMPLE / (1 + (run * _EXPONENT_SPREAD / _SAMPLE_SPREAD) ** 2)
        mean = math.exp((weight * own + math.log(size)) / (weight + 1))
        # Means by the inverse of their variances: of two sizes, and of two exponents.
        trust = 1 / (1 + 2 * (_SAMPLE_SPREAD / _EXPONENT_SPREAD / max(abs(run), 1e-9)) ** 2)
        return SizeLaw(quality, mean, self.exponent + trust * (measured - self.exponent))

    @property
    def _body(self) -> float:
        return max(1.0, self.size - HEADER_BYTES)


def size_share(quality: float, scale: float) -> float:
    """Bytes of a JPEG as a share of the same picture's at full size and quality 80.

    Tables and headers, which are the same at any quality, are left out: 0.5 % of a usual picture.

    Args:
        quality: JPEG quality, 1 to 100.
        scale: Its width as a share of the full width, above 0.
    """
    # At quality 100 all of libjpeg's quantisers are 1, which is about the table at scale 1.
    change = max(1.0, quantiser_scale(quality)) / quantiser_scale(_REFERENCE_QUALITY)
    return math.pow(change, EXPONENT) * math.pow(scale, GROWTH)


def quality_within(share: float, quality: float) -> float:
    """The quality at which a picture has `share` of the bytes that it has at `quality`."""
    return quality_at(quantiser_scale(quality) * math.pow(share, 1 / EXPONENT))


def quantiser_scale(quality: float) -> float:
    """What libjpeg multiplies its tables by, in percent. Source: libjpeg, `jcparam.c`."""
    return 5000 / quality if quality < 50 else 200 - 2 * quality


def quality_at(scale: float) -> float:
    """The quality at which libjpeg multiplies its tables by `scale` percent."""
    return (200 - scale) / 2 if scale <= 100 else 5000 / scale
