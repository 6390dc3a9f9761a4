"""Formats: what an encoded image is, told by its first bytes, and which code may read it.

*Parse little, bound everything, off the loop.* Bytes come from strangers. What decides whether a
file is a picture is a walk over its parts in this package, under counted limits and in linear time;
Pillow's plugin for that one format then gets the parts of the picture alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast

from PIL import features
from PIL.ImageFile import ImageFile

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.avif_boxes import avif_layout
from hybrid_detect.frames.bmp_header import bmp_layout
from hybrid_detect.frames.gif_blocks import gif_layout
from hybrid_detect.frames.jpeg_segments import jpeg_layout, jpeg_profile
from hybrid_detect.frames.layout import Layout
from hybrid_detect.frames.png_chunks import png_layout, png_profile
from hybrid_detect.frames.tiff_directory import tiff_layout
from hybrid_detect.frames.turbo import load_turbo
from hybrid_detect.frames.webp_chunks import webp_layout, webp_profile

__all__ = ["LAYOUTS", "PROFILES", "format_of", "load_decoders", "opened"]

LAYOUTS: Mapping[str, Callable[[bytes], Layout]] = {
    "JPEG": jpeg_layout,
    "PNG": png_layout,
    "WEBP": webp_layout,
    "BMP": bmp_layout,
    "GIF": gif_layout,
    "TIFF": tiff_layout,
    "AVIF": avif_layout,
}
"""The walk over the parts of each format."""

PROFILES: Mapping[str, Callable[[bytes], bytes | None]] = {
    "JPEG": jpeg_profile,
    "PNG": png_profile,
    "WEBP": webp_profile,
}
"""What finds the colour profile, for the formats that `privacy` keeps as they are."""

_PLUGINS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
}
_KNOWN = "a JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF image"


def opened(data: bytes, name: str) -> ImageFile:
    """The file `data` of the picture alone, header read, pixels not.

    Taking the plugin directly loads that plugin only, where `Image.open` may load all forty.
    """
    return cast("ImageFile", _plugin(name)(io.BytesIO(data)))


def load_decoders() -> None:
    """Load the decoder of every format, for a process that soon may open no file any more."""
    for name in _PLUGINS:
        _plugin(name)
    load_turbo()


def _plugin(name: str) -> Any:
    module, plugin = _PLUGINS[name]
    return getattr(import_module(module), plugin)


def format_of(data: bytes) -> str:
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
