"""Rasters: upright pixels laid out as an encoder takes them, and what is done to them first.

`Planes` are luma and chroma as a JPEG stores them, so camera planes reach it without a detour
over RGB; `Interleaved` is what arrays and Pillow images hold. Both may be views of the caller's
memory and are never written to.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.frames.scaling import REDUCING_GAP, resized

__all__ = ["Interleaved", "Planes", "Raster", "Scratch", "dense_rows", "half_up", "raster_of"]

_TILES = ((960, 8, 3), (0, 5, 2))
"""Width from which on; a sample is one tile of so many in each row of blocks; how many tiles
further the next row's lies, so that no two neighbours lie below each other.

Predicts the size of the whole with a spread of 2.8 % (8) and 1.8 % (5) at 1280x720, and of 3.8 %
and 2.9 % at 640x360. Source: docs/explanation/compression.md.
"""

_BLOCK = 16
"""Side of what JPEG codes at once at 4:2:0, in pixels. Source: ITU-T T.81, A.2.3."""

_ACTIVITY_ROWS = 64
"""One row in so many is looked at for the activity."""

_BAND = 128
"""Columns turned at once: what they touch stays in the cache, for half the time of all at once."""

_STEEP = 16
"""Differences of neighbours count up to this: a contour costs JPEG little more than a step."""


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Luma and chroma of full range (JFIF), chroma at half size rounded up; or luma alone."""

    y: NDArray[np.uint8] = field(repr=False)
    """Shape ``(height, width)``; the samples of a row lie side by side."""
    u: NDArray[np.uint8] | None = field(default=None, repr=False)
    """Cb; `None` if the picture is grey."""
    v: NDArray[np.uint8] | None = field(default=None, repr=False)
    """Cr; `None` if the picture is grey."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self.y.shape[1]), int(self.y.shape[0])

    @property
    def chroma(self) -> tuple[NDArray[np.uint8], ...]:
        """U and V, or nothing."""
        return () if self.u is None or self.v is None else (self.u, self.v)

    def resized(self, size: tuple[int, int]) -> Planes:
        """The same picture at `size` (width, height), not larger than it is."""
        planes = self
        while _is_half(size, planes.size) and all(_is_even(c) for c in (planes.y, *planes.chroma)):
            planes = Planes(*(_halved(plane) for plane in (planes.y, *planes.chroma)))
        if planes.size == size:
            return planes
        y = np.asarray(resized(Image.fromarray(planes.y), size))
        columns, rows = half_up(size[0]), half_up(size[1])
        # The last chroma sample of an odd side reaches past the picture, in both sizes.
        width, height = planes.size
        box = (
            0.0,
            0.0,
            min(half_up(width), columns * width / size[0]),
            min(half_up(height), rows * height / size[1]),
        )
        chroma = (
            np.asarray(
                Image.fromarray(plane).resize(
                    (columns, rows), Image.Resampling.BILINEAR, box, REDUCING_GAP
                )
            )
            for plane in planes.chroma
        )
        return Planes(y, *chroma)

    def turned(self, rotation: int, *, mirror: bool) -> Planes:
        """Turned clockwise by `rotation` degrees, then mirrored; contiguous if changed.

        Where an odd side is turned or mirrored, chroma ends up one pixel off: a half-size plane
        cannot say that its first column covers one pixel only.
        """
        if not rotation and not mirror:
            return self
        return Planes(*(_turned(plane, rotation, mirror) for plane in (self.y, *self.chroma)))

    def sample(self) -> tuple[Planes, float] | None:
        """Tiles along diagonals, and how much larger the whole is; `None` if it is too small."""
        width, height = self.size
        tiles = _tiles((self.y, *self.chroma), width, height)
        if tiles is None:
            return None
        return Planes(*tiles), width * height / tiles[0].size

    def activity(self) -> float:
        """How much neighbouring pixels differ, 0 to 16."""
        return _activity(self.y)


@dataclass(frozen=True, slots=True, eq=False)
class Interleaved:
    """Colour pixels whose channels lie side by side."""

    pixels: NDArray[np.uint8] = field(repr=False)
    """Shape ``(height, width, 3)`` or ``(height, width, 4)``, with any strides."""
    order: str
    """``RGB``, ``BGR``, ``RGBX`` or ``BGRX``; X is not looked at."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[0])

    def picture(self) -> Image.Image:
        """The same picture in Pillow's mode ``RGB``, copied."""
        packed = np.ascontiguousarray(self.pixels)
        # Not frombuffer: it may read in place, and the picture would change with the array.
        return Image.frombytes("RGB", self.size, packed, "raw", self.order, 0, 1)

    def resized(self, size: tuple[int, int]) -> Interleaved:
        """The same picture at `size` (width, height), not larger than it is."""
        if size == self.size:
            return self
        return Interleaved(np.asarray(resized(self.picture(), size)), "RGB")

    def sample(self) -> tuple[Interleaved, float] | None:
        """Tiles along diagonals, and how much larger the whole is; `None` if it is too small."""
        width, height = self.size
        tiles = _tiles((self.pixels,), width, height)
        if tiles is None:
            return None
        return Interleaved(tiles[0], self.order), width * height / tiles[0][:, :, 0].size

    def activity(self) -> float:
        """How much neighbouring pixels differ in green, 0 to 16."""
        return _activity(self.pixels[:, :, 1])


