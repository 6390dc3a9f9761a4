"""Planes: buffers of samples as a camera delivers them, and their rows.

Nothing is read outside a buffer, regardless of the strides: its length is checked when a picture
is made of it, and again when it is read, as a `bytearray` may have shrunk since.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.errors import InvalidFrameError

__all__ = ["Extent", "Plane", "as_length", "check_plane", "flat_bytes", "rows_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One buffer of samples. Never modified, and not copied before it is needed."""

    data: Any = field(repr=False)
    """Any C-contiguous buffer of bytes: `bytes`, `memoryview`, a uint8 array, ..."""
    row_stride: int
    """Bytes from the start of one row to the start of the next."""
    pixel_stride: int = 1
    """Bytes from one sample to the next: 2 where Android shows interleaved chroma as planes."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What a picture reads of a plane."""

    name: str
    """The plane's name, for people."""
    rows: int
    used: int
    """Bytes used of each row."""
    slack: int = 0
    """Bytes that may lack at the end."""


def check_plane(plane: Plane, extent: Extent, *, pixel_strides: tuple[int, ...]) -> None:
    """Refuse a plane that is not what it must be.

    Raises:
        InvalidFrameError: If a stride is out of range or the buffer too short.
    """
    if plane.pixel_stride not in pixel_strides:
        raise InvalidFrameError(
            expected=f"pixel_stride {' or '.join(map(str, pixel_strides))} "
            f"for the {extent.name} plane",
            actual=repr(plane.pixel_stride),
        )
    if as_length("row_stride", plane.row_stride) < extent.used:
        raise InvalidFrameError(
            expected=f"row_stride of at least {extent.used} bytes for the {extent.name} plane",
            actual=f"{plane.row_stride}",
        )
    _checked_length(plane, extent)


def rows_of(plane: Plane, extent: Extent) -> NDArray[np.uint8]:
    """A plane's used bytes, shape ``(rows, used)``: a view, or a copy if its end is short.

    Args:
        plane: What `check_plane` let pass.
        extent: What to read of it.

    Raises:
        InvalidFrameError: If the buffer has shrunk since.
    """
    stride, rows, used = plane.row_stride, extent.rows, extent.used
    whole = (rows - 1) * stride
    if _checked_length(plane, extent) >= whole + used:
        return np.ndarray((rows, used), np.uint8, plane.data, strides=(stride, 1))
    copied = np.empty((rows, used), dtype=np.uint8)
    flat = flat_bytes(plane.data)
    copied[:-1] = np.ndarray((rows - 1, used), np.uint8, flat, strides=(stride, 1))
    copied[-1, :-1] = flat[whole : whole + used - 1]
    # One chroma sample is missing: take the one to its left, else above, else grey.
    copied[-1, -1] = copied[-1, -3] if used > 2 else copied[-2, -1] if rows > 1 else 128
    return copied


def flat_bytes(data: Any) -> NDArray[np.uint8]:
    """`data` as one row of bytes, without copying.

    Raises:
        InvalidFrameError: If it is no contiguous buffer of bytes.
    """
    # NumPy refuses to look at nothing at all.
    return np.frombuffer(data, dtype=np.uint8) if _length(data) else np.empty(0, np.uint8)


def as_length(name: str, value: Any) -> int:
    """`value` as a number of bytes, pixels or rows.

    Raises:
        InvalidFrameError: If it is no integer of at least 1.
    """
    try:
        length = operator.index(value)
    except TypeError:
        length = 0
    if length < 1:
        raise InvalidFrameError(expected=f"{name} of at least 1", actual=repr(value)[:40])
    return length


def _checked_length(plane: Plane, extent: Extent) -> int:
    """Bytes in the buffer: enough of them."""
    given = _length(plane.data)
    needed = (extent.rows - 1) * plane.row_stride + extent.used - extent.slack
    if given < needed:
        raise InvalidFrameError(
            expected=f"at least {needed} bytes in the {extent.name} plane "
            f"({extent.rows} rows of {plane.row_stride})",
            actual=f"{given}",
        )
    return given


def _length(data: Any) -> int:
    """Bytes in `data`."""
    try:
        view = memoryview(data)
        if view.itemsize == 1 and view.c_contiguous:
            return view.nbytes
        actual = f"{type(data).__name__} of {view.itemsize}-byte items, or with gaps"
    except (TypeError, ValueError, BufferError):
        actual = type(data).__name__
    raise InvalidFrameError(expected="a contiguous buffer of bytes", actual=actual)
