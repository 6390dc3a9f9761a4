"""Detections beside the labelled faces of photos: precision, recall and F1, and recall by height.

``labels.json`` in the photos' folder holds ``images``: for each file its upright ``width`` and
``height``, ``boxes`` and ``ignore`` as x, y, width and height, and a ``category``. A detection is a
hit if its overlap with a box not yet taken is at least one half; the best score chooses first. One
that lies half in an area to ignore does not count.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid_detect.types import BoundingBox, Face

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "faces"
"""Photos lie beside the repository, not in it."""

MIN_IOU = 0.5


@dataclass(frozen=True)
class Photo:
    """A photo, and the faces that people see in it; boxes in its upright pixels."""

    path: Path
    width: int
    height: int
    category: str
    boxes: tuple[BoundingBox, ...]
    ignore: tuple[BoundingBox, ...]

    @property
    def longer_px(self) -> int:
        return max(self.width, self.height)


@dataclass
class Score:
    """Counts over any number of photos."""

    hits: int = 0
    found: int = 0
    """Detections that count."""
    wanted: int = 0
    heights: list[tuple[float, bool]] = field(default_factory=list)
    """Of each labelled face: height as a share of the photo's longer side, and whether found."""

    @property
    def precision(self) -> float:
        return self.hits / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        return self.hits / self.wanted if self.wanted else 1.0

    @property
    def f1(self) -> float:
        both = self.found + self.wanted
        return 2 * self.hits / both if both else 1.0

    @property
    def false_positives(self) -> int:
        return self.found - self.hits

    def add(self, photo: Photo, faces: Iterable[Face]) -> Score:
        """Count the faces found in `photo`, in its pixels, best first."""
        left = list(photo.boxes)
        for face in sorted(faces, key=lambda face: -(face.score or 0.0)):
            best = max(left, key=face.box.iou, default=None)
            if best is not None and face.box.iou(best) >= MIN_IOU:
                left.remove(best)
                self.hits, self.found = self.hits + 1, self.found + 1
            elif not any(_inside(face.box, area) >= 0.5 for area in photo.ignore):
                self.found += 1
        self.wanted += len(photo.boxes)
        for box in photo.boxes:
            self.heights.append((box.height / photo.longer_px, box not in left))
        return self

    def recall_by_height(self, starts: Sequence[float]) -> list[tuple[float, float, int]]:
        """For each start of a range: it, the recall in the range, and how many faces are in it."""
        rows = []
        for start, end in zip(starts, [*starts[1:], float("inf")], strict=True):
            inside = [is_found for height, is_found in self.heights if start <= height < end]
            rows.append((start, sum(inside) / max(len(inside), 1), len(inside)))
        return rows

    def __str__(self) -> str:
        return f"P {self.precision:.3f}  R {self.recall:.3f}  F1 {self.f1:.3f}"


def photos(folder: Path = FOLDER) -> list[Photo]:
    """The labelled photos; none if the folder is not there."""
    file = folder / "labels.json"
    if not file.is_file():
        return []
    labels: dict[str, Any] = json.loads(file.read_text())["images"]
    return [
        Photo(
            path=folder / Path(name).name,
            width=label["width"],
            height=label["height"],
            category=label["category"],
            boxes=tuple(_box(*box) for box in label["boxes"]),
            ignore=tuple(_box(*box) for box in label["ignore"]),
        )
        for name, label in labels.items()
    ]


def scaled(faces: Iterable[Face], photo: Photo, width: int, height: int) -> list[Face]:
    """Faces of a picture of `width` by `height` in the photo's pixels."""
    scale_x, scale_y = photo.width / width, photo.height / height
    fitted = (
        face.fitted(scale_x=scale_x, scale_y=scale_y, width=photo.width, height=photo.height)
        for face in faces
    )
    return [face for face in fitted if face is not None]


def _box(x: float, y: float, width: float, height: float) -> BoundingBox:
    return BoundingBox(x, y, x + width, y + height)


def _inside(box: BoundingBox, area: BoundingBox) -> float:
    """Share of `box` that lies in `area`."""
    width = min(box.x_max, area.x_max) - max(box.x_min, area.x_min)
    height = min(box.y_max, area.y_max) - max(box.y_min, area.y_min)
    return max(width, 0.0) * max(height, 0.0) / box.area if box.area else 0.0