Raster: TypeAlias = Planes | Interleaved
"""What a codec encodes."""


class Scratch(threading.local):
    """Memory for planes, kept from one picture to the next; each thread gets its own.

    Fresh memory has to be fetched into the cache before it is written: planes taken apart into
    used memory cost a third. What lies there holds until the thread's next picture.
    """

    def __init__(self) -> None:
        self._planes: dict[str, NDArray[np.uint8]] = {}

    def plane(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The plane called `name`, with anything in it."""
        plane = self._planes.get(name)
        if plane is None or plane.shape != shape:
            plane = self._planes[name] = np.empty(shape, np.uint8)
        return plane


def raster_of(picture: Image.Image) -> Raster:
    """The pixels of a Pillow image of mode ``L``, or of any that has an RGB form."""
    if picture.mode == "L":
        return Planes(np.asarray(picture))
    return Interleaved(
        np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB")), "RGB"
    )


def half_up(length: int) -> int:
    """Samples of chroma that `length` pixels have."""
    return (length + 1) // 2


def _is_half(size: tuple[int, int], of: tuple[int, int]) -> bool:
    """Whether halving `of` once or more gives `size` exactly."""
    times = of[0] // size[0]
    halvings = times > 1 and times & (times - 1) == 0
    return halvings and of == (times * size[0], times * size[1])


def _is_even(plane: NDArray[np.uint8]) -> bool:
    return not any(side % 2 for side in plane.shape)


def _halved(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2x2 samples: two at once as one 16-bit number, then the two rows' sums."""
    pairs = dense_rows(plane).view("<u2")
    sums = pairs & np.uint16(0xFF)
    sums += pairs >> np.uint16(8)
    total = sums[0::2] + sums[1::2]
    total += np.uint16(2)
    total >>= np.uint16(2)
    return total.astype(np.uint8)


def dense_rows(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`plane` itself if the samples of its rows lie side by side, else a copy."""
    return plane if plane.strides[-1] == 1 else np.ascontiguousarray(plane)


def _turned(plane: NDArray[np.uint8], rotation: int, mirror: bool) -> NDArray[np.uint8]:
    turned = np.rot90(plane, -rotation // 90)
    if mirror:
        turned = turned[:, ::-1]
    copied = np.empty(turned.shape, np.uint8)
    for left in range(0, turned.shape[1], _BAND):
        copied[:, left : left + _BAND] = turned[:, left : left + _BAND]
    return copied


def _tiles(
    arrays: Sequence[NDArray[np.uint8]], width: int, height: int
) -> list[NDArray[np.uint8]] | None:
    """From each row of blocks one tile, below each other; `None` if there is less than a tile.

    Args:
        arrays: What covers the picture: planes of it at full or half size, or its pixels.
        width: Of the picture.
        height: Of the picture.
    """
    count, shift = next(rest for at_least, *rest in _TILES if width >= at_least)
    rows, columns = height // _BLOCK, width // count // _BLOCK * _BLOCK
    if not rows or not columns:
        return None
    row = np.arange(rows)
    taken = []
    for array in arrays:
        part = 1 if array.shape[:2] == (height, width) else 2
        high, wide = _BLOCK // part, columns // part
        used = array[: rows * high, : count * wide]
        # Splitting axes is always a view, and it cannot reach outside the array.
        grid = used.reshape(rows, high, count, wide, *array.shape[2:])
        tiles = grid[row, :, row * shift % count]
        taken.append(tiles.reshape(rows * high, wide, *array.shape[2:]))
    return taken


def _activity(luma: NDArray[np.uint8]) -> float:
    rows = luma[_ACTIVITY_ROWS // 2 :: _ACTIVITY_ROWS]
    if not rows.size or rows.shape[1] < 2:
        return 0.0
    left, right = rows[:, :-1], rows[:, 1:]
    steps = np.maximum(left, right)
    steps -= np.minimum(left, right)
    np.minimum(steps, _STEEP, out=steps)
    return int(steps.sum(dtype=np.uint32)) / steps.size
