"""Faces as text: the same bytes as of rounded numbers, for any names and numbers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_detect.exchange.wire_faces import face_from_json, faces_to_text
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint

from ..fuzzing import examples

places = st.floats(-1e6, 1e6) | st.integers(-100_000, 100_000).map(lambda n: n / 1000)
names = st.sampled_from([*KEYPOINT_NAMES, "%s", 'a"b', "x.10,", "1.50]", "ä"])


@st.composite
def faces(draw: st.DrawFn) -> Face:
    x = sorted([draw(places), draw(places)])
    y = sorted([draw(places), draw(places)])
    score = draw(st.none() | st.floats(0, 1))
    points = draw(st.lists(st.builds(Keypoint, names, places, places), unique_by=lambda p: p.name))
    return Face(BoundingBox(x[0], y[0], x[1], y[1]), score, tuple(points))


def rounded(face: Face) -> dict[str, Any]:
    value: dict[str, Any] = {"box": [round(side, 2) for side in face.box.xyxy]}
    if face.score is not None:
        value["score"] = round(face.score, 4)
    if face.keypoints:
        value["keypoints"] = {p.name: [round(p.x, 2), round(p.y, 2)] for p in face.keypoints}
    return value


@given(st.lists(faces(), max_size=4))
@settings(max_examples=examples(200))
def test_numbers_are_rounded_and_written_as_json_has_them(seen: list[Face]) -> None:
    text = faces_to_text(seen)
    assert json.loads(text) == [rounded(face) for face in seen]
    usual = {p.name for face in seen for p in face.keypoints} <= set(KEYPOINT_NAMES)
    if usual:
        assert text == json.dumps([rounded(face) for face in seen], separators=(",", ":"))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_word_for_is_refused(bad: float) -> None:
    box = BoundingBox(0.0, 0.0, 1.0, 1.0)
    for face in (Face(box, 0.5, (Keypoint("nose_tip", 1.0, bad),)), Face(box, bad)):
        with pytest.raises(ValueError, match="finite"):
            faces_to_text([face])


def test_a_face_is_read_as_it_was_written() -> None:
    face = Face(BoundingBox(1.5, -2.25, 30.0, 40.1), 0.875, (Keypoint("nose_tip", 3.5, 4.25),))
    (value,) = json.loads(faces_to_text([face]))
    assert face_from_json(value) == face
