"""Videos that tests write themselves."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FPS = 25

SIZE = (64, 48)


def write_video(
    path: Path,
    pictures: list[np.ndarray],
    *,
    turned: int = 0,
    hflip: bool = False,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    format: str | None = None,
) -> Path:
    """Write RGB `pictures` to `path`, with a display matrix as phones write it.

    Args:
        path: Where to.
        pictures: All of one size.
        turned: Degrees, counted as FFmpeg does: counter-clockwise.
        hflip: Whether the matrix mirrors, too.
        codec: FFmpeg's name of the encoder.
        pix_fmt: FFmpeg's name of the layout.
        format: FFmpeg's name of the container, where the suffix does not tell.
    """
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=format) as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.qmin = stream.codec_context.qmax = 1
        stream.codec_context.time_base = Fraction(1, FPS)
        if turned or hflip:
            stream.set_display_rotation(turned, hflip=hflip)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbered(count: int) -> list[np.ndarray]:
    """Grey pictures, each lighter by 16 than the one before."""
    return [np.full((SIZE[1], SIZE[0], 3), 16 + 16 * number, np.uint8) for number in range(count)]


def number_of(grey: np.ndarray) -> int:
    """The number of such a picture."""
    return round((float(grey.mean()) - 16) / 16)
