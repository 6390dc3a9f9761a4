"""Boxes, scores and landmarks of any provider, in one convention."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.remote.protocol import HttpResponse
from hybrid_detect.backends.remote.providers.answers import (
    MAX_FACES,
    items_of,
    json_of,
    number_of,
    numbers_of,
    object_of,
)
from hybrid_detect.backends.remote.providers.found_faces import (
    box_of,
    box_of_polygon,
    face_of,
    faces_of,
    keypoints_of,
    score_of,
)
from hybrid_detect.errors import ProtocolError
from hybrid_detect.types import BoundingBox, Face, Keypoint

WIDTH, HEIGHT = 64, 48
SIZE = {"width": WIDTH, "height": HEIGHT}
sides = st.floats(-200, 200)


def close(box: BoundingBox | None, other: BoundingBox | None) -> bool:
    if box is None or other is None:
        # A sliver of rounding may be inside for one and outside for the other.
        return all(b is None or b.width < 1e-9 or b.height < 1e-9 for b in (box, other))
    return all(abs(a - b) < 1e-6 for a, b in zip(box.xyxy, other.xyxy, strict=True))


@given(sides, sides, st.floats(0, 200), st.floats(0, 200))
def test_every_format_of_one_box_gives_the_same(x: float, y: float, w: float, h: float) -> None:
    corners = box_of((x, y, x + w, y + h), box_format="xyxy", **SIZE)
    assert close(corners, box_of((x, y, w, h), box_format="xywh", **SIZE))
    assert close(corners, box_of((x + w / 2, y + h / 2, w, h), box_format="cxcywh", **SIZE))
    fractions = (x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT)
    assert close(corners, box_of(fractions, box_format="xywh", is_fraction=True, **SIZE))
    vertices = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
    for turned in itertools.permutations(vertices):
        assert close(corners, box_of_polygon(turned, **SIZE))


@given(sides, sides, st.floats(0, 200), st.floats(0, 200))
def test_a_box_lies_in_the_picture_and_has_an_area(x: float, y: float, w: float, h: float) -> None:
    box = box_of((x, y, w, h), box_format="xywh", **SIZE)
    if box is None:
        assert x >= WIDTH or y >= HEIGHT or x + w <= 0 or y + h <= 0 or w * h < 1e-6
    else:
        assert 0 <= box.x_min < box.x_max <= WIDTH
        assert 0 <= box.y_min < box.y_max <= HEIGHT


@pytest.mark.parametrize("hole", range(4))
def test_a_box_without_a_number_is_none(hole: int) -> None:
    four: list[float | None] = [1.0, 1.0, 9.0, 9.0]
    four[hole] = None
    assert box_of(four, box_format="xyxy", **SIZE) is None
    assert box_of_polygon([(four[0], four[1]), (four[2], four[3])], **SIZE) is None


def test_a_polygon_without_vertices_is_none() -> None:
    assert box_of_polygon([], **SIZE) is None


def test_a_box_turned_inside_out_is_told() -> None:
    with pytest.raises(ProtocolError, match="inside out"):
        box_of((9, 9, 1, 1), box_format="xyxy", **SIZE)


@pytest.mark.parametrize(
    ("value", "most", "score"),
    [
        (None, 1, None),
        (0.0, 1, 0.0),
        (0.75, 1, 0.75),
        (1.0000001, 1, 1.0),
        (-1e-9, 1, 0.0),
        (99.97, 100, 0.9997),
        (100.00001, 100, 1.0),
    ],
)
def test_scores(value: float | None, most: float, score: float | None) -> None:
    assert score_of(value, most=most) == (None if score is None else pytest.approx(score))


@pytest.mark.parametrize(("value", "most"), [(1.5, 1), (-0.2, 1), (101, 100)])
def test_a_score_outside_is_told(value: float, most: float) -> None:
    with pytest.raises(ProtocolError, match="score from 0"):
        score_of(value, most=most)


UPRIGHT = {  # as the viewer sees a face, relative to its middle
    "right_eye": (-10.0, -8.0),
    "left_eye": (10.0, -8.0),
    "nose_tip": (0.0, 0.0),
    "mouth_right": (-7.0, 9.0),
    "mouth_left": (7.0, 9.0),
    "right_ear_tragion": (-20.0, -5.0),
    "left_ear_tragion": (20.0, -5.0),
}


@given(st.floats(0, 2 * math.pi), sides, sides, st.floats(0.1, 20), st.booleans())
def test_left_and_right_are_told_at_any_roll_and_under_any_name(
    roll: float, x: float, y: float, size: float, viewers: bool
) -> None:
    """The provider's "left" may be the viewer's: the names that go in do not matter."""

    def at(name: str) -> tuple[float, float]:
        dx, dy = UPRIGHT[name]
        turned = (
            dx * math.cos(roll) - dy * math.sin(roll),
            dx * math.sin(roll) + dy * math.cos(roll),
        )
        return x + size * turned[0], y + size * turned[1]

    first, second = ("left", "right") if viewers else ("right", "left")
    for nose, mouth in ((True, True), (True, False), (False, True)):
        points = keypoints_of(
            eyes=(at(f"{first}_eye"), at(f"{second}_eye")),
            nose=at("nose_tip") if nose else None,
            mouth=(at(f"mouth_{first}"), at(f"mouth_{second}")) if mouth else (),
            ears=(at(f"{first}_ear_tragion"), at(f"{second}_ear_tragion")),
        )
        found = {point.name: (point.x, point.y) for point in points}
        for name in ("right_eye", "left_eye", "right_ear_tragion", "left_ear_tragion"):
            assert found[name] == at(name)
        assert ("nose_tip" in found, "mouth_center" in found) == (nose, mouth)


def test_without_nose_and_mouth_the_face_is_taken_for_upright() -> None:
    assert keypoints_of(eyes=((30, 5), (10, 9))) == (
        Keypoint("right_eye", 10, 9),
        Keypoint("left_eye", 30, 5),
    )


def test_points_that_all_fall_together_are_no_division_by_zero() -> None:
    assert len(keypoints_of(eyes=((5, 5), (5, 5)), nose=(5, 5), mouth=((5, 5), (5, 5)))) == 4


def test_half_a_pair_and_what_is_not_finite_is_left_out() -> None:
    assert keypoints_of(eyes=((1, 1), (None, 1)), nose=(math.nan, 1), mouth=((1, 9),)) == (
        Keypoint("mouth_center", 1, 9),
    )
    assert keypoints_of(mouth=((1, 9), (None, None)), ears=((1, 1),)) == ()
    assert keypoints_of() == ()


def test_faces_outside_are_no_faces_and_faces_without_numbers_are_no_answer() -> None:
    def face(*four: float | None) -> object:
        return face_of(four, 0.5, box_format="xyxy", **SIZE)

    inside, outside, unknown = face(1, 1, 9, 9), face(70, 1, 90, 9), face(1, None, 9, 9)
    found = Face(BoundingBox(1, 1, 9, 9), 0.5)
    assert faces_of([inside, outside]) == (found,)  # type: ignore[list-item]
    assert faces_of([outside]) == faces_of([]) == ()  # type: ignore[list-item]
    assert faces_of([inside, unknown]) == (found,)  # type: ignore[list-item]
    with pytest.raises(ProtocolError, match="finite"):
        faces_of([outside, unknown])  # type: ignore[list-item]


@given(st.floats() | st.integers())
def test_a_number_is_finite_or_none_or_told(value: float) -> None:
    try:
        number = number_of(value, "x")
    except ProtocolError:
        assert abs(value) >= 1e9
        return
    assert number is None or number == value
    assert (number is None) == (not math.isfinite(value))


@pytest.mark.parametrize("value", [True, "1", [1], {}])
def test_what_is_no_number_list_or_object_is_told(value: object) -> None:
    with pytest.raises(ProtocolError, match="'x' of the answer"):
        number_of(value, "x")
    with pytest.raises(ProtocolError, match="'x' of the answer"):
        (object_of if isinstance(value, list) else items_of)(value, "x")


def test_a_number_that_is_not_there_has_a_default_and_null_is_none() -> None:
    given = {"x": 3, "z": None, "more": []}
    assert numbers_of(given, ("x", "y", "z")) == [3.0, 0.0, None]
    assert numbers_of(given, ("y",), missing=None) == [None]


def test_a_list_without_end_is_refused() -> None:
    with pytest.raises(ProtocolError, match=f"at most {MAX_FACES}"):
        items_of([0] * (MAX_FACES + 1), "faces")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "null"])
def test_what_is_not_finite_is_null(text: str) -> None:
    body = f'{{"data": [{text}, 1]}}'.encode()
    assert json_of(HttpResponse(status=200, body=body), provider="x") == {"data": [None, 1]}
