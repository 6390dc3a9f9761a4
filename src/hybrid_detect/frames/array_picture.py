"""Array pictures: a caller's array of pixels, with its channels declared."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.raster import Interleaved, Planes, Raster, Scratch, dense_rows
from hybrid_detect.frames.scaling import fitted_size, resized

__all__ = ["ArrayPicture", "PixelFormat", "as_pixel_format"]


class PixelFormat(StrEnum):
    """The channels of an array, in memory order."""

    RGB = "rgb"
    BGR = "bgr"
    """What OpenCV delivers."""
    GRAY = "gray"
    RGBA = "rgba"
    """The fourth channel is not looked at: cameras and textures leave anything there."""
    BGRA = "bgra"
    """As `RGBA`."""


_CHANNELS = {
    PixelFormat.RGB: 3,
    PixelFormat.BGR: 3,
    PixelFormat.GRAY: 1,
    PixelFormat.RGBA: 4,
    PixelFormat.BGRA: 4,
}

_RAW_MODES = {
    PixelFormat.RGB: "RGB",
    PixelFormat.BGR: "BGR",
    PixelFormat.GRAY: "L",
    PixelFormat.RGBA: "RGBX",
    PixelFormat.BGRA: "BGRX",
}
"""Pillow's names for the same channel orders. Source: Pillow, `Unpack.c`."""


@dataclass(frozen=True, slots=True, eq=False)
class ArrayPicture:
    """An array of the caller's, shape ``(height, width)`` or ``(height, width, channels)``."""

    array: NDArray[np.uint8] = field(repr=False)
    pixel_format: PixelFormat

    @classmethod
    def of(cls, array: NDArray[Any], pixel_format: PixelFormat) -> ArrayPicture:
        """Check the type and shape of `array`.

        Raises:
            InvalidFrameError: If it is no array of bytes of the shape that `pixel_format` has.
        """
        if array.dtype != np.uint8:
            hint = ": scale it to 0 to 255 and cast it first"
            if array.dtype.kind == "f":
                hint = ": if it spans 0 to 1, multiply by 255 and cast with .astype(np.uint8)"
            raise InvalidFrameError(expected="an array of uint8", actual=f"{array.dtype}{hint}")
        channels = _CHANNELS[pixel_format]
        shape = array.shape
        if channels == 1 and len(shape) == 3 and shape[2] == 1:
            return cls(array[:, :, 0], pixel_format)
        if (channels == 1 and len(shape) == 2) or (len(shape) == 3 and shape[2] == channels != 1):
            return cls(array, pixel_format)
        wanted = "(height, width)" if channels == 1 else f"(height, width, {channels})"
        raise InvalidFrameError(
            expected=f"shape {wanted} for pixel_format={pixel_format.value!r}",
            actual=f"{shape}{_shape_hint(shape)}",
        )

    @property
    def width(self) -> int:
        """Pixels of a row."""
        return int(self.array.shape[1])

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.array.shape[0])

    @property
    def kind(self) -> str:
        """What the picture came from, for people."""
        return f"an array of {self.pixel_format.value}"

    def rgb(self) -> NDArray[np.uint8]:
        """The pixels as RGB, C-contiguous; the array itself if it is already of this form."""
        if self.pixel_format is PixelFormat.RGB:
            return np.ascontiguousarray(self.array)
        order = (2, 1, 0) if self.pixel_format in {PixelFormat.BGR, PixelFormat.BGRA} else (0, 1, 2)
        copied = np.empty((self.height, self.width, 3), dtype=np.uint8)
        for channel, position in enumerate(order):
            grey = self.pixel_format is PixelFormat.GRAY
            copied[:, :, channel] = self.array if grey else self.array[:, :, position]
        return copied

    def raster(self, size: tuple[int, int], *, scratch: Scratch | None = None) -> Raster:
        """The picture at `size` (width, height), not larger than it is; `scratch` is not needed."""
        if self.pixel_format is PixelFormat.GRAY:
            return Planes(dense_rows(self.array)).resized(size)
        return Interleaved(self.array, _RAW_MODES[self.pixel_format]).resized(size)

    def picture(self, *, max_side_px: int | None = None) -> Image.Image:
        """A new Pillow image, its longer side fitted to `max_side_px`."""
        mode = "L" if self.pixel_format is PixelFormat.GRAY else "RGB"
        size = (self.width, self.height)
        packed = np.ascontiguousarray(self.array)
        # Not frombuffer: it may read in place, and the picture would change with the array.
        full = Image.frombytes(mode, size, packed, "raw", _RAW_MODES[self.pixel_format], 0, 1)
        return resized(full, fitted_size(*size, max_side_px=max_side_px))


def _shape_hint(shape: tuple[int, ...]) -> str:
    """What to pass instead, for a shape that could be a picture of another format."""
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        return ": pass pixel_format='gray' if it is grey"
    if len(shape) == 3 and shape[2] in (3, 4):
        names = "'rgb' or 'bgr'" if shape[2] == 3 else "'rgba' or 'bgra'"
        return f": pass pixel_format={names}, whichever it is"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return ": channels come last, try array.transpose(1, 2, 0)"
    if len(shape) == 4:
        return ": pass one picture at a time"
    return ""


def as_pixel_format(value: PixelFormat | str) -> PixelFormat:
    """The pixel format that `value` is or names.

    Raises:
        InvalidFrameError: If it is none.
    """
    try:
        return PixelFormat(value)
    except ValueError:
        known = ", ".join(known.value for known in PixelFormat)
        raise InvalidFrameError(
            expected=f"a pixel_format ({known})", actual=repr(value)[:40]
        ) from None
