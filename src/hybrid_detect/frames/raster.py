"""Rasters: upright pixels laid out as an encoder takes them, and what is done to them first.

`Planes` are luma and chroma as a JPEG stores them, so camera planes reach it without a detour
over RGB; `Interleaved` is what arrays and Pillow images hold. Both may be views of the caller's
memory and are never written to.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.frames.banding import pixels_of, shrunk
from hybrid_detect.frames.sampling import activity, tiles
from hybrid_detect.frames.scaling import REDUCING_GAP, resized
from hybrid_detect.frames.shrinking import halved, shrinks_fast, three_quarters

__all__ = ["Interleaved", "Planes", "Raster", "Scratch", "dense_rows", "half_up", "raster_of"]

_BAND = 128
"""Columns turned at once: what they touch stays in the cache, for half the time of all at once."""


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

    @property
    def is_grey(self) -> bool:
        """Whether there is luma alone."""
        return not self.chroma

    def rows(self, top: int, bottom: int) -> Planes:
        """The rows from `top`, which is even, to before `bottom`."""
        chroma = (plane[top // 2 : half_up(bottom)] for plane in self.chroma)
        return Planes(self.y[top:bottom], *chroma)

    def resized(self, size: tuple[int, int]) -> Planes:
        """The same picture at `size` (width, height), not larger than it is."""
        planes = self
        while planes.size != size and planes._shrinks_fast(size):
            is_near = 2 * size[0] > planes.size[0]
            shrink = three_quarters if is_near else halved
            planes = Planes(*(shrink(dense_rows(c)) for c in (planes.y, *planes.chroma)))
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

    def _shrinks_fast(self, size: tuple[int, int]) -> bool:
        """Whether the next step towards `size` needs no resampling, of any plane."""
        near = 4 if 2 * size[0] > self.size[0] else 2
        whole = all(not side % near for plane in (self.y, *self.chroma) for side in plane.shape)
        return whole and shrinks_fast(self.size, size)

    def turned(self, rotation: int, *, mirror: bool) -> Planes:
        """Turned clockwise by `rotation` degrees, then mirrored; contiguous if changed.

        Where an odd side is turned or mirrored, chroma ends up one pixel off: a half-size plane
        cannot say that its first column covers one pixel only.
        """
        if not rotation and not mirror:
            return self
        return Planes(*(_turned(plane, rotation, mirror) for plane in (self.y, *self.chroma)))

    def sample(self, part: int = 0) -> tuple[Planes, float] | None:
        """Tiles from all over, and how much larger the whole is; `None` if it is too small.

        Args:
            part: 0, 1 or 2: which tiles; 0 has half as many.
        """
        width, height = self.size
        taken = tiles((self.y, *self.chroma), width, height, part)
        if taken is None:
            return None
        return Planes(*taken), width * height / taken[0].size

    def activity(self) -> float:
        """How much neighbouring pixels differ, 0 to 16."""
        return activity(self.y)


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

    @property
    def is_grey(self) -> bool:
        """Whether there is luma alone."""
        return False

    def rows(self, top: int, bottom: int) -> Interleaved:
        """The rows from `top` to before `bottom`."""
        return Interleaved(self.pixels[top:bottom], self.order)

    def picture(self, *, into: Image.Image | None = None) -> Image.Image:
        """The same picture in Pillow's mode ``RGB``, copied.

        Args:
            into: One to be overwritten with it, if it has the same size.
        """
        packed = np.ascontiguousarray(self.pixels)
        if into is not None and into.size == self.size:
            into.frombytes(packed, "raw", self.order, 0, 1)
            return into
        # Not frombuffer: it may read in place, and the picture would change with the array.
        return Image.frombytes("RGB", self.size, packed, "raw", self.order, 0, 1)

    def resized(self, size: tuple[int, int]) -> Interleaved:
        """The same picture at `size` (width, height), not larger than it is."""
        if size == self.size:
            return self

        def rows(top: int, bottom: int) -> Image.Image:
            return self.rows(top, bottom).picture()

        return Interleaved(shrunk(rows, self.size, size), "RGB")

    def sample(self, part: int = 0) -> tuple[Interleaved, float] | None:
        """Tiles from all over, and how much larger the whole is; `None` if it is too small.

        Args:
            part: 0, 1 or 2: which tiles; 0 has half as many.
        """
        width, height = self.size
        taken = tiles((self.pixels,), width, height, part)
        if taken is None:
            return None
        return Interleaved(taken[0], self.order), width * height / taken[0][:, :, 0].size

    def activity(self) -> float:
        """How much neighbouring pixels differ in green, 0 to 16."""
        return activity(self.pixels[:, :, 1])


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
        pixels_of(picture if picture.mode == "RGB" else picture.convert("RGB")), "RGB"
    )


def half_up(length: int) -> int:
    """Samples of chroma that `length` pixels have."""
    return (length + 1) // 2


def dense_rows(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`plane` itself if the samples of its rows lie side by side, else a copy."""
    # Not ascontiguousarray, to which the stride of a single column is of no account.
    return plane if plane.strides[-1] == 1 else np.array(plane, order="C")


def _turned(plane: NDArray[np.uint8], rotation: int, mirror: bool) -> NDArray[np.uint8]:
    turned = np.rot90(plane, -rotation // 90)
    if mirror:
        turned = turned[:, ::-1]
    copied = np.empty(turned.shape, np.uint8)
    for left in range(0, turned.shape[1], _BAND):
        copied[:, left : left + _BAND] = turned[:, left : left + _BAND]
    return copied
