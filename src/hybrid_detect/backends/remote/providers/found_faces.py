"""From the boxes, scores and landmarks of any provider to faces, in one convention.

Providers give corners, corner and size, centre and size or a polygon, in pixels or in fractions;
boxes that reach out of the picture; scores to 1 or to 100, or none; and "left" from the viewer's
or from the person's side. What comes out lies inside the picture, and the person's right eye is
the one on the left of an upright face.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybrid_detect.errors import ProtocolError
from hybrid_detect.types import BoundingBox, Face, Keypoint

__all__ = [
    "BOX_FORMATS",
    "Point",
    "Unusable",
    "box_of",
    "box_of_polygon",
    "box_of_sides",
    "face_of",
    "faces_of",
    "keypoints_of",
    "score_of",
]

BOX_FORMATS = ("xyxy", "xywh", "cxcywh")
"""What the four numbers of a box are: corners, corner and size, or centre and size."""

Point = tuple[float | None, float | None]
"""A place in pixels; `None` for a coordinate that the provider could not compute."""


def box_of(
    sides: Sequence[float | None],
    *,
    box_format: str,
    width: int,
    height: int,
    is_fraction: bool = False,
) -> BoundingBox | None:
    """The box of `sides` in the pixels of a picture, cut at the picture's edges.

    Args:
        sides: Four numbers; `None` for one that is not finite.
        box_format: One of `BOX_FORMATS`.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        is_fraction: Whether they are fractions of `width` and `height`.

    Returns:
        The box; `None` if nothing of it lies in the picture, or a side is not finite.

    Raises:
        ProtocolError: If it is turned inside out.
    """
    finite = [side for side in sides if side is not None]
    if len(finite) != 4:
        return None
    box = box_of_sides(finite, box_format=box_format)
    if is_fraction:
        box = box.scaled(width, height)
    inside = box.clipped(width, height)
    return inside if inside.area > 0 else None


def box_of_sides(sides: Sequence[float], *, box_format: str) -> BoundingBox:
    """The box of four numbers in one of `BOX_FORMATS`, in the numbers' own unit.

    Raises:
        ProtocolError: If it is turned inside out.
    """
    first, second, third, fourth = sides
    if box_format == "cxcywh":
        first, second = first - third / 2, second - fourth / 2
    if box_format != "xyxy":
        third, fourth = first + third, second + fourth
    if third < first or fourth < second:
        msg = "expected a box with x_min <= x_max and y_min <= y_max, got one turned inside out"
        raise ProtocolError(msg)
    return BoundingBox(first, second, third, fourth)


def box_of_polygon(vertices: Iterable[Point], *, width: int, height: int) -> BoundingBox | None:
    """The upright box around `vertices`, as `box_of` gives it; `None` also without a vertex.

    A polygon may stand at an angle, and its corners may begin anywhere.
    """
    points = list(vertices)
    finite = [point for point in map(_finite, points) if point is not None]
    if not finite or len(finite) != len(points):
        return None
    across, down = zip(*finite, strict=True)
    sides = (min(across), min(down), max(across), max(down))
    return box_of(sides, box_format="xyxy", width=width, height=height)


def score_of(value: float | None, *, most: float = 1.0) -> float | None:
    """A score of 0 to `most` as one of 0 to 1; `None` if there is none. Never made up.

    Raises:
        ProtocolError: If it is outside by more than a rounding error.
    """
    if value is None:
        return None
    score = value / most
    if not -1e-3 <= score <= 1 + 1e-3:
        msg = f"expected a score from 0 to {most:g}, got one outside"
        raise ProtocolError(msg)
    return min(max(score, 0.0), 1.0)


def keypoints_of(
    *,
    eyes: Sequence[Point] = (),
    nose: Point | None = None,
    mouth: Sequence[Point] = (),
    ears: Sequence[Point] = (),
) -> tuple[Keypoint, ...]:
    """The keypoints in `KEYPOINT_NAMES`, named by where they lie instead of what they are called.

    "Left" is the viewer's at Google, undocumented at AWS and Azure, and a model's habit elsewhere.
    The person's right eye is the one that lies on the left once the face stands upright; which way
    is down is told by the line from the eyes to the mouth, or to the nose.

    Args:
        eyes: The two eyes in any order; fewer leave both out, because one alone has no side.
        nose: The tip of the nose.
        mouth: The two corners of the mouth in any order, or its centre alone.
        ears: The two ears in any order.
    """
    both_eyes = _pair(eyes)
    lips = [point for point in map(_finite, mouth) if point is not None]
    centre = _middle(lips) if lips and len(lips) == len(mouth) else None
    tip = _finite(nose) if nose is not None else None
    down = (0.0, 1.0)
    if both_eyes and (below := centre or tip):
        between = _middle(both_eyes)
        line = (below[0] - between[0], below[1] - between[1])
        down = line if any(line) else down

    def from_the_left(point: tuple[float, float]) -> float:
        return point[0] * down[1] - point[1] * down[0]

    named: list[tuple[str, tuple[float, float]]] = []
    if both_eyes:
        named += zip(("right_eye", "left_eye"), sorted(both_eyes, key=from_the_left), strict=True)
    if tip:
        named.append(("nose_tip", tip))
    if centre:
        named.append(("mouth_center", centre))
    if both_ears := _pair(ears):
        sides = ("right_ear_tragion", "left_ear_tragion")
        named += zip(sides, sorted(both_ears, key=from_the_left), strict=True)
    return tuple(Keypoint(name, *point) for name, point in named)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A face whose numbers the provider could not compute."""


def face_of(
    sides: Sequence[float | None],
    score: float | None,
    *,
    box_format: str,
    width: int,
    height: int,
    is_fraction: bool = False,
    keypoints: tuple[Keypoint, ...] = (),
) -> Face | Unusable | None:
    """The face with the box of `sides`, for `faces_of`; `None` if it lies outside the picture.

    Arguments and errors as in `box_of`.
    """
    if any(side is None for side in sides):
        return Unusable()
    box = box_of(sides, box_format=box_format, width=width, height=height, is_fraction=is_fraction)
    return None if box is None else Face(box, score, keypoints)


def faces_of(found: Iterable[Face | Unusable | None]) -> tuple[Face, ...]:
    """The faces in `found`, without those outside the picture and those without numbers.

    Raises:
        ProtocolError: If there are faces, and none of them has numbers: a model that computes NaN
            has not looked, and "no faces" would say that it has.
    """
    every = list(found)
    faces = tuple(face for face in every if isinstance(face, Face))
    if not faces and any(isinstance(face, Unusable) for face in every):
        msg = "expected finite numbers for the faces, got none that is"
        raise ProtocolError(msg)
    return faces


def _pair(points: Sequence[Point]) -> list[tuple[float, float]]:
    found = [point for point in map(_finite, points) if point is not None]
    return found if len(found) == 2 else []


def _finite(point: Point) -> tuple[float, float] | None:
    x, y = point
    if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
        return None
    return x, y


def _middle(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return (sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points))
