"""Drawing: a picture with its result on it, for people to look at."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hybrid_detect.frames.brush import Brush, Colour, text_size
from hybrid_detect.frames.frame import Frame, ImageLike, PixelFormat
from hybrid_detect.types import DetectionResult, DetectionStatus, Face

__all__ = ["COLOURS", "Pen", "Show", "draw", "fitted_faces"]

COLOURS = {
    DetectionStatus.OK: (64, 255, 96),
    DetectionStatus.DEGRADED: (255, 200, 0),
    DetectionStatus.STALE: (190, 190, 190),
    DetectionStatus.SKIPPED: (190, 190, 190),
    DetectionStatus.FAILED: (255, 96, 80),
}
"""Bright, each on a dark edge: so both light and dark pictures leave them readable."""

_EDGE = (16, 16, 16)
_MIN_FONT_PX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """What is drawn beside the boxes."""

    score: bool = True
    """The score of each face, above its box."""
    keypoints: bool = True
    """Eyes, nose, mouth and ears."""
    label: bool = True
    """The line that says who looked and how that went, or how old it is."""


def draw(
    image: ImageLike,
    result: DetectionResult,
    *,
    pixel_format: PixelFormat | str = PixelFormat.RGB,
    score: bool = True,
    keypoints: bool = True,
    label: bool = True,
) -> Image.Image:
    """A copy of the upright picture with the faces of `result` on it.

    Each face gets its box, its keypoints and its score; a line at the bottom says who looked,
    how that went and how long it took, or why it could not be done. To draw on the frames of a
    camera themselves, use an `Overlay`.

    Args:
        image: The picture the result is about: anything `Frame.of` takes. Not modified.
        result: What was found. If it speaks of another size, its faces are scaled.
        pixel_format: The channels of an array.
        score: Whether to show the scores.
        keypoints: Whether to show the keypoints.
        label: Whether to show the line at the bottom.

    Returns:
        A new Pillow image of mode ``RGB``, as large as the upright picture.

    Raises:
        InvalidFrameError: If `image` is not a readable image.
    """
    pixels = np.array(Frame.of(image, pixel_format=pixel_format).pil().convert("RGB"))
    height, width = pixels.shape[:2]
    pen = Pen(Brush(pixels), COLOURS[result.status])
    pen.faces(
        fitted_faces(result, width, height),
        Show(score=score, keypoints=keypoints),
    )
    if label:
        pen.caption(_caption(result))
    return Image.fromarray(pixels)


def fitted_faces(result: DetectionResult, width: int, height: int) -> list[Face]:
    """The faces of `result` in a picture of `width` by `height` pixels."""
    if not result.width or not result.height:
        return []
    scale_x, scale_y = width / result.width, height / result.height
    fitted = [
        face.fitted(scale_x=scale_x, scale_y=scale_y, width=width, height=height)
        for face in result.faces
    ]
    return [face for face in fitted if face is not None]


def _caption(result: DetectionResult) -> str:
    backend = result.backend.value if result.backend else "no backend"
    if not result.answered:
        why = result.reason or str(result.error or "") or result.status.value
        return f"could not look: {why}"
    count = len(result.faces)
    faces = "no faces" if not count else "1 face" if count == 1 else f"{count} faces"
    status = result.status.value
    if result.status is DetectionStatus.STALE:
        status = f"{status}, {result.age_s:.1f} s old"
    return f"{backend} | {status} | {faces} | {result.timings.total_s * 1000:.0f} ms"


class Pen:
    """Draws faces and lines of text in one colour, in a width that suits the picture.

    Args:
        brush: What it draws with.
        colour: Of boxes, points and letters; each has a dark edge.
    """

    def __init__(self, brush: Brush, colour: Colour) -> None:
        longer = max(brush.size)
        self._brush = brush
        self._colour = colour
        self._line_px = max(1, round(longer / 400))
        self._font_px = max(_MIN_FONT_PX, round(longer / 45))

    def faces(self, faces: Iterable[Face], show: Show) -> None:
        """Draw `faces`."""
        faces = list(faces)
        # In a crowd one face's label may lie on the next face: boxes go on top.
        for face in faces if show.score else ():
            self._score(face)
        for face in faces:
            # Side by side, not one over the other, which would show where both fade away.
            for grow, colour in ((-1, _EDGE), (1, _EDGE), (0, self._colour)):
                self._box(face, grow=grow * self._line_px, colour=colour)
            radius = min(1.5 * self._line_px, face.box.width / 24)
            for point in face.keypoints if show.keypoints else ():
                self._brush.dot(point.x, point.y, 1.6 * radius, _EDGE)
                self._brush.dot(point.x, point.y, radius, self._colour)

    def _score(self, face: Face) -> None:
        """The score of `face` above its box, in a size that suits the face."""
        if face.score is None:
            return
        text = f"{face.score:.0%}"
        size_px = max(_MIN_FONT_PX, min(self._font_px, round(face.box.width / 2.5)))
        above = face.box.y_min - self._label_size(text, size_px)[1] - self._line_px
        # A box at the very top has no room above it.
        self._label(text, face.box.x_min, above if above >= 0 else face.box.y_min, size_px)

    def caption(self, text: str) -> None:
        """A line of `text` along the bottom, cut to what fits."""
        text = " ".join(text.split())
        size_px = self._font_px
        room, bottom = self._brush.size
        if self._label_size(text, size_px)[0] > room:
            # Measuring costs time in proportion to the length, so each cut is not tried in turn.
            fits = bisect.bisect_right(
                range(1, len(text)),
                room,
                key=lambda length: self._label_size(f"{text[:length]}...", size_px)[0],
            )
            text = f"{text[:fits]}..."
        self._label(text, 0, bottom - self._label_size(text, size_px)[1], size_px)

    def _box(self, face: Face, *, grow: int, colour: Colour) -> None:
        box = face.box
        left, top = round(box.x_min) - grow, round(box.y_min) - grow
        right, bottom = round(box.x_max) + grow, round(box.y_max) + grow
        if grow >= 0:
            right, bottom = max(left + 1, right), max(top + 1, bottom)
        self._brush.outline(left, top, right, bottom, colour, width=self._line_px)

    def _label_size(self, text: str, size_px: int) -> tuple[int, int]:
        """Width and height of a label, its margin included."""
        width, height = text_size(text, size_px)
        return width + 4 * self._line_px, height + 2 * self._line_px

    def _label(self, text: str, left: float, top: float, size_px: int) -> None:
        width, height = self._label_size(text, size_px)
        x = round(max(0.0, min(left, self._brush.size[0] - width)))
        y = round(top)
        self._brush.rectangle(x, y, x + width, y + height, _EDGE)
        self._brush.text(text, x + 2 * self._line_px, y + self._line_px, size_px, self._colour)
