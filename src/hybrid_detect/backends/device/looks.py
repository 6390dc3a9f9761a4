"""More looks at one picture, where there is time for them: in parts, and turned.

========  ===========================================================================
``fast``  one look at the whole picture
``high``  if it found nothing, three more: turned by 90, 180 and 270 degrees
``max``   square tiles as well, in which small faces are large; turned as with ``high``
========  ===========================================================================

Tiles raise the F1 of full range on photos of groups from 0.38 to 0.80, at nine times the cost, and
find faces of 23 pixels in a picture of 1280x720 instead of 70. Source of tiles, overlap and
thresholds: chosen on 38 photos for the best mean F1 per photo, confirmed on 40 others
(`docs/explanation/models.md`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from hybrid_detect.types import BoundingBox, Face, Keypoint, QualityLevel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Look",
    "affordable",
    "count",
    "enough_for",
    "faces_at",
    "least_seconds",
    "longest_tile_px",
    "tiles",
]

Look: TypeAlias = "Callable[[NDArray[np.uint8]], tuple[Face, ...]]"
"""One look at a picture of shape (height, width, 3), uint8, RGB, C-contiguous."""

FURTHER_CONFIDENCE = 0.6
"""Lowest score of a face from a tile or a turned picture: at 0.5, every second photo without a face
got one."""

ROWS = 2
"""Tiles along the shorter side."""

OVERLAP = 0.25
"""Of a tile with the next: a face of a quarter of its side is whole in one of the two."""

EDGE_PX = 1.0
"""A box that comes this near to an edge inside the picture is a part of a face."""

MAX_IOU = 0.3
"""Of two faces that overlap by more, the better one stays."""

MAX_COVERED = 0.7
"""Of two faces of which one lies in the other by more of its area, the better one stays."""

MOST_TIMED, MOST_TIMED_S = 3, 0.03
"""Looks that are timed at the start of a detector, and seconds after which there is no further one:
an app waits for that start."""

DEADLINE_SHARE = 0.5
"""Of the time that a picture has left, the share that its looks may take: a busy machine may take
twice as long as it did before."""


def faces_at(level: QualityLevel, look: Look, image_rgb: NDArray[np.uint8]) -> tuple[Face, ...]:
    """The faces in a picture, best first where there was more than one look.

    Args:
        level: How thoroughly to look.
        look: Looks once.
        image_rgb: Shape (height, width, 3), uint8, RGB, C-contiguous.
    """
    found = look(image_rgb)
    if level is QualityLevel.MAX:
        found = _merged((*found, *_in_tiles(look, image_rgb)))
    if not found and level is not QualityLevel.FAST:
        found = _turned(look, image_rgb)
    return found


def count(level: QualityLevel, width: int, height: int) -> int:
    """The most looks that `faces_at` takes at a picture of that size."""
    if level is QualityLevel.FAST:
        return 1
    if level is QualityLevel.HIGH:
        return 4
    # Not by listing them: a picture of a million by one pixel has more than a million tiles.
    side = longest_tile_px(width, height)
    return 4 + _number(width, side) * _number(height, side)


def affordable(
    level: QualityLevel, width: int, height: int, *, look_s: float, left_s: float
) -> QualityLevel:
    """The most thorough level, up to `level`, that ends in time.

    Args:
        level: The level that was asked for.
        width: Pixels of the picture.
        height: Pixels of the picture.
        look_s: Seconds that one look takes.
        left_s: Seconds that the picture has left.
    """
    levels = list(QualityLevel)
    for cheaper in reversed(levels[1 : levels.index(level) + 1]):
        if count(cheaper, width, height) * look_s <= DEADLINE_SHARE * left_s:
            return cheaper
    return QualityLevel.FAST


def enough_for(level: QualityLevel, enough_px: int | None) -> int | None:
    """Pixels of a decoded picture's longer side that suffice, if `enough_px` do for one look."""
    if enough_px is None or level is not QualityLevel.MAX:
        return enough_px
    return enough_px * ROWS


def least_seconds(look: Callable[[], object], *, clock: Callable[[], float]) -> float:
    """Seconds that `look` takes: the least of a few, since a busy machine only adds to it.

    Args:
        look: Looks once.
        clock: ``time.process_time`` where the process does nothing else: what other programs take
            away does not count then.
    """
    least_s, spent_s = math.inf, 0.0
    for _ in range(MOST_TIMED):
        began_s = clock()
        look()
        took_s = clock() - began_s
        least_s, spent_s = min(least_s, took_s), spent_s + took_s
        if spent_s > MOST_TIMED_S:
            break
    return least_s


