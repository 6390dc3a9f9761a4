"""JPEG pixels by simplejpeg, where it is installed: Pillow's own pixels for two thirds of the time.

Pillow keeps three channels as four bytes a pixel and copies them from there; simplejpeg decodes
into the memory that the caller gets. Both are libjpeg-turbo with the same transform and the same
upsampling, so the pixels are equal. CMYK, which the two turn into RGB with another rounding, other
unusual headers, and what simplejpeg refuses, such as damage that a decoder can pass over, are
Pillow's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hybrid_detect import extras

__all__ = ["factor_for", "load_turbo", "turbo_pixels", "turned"]

FACTORS = (8, 4, 2)
"""By which Pillow's decoder can shrink a JPEG: its blocks have 8x8 pixels."""

_Pixels: TypeAlias = NDArray[np.uint8]

_TURNS: Mapping[int, Callable[[_Pixels], _Pixels]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
    8: np.rot90,
}
"""What turns pixels with that EXIF orientation upright."""


def load_turbo() -> None:
    """Load simplejpeg if it is installed, for a process that soon may open no file any more."""
    _module()


def turbo_pixels(jpeg: bytes, size: tuple[int, int], *, factor: int) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG as stored, shape (height, width, 3), RGB; `None` if Pillow has to try.

    Args:
        jpeg: The file of the picture alone, in one or three colours.
        size: Width and height in its header, which were checked.
        factor: By how much to shrink it, one of `FACTORS` or 1.
    """
    module = _module()
    if module is None:
        return None
    width, height = -(-size[0] // factor), -(-size[1] // factor)
    try:
        pixels: NDArray[np.uint8] = module.decode_jpeg(
            jpeg, min_width=width, min_height=height, min_factor=factor
        )
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None


def factor_for(size: tuple[int, int], enough: tuple[int, int]) -> int:
    """By how much a JPEG can be shrunk so that `enough` is left: as Pillow's `draft` chooses."""
    scale = min(size[0] // enough[0], size[1] // enough[1])
    for factor in FACTORS:
        if scale >= factor:
            return factor
    return 1


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """`pixels` upright, C-contiguous.

    Args:
        pixels: Shape (height, width, 3), as stored.
        orientation: EXIF's, 1 to 8.
    """
    turn = _TURNS.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


@functools.cache
def _module() -> ModuleType | None:
    if not extras.is_installed("simplejpeg"):
        return None
    return extras.require("simplejpeg", extra="turbo", purpose="decoding JPEG")
