"""Drawing: a picture with its result on it, for people to look at."""

from __future__ import annotations

import bisect
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from hybrid_detect.frames.frame import Frame, ImageLike, PixelFormat
from hybrid_detect.types import BoundingBox, DetectionResult, DetectionStatus, Face

__all__ = ["draw"]

_COLOURS = {
    DetectionStatus.OK: (64, 255, 96),
    DetectionStatus.DEGRADED: (255, 200, 0),
    DetectionStatus.STALE: (190, 190, 190),
    DetectionStatus.SKIPPED: (190, 190, 190),
    DetectionStatus.FAILED: (255, 96, 80),
}
"""Bright, each on a dark edge: so both light and dark pictures leave them readable."""

_EDGE = (16, 16, 16)
_MIN_FONT_PX = 10

_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw(
    image: ImageLike,
    result: DetectionResult,
    *,
    pixel_format: PixelFormat | str = PixelFormat.RGB,
) -> Image.Image:
    """A copy of the upright picture with the faces of `result` on it.

    Each face gets its box, its keypoints and its score; a line at the bottom says who looked,
    how that went and how long it took, or why it could not be done.

    Args:
        image: The picture the result is about: anything `Frame.of` takes. Not modified.
        result: What was found. If it speaks of another size, its faces are scaled.
        pixel_format: The channels of an array.

    Returns:
        A new Pillow image of mode ``RGB``, as large as the upright picture.

    Raises:
        InvalidFrameError: If `image` is not a readable image.
    """
    picture = Frame.of(image, pixel_format=pixel_format).pil().convert("RGB")
    pen = _Pen(picture, _COLOURS[result.status])
    if result.width and result.height:
        scale_x, scale_y = picture.width / result.width, picture.height / result.height
        fitted = [
            face.fitted(
                scale_x=scale_x, scale_y=scale_y, width=picture.width, height=picture.height
            )
            for face in result.faces
        ]
        faces = [face for face in fitted if face is not None]
        # In a crowd one face's label may lie on the next face: boxes go on top.
        for face in faces:
            pen.score(face)
        for face in faces:
            pen.face(face)
    pen.caption(_caption(result))
    return picture


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


class _Pen:
    """Draws on one picture in one colour, in a width that suits the picture."""

    def __init__(self, picture: Image.Image, colour: tuple[int, int, int]) -> None:
        longer = max(picture.size)
        self._picture = picture
        self._colour = colour
        self._line_px = max(1, round(longer / 400))
        self._font_px = max(_MIN_FONT_PX, round(longer / 45))
        self._fonts: dict[int, _Font] = {}
        self._draw = ImageDraw.Draw(picture)

    def face(self, face: Face) -> None:
        """Box and keypoints of `face`."""
        line = self._line_px
        self._box(face.box, width=3 * line, grow=line, colour=_EDGE)
        self._box(face.box, width=line, grow=0, colour=self._colour)
        radius = min(1.5 * line, face.box.width / 24)
        for point in face.keypoints:
            for size, colour in ((1.6 * radius, _EDGE), (radius, self._colour)):
                self._draw.ellipse(
                    (point.x - size, point.y - size, point.x + size, point.y + size), fill=colour
                )

    def score(self, face: Face) -> None:
        """The score of `face` above its box, in a size that suits the face."""
        if face.score is None:
            return
        text = f"{face.score:.0%}"
        font = self._font(max(_MIN_FONT_PX, min(self._font_px, round(face.box.width / 2.5))))
        above = face.box.y_min - self._text_size(text, font)[1] - self._line_px
        # A box at the very top has no room above it.
        self._label(text, face.box.x_min, above if above >= 0 else face.box.y_min, font)

    def caption(self, text: str) -> None:
        """A line of `text` along the bottom, cut to what fits."""
        text = " ".join(text.split())
        font = self._font(self._font_px)
        room = self._picture.width
        if self._text_size(text, font)[0] > room:
            # Measuring costs time in proportion to the length, so each cut is not tried in turn.
            fits = bisect.bisect_right(
                range(1, len(text)),
                room,
                key=lambda length: self._text_size(f"{text[:length]}...", font)[0],
            )
            text = f"{text[:fits]}..."
        self._label(text, 0, self._picture.height - self._text_size(text, font)[1], font)

    def _font(self, size_px: int) -> _Font:
        if size_px not in self._fonts:
            self._fonts[size_px] = ImageFont.load_default(size_px)
        return self._fonts[size_px]

    def _box(
        self, box: BoundingBox, *, width: int, grow: int, colour: tuple[int, int, int]
    ) -> None:
        left, top = round(box.x_min) - grow, round(box.y_min) - grow
        right, bottom = round(box.x_max) - 1 + grow, round(box.y_max) - 1 + grow
        self._draw.rectangle(
            (left, top, max(left, right), max(top, bottom)), outline=colour, width=width
        )

    def _text_size(self, text: str, font: _Font) -> tuple[int, int]:
        """Width and height of a label, its margin included."""
        _, _, right, _ = font.getbbox(text)
        _, _, _, bottom = font.getbbox("Ag")
        return round(right) + 4 * self._line_px, round(bottom) + 2 * self._line_px

    def _label(self, text: str, left: float, top: float, font: _Font) -> None:
        width, height = self._text_size(text, font)
        left = max(0.0, min(left, self._picture.width - width))
        self._draw.rectangle((left, top, left + width, top + height), fill=_EDGE)
        self._draw.text(
            (left + 2 * self._line_px, top + self._line_px),
            text,
            fill=self._colour,
            font=font,
        )
