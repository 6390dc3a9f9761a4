"""Faces as text: the same bytes as of rounded numbers, for any names and numbers."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hybrid_detect.exchange.wire_faces import WrittenFaces, face_from_json, faces_to_text
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


# ---- faces that a detector's process has written


@st.composite
def found_faces(draw: st.DrawFn) -> Face:
    """As detectors give them: with the first of the named points."""
    face = draw(faces())
    points = draw(st.lists(st.tuples(places, places), max_size=len(KEYPOINT_NAMES)))
    named = zip(KEYPOINT_NAMES, points, strict=False)
    return Face(face.box, face.score, tuple(Keypoint(name, *point) for name, point in named))


@given(st.lists(found_faces(), max_size=4))
@settings(max_examples=examples(200))
def test_written_faces_are_passed_on_as_they_are_and_read_as_a_client_reads_them(
    seen: list[Face],
) -> None:
    text = faces_to_text(seen)
    written = WrittenFaces(text)
    assert faces_to_text(written) == text
    assert len(written) == len(seen)
    assert written == tuple(face_from_json(value) for value in json.loads(text))
    assert list(written) == [written[index] for index in range(len(seen))]


def test_the_largest_numbers_pass() -> None:
    largest = BoundingBox(-1e6, -1e6, 1e6, 1e6)
    text = faces_to_text([Face(largest, 0.0001), Face(largest, 1.0)])
    assert WrittenFaces(text).text == text


def test_written_faces_are_equal_to_others_with_their_values() -> None:
    face = Face(BoundingBox(1.0, 2.0, 3.0, 4.0), 0.5)
    written = WrittenFaces(faces_to_text([face]))
    assert written == WrittenFaces(faces_to_text([face])) == (face,)
    assert hash(written) == hash((face,))
    assert repr(written) == repr((face,))
    assert written != ()
    assert written != [face]


GOOD = (
    '[{"box":[1.0,2.0,3.0,4.5],"score":0.5,"keypoints":{"right_eye":[1.0,2.0],'
    '"left_eye":[3.0,4.0]}},{"box":[0.0,0.0,1.0,1.0]}]'
)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("[{", "{"),
        ("4.5", "4.50}],"),
        ("4.5", "04.5"),
        ("4.5", "4"),
        ("4.5", "4.555"),
        ("4.5", "NaN"),
        ("4.5", "1e5"),
        ("4.5", "٤.5"),
        ("3.0,4.5", "-3.0,4.5"),
        ("2.0,3.0,4.5", "5.0,3.0,4.5"),
        ("3.0,4.5", "3.0"),
        ("4.5", "1" * 8 + ".5"),  # longer than any reader takes
        ("4.5", "1" * 310 + ".0"),
        ("4.5", "9" * 309 + ".0"),  # to any reader, infinity
        ('"score"', '"name"'),
        ('"score":0.5', '"score":"high"'),
        ('"score":0.5', '"score":0.5,"score":0.5'),
        ('"score":0.5', '"score":0.12345'),
        ('"left_eye"', '"right_eye"'),
        ('"left_eye"', '"nose_tip"'),
        ('"right_eye"', '"left_eye"'),
        ('"keypoints":{"right_eye":[1.0,2.0],"left_eye":[3.0,4.0]}', '"keypoints":{}'),
        ("},{", "},,{"),
        ("},{", "}{"),
        ("}]", "},]"),
        ("}]", '}],"model":"mine"'),
        ("}]", "}]\n"),
        ("[{", "[ {"),
    ],
)
def test_nothing_but_faces_passes(part: str, other: str) -> None:
    """Whatever a picture has made of the process, it says no more in a reply than faces."""
    assert len(WrittenFaces(GOOD)) == 2
    assert part in GOOD
    changed = GOOD.replace(part, other, 1)
    with pytest.raises(ValueError, match="expected"):
        WrittenFaces(changed)


def test_one_keypoint_alone_passes() -> None:
    assert len(WrittenFaces(GOOD.replace(',"left_eye":[3.0,4.0]', ""))) == 2


@given(
    st.lists(
        st.tuples(st.integers(0, len(GOOD)), st.integers(0, 3), st.text('[]{},:".-0169eNa ')),
        max_size=3,
    )
)
@settings(max_examples=examples(300))
def test_what_passes_is_json_of_faces_alone(changes: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for at, gone, more in changes:
        text = text[:at] + more + text[at + gone :]
    try:
        written = WrittenFaces(text)
    except ValueError:
        return
    values = json.loads(text)
    assert [set(value) - {"box", "score", "keypoints"} for value in values] == [set()] * len(
        written
    )
    assume(not re.search("[0-9]{7}", text))  # the longest numbers may be too large for readers
    assert len([face_from_json(value) for value in values]) == len(written)
