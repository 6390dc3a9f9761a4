"""Faces and where they are, in pixels of the upright picture.

That is the image the caller gave, with its EXIF orientation (or a camera image's declared rotation
and mirror) applied, before any resizing of ours. The origin is the top left corner; x grows to the
right, y downward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["KEYPOINT_NAMES", "BoundingBox", "Face", "Keypoint"]

KEYPOINT_NAMES = (
    "right_eye",
    "left_eye",
    "nose_tip",
    "mouth_center",
    "right_ear_tragion",
    "left_ear_tragion",
)
"""The six keypoints in MediaPipe's order; left and right are the person's own.

Source: MediaPipe, `face_detection.py`, enum `FaceKeyPoint`.
"""


_INF = math.inf


@dataclass(frozen=True, slots=True)
class Keypoint:
    """A named point of a face, in pixels of the upright picture."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class BoundingBox:
    """An axis-aligned box in pixels of the upright picture; the maxima are exclusive."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    def __post_init__(self) -> None:
        # One look at each number, and NaN compares false.
        if -_INF < self.x_min <= self.x_max < _INF and -_INF < self.y_min <= self.y_max < _INF:
            return
        if not all(map(math.isfinite, self.xyxy)):
            msg = f"expected four finite numbers, got {self.xyxy}"
            raise ValueError(msg)
        msg = f"expected x_min <= x_max and y_min <= y_max, got {self.xyxy}"
        raise ValueError(msg)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """``(x_min, y_min, x_max, y_max)``."""
        return (self.x_min, self.y_min, self.x_max, self.y_max)

    def to_dict(self) -> dict[str, float]:
        """The four sides by name."""
        return {"x_min": self.x_min, "y_min": self.y_min, "x_max": self.x_max, "y_max": self.y_max}

    @property
    def width(self) -> float:
        """Width in pixels."""
        return self.x_max - self.x_min

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.y_max - self.y_min

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return self.width * self.height

    def iou(self, other: BoundingBox) -> float:
        """Intersection over union with `other`, 0 to 1."""
        width = min(self.x_max, other.x_max) - max(self.x_min, other.x_min)
        height = min(self.y_max, other.y_max) - max(self.y_min, other.y_min)
        if width <= 0 or height <= 0:
            return 0.0
        overlap = width * height
        union = self.area + other.area - overlap
        return overlap / union if union > 0 else 0.0  # boxes too small for their area to be told

    def scaled(self, scale_x: float, scale_y: float) -> BoundingBox:
        """This box in a picture `scale_x` by `scale_y` times as large."""
        return BoundingBox(
            self.x_min * scale_x, self.y_min * scale_y, self.x_max * scale_x, self.y_max * scale_y
        )

    def clipped(self, width: float, height: float) -> BoundingBox:
        """The part of this box inside a picture of `width` by `height`; may be empty."""
        return BoundingBox(
            min(max(self.x_min, 0.0), width),
            min(max(self.y_min, 0.0), height),
            min(max(self.x_max, 0.0), width),
            min(max(self.y_max, 0.0), height),
        )

    def normalized(self, width: float, height: float) -> BoundingBox:
        """This box in fractions of the picture's `width` and `height`."""
        return self.scaled(1 / width, 1 / height)


@dataclass(frozen=True, slots=True)
class Face:
    """One face: where it is, and how sure the detector was."""

    box: BoundingBox
    score: float | None = None
    """Confidence, 0 to 1; `None` where the provider gives none: it is never made up.

    A face without a score comes after those with one, and passes every `min_confidence`: the
    provider reports what it takes for a face, and a threshold cannot say that it is none.
    """
    keypoints: tuple[Keypoint, ...] = ()
    """Up to six points named as in `KEYPOINT_NAMES`."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The face that ``DetectionResult.to_dict()["faces"]`` has as `values`."""
        points = (Keypoint(name, *place) for name, place in values["keypoints"].items())
        return cls(BoundingBox(**values["box"]), values["score"], tuple(points))

    def fitted(self, *, scale_x: float, scale_y: float, width: int, height: int) -> Face | None:
        """This face scaled into a picture of `width` by `height`, or `None` if outside it."""
        box = self.box.scaled(scale_x, scale_y).clipped(width, height)
        if box.area <= 0:
            return None
        points = [Keypoint(p.name, p.x * scale_x, p.y * scale_y) for p in self.keypoints]
        return Face(box, self.score, tuple(points))
