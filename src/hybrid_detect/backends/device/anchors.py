"""From a face network's raw output to faces: anchors, decoding, weighted suppression. NumPy alone.

The two networks that MediaPipe publishes predict, for each cell of a grid, how far a face's box and
its six keypoints lie from the cell's centre. What is done with those numbers is not in the model
file but in MediaPipe's graphs, and is done here the same way.

Source: google-ai-edge/mediapipe, ``modules/face_detection/face_detection_short_range.pbtxt`` and
``face_detection_full_range.pbtxt`` (strides, scales, thresholds), ``ssd_anchors_calculator.cc``,
``tensors_to_detections_calculator.cc``, ``non_max_suppression_calculator.cc``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["AnchorGrid", "Candidates", "decode", "suppress"]

MIN_SUPPRESSION_IOU = 0.3
"""Boxes that overlap the best one by more are merged with it: ``min_suppression_threshold``."""

COORDINATES = 16
"""Per anchor: centre, size, and six keypoints of two numbers."""


@dataclass(frozen=True, slots=True)
class AnchorGrid:
    """The anchors of one network, whose sizes are all 1 (``fixed_anchor_size``)."""

    input_px: int
    """Side of the square picture that the network is given."""
    layers: tuple[tuple[int, int], ...]
    """Stride in pixels and anchors per cell of each layer, in the order of the output."""

    def centres(self) -> NDArray[np.float32]:
        """The anchors' centres, shape (anchors, 2): x and y in fractions of the input's side."""
        parts = []
        for stride, per_cell in self.layers:
            cells = -(-self.input_px // stride)
            line = (np.arange(cells, dtype=np.float32) + 0.5) / cells
            x, y = np.meshgrid(line, line)
            parts.append(np.repeat(np.stack((x.ravel(), y.ravel()), axis=1), per_cell, axis=0))
        return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Faces before or after suppression, best first."""

    scores: NDArray[np.float32]
    """Shape (n,), 0 to 1."""
    boxes: NDArray[np.float32]
    """Shape (n, 4): x_min, y_min, x_max, y_max in fractions of the input's side."""
    points: NDArray[np.float32]
    """Shape (n, 6, 2), in the same unit."""


def decode(
    raw: NDArray[np.float32],
    logits: NDArray[np.float32],
    centres: NDArray[np.float32],
    *,
    input_px: int,
    min_score: float,
) -> Candidates:
    """The anchors whose score reaches `min_score`.

    Args:
        raw: Shape (anchors, 16): centre x and y, width, height, then six points, in pixels of the
            input, relative to the anchor's centre.
        logits: Shape (anchors,).
        centres: As `AnchorGrid.centres` gives them.
        input_px: Side of the input.
        min_score: Lowest score, 0 to 1.
    """
    scores = 0.5 + 0.5 * np.tanh(0.5 * logits)  # the sigmoid, in the form that never overflows
    kept = np.flatnonzero(scores >= min_score)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    values = raw[kept].reshape(-1, COORDINATES // 2, 2) / np.float32(input_px)
    centre = values[:, 0] + centres[kept]
    half = values[:, 1] / 2
    return Candidates(
        scores[kept],
        np.concatenate((centre - half, centre + half), axis=1),
        values[:, 2:] + centres[kept, None],
    )


def suppress(found: Candidates) -> Candidates:
    """One face for each group of overlapping candidates: their mean, weighted by the scores.

    Each group keeps the score of its best candidate, and is taken out before the next is formed.
    """
    left = np.arange(len(found.scores))
    # Boxes and points of a candidate in one row, which is what is averaged.
    keypoints = found.points.shape[1]
    points = found.points.reshape(len(left), 2 * keypoints)
    rows = np.concatenate((found.boxes, points), axis=1)
    scores, means = [], []
    while left.size:
        best = left[0]
        overlapping = _iou(found.boxes[best], found.boxes[left]) > MIN_SUPPRESSION_IOU
        overlapping[0] = True  # A box without an area overlaps nothing, itself included.
        group = left[overlapping]
        weights = found.scores[group]
        scores.append(found.scores[best])
        means.append((weights / weights.sum()) @ rows[group])
        left = left[~overlapping]
    merged = np.array(means, np.float32).reshape(-1, rows.shape[1])
    return Candidates(
        np.array(scores, np.float32), merged[:, :4], merged[:, 4:].reshape(-1, keypoints, 2)
    )


def _iou(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    sides = sides.clip(0)
    shared = sides[:, 0] * sides[:, 1]
    width, height = box[2:] - box[:2]
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = width * height + areas - shared
    overlap: NDArray[np.float32] = np.divide(
        shared, union, out=np.zeros_like(shared), where=union > 0
    )
    return overlap
