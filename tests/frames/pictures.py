"""Pictures made for tests of frames, and the check that any bytes must pass."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from PIL import Image

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.frame import Frame

__all__ = ["EXIF", "check_bytes", "encoded", "smooth", "with_orientation"]

EXIF = Image.Exif()
EXIF[0x0112] = 6
EXIF[0x011A] = 72.0
EXIF[0x0128] = 2
EXIF[0x010F] = "maker"


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def with_orientation(picture: Image.Image, orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture, kind, exif=exif)


def smooth(width: int, height: int) -> Image.Image:
    """A picture whose corners differ, and that JPEG hardly changes."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(
        np.stack([x * 255 // width, y * 255 // height, 255 - x * 255 // width], -1).astype("u1")
    )


def check_bytes(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            frame = Frame.of(data, max_pixels=1_000_000)
            assert frame.rgb().shape == (frame.height, frame.width, 3)
            frame.pil(max_side_px=20)
        except InvalidFrameError:
            pass
