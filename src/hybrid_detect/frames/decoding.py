"""Decoding: encoded bytes as upright pictures without an alpha channel.

Encoded bytes are taken apart by `formats` first, and decoders see the picture's own parts only. The
size in the header is checked before a pixel is decoded, and each error that Pillow raises over a
damaged file becomes an `InvalidFrameError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.banding import pixels_of
from hybrid_detect.frames.exif import orientation_of
from hybrid_detect.frames.formats import LAYOUTS, PROFILES, format_of, opened
from hybrid_detect.frames.layout import Layout
from hybrid_detect.frames.pillow_errors import damage, damage_reported
from hybrid_detect.frames.raster import Raster, Scratch, raster_of
from hybrid_detect.frames.scaling import fitted_size
from hybrid_detect.frames.turbo import factor_for, turbo_pixels, turned
from hybrid_detect.frames.upright import UPRIGHT, check_mode, turned_size, upright, without_info

__all__ = ["EncodedPicture", "check_pixels"]

USUAL_SCANS = 16
"""Scans that a progressive JPEG of any size may have; encoders write 3 to 12."""

MAX_PIXELS_DECODED = 250_000_000
"""Pixels of all scans of a JPEG together, if these are more. Each scan costs a walk over every
pixel, 21 ms for 16 million: so many take 0.3 s."""


def check_pixels(width: int, height: int, *, max_pixels: int) -> None:
    """Refuse a picture without pixels, or with more than `max_pixels`.

    Raises:
        InvalidFrameError: If it is one of these.
    """
    if width < 1 or height < 1:
        raise InvalidFrameError(
            expected="a picture of at least 1x1 pixels", actual=f"{width}x{height}"
        )
    if width * height > max_pixels:
        raise InvalidFrameError(
            expected=f"at most {max_pixels} pixels (max_pixels=)",
            actual=f"{width}x{height}, which is {width * height}",
        )


def _check_passes(passes: int, width: int, height: int) -> None:
    if passes * width * height > MAX_PIXELS_DECODED:
        raise InvalidFrameError(
            expected=f"at most {USUAL_SCANS} scans, or {MAX_PIXELS_DECODED} pixels in all of them",
            actual=f"{passes} scans of {width}x{height}",
        )


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """An encoded image, decoded anew each time its pixels are asked for."""

    data: bytes = field(repr=False)
    format: str
    width: int
    """Of the upright picture."""
    height: int
    """Of the upright picture."""
    orientation: int
    """EXIF orientation still to be applied after decoding, 1 to 8."""
    layout: Layout = field(repr=False)
    """Where the picture's own parts lie in `data`."""

    @classmethod
    def of(cls, data: bytes, *, max_pixels: int) -> EncodedPicture:
        """Walk over the parts of `data` and read its header; takes time linear in its length.

        Raises:
            InvalidFrameError: If it is no image of a known format, has too many pixels, or
                consists of more parts than a picture of so many bytes needs.
        """
        name = format_of(data)
        try:
            layout = LAYOUTS[name](data)
        except (InvalidFrameError, MemoryError):
            raise
        except Exception as exc:
            raise damage(name, exc) from exc
        exif = data[layout.exif] if layout.exif else b""
        if (size := layout.size) is None:
            with damage_reported(name):
                image = opened(layout.picture(data), name)
                size, exif = image.size, exif or image.info.get("exif", b"")
                check_mode(image.mode)
        check_pixels(*size, max_pixels=max_pixels)
        if layout.passes > USUAL_SCANS:
            _check_passes(layout.passes, *size)
        # Pillow turns a TIFF itself when it loads one, and its size says so before.
        orientation = orientation_of(exif) if exif and name != "TIFF" else 1
        return cls(data, name, *turned_size(size, orientation), orientation, layout)

    @property
    def kind(self) -> str:
        """What the picture came from, for people."""
        return f"{len(self.data)} bytes of {self.format}"

    def picture(self, *, max_side_px: int | None = None) -> Image.Image:
        """The upright picture, its longer side fitted to `max_side_px`.

        Raises:
            InvalidFrameError: If the data is damaged.
        """
        picture = self._sized(fitted_size(self.width, self.height, max_side_px=max_side_px))
        return without_info(picture, copied=isinstance(picture, ImageFile))

    def rgb(self, *, enough_px: int | None = None) -> NDArray[np.uint8]:
        """The upright picture as RGB, shape ``(height, width, 3)``, perhaps smaller than it is.

        Args:
            enough_px: Pixels of the longer side that suffice. A JPEG is decoded at a half, a
                quarter or an eighth of its size where the longer side keeps that many: 48
                megapixels at an eighth take a tenth of the time and a 64th of the memory. Other
                formats have no such decoder, and are shrunk to this if they have twice as many.
                `None` keeps every pixel.

        Raises:
            InvalidFrameError: If the data is damaged.
        """
        if (pixels := self._turbo_pixels(enough_px)) is not None:
            return pixels
        stored_size = self._stored_size(enough_px)
        with damage_reported(self.format):
            image = self._opened()
            image.draft(image.mode, stored_size)
            is_large = max(image.size) >= 2 * max(stored_size)
            size = stored_size if is_large else image.size
            done = upright(image, size, self.orientation)
            return pixels_of(done if done.mode == "RGB" else done.convert("RGB"))

    def raster(self, size: tuple[int, int], *, scratch: Scratch | None = None) -> Raster:
        """The upright picture at `size` (width, height), not larger than it is.

        Args:
            size: Width and height.
            scratch: Not needed here.

        Raises:
            InvalidFrameError: If the data is damaged.
        """
        return raster_of(self._sized(size))

    def original(self) -> Image.Image:
        """The upright picture as the file has it: its mode, transparency and colour profile.

        Raises:
            InvalidFrameError: If the data is damaged.
        """
        with damage_reported(self.format):
            image = self._opened()
            image.load()
            profile = PROFILES[self.format](self.data) if self.format in PROFILES else None
            turn = UPRIGHT.get(self.orientation)
            turned: Image.Image = image if turn is None else image.transpose(turn)
            if profile:
                turned.info["icc_profile"] = profile
            return turned

    def _opened(self) -> ImageFile:
        """The picture alone, its header read and its pixels not yet."""
        return opened(self.layout.picture(self.data), self.format)

    def _turbo_pixels(self, enough_px: int | None) -> NDArray[np.uint8] | None:
        """What `rgb` gives, without Pillow; `None` for what only Pillow can do."""
        size, factor = self.layout.size, 1
        if self.format != "JPEG" or size is None:
            return None
        if enough_px is not None and max(size) >= 2 * enough_px:
            stored_size = self._stored_size(enough_px)
            factor = factor_for(size, stored_size)
            if max(size) // factor >= 2 * max(stored_size):
                return None  # to be shrunk further
        pixels = turbo_pixels(self.layout.picture(self.data), size, factor=factor)
        return (
            pixels if pixels is None or self.orientation == 1 else turned(pixels, self.orientation)
        )

    def _stored_size(self, max_side_px: int | None) -> tuple[int, int]:
        """Width and height of the picture as stored, its longer side fitted to `max_side_px`."""
        fitted = fitted_size(self.width, self.height, max_side_px=max_side_px)
        return turned_size(fitted, self.orientation)

    def _sized(self, upright_size: tuple[int, int]) -> Image.Image:
        size = turned_size(upright_size, self.orientation)
        with damage_reported(self.format):
            image = self._opened()
            # A JPEG decoder can leave out what would only be averaged away: a big photo then
            # costs a fraction. The draft is never smaller than the size asked for.
            image.draft(image.mode, size)
            return upright(image, size, self.orientation)