def longest_tile_px(width: int, height: int) -> int:
    """Side of the square tiles of a picture of that size."""
    return max(1, math.ceil(min(width, height) / (ROWS - (ROWS - 1) * OVERLAP)))


def tiles(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """The square tiles of a picture: left, top, right and bottom of each, in pixels.

    `ROWS` of them share the shorter side, and as many as it takes the longer one, evenly.
    """
    side = longest_tile_px(width, height)
    return [
        (left, top, min(left + side, width), min(top + side, height))
        for top in _starts(height, side)
        for left in _starts(width, side)
    ]


def _number(length: int, side: int) -> int:
    """Tiles along `length`."""
    return max(1, math.ceil((length - side) / (side * (1 - OVERLAP)) - 1e-6) + 1)


def _starts(length: int, side: int) -> list[int]:
    number = _number(length, side)
    return [round(index * (length - side) / max(number - 1, 1)) for index in range(number)]


def _in_tiles(look: Look, image_rgb: NDArray[np.uint8]) -> Iterator[Face]:
    import numpy as np

    height, width = image_rgb.shape[:2]
    for left, top, right, bottom in tiles(width, height):
        for face in look(np.ascontiguousarray(image_rgb[top:bottom, left:right])):
            box = face.box
            is_cut = (
                (left > 0 and box.x_min <= EDGE_PX)
                or (top > 0 and box.y_min <= EDGE_PX)
                or (right < width and box.x_max >= right - left - EDGE_PX)
                or (bottom < height and box.y_max >= bottom - top - EDGE_PX)
            )
            if not is_cut and _is_sure(face):
                yield _moved(face, left, top)


def _turned(look: Look, image_rgb: NDArray[np.uint8]) -> tuple[Face, ...]:
    """The faces of the turn that shows the surest one: a camera is turned as a whole."""
    import numpy as np

    height, width = image_rgb.shape[:2]
    best: tuple[Face, ...] = ()
    for quarters in (1, 2, 3):
        turned = np.ascontiguousarray(np.rot90(image_rgb, quarters))
        found = tuple(
            _turned_back(face, quarters, width, height) for face in look(turned) if _is_sure(face)
        )
        if found and (not best or _surest(found) > _surest(best)):
            best = found
    return best


def _turned_back(face: Face, quarters: int, width: int, height: int) -> Face:
    """A face of the picture turned anticlockwise, in the picture of `width` by `height`."""

    def back(x: float, y: float) -> tuple[float, float]:
        return ((width - y, x), (width - x, height - y), (y, height - x))[quarters - 1]

    box = face.box
    (x_1, y_1), (x_2, y_2) = back(box.x_min, box.y_min), back(box.x_max, box.y_max)
    return Face(
        BoundingBox(min(x_1, x_2), min(y_1, y_2), max(x_1, x_2), max(y_1, y_2)),
        face.score,
        tuple(Keypoint(point.name, *back(point.x, point.y)) for point in face.keypoints),
    )


def _moved(face: Face, right_by: int, down_by: int) -> Face:
    box = face.box
    return Face(
        BoundingBox(
            box.x_min + right_by, box.y_min + down_by, box.x_max + right_by, box.y_max + down_by
        ),
        face.score,
        tuple(Keypoint(p.name, p.x + right_by, p.y + down_by) for p in face.keypoints),
    )


def _merged(faces: tuple[Face, ...]) -> tuple[Face, ...]:
    """The best of each group that shows the same face."""
    kept: list[Face] = []
    for face in sorted(faces, key=_score, reverse=True):
        if not any(_is_same(face.box, other.box) for other in kept):
            kept.append(face)
    return tuple(kept)


def _is_same(one: BoundingBox, other: BoundingBox) -> bool:
    width = min(one.x_max, other.x_max) - max(one.x_min, other.x_min)
    height = min(one.y_max, other.y_max) - max(one.y_min, other.y_min)
    shared = max(width, 0.0) * max(height, 0.0)
    return one.iou(other) > MAX_IOU or shared > MAX_COVERED * min(one.area, other.area)


def _score(face: Face) -> float:
    return face.score or 0.0


def _surest(faces: tuple[Face, ...]) -> float:
    return max(map(_score, faces))


def _is_sure(face: Face) -> bool:
    return face.score is None or face.score >= FURTHER_CONFIDENCE
