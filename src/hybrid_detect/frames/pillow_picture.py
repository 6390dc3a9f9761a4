"""Pillow pictures: a caller's Pillow image, opened lazily or not, as a source of pixels."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from PIL import Image

from hybrid_detect.frames.decoding import check_pixels
from hybrid_detect.frames.pillow_errors import damage_reported
from hybrid_detect.frames.raster import Raster, Scratch, raster_of
from hybrid_detect.frames.scaling import fitted_size
from hybrid_detect.frames.upright import (
    UPRIGHT,
    check_mode,
    turned_size,
    upright,
    without_info,
)

__all__ = ["PillowPicture", "reading_of"]

_ORIENTATION_TAG = 0x0112
"""Source: Exif 2.32, section 4.6.4 A, tag 274."""


@dataclass(frozen=True, slots=True)
class PillowPicture:
    """A Pillow image of the caller's, which is left as it is."""

    image: Image.Image = field(repr=False)
    width: int
    """Of the upright picture."""
    height: int
    """Of the upright picture."""
    orientation: int

    @classmethod
    def of(cls, image: Image.Image, *, max_pixels: int) -> PillowPicture:
        """Look at the size, mode and orientation of `image`.

        Raises:
            InvalidFrameError: If it is too large or has a mode without an 8-bit form.
        """
        check_pixels(*image.size, max_pixels=max_pixels)
        check_mode(image.mode)
        with damage_reported("Pillow"), reading_of(image):
            orientation = orientation_in(image)
            return cls(image, *turned_size(image.size, orientation), orientation)

    @property
    def kind(self) -> str:
        """What the picture came from, for people."""
        return f"a Pillow image of mode {self.image.mode}"

    def picture(self, *, max_side_px: int | None = None) -> Image.Image:
        """A new picture, upright, its longer side fitted to `max_side_px`.

        Raises:
            InvalidFrameError: If the file behind the image is damaged or was closed.
        """
        picture = self._sized(fitted_size(self.width, self.height, max_side_px=max_side_px))
        return without_info(picture, copied=picture is self.image)

    def raster(self, size: tuple[int, int], *, scratch: Scratch | None = None) -> Raster:
        """The upright picture at `size` (width, height), not larger than it is.

        Args:
            size: Width and height.
            scratch: Not needed here.

        Raises:
            InvalidFrameError: If the file behind the image is damaged or was closed.
        """
        return raster_of(self._sized(size))

    def _sized(self, upright_size: tuple[int, int]) -> Image.Image:
        size = turned_size(upright_size, self.orientation)
        with damage_reported("Pillow"):
            with reading_of(self.image):
                self.image.load()
            return upright(self.image, size, self.orientation)


_READING = tuple(threading.RLock() for _ in range(16))


def reading_of(image: Image.Image) -> AbstractContextManager[bool]:
    """The lock to hold while `image` may read its file.

    An image that was opened lazily reads its file at the first use. Two threads that use it
    first at the same time, through one frame or two, would each get half of it. A few images
    share a lock.
    """
    return _READING[id(image) >> 4 & 15]


def orientation_in(image: Image.Image) -> int:
    """The EXIF orientation of a caller's `image`, 1 to 8; 1 if it has none or a damaged one."""
    if hasattr(image, "tag_v2"):
        return 1  # Pillow turns a TIFF itself when it loads one, and its size says so before.
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except MemoryError:
        raise
    except Exception:
        return 1  # Metadata is a hint: a picture is not refused over it.
    return value if isinstance(value, int) and value in UPRIGHT else 1
