"""Samples: small parts of a picture, from which the bytes of the whole are estimated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["activity", "tiles"]

# The constants were measured; docs/explanation/compression.md says how, and on what.

_BLOCK = 16
"""Side of what JPEG codes at once at 4:2:0, in pixels. Source: ITU-T T.81, A.2.3."""

_WIDE = 640
"""Width from which on a tile has two blocks: fewer joins, which cost bytes of their own."""

_TILES = (2, 4, 4)
"""Tiles of each part in each row of blocks. Four are a tenth of 1280 pixels, and err half as much
as a single large one of that area; the first part only says at what quality to take the second.
"""

_RAREST = 5
"""At most one tile in so many is taken."""

_GOLDEN = 0.618034
"""Steps of this fraction spread evenly, however many there are."""

_ACTIVITY_ROWS = 12
"""Rows looked at for the activity; their sums must stay below 256."""

_STEEP = 16
"""Differences of neighbours count up to this: a contour costs JPEG little more than a step."""


def tiles(
    arrays: Sequence[NDArray[np.uint8]], width: int, height: int, part: int
) -> list[NDArray[np.uint8]] | None:
    """A few tiles of each row of blocks, as a narrow picture; `None` if there is hardly one.

    Args:
        arrays: What covers the picture: planes of it at full or half size, or its pixels.
        width: Of the picture.
        height: Of the picture.
        part: 0, 1 or 2: which tiles; 0 has half as many.
    """
    side = _BLOCK * (2 if width >= _WIDE else 1)
    rows, count = height // _BLOCK, width // side
    picks = min(_TILES[part], count // _RAREST)
    if not rows or not picks:
        return None
    row, column = _places(rows, count, picks, part)
    taken = []
    for array in arrays:
        scale = 1 if array.shape[:2] == (height, width) else 2
        high, wide = _BLOCK // scale, side // scale
        # Splitting axes is always a view, and it cannot reach outside the array.
        grid = array[: rows * high, : count * wide].reshape(
            rows, high, count, wide, *array.shape[2:]
        )
        chosen = grid[row, :, column].swapaxes(1, 2)
        taken.append(chosen.reshape(rows * high, picks * wide, *array.shape[2:]))
    return taken


def activity(luma: NDArray[np.uint8]) -> float:
    """How much neighbouring pixels differ, 0 to 16, in a few rows."""
    apart = -(-len(luma) // _ACTIVITY_ROWS)
    rows = luma[apart // 2 :: apart or 1]
    if not rows.size or rows.shape[1] < 2:
        return 0.0
    left, right = rows[:, :-1], rows[:, 1:]
    steps = np.maximum(left, right)
    steps -= np.minimum(left, right)
    np.minimum(steps, _STEEP, out=steps)
    # In bytes first, which is twice as fast.
    columns = steps.sum(axis=0, dtype=np.uint8)
    return int(columns.sum(dtype=np.uint32)) / steps.size


@lru_cache(maxsize=64)
def _places(
    rows: int, count: int, picks: int, part: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of each tile: evenly spread in every row, moving on from row to row."""
    gap = count / picks
    row = np.arange(rows)[:, None]
    start = (row * _GOLDEN + part / len(_TILES)) % 1 * gap
    return row, (start + gap * np.arange(picks)).astype(np.intp)
