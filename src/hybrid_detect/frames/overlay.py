"""An overlay: the newest boxes on each frame of a camera, between its answers as well."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.errors import ConfigurationError, InvalidFrameError
from hybrid_detect.frames.array_picture import ArrayPicture, PixelFormat, as_pixel_format
from hybrid_detect.frames.brush import Brush
from hybrid_detect.frames.drawing import COLOURS, Pen, Show, fitted_faces
from hybrid_detect.geometry import BoundingBox, Face, Keypoint
from hybrid_detect.types import DetectionResult, DetectionStatus

__all__ = ["Overlay"]

Picture = TypeVar("Picture", NDArray[Any], Image.Image)

HOLD_LAST_S = 0.5
FADE_S = 0.3
"""A camera that is answered ten times a second never shows either. One lost answer is bridged, and
boxes that nobody confirms are gone before they are taken for the truth."""


class Overlay:
    """Draws boxes on the frames of a camera, in place, faster than the answers come.

    Give each frame, and the result when there is a new one. In between, the last boxes are held,
    then fade away, so that they neither flicker nor stay where nobody is any more.

    Not for several threads at once; make one for each view.

    Args:
        hold_last_s: Seconds for which boxes stay after their result came.
        fade_s: Seconds in which they fade away after that.
        score: Whether to show the scores.
        keypoints: Whether to show the keypoints.
        label: Whether to show who looked, and how old the picture with these boxes is by now.
        mirror: Whether frames are shown mirrored, as a selfie is, while results are not.
        clock: Monotonic time in seconds.

    Raises:
        ConfigurationError: If a number of seconds is below 0.
    """

    def __init__(
        self,
        *,
        hold_last_s: float = HOLD_LAST_S,
        fade_s: float = FADE_S,
        score: bool = True,
        keypoints: bool = True,
        label: bool = True,
        mirror: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("hold_last_s", hold_last_s), ("fade_s", fade_s)):
            if not value >= 0:
                msg = f"{name}: expected seconds of at least 0, got {value!r}"
                raise ConfigurationError(msg)
        self.show = Show(score=score, keypoints=keypoints, label=label)
        self.mirror = mirror
        self._hold_last_s = hold_last_s
        self._fade_s = fade_s
        self._clock = clock
        self._result: DetectionResult | None = None
        self._came_s = -math.inf
        self._trouble = ""

    def update(self, result: DetectionResult) -> None:
        """Take `result` as the newest.

        One without an answer leaves the boxes as they are, to fade away; the label says why.
        """
        if result.answered:
            self._result, self._came_s, self._trouble = result, self._clock(), ""
        elif result.status is DetectionStatus.FAILED:
            self._trouble = result.reason or str(result.error or "") or result.status.value

    def clear(self) -> None:
        """Forget the boxes, as when another camera is chosen."""
        self._result, self._trouble = None, ""

    def draw(
        self,
        image: Picture,
        result: DetectionResult | None = None,
        *,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
    ) -> Picture:
        """Draw the newest boxes on `image`.

        Args:
            image: An upright frame of the camera, of any size: an array of uint8, or a Pillow image
                of mode ``RGB``, ``RGBA`` or ``L``. It is written to.
            result: A new result, if one has come since the last frame.
            pixel_format: The channels of an array.

        Returns:
            `image`.

        Raises:
            InvalidFrameError: If `image` cannot be drawn on.
        """
        if result is not None:
            self.update(result)
        now_s = self._clock()
        opacity = self._opacity(now_s)
        if opacity <= 0 and not (self._trouble and self.show.label):
            return image
        if isinstance(image, Image.Image):
            pixels, format_ = _pillow_pixels(image)
            self._paint(pixels, format_, opacity, now_s)
            image.paste(Image.fromarray(pixels))
            return image
        format_ = as_pixel_format(pixel_format)
        pixels = ArrayPicture.of(image, format_).array
        if not pixels.flags.writeable:
            raise InvalidFrameError(expected="an array that may be written", actual="a constant")
        self._paint(pixels, format_, opacity, now_s)
        return image

    def faces(self, width: int, height: int) -> tuple[Face, ...]:
        """The faces that are shown at the moment, in a picture of `width` by `height` pixels.

        For a toolkit that draws by itself. Empty when they have faded away.
        """
        if self._result is None or self._opacity(self._clock()) <= 0:
            return ()
        faces = fitted_faces(self._result, width, height)
        return tuple(_mirrored(face, width) if self.mirror else face for face in faces)

    @property
    def opacity(self) -> float:
        """How strongly the boxes are shown at the moment, 0 to 1."""
        return self._opacity(self._clock())

    @property
    def label(self) -> str:
        """Who looked and how old that is, or why nobody could; empty if there is nothing to say."""
        return self._label(self._clock())

    def _opacity(self, now_s: float) -> float:
        left_s = self._came_s + self._hold_last_s + self._fade_s - now_s
        if self._result is None or left_s <= 0:
            return 0.0
        return 1.0 if left_s >= self._fade_s else left_s / self._fade_s

    def _label(self, now_s: float) -> str:
        if self._trouble:
            return f"could not look: {self._trouble}"
        result = self._result
        if result is None or self._opacity(now_s) <= 0:
            return ""
        backend = result.backend.value if result.backend else "no backend"
        age_s = result.age_s + now_s - self._came_s
        return f"{backend} | {result.status.value} | {age_s * 1000:.0f} ms old"

    def _paint(
        self, pixels: NDArray[np.uint8], format_: PixelFormat, opacity: float, now_s: float
    ) -> None:
        height, width = pixels.shape[:2]
        status = self._result.status if self._result is not None else DetectionStatus.FAILED
        if opacity > 0:
            pen = Pen(Brush(pixels, format_, opacity=opacity), COLOURS[status])
            pen.faces(self.faces(width, height), self.show)
        label = self._label(now_s) if self.show.label else ""
        if label:
            colour = COLOURS[DetectionStatus.FAILED if self._trouble else status]
            Pen(Brush(pixels, format_), colour).caption(label)


def _pillow_pixels(image: Image.Image) -> tuple[NDArray[np.uint8], PixelFormat]:
    formats = {"RGB": PixelFormat.RGB, "RGBA": PixelFormat.RGBA, "L": PixelFormat.GRAY}
    if image.mode not in formats:
        raise InvalidFrameError(expected="a Pillow image of RGB, RGBA or L", actual=image.mode)
    return np.array(image), formats[image.mode]


def _mirrored(face: Face, width: int) -> Face:
    box = face.box
    return replace(
        face,
        box=BoundingBox(width - box.x_max, box.y_min, width - box.x_min, box.y_max),
        keypoints=tuple(Keypoint(p.name, width - p.x, p.y) for p in face.keypoints),
    )
