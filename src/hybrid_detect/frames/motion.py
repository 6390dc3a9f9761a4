"""Motion: where a face has gone since it was seen, found by looking for its pattern near by.

Cheap rather than exact: the picture is sampled at a quarter, the pattern at some hundred points,
and only shifts are looked for, near where the face was going. That is what a box on a live view
needs to stay on its face between two answers.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from hybrid_detect.geometry import BoundingBox, Face, Keypoint

__all__ = ["FaceFollower", "moved"]

_LONGER_CELLS = 320
"""Cells along the longer side of a view: of 4x4 pixels at 1280x720. Two samples of each are
summed, which halves noise and costs an eighth of all pixels."""

_POINTS = 20
"""Most points of the pattern along a side; more tell no more about a shift."""

_REACH = 6
"""Steps of a point that a face may have gone further than expected, from one frame to the next: at
1280x720 and 30 fps a face of 80 pixels may turn by 700 pixels a second within one frame."""

_MAX_MISFIT = 0.6
"""Of the pattern's own contrast: a place that differs by more shows something else. Between two
noisy frames of a face it is 0.1 to 0.3."""

_MOST_FOLLOWED = 10
"""Faces that are looked for, the largest, at 0.3 ms each. In a larger crowd it is the camera that
moves, and the others go with them."""

_NEAR_S = 0.15
"""A frame this far from an answer's own time is taken for it, as at 10 frames a second."""

_KEPT_VIEWS = 32
"""A second at 30 fps, of 115 KB each at most: an answer that is older is worth no search."""


