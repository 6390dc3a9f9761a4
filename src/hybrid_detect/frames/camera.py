"""Camera images: planes of luma and chroma as a sensor delivers them, and how to read them.

A picture is never turned into RGB on the way to a JPEG: both store luma and chroma, so the
planes are brought to full range, set upright and handed on. Nothing is read outside a buffer,
whatever the strides claim: every length is checked when the image is made.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.raster import Planes, Scratch, half_up
from hybrid_detect.frames.scaling import REDUCING_GAP, fitted_size, resized

__all__ = ["CameraFormat", "CameraImage", "Plane"]


_BAND = 64
"""Rows worked on at once: what they need stays in the cache."""


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


_PLANE_COUNT = {
    CameraFormat.I420: 3,
    CameraFormat.NV12: 2,
    CameraFormat.NV21: 2,
    CameraFormat.YUYV: 1,
}

_CLOCKWISE = {
    90: Image.Transpose.ROTATE_270,  # Pillow counts its angles counter-clockwise.
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One buffer of samples. Never modified, and not copied before it is needed."""

    data: Any = field(repr=False)
    """Any C-contiguous buffer of bytes: `bytes`, `memoryview`, a uint8 array, ..."""
    row_stride: int
    """Bytes from the start of one row to the start of the next."""
    pixel_stride: int = 1
    """Bytes from one sample to the next: 2 where Android shows interleaved chroma as planes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CameraImage:
    """One camera picture in planes, with what is needed to show it upright.

    Android's ``Image`` has three planes in any case: hand them over as ``I420`` in the order
    Y, U, V with their own strides, even where the two chroma buffers overlap. The last row of
    a plane may lack its padding.

    Raises:
        InvalidFrameError: If a value is out of range or a buffer too short for it.
    """

    format: CameraFormat
    width: int
    """Pixels of a row as stored, before `rotation`."""
    height: int
    """Rows as stored, before `rotation`."""
    planes: tuple[Plane, ...]
    rotation: int = 0
    """Clockwise degrees that make the picture upright: 0, 90, 180 or 270."""
    mirror: bool = False
    """Whether left and right are swapped, after the rotation: front cameras often need it."""
    full_range: bool = True
    """Whether samples span 0 to 255 (Android); V4L2 cameras often send 16 to 235 instead."""
    crop: tuple[int, int, int, int] | None = None
    """The part to show: left, top, width and height in pixels as stored, before `rotation`;
    `None` shows all. An odd left or top moves chroma by half a sample in `yuv` and `raster`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", _as_format(self.format))
        for name in ("width", "height"):
            object.__setattr__(self, name, _as_size(name, getattr(self, name)))
        if self.rotation not in (0, 90, 180, 270):
            raise InvalidFrameError(
                expected="rotation of 0, 90, 180 or 270 degrees", actual=repr(self.rotation)
            )
        count = _PLANE_COUNT[self.format]
        if (
            not isinstance(self.planes, tuple | list)
            or len(self.planes) != count
            or not all(isinstance(plane, Plane) for plane in self.planes)
        ):
            raise InvalidFrameError(
                expected=f"a tuple of {count} Plane for {self.format.value}",
                actual=_describe_planes(self.planes),
            )
        object.__setattr__(self, "planes", tuple(self.planes))
        for index in range(count):
            self._check_plane(index)
        if self.crop is not None:
            object.__setattr__(self, "crop", self._checked_crop(self.crop))

    @classmethod
    def from_buffer(
        cls,
        data: Any,
        *,
        format: CameraFormat | str,
        width: int,
        height: int,
        row_stride: int | None = None,
        rotation: int = 0,
        mirror: bool = False,
        full_range: bool = True,
        crop: tuple[int, int, int, int] | None = None,
    ) -> Self:
        """A camera image whose planes lie one after the other in one buffer.

        Args:
            data: Any C-contiguous buffer of bytes.
            format: The layout.
            width: Pixels of a row as stored.
            height: Rows as stored.
            row_stride: Bytes from one row of the first plane to the next; `None` means no
                padding. I420's chroma rows have half of it, interleaved chroma rows all of it.
            rotation: Clockwise degrees that make the picture upright.
            mirror: Whether left and right are swapped, after the rotation.
            full_range: Whether samples span 0 to 255 rather than 16 to 235.
            crop: The part to show: left, top, width and height as stored; `None` shows all.

        Raises:
            InvalidFrameError: If a value is out of range or the buffer too short for it.
        """
        layout = _as_format(format)
        width, height = _as_size("width", width), _as_size("height", height)
        columns, rows = half_up(width), half_up(height)
        tight = 4 * columns if layout is CameraFormat.YUYV else width
        stride = tight if row_stride is None else _as_size("row_stride", row_stride)
        flat = _flat(data)
        if layout is CameraFormat.YUYV:
            planes = [Plane(flat, stride)]
        elif layout is CameraFormat.I420:
            luma, chroma = stride * height, half_up(stride)
            planes = [
                Plane(flat[:luma], stride),
                Plane(flat[luma : luma + chroma * rows], chroma),
                Plane(flat[luma + chroma * rows :], chroma),
            ]
        else:
            luma, chroma = stride * height, 2 * columns if row_stride is None else stride
            planes = [Plane(flat[:luma], stride), Plane(flat[luma:], chroma, 2)]
        return cls(
            format=layout,
            width=width,
            height=height,
            planes=tuple(planes),
            rotation=rotation,
            mirror=mirror,
            full_range=full_range,
            crop=crop,
        )

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the upright picture in pixels."""
        return self._turned_size(self._area[2:])

    def yuv(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """The upright picture as full-range planes, as a JPEG encoder takes them.

        Returns:
            Y of shape ``(height, width)``, U and V of half of it, rounded up. All contiguous;
            they may share memory with the caller's buffers. Where an odd side is turned or
            mirrored, chroma may lie one pixel off; in `picture` it does not.
        """
        raster = self.raster()
        y, u, v = (np.ascontiguousarray(plane) for plane in (raster.y, *raster.chroma))
        return y, u, v

    def raster(
        self, size: tuple[int, int] | None = None, *, scratch: Scratch | None = None
    ) -> Planes:
        """The upright picture as planes; views of the caller's buffers where that is possible.

        Args:
            size: Width and height wanted, not larger than the picture; `None` keeps them.
            scratch: Memory to take planes apart in; they then hold until it is used again.
                `None` takes fresh memory.
        """
        y, u, v = self._stored_planes(scratch)
        # Where the crop starts at an odd pixel, chroma has one sample more than needed.
        columns, rows = half_up(y.shape[1]), half_up(y.shape[0])
        planes = Planes(y, u[:rows, :columns], v[:rows, :columns])
        if size is not None:
            planes = planes.resized(self._turned_size(size))
        if not self.full_range:
            planes = _in_full_range(planes)
        return planes.turned(self.rotation, mirror=self.mirror)

    def picture(self, *, max_side_px: int | None = None) -> Image.Image:
        """The upright picture in Pillow's mode ``YCbCr``, full range, without an RGB detour.

        Args:
            max_side_px: Longest side wanted; chroma is then scaled once, straight to that size.
        """
        y, u, v = self._stored_planes()
        if not self.full_range:
            y, u, v = _expanded_luma(y), _expanded_chroma(u), _expanded_chroma(v)
        left, top, width, height = self._area
        size = fitted_size(width, height, max_side_px=max_side_px)
        # An odd side has half a chroma sample more than it needs: the box leaves it out.
        x, y_top = left % 2 / 2, top % 2 / 2
        box = (x, y_top, x + width / 2, y_top + height / 2)
        # Repeating samples at full size makes an encoder's own averaging give them back exactly.
        full = size == (width, height)
        kernel = Image.Resampling.NEAREST if full else Image.Resampling.BILINEAR
        chroma = [
            Image.fromarray(plane).resize(size, kernel, box, None if full else REDUCING_GAP)
            for plane in (u, v)
        ]
        merged = Image.merge("YCbCr", [resized(Image.fromarray(y), size), *chroma])
        if self.rotation:
            merged = merged.transpose(_CLOCKWISE[self.rotation])
        if self.mirror:
            merged = merged.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return merged

    def _plane_extent(self, index: int) -> tuple[str, int, int, int]:
        """Name, rows, bytes used of each row, and bytes that may lack at the end."""
        columns, rows = half_up(self.width), half_up(self.height)
        if self.format is CameraFormat.YUYV:
            return "YUYV", self.height, 4 * columns, 0
        if index == 0:
            return "Y", self.height, self.width, 0
        if self.format is CameraFormat.I420:
            used = (columns - 1) * self.planes[index].pixel_stride + 1
            return "YUV"[index], rows, used, 0
        # Android's chroma buffers end with their own last sample, so one that is taken for
        # the interleaved plane lacks the other component's. Source: libyuv-android issue 132.
        return "chroma", rows, 2 * columns, 1

    def _check_plane(self, index: int) -> None:
        plane = self.planes[index]
        strides = (1, 2) if index else (1,)
        name = self._plane_extent(index)[0]
        if plane.pixel_stride not in strides:
            raise InvalidFrameError(
                expected=f"pixel_stride {' or '.join(map(str, strides))} for the {name} plane",
                actual=repr(plane.pixel_stride),
            )
        name, rows, used, slack = self._plane_extent(index)
        if _as_size("row_stride", plane.row_stride) < used:
            raise InvalidFrameError(
                expected=f"row_stride of at least {used} bytes for the {name} plane",
                actual=f"{plane.row_stride}",
            )
        needed = (rows - 1) * plane.row_stride + used - slack
        given = _flat(plane.data).size
        if given < needed:
            raise InvalidFrameError(
                expected=f"at least {needed} bytes in the {name} plane "
                f"({rows} rows of {plane.row_stride})",
                actual=f"{given}",
            )

    def _rows(self, index: int) -> NDArray[np.uint8]:
        """A plane's used bytes, shape ``(rows, used)``: a view, or a copy if its end is short."""
        self._check_plane(index)  # Again: a bytearray may have shrunk since.
        _, rows, used, _ = self._plane_extent(index)
        flat, stride = _flat(self.planes[index].data), self.planes[index].row_stride
        if flat.size >= rows * stride:
            return flat[: rows * stride].reshape(rows, stride)[:, :used]
        copied = np.empty((rows, used), dtype=np.uint8)
        whole = (rows - 1) * stride
        copied[:-1] = flat[:whole].reshape(rows - 1, stride)[:, :used]
        tail = flat[whole : whole + used]
        copied[-1, : tail.size] = tail
        if tail.size < used:
            # One chroma sample is missing: take the one to its left, else above, else grey.
            copied[-1, -1] = copied[-1, -3] if used > 2 else copied[-2, -1] if rows > 1 else 128
        return copied

    @property
    def _area(self) -> tuple[int, int, int, int]:
        return (0, 0, self.width, self.height) if self.crop is None else self.crop

    def _turned_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """`size` before or after turning."""
        return (size[1], size[0]) if self.rotation in (90, 270) else size

    def _checked_crop(self, crop: Any) -> tuple[int, int, int, int]:
        try:
            left, top, width, height = map(operator.index, crop)
        except (TypeError, ValueError):
            left = top = width = height = -1
        inside = left >= 0 and top >= 0 and width >= 1 and height >= 1
        if not inside or left + width > self.width or top + height > self.height:
            raise InvalidFrameError(
                expected="crop as (left, top, width, height) inside "
                f"the {self.width}x{self.height} pixels as stored",
                actual=repr(crop)[:40],
            )
        return left, top, width, height

    def _stored_planes(
        self, scratch: Scratch | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """Y, U and V of the crop as stored; chroma at half size, from an even pixel on."""
        scratch = scratch or Scratch()
        left, top, width, height = self._area
        across = slice(left // 2, half_up(left + width))
        down = slice(top // 2, half_up(top + height))
        first = self._rows(0)
        if self.format is CameraFormat.YUYV:
            y, chroma = _split(first[2 * down.start : 2 * down.stop], scratch, "Y", "chroma")
            u, v = _split(_half_rows(chroma), scratch, "even", "odd")
            y = y[top % 2 : top % 2 + height]
            return y[:, left : left + width], u[:, across], v[:, across]
        y = first[top : top + height, left : left + width]
        if self.format is CameraFormat.I420:
            u, v = (
                self._rows(index)[down, :: self.planes[index].pixel_stride][:, across]
                for index in (1, 2)
            )
            return y, u, v
        pairs = self._rows(1)[down, 2 * across.start : 2 * across.stop]
        u, v = _split(pairs, scratch, "even", "odd")
        return (y, v, u) if self.format is CameraFormat.NV21 else (y, u, v)


def _split(
    pairs: NDArray[np.uint8], scratch: Scratch, even: str, odd: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Even and odd columns, taken apart as 16-bit numbers: faster than with a stride of 2."""
    both = pairs.view("<u2")
    low, high = scratch.plane(even, both.shape), scratch.plane(odd, both.shape)
    np.copyto(low, both, casting="unsafe")
    np.right_shift(both, np.uint16(8), out=high, casting="unsafe")
    return low, high


# Limited range is Y 16 to 235 and C 16 to 240. Source: ITU-R BT.601-7, section 2.5.3. Both
# functions work in 16 bits, at half the time of a table, and are off by 1 for 6 values of 445.


def _in_full_range(planes: Planes) -> Planes:
    return Planes(_expanded_luma(planes.y), *(_expanded_chroma(c) for c in planes.chroma))


def _expanded_luma(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(Y - 16) * 255 / 219``, which is ``Y - 16`` and its 36 / 219 on top."""
    expanded = np.empty(samples.shape, np.uint8)
    for top in range(0, len(samples), _BAND):
        above = expanded[top : top + _BAND]
        np.clip(samples[top : top + _BAND], 16, 235, out=above)
        above -= np.uint8(16)
        part = np.multiply(above, 169, dtype=np.uint16)
        part += np.uint16(448)
        part >>= np.uint16(10)
        np.add(above, part, out=above, casting="unsafe")
    return expanded


def _expanded_chroma(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(C - 128) * 255 / 224 + 128``, which is ``C - 16`` and its 31 / 224 and a half on top."""
    above = np.clip(samples, 16, 240).astype(np.uint16)
    above -= np.uint16(16)
    part = above * np.uint16(71)
    part += np.uint16(496)
    part >>= np.uint16(9)
    above += part
    return np.minimum(above, np.uint16(255)).astype(np.uint8)


def _half_rows(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of pairs of rows; an odd last row stands alone."""
    upper = plane[0::2].astype(np.uint16)
    lower = plane[1::2]
    upper[: len(lower)] += lower
    upper[len(lower) :] *= 2
    return ((upper + 1) >> 1).astype(np.uint8)


def _flat(data: Any) -> NDArray[np.uint8]:
    """`data` as one row of bytes, without copying."""
    try:
        view = memoryview(data)
        if view.itemsize == 1 and view.c_contiguous:
            # NumPy refuses to look at nothing at all.
            return np.frombuffer(data, dtype=np.uint8) if view.nbytes else np.empty(0, np.uint8)
        actual = f"{type(data).__name__} of {view.itemsize}-byte items, or with gaps"
    except (TypeError, ValueError, BufferError):
        actual = type(data).__name__
    raise InvalidFrameError(expected="a contiguous buffer of bytes", actual=actual)


def _as_format(value: object) -> CameraFormat:
    try:
        return CameraFormat(value)  # type: ignore[arg-type]
    except ValueError:
        known = ", ".join(known.value for known in CameraFormat)
        raise InvalidFrameError(
            expected=f"a camera format ({known})", actual=repr(value)[:40]
        ) from None


def _as_size(name: str, value: Any) -> int:
    try:
        size = operator.index(value)
    except TypeError:
        size = 0
    if size < 1:
        raise InvalidFrameError(expected=f"{name} of at least 1", actual=repr(value)[:40])
    return size


def _describe_planes(planes: object) -> str:
    if isinstance(planes, tuple | list):
        names = sorted({type(plane).__name__ for plane in planes})
        return f"{len(planes)} of {', '.join(names)}" if planes else "none"
    return type(planes).__name__
