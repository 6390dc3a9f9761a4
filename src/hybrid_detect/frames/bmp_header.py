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

MAX_RUN_LENGTH_PIXELS = 1_000_000
"""Pillow decodes run lengths in Python, and a run of two bytes can stand for a whole row: 0.1 s for
so many pixels, which 100 bytes can ask for."""


def bmp_layout(data: bytes) -> Layout:
    """The whole of the BMP file `data`: it has no parts, and Pillow reads what the header names.

    Raises:
        InvalidFrameError: If it is compressed by run lengths and large.
    """
    info_length = int.from_bytes(data[14:18], "little")
    if info_length > _CORE_LENGTH and int.from_bytes(data[30:34], "little") in _RUNS:
        width = int.from_bytes(data[18:22], "little", signed=True)
        height = int.from_bytes(data[22:26], "little", signed=True)
        if max(abs(width * height), len(data)) > MAX_RUN_LENGTH_PIXELS:
            raise InvalidFrameError(
                expected=f"at most {MAX_RUN_LENGTH_PIXELS} pixels and bytes in run lengths",
                actual=f"{width}x{height} in {len(data)} bytes",
            )
    return Layout.of([slice(0, len(data))])
