"""Camera formats: how luma and chroma lie in memory, and how much of it each plane must have."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.plane import Extent, Plane, as_length
from hybrid_detect.frames.raster import half_up

__all__ = ["PLANE_COUNT", "CameraFormat", "as_camera_format", "extent_of", "planes_in_buffer"]


class CameraFormat(StrEnum):
    """How luma (Y) and chroma (U = Cb, V = Cr) lie in memory."""

    I420 = "i420"
    """Three planes, Y, U, V; chroma at half the width and height."""
    NV12 = "nv12"
    """Two planes: Y, and U V pairs at half the width and height."""
    NV21 = "nv21"
    """Two planes: Y, and V U pairs at half the width and height. Android's preview format."""
    YUYV = "yuyv"
    """One plane of Y U Y V; chroma at half the width. Common from USB cameras (V4L2)."""


PLANE_COUNT = {
    CameraFormat.I420: 3,
    CameraFormat.NV12: 2,
    CameraFormat.NV21: 2,
    CameraFormat.YUYV: 1,
}
"""Planes of each format."""


def as_camera_format(value: object) -> CameraFormat:
    """The format that `value` is or names.

    Raises:
        InvalidFrameError: If it is none.
    """
    try:
        return CameraFormat(value)  # type: ignore[arg-type]
    except ValueError:
        known = ", ".join(known.value for known in CameraFormat)
        raise InvalidFrameError(
            expected=f"a camera format ({known})", actual=repr(value)[:40]
        ) from None


def extent_of(format: CameraFormat, index: int, size: tuple[int, int], pixel_stride: int) -> Extent:
    """The rows, and the bytes of each row, that a plane must have.

    Args:
        format: The format.
        index: Number of the plane, from 0.
        size: Width and height of the picture as stored.
        pixel_stride: Bytes from one sample of a row to the next.
    """
    width, height = size
    columns, rows = half_up(width), half_up(height)
    if format is CameraFormat.YUYV:
        return Extent("YUYV", height, 4 * columns)
    if index == 0:
        return Extent("Y", height, width)
    if format is CameraFormat.I420:
        return Extent("YUV"[index], rows, (columns - 1) * pixel_stride + 1)
    # Android's chroma buffers end with their own last sample, so one that is taken for
    # the interleaved plane lacks the other component's. Source: libyuv-android issue 132.
    return Extent("chroma", rows, 2 * columns, slack=1)


def planes_in_buffer(
    format: CameraFormat, flat: NDArray[np.uint8], size: tuple[int, int], *, row_stride: Any
) -> tuple[Plane, ...]:
    """The planes that lie one after the other in `flat`.

    Args:
        format: The format.
        flat: The buffer.
        size: Width and height of the picture as stored.
        row_stride: Bytes from one row of the first plane to the next; `None` means no padding.

    Raises:
        InvalidFrameError: If `row_stride` is no length.
    """
    width, height = size
    columns, rows = half_up(width), half_up(height)
    tight = 4 * columns if format is CameraFormat.YUYV else width
    stride = tight if row_stride is None else as_length("row_stride", row_stride)
    if format is CameraFormat.YUYV:
        return (Plane(flat, stride),)
    luma = stride * height
    if format is CameraFormat.I420:
        chroma = half_up(stride)
        return (
            Plane(flat[:luma], stride),
            Plane(flat[luma : luma + chroma * rows], chroma),
            Plane(flat[luma + chroma * rows :], chroma),
        )
    chroma = 2 * columns if row_stride is None else stride
    return Plane(flat[:luma], stride), Plane(flat[luma:], chroma, 2)
