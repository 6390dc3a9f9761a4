"""Face regions: the pixels of faces and of a margin around them, destroyed or alone kept."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.types import BoundingBox

__all__ = ["FaceRegion", "filled", "kept_alone", "pixelated"]

Area: TypeAlias = tuple[slice, slice]
"""Rows and columns of a picture."""

FILL = 0
"""Level of all channels, the same for all faces: a mean of each would reveal the skin's colour."""

BLOCKS = 3
"""Blocks a region has in each direction."""

NOISE = 24
"""Levels of 255 by which a block is off at most, either way."""

_chance = secrets.SystemRandom()
"""The operating system's randomness: what was drawn cannot be drawn again and undone."""


@dataclass(frozen=True, slots=True)
class FaceRegion:
    """Where a face is, in whole pixels of a picture; it may reach past the picture's edges."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def around(cls, box: BoundingBox, *, margin: float) -> FaceRegion:
        """`box`, grown at each side by `margin` times its own width or height."""
        wide, high = margin * box.width, margin * box.height
        return cls(
            math.floor(box.x_min - wide),
            math.floor(box.y_min - high),
            math.ceil(box.x_max + wide),
            math.ceil(box.y_max + high),
        )

    @property
    def area(self) -> Area:
        """All of it that can lie in a picture; past the far edges, slices end by themselves."""
        return _area(self.top, self.bottom, self.left, self.right)

    def blocks(self) -> Iterator[Area]:
        """`BLOCKS` times `BLOCKS` areas that cover it.

        They are those of the whole region: the part of a face that an edge of the picture leaves
        is not shown in finer ones.
        """
        wide = -(-(self.right - self.left) // BLOCKS)
        high = -(-(self.bottom - self.top) // BLOCKS)
        for top in range(self.top, self.bottom, max(1, high)):
            for left in range(self.left, self.right, max(1, wide)):
                yield _area(top, min(top + high, self.bottom), left, min(left + wide, self.right))


def filled(picture: NDArray[np.uint8], regions: Iterable[FaceRegion]) -> NDArray[np.uint8]:
    """A copy of `picture`, shape ``(height, width, 3)``, with one colour in all of `regions`."""
    done = picture.copy()
    for region in regions:
        done[region.area] = FILL
    return done


def pixelated(picture: NDArray[np.uint8], regions: Iterable[FaceRegion]) -> NDArray[np.uint8]:
    """A copy of `picture`, shape ``(height, width, 3)``, with few blocks in each of `regions`.

    Each has the mean of another one's pixels, with noise: no colour is where it was.
    """
    done = picture.copy()
    for region in regions:
        blocks = [block for block in region.blocks() if picture[block].size]
        means = [picture[block].mean(axis=(0, 1)) for block in blocks]
        _chance.shuffle(means)
        for block, mean in zip(blocks, means, strict=True):
            noise = [_chance.randint(-NOISE, NOISE) for _ in range(3)]
            done[block] = np.clip(mean.round() + noise, 0, 255)
    return done


def kept_alone(picture: NDArray[np.uint8], regions: Iterable[FaceRegion]) -> NDArray[np.uint8]:
    """A new picture of the same shape with the pixels of `regions` and one colour elsewhere."""
    done = np.full_like(picture, FILL)
    for region in regions:
        done[region.area] = picture[region.area]
    return done


def _area(top: int, bottom: int, left: int, right: int) -> Area:
    # A negative slice would count from the picture's far edge.
    return (
        slice(max(0, top), max(0, bottom)),
        slice(max(0, left), max(0, right)),
    )
