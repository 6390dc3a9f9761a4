"""From a model's output tensors to faces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.backends.remote.providers.answers import MAX_FACES, each_apart
from hybrid_detect.backends.remote.providers.found_faces import (
    BOX_FORMATS,
    Point,
    Unusable,
    face_of,
    faces_of,
    keypoints_of,
    score_of,
)
from hybrid_detect.backends.remote.providers.options import checked_choice
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import ConfigurationError, ProtocolError
from hybrid_detect.types import Face, Keypoint

__all__ = ["FaceTensors"]

UNITS = ("pixels", "fraction")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceTensors:
    """Which output is what, and in which numbers.

    Raises:
        ConfigurationError: If a value cannot be used.
    """

    boxes: str
    scores: str
    landmarks: str
    box_format: str
    unit: str
    score_max: float

    def __post_init__(self) -> None:
        if not self.boxes:
            msg = "boxes: expected the name of an output, got an empty one"
            raise ConfigurationError(msg)
        checked_choice(self.box_format, "box_format", BOX_FORMATS)
        checked_choice(self.unit, "unit", UNITS)
        if not 0 < self.score_max < math.inf:
            msg = f"score_max: expected above 0, got {self.score_max!r}"
            raise ConfigurationError(msg)

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs that are read."""
        return tuple(name for name in (self.boxes, self.scores, self.landmarks) if name)

    @property
    def keypoints(self) -> tuple[str, ...]:
        """The keypoints that faces have."""
        return ("right_eye", "left_eye", "nose_tip", "mouth_center") if self.landmarks else ()

    def read(
        self, outputs: Mapping[str, NDArray[np.float64]], pictures: Sequence[CompressedImage]
    ) -> tuple[tuple[Face, ...] | ProtocolError, ...]:
        """The faces in `outputs` for each of `pictures`, in that picture's pixels.

        A row of zeros is no face: models of a fixed number of rows fill up with them, as any does
        for the pictures of a batch that have fewer faces than others.

        Returns:
            For each picture its faces; or, of several, the error of one whose boxes or scores
            cannot be read.

        Raises:
            ProtocolError: If an output is missing, the outputs are of different lengths, or those
                of a lone picture cannot be read.
        """
        for name in self.names:
            if name not in outputs:
                msg = f"expected an output of numbers named {name!r}, got none"
                raise ProtocolError(msg)
            if len(outputs[name]) % len(pictures):
                msg = f"expected as many numbers for each of {len(pictures)} pictures in {name!r}"
                raise ProtocolError(msg)
        parts = {name: np.split(outputs[name], len(pictures)) for name in self.names}
        return each_apart(
            lambda number: self._one(
                {name: part[number] for name, part in parts.items()}, pictures[number]
            ),
            range(len(pictures)),
        )

    def _one(
        self, outputs: Mapping[str, NDArray[np.float64]], picture: CompressedImage
    ) -> tuple[Face, ...]:
        boxes = outputs[self.boxes]
        count, rest = divmod(len(boxes), 4)
        if rest:
            msg = f"expected four numbers for each box in {self.boxes!r}, got {len(boxes)} in all"
            raise ProtocolError(msg)
        scores = outputs[self.scores] if self.scores else np.full(count, np.nan)
        if len(scores) != count:
            msg = f"expected a score for each of {count} boxes, got {len(scores)}"
            raise ProtocolError(msg)
        rows = boxes.reshape(count, 4)
        self._check_unit(rows)
        points = self._points(outputs, count)
        filled = np.flatnonzero(rows.any(axis=1)).tolist()
        if len(filled) > MAX_FACES:
            msg = f"expected at most {MAX_FACES} faces in {self.boxes!r}, got {len(filled)}"
            raise ProtocolError(msg)
        return faces_of(
            self._face(rows[number], float(scores[number]), points[number], picture)
            for number in filled
        )

    def _check_unit(self, rows: NDArray[np.float64]) -> None:
        """Notice fractions taken for pixels, and pixels for fractions."""
        largest = float(np.nanmax(np.abs(rows))) if np.isfinite(rows).any() else 0.0
        if self.unit == "pixels" and 0 < largest <= 2:
            msg = "expected boxes in pixels, got none beyond 2: set unit to fraction"
            raise ProtocolError(msg)
        if self.unit == "fraction" and largest > 10:
            msg = "expected boxes in fractions, got one beyond 10: set unit to pixels"
            raise ProtocolError(msg)

    def _points(
        self, outputs: Mapping[str, NDArray[np.float64]], count: int
    ) -> list[NDArray[np.float64] | None]:
        if not self.landmarks:
            return [None] * count
        numbers = outputs[self.landmarks]
        if len(numbers) not in {10 * count, 15 * count}:
            msg = (
                f"expected ten or fifteen numbers for each of {count} faces in "
                f"{self.landmarks!r}, got {len(numbers)} in all"
            )
            raise ProtocolError(msg)
        return list(numbers.reshape(count, 5, -1)[:, :, :2])

    def _face(
        self,
        row: NDArray[np.float64],
        score: float,
        points: NDArray[np.float64] | None,
        picture: CompressedImage,
    ) -> Face | Unusable | None:
        has_score = not math.isnan(score)
        if self.scores and not has_score:
            return Unusable()
        return face_of(
            [_finite(side) for side in row.tolist()],
            score_of(score, most=self.score_max) if has_score else None,
            box_format=self.box_format,
            width=picture.width,
            height=picture.height,
            is_fraction=self.unit == "fraction",
            keypoints=() if points is None else self._keypoints(points, picture),
        )

    def _keypoints(
        self, points: NDArray[np.float64], picture: CompressedImage
    ) -> tuple[Keypoint, ...]:
        if self.unit == "fraction":
            points = points * (picture.width, picture.height)
        first, second, nose, *mouth = (_point(x, y) for x, y in points.tolist())
        return keypoints_of(eyes=(first, second), nose=nose, mouth=mouth)


def _point(x: float, y: float) -> Point:
    return _finite(x), _finite(y)


def _finite(value: float) -> float | None:
    return value if abs(value) < 1e9 else None
