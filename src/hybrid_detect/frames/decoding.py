"""Decoding: encoded bytes and Pillow images as upright pictures without an alpha channel.

Encoded bytes are taken apart by `formats` first, and decoders see the picture's own parts only. The
size in the header is checked before a pixel is decoded, and each error that Pillow raises over a
damaged file becomes an `InvalidFrameError`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.banding import pixels_of
from hybrid_detect.frames.exif import orientation_of
from hybrid_detect.frames.formats import LAYOUTS, PROFILES, format_of, opened
from hybrid_detect.frames.layout import Layout
from hybrid_detect.frames.raster import Raster, Scratch, raster_of
from hybrid_detect.frames.scaling import fitted_size, resized

__all__ = ["EncodedPicture", "PillowPicture", "check_pixels", "reading_of"]

_ORIENTATION_TAG = 0x0112
"""Source: Exif 2.32, section 4.6.4 A, tag 274."""

_UPRIGHT = {
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
    if passes > USUAL_SCANS and passes * width * height > MAX_PIXELS_DECODED:
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
        with _damage_reported(name):
            layout = LAYOUTS[name](data)
            image = opened(layout.picture(data), name)
            check_pixels(*image.size, max_pixels=max_pixels)
            _check_passes(layout.passes, *image.size)
            _check_mode(image.mode)
            exif = data[layout.exif] if layout.exif else image.info.get("exif", b"")
        # Pillow turns a TIFF itself when it loads one, and its size says so before.
        orientation = 1 if name == "TIFF" else orientation_of(exif)
        return cls(data, name, *_turned_size(image.size, orientation), orientation, layout)

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
        return _plain(picture, copied=isinstance(picture, ImageFile))

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
        enough = fitted_size(self.width, self.height, max_side_px=enough_px)
        stored_size = _turned_size(enough, self.orientation)
        with _damage_reported(self.format):
            image = self._opened()
            image.draft(image.mode, stored_size)
            is_large = max(image.size) >= 2 * max(stored_size)
            upright = _upright(image, stored_size if is_large else image.size, self.orientation)
            return pixels_of(upright if upright.mode == "RGB" else upright.convert("RGB"))

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
        with _damage_reported(self.format):
            image = self._opened()
            image.load()
            profile = PROFILES[self.format](self.data) if self.format in PROFILES else None
            turn = _UPRIGHT.get(self.orientation)
            turned: Image.Image = image if turn is None else image.transpose(turn)
            if profile:
                turned.info["icc_profile"] = profile
            return turned

    def _opened(self) -> ImageFile:
        """The picture alone, its header read and its pixels not yet."""
        return opened(self.layout.picture(self.data), self.format)

    def _sized(self, upright_size: tuple[int, int]) -> Image.Image:
        size = _turned_size(upright_size, self.orientation)
        with _damage_reported(self.format):
            image = self._opened()
            # A JPEG decoder can leave out what would only be averaged away: a big photo then
            # costs a fraction. The draft is never smaller than the size asked for.
            image.draft(image.mode, size)
            return _upright(image, size, self.orientation)


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
        _check_mode(image.mode)
        with _damage_reported("Pillow"), reading_of(image):
            orientation = _orientation_of(image)
            return cls(image, *_turned_size(image.size, orientation), orientation)

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
        return _plain(picture, copied=picture is self.image)

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
        size = _turned_size(upright_size, self.orientation)
        with _damage_reported("Pillow"):
            with reading_of(self.image):
                self.image.load()
            return _upright(self.image, size, self.orientation)


_READING = tuple(threading.RLock() for _ in range(16))


def reading_of(image: Image.Image) -> AbstractContextManager[bool]:
    """The lock to hold while `image` may read its file.

    An image that was opened lazily reads its file at the first use. Two threads that use it
    first at the same time, through one frame or two, would each get half of it. A few images
    share a lock.
    """
    return _READING[id(image) >> 4 & 15]


def _upright(image: Image.Image, size: tuple[int, int], orientation: int) -> Image.Image:
    """`image`, flat, of `size` as stored, then upright; `image` itself if it is all that."""
    image.load()
    done = resized(_flattened(image), size)
    return done.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else done


def _plain(picture: Image.Image, *, copied: bool) -> Image.Image:
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


def _check_mode(mode: str) -> None:
    if mode not in _MODES:
        raise InvalidFrameError(
            expected="a picture of 8 or 16 bits a channel (scale it to 0 to 255 first)",
            actual=f"Pillow mode {mode!r}",
        )


def _turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """The size before or after turning: orientations 5 to 8 lay a picture on its side."""
    return (size[1], size[0]) if orientation >= 5 else size


def _orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of a caller's `image`, 1 to 8; 1 if it has none or a damaged one."""
    if hasattr(image, "tag_v2"):
        return 1  # Pillow turns a TIFF itself when it loads one, and its size says so before.
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except MemoryError:
        raise
    except Exception:
        return 1  # Metadata is a hint: a picture is not refused over it.
    return value if isinstance(value, int) and value in _UPRIGHT else 1


class _QuietPillow:
    """Keeps Pillow's warnings in while any thread decodes.

    `warnings.catch_warnings` by itself restores the wrong filters when two threads overlap,
    so only the first one in sets the filter and only the last one out takes it away.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catcher = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
            self._inside += 1

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._catcher.__exit__(None, None, None)


_quiet_pillow = _QuietPillow()


@contextmanager
def _damage_reported(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises into an `InvalidFrameError`.

    A damaged file makes Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error,
    IndexError, and more; being short of memory is not the file's fault and stays what it is.
    """
    try:
        with _quiet_pillow:
            yield
    except (InvalidFrameError, MemoryError):
        raise
    except Exception as exc:
        # Pillow's messages may quote bytes of the file, so only the error's name is told.
        raise InvalidFrameError(
            expected=f"a readable {name} image",
            actual=f"a damaged or incomplete one ({type(exc).__name__})",
        ) from exc
