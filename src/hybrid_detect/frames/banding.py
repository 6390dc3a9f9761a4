"""Bands: pictures handed to Pillow some rows at a time.

Pillow keeps three channels as four bytes a pixel: 3.7 MB for 1280x720, 33 MB for 4K, on top of
the caller's own pixels. A band at a time, it needs 1.3 MB for any height of the picture (more above
20,480 pixels of width), and a megabyte beside it where planes are put together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.frames.scaling import REDUCING_GAP, whole_factor

__all__ = ["BAND_PIXELS", "bands", "pixels_of", "shrunk"]

BAND_PIXELS = 5 << 16
"""Pixels of a band, unless it has the fewest rows there can be: 640x480 is one, 1280x720 three.
They take 1.3 MB in Pillow, and 5 % more time than the whole at once; a fifth of that would take
20 % more.
"""


def bands(width: int, height: int, *, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """The first row of each band, and the one after its last.

    Args:
        width: Of the picture.
        height: Of the picture.
        multiple: What the first row of each is a multiple of.
    """
    rows = max(1, BAND_PIXELS // width // multiple) * multiple
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def pixels_of(picture: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a Pillow image of mode ``RGB``, in memory of their own.

    NumPy asks Pillow for all of them at once, which holds them three times meanwhile.
    """
    width, height = picture.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top, bottom in bands(width, height):
        pixels[top:bottom] = np.asarray(picture.crop((0, top, width, bottom)))
    return pixels


def shrunk(
    rows: Callable[[int, int], Image.Image], size: tuple[int, int], to: tuple[int, int]
) -> NDArray[np.uint8]:
    """A picture made smaller: what `scaling.resized` gives, but for rounding.

    Args:
        rows: Gives the rows from one on and before another, in mode ``RGB``.
        size: Width and height of the picture.
        to: Width and height of the result.
    """
    (width, height), (columns, lines) = size, to
    across, down = _factors(size, to)
    step = height / lines
    # The filter looks at most one step beyond the rows that a line covers.
    reach = 0 if (across * columns, down * lines) == size else 1
    pixels = np.empty((lines, columns, 3), np.uint8)
    for top, bottom in bands(math.ceil(width * step), lines):
        first = max(0, math.floor((top - reach) * step / down)) * down
        last = min(height, math.ceil((bottom + reach) * step / down) * down)
        box = (0.0, (top * step - first) / down, width / across, (bottom * step - first) / down)
        reduced = rows(first, last).reduce((across, down))
        band = reduced.resize((columns, bottom - top), Image.Resampling.BILINEAR, box)
        pixels[top:bottom] = np.asarray(band)
    return pixels


def _factors(size: tuple[int, int], to: tuple[int, int]) -> tuple[int, int]:
    """By how much to shrink along each side, as means, before the filter."""
    whole = whole_factor(size, to)
    if whole > 1:
        return whole, whole
    across, down = (max(1, int(o / n / REDUCING_GAP)) for o, n in zip(size, to, strict=True))
    return across, down