@dataclass(frozen=True, slots=True)
class _View:
    taken_at_s: float
    step: int
    cells: NDArray[np.int16] = field(repr=False)

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], taken_at_s: float) -> _View:
        # Green is most of luma, in every order of channels.
        grey = pixels if pixels.ndim == 2 else pixels[:, :, min(1, pixels.shape[2] - 1)]
        height, width = grey.shape
        step = max(1, math.ceil(max(height, width) / _LONGER_CELLS))
        grey = grey[: height // step * step, : width // step * step]
        half = step // 2
        cells = grey[::step, ::step].astype(np.int16)
        cells += grey[half::step, half::step]
        return cls(taken_at_s, step, cells)


@dataclass(slots=True)
class _Trail:
    """A face, its pattern, and how far it has gone since it was seen, in pixels."""

    face: Face
    pattern: NDArray[np.int16] | None
    stride: int
    origin: tuple[int, int]
    """Left and top of the pattern, in cells of the view it was seen in."""
    contrast: float
    x: float = 0.0
    y: float = 0.0
    speed_x: float = 0.0
    speed_y: float = 0.0


class FaceFollower:
    """Follows the faces of the newest result from frame to frame.

    Keeps small views of the last second's frames, because an answer is about one that is past by
    the time it comes. Not for several threads at once.
    """

    def __init__(self) -> None:
        self._views: deque[_View] = deque(maxlen=_KEPT_VIEWS)
        self._trails: list[_Trail] = []

    def see(self, pixels: NDArray[np.uint8], *, taken_at_s: float) -> None:
        """Take the next frame, and look where the faces have gone.

        Args:
            pixels: The upright frame, before anything is drawn on it, of one size until `clear`.
            taken_at_s: When it was taken, on the clock that results tell (`captured_at_s`).
        """
        view = _View.of(pixels, taken_at_s)
        self._views.append(view)
        self._follow(view)

    def seen(self, faces: list[Face], *, captured_at_s: float) -> None:
        """Start anew from `faces`, in pixels of the frames, of the frame of that time."""
        self._trails = []
        nearest = min(
            range(len(self._views)),
            key=lambda index: abs(self._views[index].taken_at_s - captured_at_s),
            default=None,
        )
        if nearest is None or abs(self._views[nearest].taken_at_s - captured_at_s) > _NEAR_S:
            self._trails = [_Trail(face, None, 1, (0, 0), 0.0) for face in faces]
            return
        first, *later = list(self._views)[nearest:]
        largest = sorted(faces, key=lambda face: -face.box.area)
        self._trails = [_started(face, first) for face in largest[:_MOST_FOLLOWED]]
        self._trails += [_Trail(face, None, 1, (0, 0), 0.0) for face in largest[_MOST_FOLLOWED:]]
        for view in later:
            self._follow(view)

    def _follow(self, view: _View) -> None:
        looked_for = self._trails[:_MOST_FOLLOWED]
        for trail in looked_for:
            _follow(trail, view)
        if others := self._trails[_MOST_FOLLOWED:]:
            x, y = np.median([(trail.x, trail.y) for trail in looked_for], axis=0)
            for trail in others:
                trail.x, trail.y = float(x), float(y)

    def faces(self) -> list[Face]:
        """The faces where they are now."""
        return [moved(trail.face, trail.x, trail.y) for trail in self._trails]

    def clear(self) -> None:
        """Forget the faces and the frames."""
        self._views.clear()
        self._trails = []


def moved(face: Face, x: float, y: float) -> Face:
    """`face`, further right by `x` and further down by `y`."""
    if not x and not y:
        return face
    box = face.box
    return replace(
        face,
        box=BoundingBox(box.x_min + x, box.y_min + y, box.x_max + x, box.y_max + y),
        keypoints=tuple(Keypoint(p.name, p.x + x, p.y + y) for p in face.keypoints),
    )


def _started(face: Face, view: _View) -> _Trail:
    height, width = view.cells.shape
    left = max(0, round(face.box.x_min / view.step))
    top = max(0, round(face.box.y_min / view.step))
    right = min(width, round(face.box.x_max / view.step))
    bottom = min(height, round(face.box.y_max / view.step))
    stride = max(1, max(right - left, bottom - top) // _POINTS)
    pattern = view.cells[top:bottom:stride, left:right:stride]
    if min(pattern.shape) < 3:
        return _Trail(face, None, 1, (0, 0), 0.0)
    pattern = pattern.copy()
    contrast = float(np.abs(pattern - pattern.mean()).mean())
    return _Trail(face, pattern, stride, (left, top), contrast)


def _follow(trail: _Trail, view: _View) -> None:
    """Look for the pattern of `trail` around where it should be by now."""
    pattern = trail.pattern
    if pattern is None or trail.contrast < 4:
        return
    expected_x, expected_y = trail.x + trail.speed_x, trail.y + trail.speed_y
    stride, step = trail.stride, view.step
    rows, columns = pattern.shape
    left = trail.origin[0] + round(expected_x / step) - _REACH * stride
    top = trail.origin[1] + round(expected_y / step) - _REACH * stride
    height, width = view.cells.shape
    across = np.arange(left, left + (columns + 2 * _REACH) * stride, stride).clip(0, width - 1)
    down = np.arange(top, top + (rows + 2 * _REACH) * stride, stride).clip(0, height - 1)
    area = view.cells[down[:, np.newaxis], across]
    windows = sliding_window_view(area, pattern.shape)
    misfits = np.abs(windows - pattern).mean(axis=(2, 3))
    row, column = np.unravel_index(int(misfits.argmin()), misfits.shape)
    if misfits[row, column] > _MAX_MISFIT * trail.contrast:
        trail.speed_x = trail.speed_y = 0.0
        return
    shift_x = (left + (column + _between(misfits[row, :], int(column))) * stride) * step
    shift_y = (top + (row + _between(misfits[:, column], int(row))) * stride) * step
    x, y = shift_x - trail.origin[0] * step, shift_y - trail.origin[1] * step
    trail.speed_x, trail.speed_y = x - trail.x, y - trail.y
    trail.x, trail.y = float(x), float(y)


def _between(misfits: NDArray[np.float64], index: int) -> float:
    """Where the least misfit lies between two points: the vertex of a parabola through three."""
    if not 0 < index < len(misfits) - 1:
        return 0.0
    before, here, after = (float(misfit) for misfit in misfits[index - 1 : index + 2])
    bend = before - 2 * here + after
    return 0.0 if bend <= 0 else max(-0.5, min(0.5, (before - after) / (2 * bend)))
