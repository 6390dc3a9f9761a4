"""Codecs: they encode a raster as JPEG bytes, by simplejpeg or by Pillow.

Both run libjpeg-turbo with its standard tables, write nothing but the picture and leave the GIL
while they work. simplejpeg takes planes as they are, at less than half of Pillow's cost; Pillow
is always there. Their pictures differ by rounding only.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect import extras
from hybrid_detect.compression.jpeg_restarts import joined
from hybrid_detect.frames.banding import bands
from hybrid_detect.frames.raster import Planes, Raster

__all__ = ["Codec", "Encode", "PillowCodec", "TurboCodec", "jpeg_codec"]

Encode: TypeAlias = Callable[[int], bytes]
"""Takes a quality of 1 to 95 and returns the encoded picture."""

_EXTENDED: dict[str, dict[str, Any]] = {"webp": {"method": 0}, "avif": {"speed": 9}}
"""Pillow's options for the formats other than JPEG: the fastest that still compress better."""

_UNIT = 16
"""Sides of a minimum coded unit at 4:2:0, in pixels; without chroma half of it. Source: ITU-T
T.81, A.2.
"""


class Codec(Protocol):
    """Turns rasters into encoded pictures."""

    format: str
    """The format of the pictures, as the wire format names it: ``jpeg``, ``webp`` or ``avif``."""

    def encoder(self, raster: Raster) -> Encode:
        """A function that encodes `raster`; each further quality costs less than the first."""


class TurboCodec:
    """JPEG by simplejpeg.

    Raises:
        MissingExtraError: If simplejpeg is not installed.
    """

    format = "jpeg"

    def __init__(self) -> None:
        module = extras.require("simplejpeg", extra="turbo", purpose="TurboCodec")
        self._encode_planes = module.encode_jpeg_yuv_planes
        self._encode_interleaved = module.encode_jpeg

    def encoder(self, raster: Raster) -> Encode:
        """A function that encodes `raster`."""
        if isinstance(raster, Planes):
            y = _with_margin(_as_rows(raster.y))
            u, v = (_as_rows(plane) for plane in raster.chroma) if raster.chroma else (None, None)
            return lambda quality: self._encode_planes(y, u, v, quality=quality)
        pixels, order = _as_rows(raster.pixels), raster.order
        return lambda quality: self._encode_interleaved(
            pixels, quality=quality, colorspace=order, colorsubsampling="420"
        )


class PillowCodec:
    """JPEG by Pillow, or WebP or AVIF.

    A JPEG is encoded in bands, with restarts between them, so that Pillow never holds the whole
    picture.

    Args:
        format: ``jpeg``, ``webp`` or ``avif``.
    """

    def __init__(self, format: str = "jpeg") -> None:
        self.format = format

    def encoder(self, raster: Raster) -> Encode:
        """A function that encodes `raster`."""
        options = _EXTENDED.get(self.format)
        if options is None:
            return lambda quality: _jpeg_in_bands(raster, quality)
        picture = _picture(raster)
        # Neither stores JFIF's planes: WebP has limited range, AVIF a matrix of its own.
        picture = picture if picture.mode in {"L", "RGB"} else picture.convert("RGB")
        return lambda quality: _saved(picture, self.format, quality=quality, **options)


def jpeg_codec() -> Codec:
    """The fastest JPEG codec that is installed."""
    return TurboCodec() if extras.is_installed("simplejpeg") else PillowCodec()


def _as_rows(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`array` itself if its rows are dense and lie one after the other, else a copy."""
    dense = math.prod(array.shape[1:])
    inner = (1,) if array.ndim == 2 else (array.shape[2], 1)
    if array.strides[1:] == inner and array.strides[0] >= dense:
        return array
    # Not ascontiguousarray, to which the stride of a single column is of no account.
    return np.array(array, order="C")


def _with_margin(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`luma` with memory of ours behind an odd last row or column.

    libjpeg-turbo takes the planes of a 4:2:0 picture to have even sides. It reads as many samples,
    past the end of the caller's buffer where that is odd. Source: libjpeg-turbo, `turbojpeg.c`,
    tjPlaneWidth and tjPlaneHeight.
    """
    height, width = luma.shape
    if height % 2 == 0 and width % 2 == 0:
        return luma
    padded = np.empty((height + height % 2, width + width % 2), np.uint8)
    padded[:height, :width] = luma
    padded[:height, width:] = luma[:, -1:]
    padded[height:] = padded[height - 1]
    return padded[:height, :width]


def _jpeg_in_bands(raster: Raster, quality: int) -> bytes:
    width, height = raster.size
    # Grey has no chroma to subsample.
    unit, options = (_UNIT // 2, {}) if raster.is_grey else (_UNIT, {"subsampling": "4:2:0"})
    parts = list(bands(width, height, multiple=_UNIT))
    files: list[bytes] = []
    picture: Image.Image | None = None
    for top, bottom in parts:
        if isinstance(raster, Planes) or bottom - top != parts[0][1]:
            picture = None  # one that cannot be used again must not be there beside the next
        picture = _picture(raster.rows(top, bottom), into=picture)
        files.append(_saved(picture, "jpeg", quality=quality, **options))
    interval = math.ceil(width / unit) * math.ceil(parts[0][1] / unit)
    return joined(files, height=height, interval=interval)


def _saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, format.upper(), **options)
    return out.getvalue()


def _picture(raster: Raster, *, into: Image.Image | None = None) -> Image.Image:
    """A Pillow image of `raster`, with memory of its own.

    Args:
        raster: The pixels.
        into: An image that may be overwritten: its memory is in the cache already.
    """
    return _merged(raster) if isinstance(raster, Planes) else raster.picture(into=into)


def _merged(planes: Planes) -> Image.Image:
    """A Pillow image of `planes`, whose encoder's own averaging gives the chroma back exactly."""
    width, height = planes.size
    luma = Image.fromarray(planes.y)
    # Each sample is repeated; an odd side has half a sample more than it needs.
    box = (0.0, 0.0, width / 2, height / 2)
    chroma = (
        Image.fromarray(plane).resize(luma.size, Image.Resampling.NEAREST, box)
        for plane in planes.chroma
    )
    return Image.merge("YCbCr", (luma, *chroma)) if planes.chroma else luma
