"""Faces as the wire format has them: JSON objects with ``box``, ``score`` and ``keypoints``.

They are most of a reply, and a server writes many. So the text is filled in, not made of objects
whose numbers are rounded first: that takes a third of the time. A detector's process writes it
where the faces are, and the server passes it on as `WrittenFaces`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, overload

from hybrid_detect.exchange.wire_values import coordinate, fail, number
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint

__all__ = ["MAX_FACES", "WrittenFaces", "face_from_json", "faces_to_text", "most_certain"]

MAX_FACES = 500
"""Faces in a reply; of more, a server sends the most certain ones. A client's event loop reads so
many in 10 ms."""


@cache
def _pattern() -> re.Pattern[str]:
    """What matches the text of faces as `_form` writes it, with the first of `KEYPOINT_NAMES`.

    It is compiled when it is first needed: that takes 3 ms, and clients never need it.
    """
    # Seven digits hold `MAX_COORDINATE_PX`, and bound the length of a reply. JSON knows no leading
    # zeros. A ``+`` behind a count gives nothing back, which halves the time.
    number, score = (rf"-?+(?:0|[1-9][0-9]{{0,6}}+)\.[0-9]{{1,{most}}}+" for most in (2, 4))
    first, *others = (rf'"{name}":\[{number},{number}\]' for name in KEYPOINT_NAMES)
    more = ""
    for point in reversed(others):
        more = f"(?:,{point}{more})?+"
    box = rf'"box":\[{number},{number},{number},{number}\]'
    face = rf'\{{{box}(?:,"score":{score})?+(?:,"keypoints":\{{{first}{more}\}})?+\}}'
    return re.compile(rf"\[(?:{face}(?:,(?=\{{)|(?=\])))*+\]")


_BOX = re.compile(r'"box":\[([^],]+),([^],]+),([^],]+),([^],]+)\]')
_LAST_ZERO = re.compile(r"0(?<=\.[0-9]0)(?=[],])")
"""Of two decimals, a second one that says nothing."""


class WrittenFaces(Sequence[Face]):
    """Faces whose text is there; they become values once one of them is asked for.

    Args:
        text: What `faces_to_text` gives for faces with keypoints of `KEYPOINT_NAMES` alone. It may
            come from a process that a picture has taken over: so nothing else passes.

    Raises:
        ValueError: If it is anything else.
    """

    __slots__ = ("_count", "_read", "text")

    def __init__(self, text: str) -> None:
        if _pattern().fullmatch(text) is None:
            msg = "expected faces as text, got something else"
            raise ValueError(msg)
        boxes = _BOX.findall(text)
        for x_min, y_min, x_max, y_max in boxes:
            if float(x_max) < float(x_min) or float(y_max) < float(y_min):
                msg = "expected x_min <= x_max and y_min <= y_max, got a box turned inside out"
                raise ValueError(msg)
        self.text = text
        """The JSON array."""
        self._count = len(boxes)
        self._read: tuple[Face, ...] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Face: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Face, ...]: ...
    def __getitem__(self, index: int | slice) -> Face | tuple[Face, ...]:
        if self._read is None:
            self._read = tuple(map(face_from_json, json.loads(self.text)))
        return self._read[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WrittenFaces | tuple):
            return NotImplemented
        return self[:] == other[:]

    def __hash__(self) -> int:
        return hash(self[:])

    def __repr__(self) -> str:
        return repr(self[:])


def most_certain(faces: Sequence[Face]) -> Sequence[Face]:
    """`faces`, or the `MAX_FACES` of them with the highest scores."""
    if len(faces) <= MAX_FACES:
        return faces
    return tuple(sorted(faces, key=lambda face: face.score or 0.0, reverse=True)[:MAX_FACES])


def faces_to_text(faces: Iterable[Face]) -> str:
    """`faces` as a JSON array, to a hundredth of a pixel: far below what any detector can place.

    Raises:
        ValueError: If a number is not finite.
    """
    if isinstance(faces, WrittenFaces):
        return faces.text
    return _LAST_ZERO.sub("", f"[{','.join(map(_text_of, faces))}]")


def _text_of(face: Face) -> str:
    box, points = face.box, face.keypoints
    numbers = [box.x_min, box.y_min, box.x_max, box.y_max]
    if face.score is not None:
        numbers.append(round(face.score, 4))
    for point in points:
        numbers += point.x, point.y
    if not math.isfinite(sum(numbers)):  # JSON has no word for it
        msg = "expected finite numbers in a face"
        raise ValueError(msg)
    form = _form(face.score is not None, tuple([point.name for point in points]))
    return form % tuple(numbers)


@lru_cache(maxsize=64)
def _form(has_score: bool, names: tuple[str, ...]) -> str:
    """The text of a face with such parts; each ``%`` stands for a number, in their order."""
    form = '{"box":[%.2f,%.2f,%.2f,%.2f]'
    if has_score:
        form += ',"score":%s'
    if names:
        # No name may have what `_LAST_ZERO` looks for.
        quoted = (
            json.dumps(name).replace("%", "%%").replace(",", r"\u002c").replace("]", r"\u005d")
            for name in names
        )
        form += f',"keypoints":{{{",".join(f"{name}:[%.2f,%.2f]" for name in quoted)}}}'
    return form + "}"


def face_from_json(value: Any) -> Face:
    """The face that a peer described.

    Raises:
        ProtocolError: If it is none.
    """
    if not isinstance(value, dict):
        fail("a face as JSON object", type(value).__name__)
    box = value.get("box")
    if not isinstance(box, list) or len(box) != 4:
        fail("a box of four numbers", type(box).__name__)
    x_min, y_min, x_max, y_max = (coordinate(side, "box") for side in box)
    if x_max < x_min or y_max < y_min:
        fail("x_min <= x_max and y_min <= y_max", "a box turned inside out")
    points = value.get("keypoints", {})
    if not isinstance(points, dict):
        fail("keypoints as JSON object", type(points).__name__)
    score = value.get("score")
    return Face(
        BoundingBox(x_min, y_min, x_max, y_max),
        None if score is None else min(max(number(score, "score"), 0.0), 1.0),
        tuple(_point(name, points[name]) for name in KEYPOINT_NAMES if name in points),
    )


def _point(name: str, value: Any) -> Keypoint:
    if not isinstance(value, list) or len(value) != 2:
        fail("a keypoint of two numbers", type(value).__name__)
    return Keypoint(name, coordinate(value[0], name), coordinate(value[1], name))
