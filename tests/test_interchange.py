"""Rows for a table, and COCO."""

import csv
import dataclasses
import io
import json

import pytest

from hybrid_detect import to_coco, to_records
from hybrid_detect.errors import AllBackendsFailedError
from hybrid_detect.types import (
    BackendKind,
    BoundingBox,
    DetectionResult,
    DetectionStatus,
    Face,
    Keypoint,
)

FACE = Face(
    BoundingBox(10, 20, 50, 80), 0.9, (Keypoint("left_eye", 20, 40), Keypoint("nose_tip", 30, 50))
)
UNSURE = Face(BoundingBox(0, 0, 5, 5))
SEEN = DetectionResult(
    status=DetectionStatus.OK,
    width=100,
    height=200,
    faces=(FACE, UNSURE),
    backend=BackendKind.DEVICE,
    model="full_range",
    frame_id=7,
)
EMPTY = dataclasses.replace(SEEN, faces=(), frame_id=8)
FAILED = dataclasses.replace(EMPTY, status=DetectionStatus.FAILED, backend=None, frame_id=9)


def test_each_face_has_a_row_and_no_frame_is_lost() -> None:
    rows = to_records([SEEN, EMPTY, FAILED])
    assert [(row["frame_id"], row["face"], row["answered"]) for row in rows] == [
        (7, 0, True),
        (7, 1, True),
        (8, None, True),
        (9, None, False),
    ]
    first, second, *others = rows
    assert [first[side] for side in ("x_min", "y_min", "x_max", "y_max")] == [10, 20, 50, 80]
    assert (first["nose_tip_x"], first["nose_tip_y"], first["right_eye_x"]) == (30, 50, None)
    assert (first["score"], second["score"]) == (0.9, None)
    assert (first["backend"], first["model"]) == ("device", "full_range")
    assert all(row["x_min"] is None for row in others)


def test_rows_are_one_table() -> None:
    rows = to_records([SEEN, EMPTY])
    assert len({tuple(row) for row in rows}) == 1, "the same keys in the same order"
    file = io.StringIO()
    table = csv.DictWriter(file, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    read = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert [row["x_max"] for row in read] == ["50", "5", ""]


def test_no_results_are_no_rows() -> None:
    assert to_records([]) == []


def test_coco_has_images_annotations_and_one_category() -> None:
    data = json.loads(json.dumps(to_coco([("a.jpg", SEEN), ("b.jpg", EMPTY)])))
    assert data["images"] == [
        {"id": 1, "file_name": "a.jpg", "width": 100, "height": 200},
        {"id": 2, "file_name": "b.jpg", "width": 100, "height": 200},
    ]
    first, second = data["annotations"]
    assert (first["id"], first["image_id"], first["category_id"]) == (1, 1, 1)
    assert (first["bbox"], first["area"]) == ([10, 20, 40, 60], 2400)
    assert first["keypoints"] == [0, 0, 0, 20, 40, 2, 30, 50, 2, *[0] * 9]
    assert first["num_keypoints"] == 2
    assert first["score"] == 0.9
    assert "score" not in second
    (category,) = data["categories"]
    assert (category["id"], category["name"], len(category["keypoints"])) == (1, "face", 6)


def test_coco_cannot_say_that_none_looked() -> None:
    with pytest.raises(AllBackendsFailedError):
        to_coco([("a.jpg", SEEN), ("c.jpg", FAILED)])
