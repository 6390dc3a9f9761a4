"""Ladders: the sizes a picture may be sent at, and the quality below which each gives way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

__all__ = ["FACE_SIDE_PX", "MIN_SIDE_PX", "Ladder", "ladder_of"]

MIN_SIDE_PX = 64
"""No longer side is shrunk below this: a face in it could hardly be distinguished from noise."""

FACE_SIDE_PX = 14
"""The height a face needs in the compressed picture to be found.

Source: docs/explanation/compression.md; a cascade lost nothing at 14 to 16 px, a sixth at 10.
"""

_FLOORS = ((960, 40), (480, 25), (0, 10))
"""Longer side from which on a quality is the lowest worth sending at that size.

Below it the next smaller picture, at a better quality, shows more in as many bytes.
"""

_FLOORS_BETWEEN = ((800, 50), (400, 20), (0, 10))
"""The same for three quarters of a size. That of 960 is where SSIMULACRA2 prefers 640; SSIM would
go on to 30, at twice the time.
"""

_GRAIN = 8
"""Sides must be multiples of this for three quarters of luma and chroma to be whole."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """Sizes from the largest down, for a rate controller."""

    sizes: tuple[tuple[int, int], ...]
    """Width and height of each."""
    floors: tuple[int, ...]
    """The quality of each below which a smaller one shows more."""
    scales: tuple[float, ...]
    """Sides of each as a share of the largest's."""


@lru_cache(maxsize=32)
def ladder_of(
    size: tuple[int, int],
    longer_side: int,
    min_face_px: float | None,
    *,
    fine: bool,
    min_side_px: int = 1,
) -> Ladder:
    """`size`, its halves, and what lies between them, as long as they show anything.

    Args:
        size: Width and height of the largest.
        longer_side: Of the picture in which faces are at least `min_face_px` high.
        min_face_px: That height.
        fine: Whether there are three quarters of each, too, where they are whole.
        min_side_px: The least pixels of the shorter side.
    """
    sizes, floors = [size], [_floor(size, _FLOORS)]
    times = 1
    while True:
        width, height = (max(1, round(side / times)) for side in size)
        half = tuple(max(1, round(side / times / 2)) for side in size)
        steps = [((half[0], half[1]), _FLOORS)]
        if fine and not any(side % (_GRAIN * times) for side in size):
            steps.insert(0, ((width // 4 * 3, height // 4 * 3), _FLOORS_BETWEEN))
        for smaller, table in steps:
            scale = longer_side / max(smaller)
            is_too_small = max(smaller) < MIN_SIDE_PX or min(smaller) < min_side_px
            if is_too_small or (min_face_px is not None and min_face_px < FACE_SIDE_PX * scale):
                scales = tuple(max(one) / max(size) for one in sizes)
                return Ladder(tuple(sizes), tuple(floors), scales)
            sizes.append(smaller)
            floors.append(_floor(smaller, table))
        times *= 2


def _floor(size: tuple[int, int], table: tuple[tuple[int, int], ...]) -> int:
    return next(quality for side, quality in table if max(size) >= side)
