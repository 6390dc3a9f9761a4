"""BMP headers: which files Pillow decodes in time that their bytes and pixels bound."""

from __future__ import annotations

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.layout import Layout

__all__ = ["bmp_layout"]

# Source of the layout: Microsoft, BITMAPFILEHEADER and BITMAPINFOHEADER.
_CORE_LENGTH = 12
"""Length of the header that has no field for a compression."""
_RUNS = frozenset((1, 2))
"""BI_RLE8 and BI_RLE4."""

MAX_RUN_LENGTH_PIXELS = 100_000
"""Pillow decodes run lengths in Python, a pixel at a time, and two bytes can stand for a whole row:
so many pixels take about 50 ms. 320x240 has 76,800."""

MAX_COLOURS = 256
"""Colours of a palette for samples of 8 bits. Pillow looks at each of the 65,536 that it allows."""


def bmp_layout(data: bytes) -> Layout:
    """The whole of the BMP file `data`: it has no parts, and Pillow reads what the header names.

    Raises:
        InvalidFrameError: If it is compressed by run lengths and large, or its palette is.
    """
    colours = int.from_bytes(data[46:50], "little")
    info_length = int.from_bytes(data[14:18], "little")
    if info_length > _CORE_LENGTH and int.from_bytes(data[30:34], "little") in _RUNS:
        width = int.from_bytes(data[18:22], "little", signed=True)
        height = int.from_bytes(data[22:26], "little", signed=True)
        if max(abs(width * height), len(data)) > MAX_RUN_LENGTH_PIXELS:
            raise InvalidFrameError(
                expected=f"at most {MAX_RUN_LENGTH_PIXELS} pixels and bytes in run lengths",
                actual=f"{width}x{height} in {len(data)} bytes",
            )
    has_palette = int.from_bytes(data[28:30], "little") <= 8
    if info_length > _CORE_LENGTH and has_palette and colours > MAX_COLOURS:
        raise InvalidFrameError(
            expected=f"a BMP palette of at most {MAX_COLOURS} colours", actual=f"{colours}"
        )
    return Layout.of([slice(0, len(data))])
