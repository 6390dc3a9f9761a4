"""Many results in the forms that tools for data take: rows for a table, and COCO."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hybrid_detect.types import KEYPOINT_NAMES, DetectionResult, Face

__all__ = ["to_coco", "to_records"]

_OF_RESULT = (
    "model",
    "target",
    "provider",
    "region",
    "width",
    "height",
    "min_face_px",
    "age_s",
    "bytes_sent",
    "frame_id",
    "source_index",
    "captured_at_s",
    "source_time_s",
    "session_id",
)
"""Fields that a row takes from its result as they are."""

UNKNOWN, SEEN = 0, 2
"""COCO's visibility of a keypoint: not labelled, or labelled and seen."""


def to_records(results: Iterable[DetectionResult]) -> list[dict[str, Any]]:
    """Rows of plain values, for `pandas.DataFrame` or `csv.DictWriter`: a row for each face.

    A result without a face has one row, whose ``face`` and box are `None`, so that neither an empty
    picture nor a frame that could not be looked at is lost: ``answered`` tells one from the other.

    Args:
        results: The results, in any order.

    Returns:
        Rows with the same keys each: ``face`` numbers the faces of a result from 0, best first;
        ``x_min`` to ``y_max`` and keypoints such as ``nose_tip_x`` are pixels of the upright
        picture, `None` where they are not known; times are seconds.
    """
    rows = []
    for result in results:
        about = {
            "status": result.status.value,
            "answered": result.answered,
            "backend": result.backend.value if result.backend else None,
            **{name: getattr(result, name) for name in _OF_RESULT},
            "total_s": result.timings.total_s,
        }
        faces: Iterable[tuple[int | None, Face | None]] = enumerate(result.faces)
        rows += [{**about, **_face(*each)} for each in (faces if result.faces else [(None, None)])]
    return rows


def _face(number: int | None, face: Face | None) -> dict[str, Any]:
    sides = (None,) * 4 if face is None else face.box.xyxy
    row: dict[str, Any] = {"face": number, "score": face.score if face else None}
    row |= zip(("x_min", "y_min", "x_max", "y_max"), sides, strict=True)
    points = {point.name: point for point in face.keypoints} if face else {}
    for name in KEYPOINT_NAMES:
        point = points.get(name)
        row[f"{name}_x"], row[f"{name}_y"] = (point.x, point.y) if point else (None, None)
    return row


def to_coco(pictures: Iterable[tuple[str, DetectionResult]]) -> dict[str, Any]:
    """A data set in COCO's format, with the scores of its detections: JSON-able values.

    Args:
        pictures: The file name and the result of each picture.

    Returns:
        ``images``, ``annotations`` (``bbox`` is x, y, width and height; ``keypoints`` are x, y and
        visibility in the order of `KEYPOINT_NAMES`; ``score``, which COCO's results have, is left
        out where a provider gives none) and the one category ``face``.

    Raises:
        HybridDetectError: If no backend looked at one of them: COCO cannot say so, and a picture
            without annotations is one without faces.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, result) in enumerate(pictures, 1):
        result.raise_for_status()
        size = {"width": result.width, "height": result.height}
        images.append({"id": number, "file_name": name, **size})
        for face in result.faces:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, **_annotation(face)}
            )
    category = {"id": 1, "name": "face", "supercategory": "person"}
    category |= {"keypoints": list(KEYPOINT_NAMES), "skeleton": []}
    return {"images": images, "annotations": annotations, "categories": [category]}


def _annotation(face: Face) -> dict[str, Any]:
    points = {point.name: point for point in face.keypoints}
    keypoints: list[float] = []
    for name in KEYPOINT_NAMES:
        point = points.get(name)
        keypoints += (point.x, point.y, SEEN) if point else (0, 0, UNKNOWN)
    annotation = {
        "category_id": 1,
        "bbox": [face.box.x_min, face.box.y_min, face.box.width, face.box.height],
        "area": face.box.area,
        "iscrowd": 0,
        "keypoints": keypoints,
        "num_keypoints": sum(name in points for name in KEYPOINT_NAMES),
    }
    return annotation if face.score is None else {**annotation, "score": face.score}
