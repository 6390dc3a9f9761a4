"""Decoding: encoded bytes and Pillow images as upright pictures without an alpha channel.

Bytes come from strangers, so only the formats listed here are opened, by their own plugin and
never by a guess; the header's size is known before a pixel is decoded; and whatever Pillow
raises over a damaged file becomes an `InvalidFrameError`.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features
from PIL.ImageFile import ImageFile

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.banding import pixels_of
from hybrid_detect.frames.raster import Raster, Scratch, raster_of
from hybrid_detect.frames.scaling import fitted_size, resized

__all__ = ["EncodedPicture", "PillowPicture", "check_pixels"]

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

_GREY_16 = ("I", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's own convention: all of these hold 16-bit greys."""

_MODES = frozenset(
    ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")
).union(_GREY_16)
"""Pillow's modes that have one sensible 8-bit form. "F" has none: its range is not known."""

_PLUGINS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
}
_START_OF_SCAN = b"\xff\xda"
"""Source: ITU-T T.81, table B.1. Among compressed data 0xFF is followed by 0 or a restart."""

MAX_SCANS = 100
"""A progressive JPEG has about ten. Each costs a walk over every pixel, 21 ms for 16 million, and
can be 31 bytes long: 4 MiB of them would keep a core busy for 47 minutes. Source of the number:
libtiff's ``JPEG_MAX_ALLOWED_SCAN_NUMBER``."""

_KNOWN = "a JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF image"


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


def _check_scans(data: bytes, name: str) -> None:
    scans = data.count(_START_OF_SCAN) if name == "JPEG" else 0
    if scans > MAX_SCANS:
        raise InvalidFrameError(
            expected=f"a JPEG of at most {MAX_SCANS} scans", actual=f"one of {scans}"
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

    @classmethod
    def of(cls, data: bytes, *, max_pixels: int) -> EncodedPicture:
        """Read the header of `data`.

        Raises:
            InvalidFrameError: If it is no image of a known format, or too large.
        """
        name = _format_of(data)
        with _damage_reported(name):
            image = _opened(data, name)
            orientation = _orientation_of(image, loading=False)
            check_pixels(*image.size, max_pixels=max_pixels)
            _check_mode(image.mode)
        _check_scans(data, name)
        return cls(data, name, *_turned_size(image.size, orientation), orientation)

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
            enough_px: Pixels of the longer side that suffice. A JPEG is then decoded at a half, a
                quarter or an eighth of its size where the longer side keeps that many: 48
                megapixels at an eighth take a tenth of the time and a 64th of the memory. Other
                formats have no such decoder and keep their size. `None` keeps every pixel.

        Raises:
            InvalidFrameError: If the data is damaged.
        """
        enough = fitted_size(self.width, self.height, max_side_px=enough_px)
        with _damage_reported(self.format):
            image = _opened(self.data, self.format)
            image.draft(image.mode, _turned_size(enough, self.orientation))
            upright = _upright(image, image.size, self.orientation)
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
            image = _opened(self.data, self.format)
            image.load()
            turn = _UPRIGHT.get(self.orientation)
            return image if turn is None else image.transpose(turn)

    def _sized(self, upright_size: tuple[int, int]) -> Image.Image:
        size = _turned_size(upright_size, self.orientation)
        with _damage_reported(self.format):
            image = _opened(self.data, self.format)
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
        with _damage_reported("Pillow"):
            orientation = _orientation_of(image, loading=True)
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
            return _upright(self.image, size, self.orientation)


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
    """`image` in mode RGB, L or YCbCr; transparent pixels lie over black."""
    if image.mode in {"RGB", "L", "YCbCr"}:
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in _GREY_16:
        wide = np.clip(np.asarray(image), 0, 0xFFFF)
        return Image.fromarray((wide >> 8).astype(np.uint8))
    if image.has_transparency_data:
        # Premultiplied modes convert to their plain form only.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        rgba = (image.convert(straight) if straight else image).convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(rgba, mask=rgba.getchannel("A"))
        return black
    return image.convert("RGB")


def _check_mode(mode: str) -> None:
    if mode not in _MODES:
        raise InvalidFrameError(
            expected="a picture of 8 or 16 bits a channel (scale it to 0 to 255 first)",
            actual=f"Pillow mode {mode!r}",
        )


def _turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """The size before or after turning: orientations 5 to 8 lay a picture on its side."""
    return (size[1], size[0]) if orientation >= 5 else size


def _orientation_of(image: Image.Image, *, loading: bool) -> int:
    """The EXIF orientation of `image`, 1 to 8; 1 if it has none or its EXIF is corrupt."""
    if hasattr(image, "tag_v2"):
        return 1  # Pillow turns a TIFF itself when it loads one, and its size says so before.
    try:
        # PNG's own getexif() decodes the picture to look for EXIF behind the pixels, where
        # the format's third edition forbids it; reading a header must not cost that.
        exif = image.getexif() if loading else Image.Image.getexif(image)
        value = exif.get(_ORIENTATION_TAG)
    except MemoryError:
        raise
    except Exception:
        return 1  # Metadata is a hint: a picture is not refused over it.
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _opened(data: bytes, name: str) -> ImageFile:
    """The image file `data`, header read, pixels not.

    Taking the plugin directly loads that plugin only, where `Image.open` may load all forty.
    """
    module, plugin = _PLUGINS[name]
    return cast("ImageFile", getattr(import_module(module), plugin)(io.BytesIO(data)))


def _format_of(data: bytes) -> str:
    """The format that `data` says it has.

    Raises:
        InvalidFrameError: If it is none of those supported; says what it looks like instead.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if data[4:8] == b"ftyp" and (b"avif" in data[8:64] or b"avis" in data[8:64]):
        if features.check("avif"):
            return "AVIF"
        raise InvalidFrameError(expected=_KNOWN, actual="AVIF, which this Pillow cannot read")
    if data.startswith(b"BM"):
        return "BMP"
    raise InvalidFrameError(expected=_KNOWN, actual=_looks_like(data))


def _looks_like(data: bytes) -> str:
    start = data[:64].lstrip()
    if not data:
        return "no data at all"
    if data[4:8] == b"ftyp":
        return "HEIC or video, which is not supported: convert it to JPEG"
    if start.startswith(b"%PDF"):
        return "a PDF document"
    if start.startswith(b"<"):
        return "markup such as HTML or SVG"
    if start.startswith((b"{", b"[")):
        return "text such as JSON"
    return f"{len(data)} bytes of no known format"


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
