"""A brush: rectangles, dots and text painted into an array of pixels, in place.

Everything is a few assignments to slices, and no copy of the picture is made: a face takes a fifth
of a millisecond. Text is drawn once by Pillow and kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hybrid_detect.frames.array_picture import PixelFormat

__all__ = ["Brush", "Colour", "text_size"]

Colour: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""

LUMA = (0.299, 0.587, 0.114)
"""Source: ITU-R BT.601."""

KEPT_TEXTS = 256
"""Each takes some kilobytes; a score has a hundred values, and an overlay a handful of labels."""


@lru_cache(maxsize=8)
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(size_px)
    except ImportError:  # a Pillow that was built without FreeType has letters of one size
        return ImageFont.load_default()


def _written(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Any:
    """`text` in the characters that `font` knows."""
    is_bitmap = isinstance(font, ImageFont.ImageFont)
    return text.encode("latin-1", "replace") if is_bitmap else text


@lru_cache(maxsize=KEPT_TEXTS)
def text_size(text: str, size_px: int) -> tuple[int, int]:
    """Width of `text` and height of a line of it, in pixels."""
    font = _font(size_px)
    return round(font.getbbox(_written(text, font))[2]), round(font.getbbox("Ag")[3])


@lru_cache(maxsize=KEPT_TEXTS)
def _text_mask(text: str, size_px: int) -> NDArray[np.uint8]:
    width, height = text_size(text, size_px)
    mask = Image.new("L", (max(width, 1), max(height, 1)))
    font = _font(size_px)
    ImageDraw.Draw(mask).text((0, 0), _written(text, font), fill=255, font=font)
    return np.asarray(mask)


@lru_cache(maxsize=32)
def _dot_mask(diameter: int) -> NDArray[np.uint8]:
    middle = (diameter - 1) / 2
    y, x = np.ogrid[:diameter, :diameter]
    inside = (x - middle) ** 2 + (y - middle) ** 2 <= (diameter / 2) ** 2
    return inside.astype(np.uint8) * np.uint8(255)


class Brush:
    """Paints into `pixels`. What lies outside of them is left out.

    Args:
        pixels: Of shape ``(height, width)`` or ``(height, width, channels)``; written to.
        pixel_format: What the channels are.
        opacity: How much of what was there is covered, 0 to 1.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        pixel_format: PixelFormat = PixelFormat.RGB,
        *,
        opacity: float = 1.0,
    ) -> None:
        self._pixels = pixels
        self._format = pixel_format
        self._opacity = round(256 * min(max(opacity, 0.0), 1.0))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return self._pixels.shape[1], self._pixels.shape[0]

    def rectangle(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        """Fill from `left` and `top` up to, and without, `right` and `bottom`."""
        width, height = self.size
        left, right = max(left, 0), min(right, width)
        top, bottom = max(top, 0), min(bottom, height)
        if left >= right or top >= bottom:
            return
        region = self._pixels[top:bottom, left:right]
        if self._opacity == 256:
            region[...] = self._value(colour)
        else:
            self._blend(region, self._opacity, colour)

    def outline(
        self, left: int, top: int, right: int, bottom: int, colour: Colour, *, width: int
    ) -> None:
        """The edge of a rectangle, `width` pixels wide, inside of it."""
        if right - left <= 2 * width or bottom - top <= 2 * width:
            self.rectangle(left, top, right, bottom, colour)
            return
        self.rectangle(left, top, right, top + width, colour)
        self.rectangle(left, bottom - width, right, bottom, colour)
        self.rectangle(left, top + width, left + width, bottom - width, colour)
        self.rectangle(right - width, top + width, right, bottom - width, colour)

    def dot(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A filled circle."""
        diameter = max(1, round(2 * radius))
        self._stamp(_dot_mask(diameter), round(x - diameter / 2), round(y - diameter / 2), colour)

    def text(self, text: str, left: int, top: int, size_px: int, colour: Colour) -> None:
        """A line of `text` in letters of `size_px`."""
        self._stamp(_text_mask(text, size_px), left, top, colour)

    def _stamp(self, mask: NDArray[np.uint8], left: int, top: int, colour: Colour) -> None:
        width, height = self.size
        x, y = max(left, 0), max(top, 0)
        right, bottom = min(left + mask.shape[1], width), min(top + mask.shape[0], height)
        if x >= right or y >= bottom:
            return
        part = mask[y - top : bottom - top, x - left : right - left].astype(np.int32)
        cover = (part + (part >> 7)) * self._opacity >> 8  # 0 to 256
        region = self._pixels[y:bottom, x:right]
        self._blend(region, cover if region.ndim == 2 else cover[:, :, np.newaxis], colour)

    def _blend(self, region: NDArray[np.uint8], cover: Any, colour: Colour) -> None:
        there = region.astype(np.int32)
        region[...] = there + ((self._value(colour).astype(np.int32) - there) * cover >> 8)

    def _value(self, colour: Colour) -> NDArray[np.uint8]:
        if self._pixels.ndim == 2 or self._format is PixelFormat.GRAY:
            grey = sum(part * weight for part, weight in zip(colour, LUMA, strict=True))
            return np.array(round(grey), np.uint8)
        ordered = colour[::-1] if self._format in {PixelFormat.BGR, PixelFormat.BGRA} else colour
        return np.array((*ordered, 255)[: self._pixels.shape[2]], np.uint8)
