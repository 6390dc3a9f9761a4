"""Upright pictures: Pillow images of any mode and orientation, flat, of 8 bits, and turned."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.scaling import resized

__all__ = ["UPRIGHT", "check_mode", "turned_size", "upright", "without_info"]

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture with that EXIF orientation upright."""

_DEEP_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of whole numbers of 16 or 32 bits; a mode does not tell how many are used."""

_MODES = frozenset(
    ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")
).union(_DEEP_GREY)
"""Pillow's modes that have one sensible 8-bit form. "F" has none: its range is not known."""


def upright(image: Image.Image, size: tuple[int, int], orientation: int) -> Image.Image:
    """`image`, flat, of `size` as stored, then upright; `image` itself if it is all that."""
    image.load()
    done = resized(_flattened(image), size)
    return done.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else done


def without_info(picture: Image.Image, *, copied: bool) -> Image.Image:
    """`picture`, or a copy of it, without metadata."""
    done = picture.copy() if copied else picture
    # A writer may pick up what it finds here, such as a JPEG's comment.
    done.info = {}
    return done


def _flattened(image: Image.Image) -> Image.Image:
    """`image` in mode RGB, L or YCbCr; transparent pixels lie over black.

    An alpha channel that hides every pixel is not one: some cameras and programs leave the fourth
    byte of each pixel at zero, and a black picture would be looked at in vain.
    """
    if image.mode in {"RGB", "L", "YCbCr"}:
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in _DEEP_GREY:
        return Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        # Premultiplied modes convert to their plain form only.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        rgba = (image.convert(straight) if straight else image).convert("RGBA")
        if rgba.getchannel("A").getextrema() == (0, 0):
            return rgba.convert("RGB")
        black = Image.new("RGB", image.size)
        black.paste(rgba, mask=rgba.getchannel("A"))
        return black
    return image.convert("RGB")


def _eight_bits(wide: NDArray[Any]) -> NDArray[np.uint8]:
    """Greys of up to 32 bits, without the bits that the brightest one leaves unused, as 8 bits.

    Cameras of 10 or 12 bits store them in 16, and Pillow's 32-bit mode often holds 8: a fixed shift
    would make these pictures black.

    Raises:
        InvalidFrameError: If there are values below 0, whose meaning is not known.
    """
    if wide.dtype.kind == "i" and int(wide.min()) < 0:
        raise InvalidFrameError(expected="greys of at least 0", actual="some below 0")
    shift = max(0, int(wide.max()).bit_length() - 8)
    return (wide >> shift).astype(np.uint8)


def check_mode(mode: str) -> None:
    """Refuse a mode that has no sensible 8-bit form.

    Raises:
        InvalidFrameError: If it has none.
    """
    if mode not in _MODES:
        raise InvalidFrameError(
            expected="a picture of 8 or 16 bits a channel (scale it to 0 to 255 first)",
            actual=f"Pillow mode {mode!r}",
        )


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """The size before or after turning: orientations 5 to 8 lay a picture on its side."""
    return (size[1], size[0]) if orientation >= 5 else size
