"""Pens for pictures of measurements; Pillow draws them."""

from __future__ import annotations

import math

from PIL import ImageFont
from PIL.ImageDraw import ImageDraw

__all__ = ["BLUE", "GREY", "GRID", "INK", "ORANGE", "ticks", "write"]

BLUE, ORANGE = "#0b63a5", "#c4540a"
"""Told apart by everyone."""
INK, GREY, GRID = "#333333", "#999999", "#dddddd"


def write(
    pen: ImageDraw, at: tuple[float, float], text: str, *, size: int = 28, anchor: str = "la"
) -> None:
    """Write `text` in `INK`; `anchor` is Pillow's."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        anchor = "la"  # the bitmap font of a Pillow without FreeType knows no other
    pen.text(at, text, fill=INK, font=font, anchor=anchor)


def ticks(low: float, high: float) -> list[float]:
    """Four to ten round numbers from at most `low` to at least `high`."""
    span = max(high - low, 0.2)  # noise of something flat shall look flat
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 8)
    first, last = math.floor(low / step), math.ceil((low + span) / step)
    return [round(number * step, 6) for number in range(first, last + 1)]
