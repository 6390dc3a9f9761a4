"""Camera images: planes of luma and chroma as a sensor delivers them, and how to read them.

A picture is never turned into RGB on the way to a JPEG: both store luma and chroma, so the
planes are brought to full range, set upright and handed on. Nothing is read outside a buffer,
regardless of the strides: every length is checked when the image is made.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.camera_format import (
    PLANE_COUNT,
    CameraFormat,
    as_camera_format,
    extent_of,
    planes_in_buffer,
)
from hybrid_detect.frames.plane import (
    Extent,
    Plane,
    as_length,
    check_plane,
    flat_bytes,
    rows_of,
)
from hybrid_detect.frames.raster import Planes, Scratch, half_up
from hybrid_detect.frames.scaling import REDUCING_GAP, fitted_size, resized
from hybrid_detect.frames.yuv import (
    expanded_chroma,
    expanded_luma,
    half_rows,
    in_full_range,
    split_pairs,
)

__all__ = ["CameraFormat", "CameraImage", "Plane"]


_CLOCKWISE = {
    90: Image.Transpose.ROTATE_270,  # Pillow counts its angles counter-clockwise.
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


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
    """Clockwise degrees that make the picture upright: 0, 90, 180 or 270. FFmpeg, and so PyAV's
    ``frame.rotation``, count the other way: pass ``-frame.rotation % 360``."""
    mirror: bool = False
    """Whether left and right are swapped, after the rotation: front cameras often need it."""
    full_range: bool = True
    """Whether samples span 0 to 255 rather than 16 to 235. It is the source's setting, and nothing
    in the samples tells it: `docs/explanation/compression.md` lists sources. Taken for full, a
    limited picture is flat and grey; taken for limited, a full one loses its darkest and brightest
    parts."""
    crop: tuple[int, int, int, int] | None = None
    """The part to show: left, top, width and height in pixels as stored, before `rotation`;
    `None` shows all. An odd left or top moves chroma by half a sample in `yuv` and `raster`."""
    _extents: tuple[Extent, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", as_camera_format(self.format))
        for name in ("width", "height"):
            object.__setattr__(self, name, as_length(name, getattr(self, name)))
        if self.rotation not in (0, 90, 180, 270):
            raise InvalidFrameError(
                expected="rotation of 0, 90, 180 or 270 degrees", actual=repr(self.rotation)
            )
        count = PLANE_COUNT[self.format]
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
        extents = []
        for index, plane in enumerate(self.planes):
            strides = (1, 2) if index else (1,)
            # Of a plane whose pixel stride is wrong, the extent says the name only.
            extents.append(
                extent_of(self.format, index, (self.width, self.height), plane.pixel_stride)
            )
            check_plane(plane, extents[-1], pixel_strides=strides)
        object.__setattr__(self, "_extents", tuple(extents))
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
        layout = as_camera_format(format)
        width, height = as_length("width", width), as_length("height", height)
        planes = planes_in_buffer(layout, flat_bytes(data), (width, height), row_stride=row_stride)
        return cls(
            format=layout,
            width=width,
            height=height,
            planes=planes,
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
            planes = in_full_range(planes)
        return planes.turned(self.rotation, mirror=self.mirror)

    def picture(self, *, max_side_px: int | None = None) -> Image.Image:
        """The upright picture in Pillow's mode ``YCbCr``, full range, without an RGB detour.

        Args:
            max_side_px: Longest side wanted; chroma is then scaled once, straight to that size.
        """
        y, u, v = self._stored_planes()
        if not self.full_range:
            y, u, v = expanded_luma(y), expanded_chroma(u), expanded_chroma(v)
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

    def _rows(self, index: int) -> NDArray[np.uint8]:
        return rows_of(self.planes[index], self._extents[index])

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
            y, chroma = split_pairs(first[2 * down.start : 2 * down.stop], scratch, "Y", "chroma")
            u, v = split_pairs(half_rows(chroma), scratch, "even", "odd")
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
        u, v = split_pairs(pairs, scratch, "even", "odd")
        return (y, v, u) if self.format is CameraFormat.NV21 else (y, u, v)


def _describe_planes(planes: object) -> str:
    if isinstance(planes, tuple | list):
        names = sorted({type(plane).__name__ for plane in planes})
        return f"{len(planes)} of {', '.join(names)}" if planes else "none"
    return type(planes).__name__
