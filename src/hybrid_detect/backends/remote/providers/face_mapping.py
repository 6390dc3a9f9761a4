"""From a provider's JSON to faces, in names instead of code; and the check of the faces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from hybrid_detect.backends.remote.providers.found_faces import BOX_FORMATS, box_of_sides
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import ConfigurationError, ProtocolError
from hybrid_detect.types import BoundingBox, Face

__all__ = ["FaceMapping", "checked_faces"]

UNITS = ("pixels", "fraction")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceMapping:
    """Where the faces stand in a JSON answer. Names with dots lead into objects.

    ::

        {"result": {"faces": [{"box": {"x1": 8, "y1": 9, "x2": 40, "y2": 52}, "p": 0.98}]}}
        FaceMapping(faces="result.faces", box="box.x1,box.y1,box.x2,box.y2", score="p")

    Raises:
        ConfigurationError: If a value cannot be used.
    """

    faces: str = "faces"
    """The list of faces; empty if the answer itself is the list."""
    box: str = "box"
    """The box of a face: one name of a list of four numbers, or four names parted by commas."""
    box_format: str = "xyxy"
    """What the four are: corners (``xyxy``), corner and size (``xywh``), centre and size
    (``cxcywh``)."""
    unit: str = "pixels"
    """``pixels`` of the picture that was sent, or ``fraction`` of its width and height."""
    score: str = ""
    """The score of a face; empty if it has none."""
    score_max: float = 1.0
    """What a score of certainty is: 1, or 100 for percent."""

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name != "score_max" and not isinstance(value, str):
                msg = f"{spec.name}: expected a text, got {type(value).__name__}"
                raise ConfigurationError(msg)
        if len(self.box.split(",")) not in {1, 4} or not all(self.box.split(",")):
            msg = f"box: expected one name or four parted by commas, got {self.box!r}"
            raise ConfigurationError(msg)
        if self.box_format not in BOX_FORMATS:
            msg = f"box_format: expected one of {', '.join(BOX_FORMATS)}, got {self.box_format!r}"
            raise ConfigurationError(msg)
        if self.unit not in UNITS:
            msg = f"unit: expected one of {', '.join(UNITS)}, got {self.unit!r}"
            raise ConfigurationError(msg)
        if isinstance(self.score_max, bool) or not isinstance(self.score_max, int | float):
            msg = f"score_max: expected a number, got {type(self.score_max).__name__}"
            raise ConfigurationError(msg)
        if not 0 < self.score_max < math.inf:
            msg = f"score_max: expected above 0, got {self.score_max!r}"
            raise ConfigurationError(msg)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """The mapping that `options` spell.

        Raises:
            ConfigurationError: If one is unknown or cannot be used.
        """
        known = {spec.name for spec in fields(cls)}
        if unknown := sorted(set(options) - known):
            msg = f"provider_options: {unknown[0]!r} is not an option of this provider"
            raise ConfigurationError(msg)
        return cls(**options)

    def __call__(self, answer: Any, picture: CompressedImage) -> list[Face]:
        """The faces in `answer`, in the pixels of `picture`.

        Raises:
            ProtocolError: If they are not where they should be.
        """
        found = _at(answer, self.faces)
        if not isinstance(found, list):
            msg = f"expected a list at {self.faces!r} of the answer, got {type(found).__name__}"
            raise ProtocolError(msg)
        return [self._face(each, picture) for each in found]

    def _face(self, value: Any, picture: CompressedImage) -> Face:
        names = self.box.split(",")
        sides = _at(value, names[0]) if len(names) == 1 else [_at(value, name) for name in names]
        if not isinstance(sides, list) or len(sides) != 4:
            msg = f"expected four numbers at {self.box!r} of a face, got {type(sides).__name__}"
            raise ProtocolError(msg)
        numbers = [_number(side, self.box) for side in sides]
        box = box_of_sides(numbers, box_format=self.box_format)
        if self.unit == "fraction":
            box = box.scaled(picture.width, picture.height)
        score = _number(_at(value, self.score), self.score) / self.score_max if self.score else None
        return Face(box, score)


def _at(value: Any, name: str) -> Any:
    for part in name.split(".") if name else ():
        if not isinstance(value, dict) or part not in value:
            msg = f"expected {name!r} in the answer, got no {part!r}"
            raise ProtocolError(msg)
        value = value[part]
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"expected a number at {name!r} of a face, got {type(value).__name__}"
        raise ProtocolError(msg)
    # An integer may have a thousand digits; nothing near it is a place in a picture.
    if not -1e9 < value < 1e9:
        msg = f"expected a number of usual size at {name!r} of a face, got another"
        raise ProtocolError(msg)
    return float(value)


def checked_faces(found: Iterable[Any], picture: CompressedImage) -> tuple[Face, ...]:
    """`found` as the faces of a reply, from a mapping or from a function of the user.

    A box across the edge of the picture is usual and is clipped later; one wholly outside is not,
    and says that the mapping takes fractions for pixels or one picture for another.

    Raises:
        ProtocolError: If one is no face, its numbers are not finite, its score is outside 0 to 1,
            or it lies outside the picture.
    """
    faces = []
    for face in found:
        if not isinstance(face, Face) or not isinstance(face.box, BoundingBox):
            msg = f"expected a Face from the mapping, got {type(face).__name__}"
            raise ProtocolError(msg)
        _check_face(face, picture)
        faces.append(face)
    return tuple(faces)


def _check_face(face: Face, picture: CompressedImage) -> None:
    numbers = [
        *face.box.xyxy,
        *(side for point in face.keypoints for side in (point.x, point.y)),
        *(() if face.score is None else (face.score,)),
    ]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        msg = "expected finite numbers for a face from the mapping, got another"
        raise ProtocolError(msg)
    if face.score is not None and not 0 <= face.score <= 1:
        msg = "expected a score from 0 to 1 from the mapping, got one outside"
        raise ProtocolError(msg)
    box = face.box
    if (
        box.x_max <= 0
        or box.y_max <= 0
        or box.x_min >= picture.width
        or box.y_min >= picture.height
    ):
        size = f"{picture.width}x{picture.height}"
        msg = f"expected a face inside the {size} picture from the mapping, got one outside"
        raise ProtocolError(msg)
