"""An overlay: the newest boxes on each frame of a camera, between its answers as well."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.errors import ConfigurationError, InvalidFrameError
from hybrid_detect.frames.array_picture import ArrayPicture, PixelFormat, as_pixel_format
from hybrid_detect.frames.brush import Brush
from hybrid_detect.frames.drawing import COLOURS, Pen, Show, fitted_faces
from hybrid_detect.frames.motion import FaceFollower
from hybrid_detect.frames.pillow_errors import damage_reported
from hybrid_detect.frames.pillow_picture import reading_of
from hybrid_detect.geometry import BoundingBox, Face, Keypoint
from hybrid_detect.types import DetectionResult, DetectionStatus

__all__ = ["Overlay"]

Picture = TypeVar("Picture", NDArray[Any], Image.Image)

HOLD_LAST_S = 0.5
FADE_S = 0.3
"""A camera that is answered ten times a second never shows either. One lost answer is bridged, and
boxes that no answer confirms are gone before they are taken for the truth."""


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """A result and when it came."""

    result: DetectionResult
    came_s: float


class Overlay:
    """Draws boxes on the frames of a camera, in place, faster than the answers come.

    Give each frame, and the result when there is a new one. In between, boxes follow their faces:
    an answer is about a frame that is past when it comes, and the camera moves on. Boxes are held
    for a while, then fade away, so that they neither flicker nor stay where no face is any more.

    `update` may be called in one thread and `draw` in another; make an overlay for each view.

    Args:
        hold_last_s: Seconds for which boxes stay after their result came.
        fade_s: Seconds in which they fade away after that.
        follow: Whether boxes follow their faces between answers, at 0.3 ms for each face of the
            ten largest; or else stay where they were found.
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
        follow: bool = True,
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
        self._follower = FaceFollower() if follow else None
        self._followed: _Answer | None = None
        self._size = (0, 0)
        self._is_cleared = False
        self._newest: _Answer | None = None
        self._trouble = ""

    def update(self, result: DetectionResult) -> None:
        """Take `result` as the newest.

        One without an answer leaves the boxes as they are, to fade away; the label says why.
        """
        if result.answered:
            self._newest, self._trouble = _Answer(result, self._clock()), ""
        elif result.status is DetectionStatus.FAILED:
            self._trouble = result.reason or str(result.error or "") or result.status.value

    def clear(self) -> None:
        """Forget the boxes and the frames, as when another camera is chosen."""
        self._newest, self._trouble = None, ""
        self._is_cleared = True  # the thread that draws forgets its frames

    def draw(
        self,
        image: Picture,
        result: DetectionResult | None = None,
        *,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        captured_at_s: float | None = None,
    ) -> Picture:
        """Draw the newest boxes on `image`.

        Args:
            image: An upright frame of the camera, of any size: an array of uint8, or a Pillow image
                of mode ``RGB``, ``RGBA`` or ``L``. It is written to.
            result: A new result, if one has come since the last frame.
            pixel_format: The channels of an array.
            captured_at_s: When the frame was taken, in seconds of `time.monotonic`, as
                `CapturedFrame` tells; `None` means now.

        Returns:
            `image`.

        Raises:
            InvalidFrameError: If `image` cannot be drawn on.
        """
        if result is not None:
            self.update(result)
        if isinstance(image, Image.Image):
            pixels, format_ = _pillow_pixels(image)
        else:
            format_ = as_pixel_format(pixel_format)
            pixels = ArrayPicture.of(_array(image), format_).array
            if not pixels.flags.writeable:
                raise InvalidFrameError(expected="an array that may be written", actual="none")
        now_s = self._clock()
        self._see(pixels, now_s if captured_at_s is None else captured_at_s)
        if self._paint(pixels, format_, now_s) and isinstance(image, Image.Image):
            image.paste(Image.fromarray(pixels))
        return image

    def see(self, image: NDArray[np.uint8], *, captured_at_s: float | None = None) -> None:
        """Take an upright frame to follow faces on, without drawing; then ask for `faces`.

        Args:
            image: Of shape ``(height, width)`` or ``(height, width, channels)``. Not modified.
            captured_at_s: When it was taken, in seconds of `time.monotonic`; `None` means now.

        Raises:
            InvalidFrameError: If `image` is no such array.
        """
        self._see(_array(image), self._clock() if captured_at_s is None else captured_at_s)

    def faces(self, width: int, height: int) -> tuple[Face, ...]:
        """The faces that are shown at the moment, in a picture of `width` by `height` pixels.

        For a toolkit that draws by itself. Empty when they have faded away.
        """
        newest = self._newest
        if newest is None or self._opacity(newest, self._clock()) <= 0:
            return ()
        if self._follower is None or self._followed is not newest:
            return tuple(self._fitted(newest, width, height))
        scale_x, scale_y = width / self._size[0], height / self._size[1]
        fitted = (
            face.fitted(scale_x=scale_x, scale_y=scale_y, width=width, height=height)
            for face in self._follower.faces()
        )
        return tuple(face for face in fitted if face is not None)

    @property
    def opacity(self) -> float:
        """How strongly the boxes are shown at the moment, 0 to 1."""
        return self._opacity(self._newest, self._clock())

    @property
    def label(self) -> str:
        """Who looked and how old that is, or why none could; empty if there is nothing to say."""
        return self._label(self._newest, self._clock())

    def _see(self, pixels: NDArray[np.uint8], taken_at_s: float) -> None:
        if pixels.ndim not in (2, 3) or 0 in pixels.shape or pixels.dtype != np.uint8:
            raise InvalidFrameError(
                expected="an array of uint8 of shape (height, width) or (height, width, channels)",
                actual=f"{pixels.dtype} of shape {pixels.shape}"[:80],
            )
        if self._follower is None:
            return
        height, width = pixels.shape[:2]
        if self._size != (width, height) or self._is_cleared:
            self._is_cleared = False
            self._follower.clear()
            self._size, self._followed = (width, height), None
        self._follower.see(pixels, taken_at_s=taken_at_s)
        newest = self._newest
        if newest is not None and newest is not self._followed:
            seen_s = newest.result.captured_at_s
            self._follower.seen(
                self._fitted(newest, width, height),
                captured_at_s=newest.came_s - newest.result.age_s if seen_s is None else seen_s,
            )
            self._followed = newest

    def _fitted(self, answer: _Answer, width: int, height: int) -> list[Face]:
        faces = fitted_faces(answer.result, width, height)
        return [_mirrored(face, width) for face in faces] if self.mirror else faces

    def _opacity(self, answer: _Answer | None, now_s: float) -> float:
        if answer is None:
            return 0.0
        left_s = answer.came_s + self._hold_last_s + self._fade_s - now_s
        if left_s <= 0:
            return 0.0
        return 1.0 if left_s >= self._fade_s else left_s / self._fade_s

    def _label(self, answer: _Answer | None, now_s: float) -> str:
        if self._trouble:
            return f"could not look: {self._trouble}"
        if answer is None or self._opacity(answer, now_s) <= 0:
            return ""
        result = answer.result
        backend = result.backend.value if result.backend else "no backend"
        age_s = result.age_s + now_s - answer.came_s
        return f"{backend} | {result.status.value} | {age_s * 1000:.0f} ms old"

    def _paint(self, pixels: NDArray[np.uint8], format_: PixelFormat, now_s: float) -> bool:
        """Draw what there is to show; False if there is nothing."""
        height, width = pixels.shape[:2]
        newest = self._newest
        opacity = self._opacity(newest, now_s)
        label = self._label(newest, now_s) if self.show.label else ""
        status = newest.result.status if newest is not None else DetectionStatus.FAILED
        if opacity > 0:
            pen = Pen(Brush(pixels, format_, opacity=opacity), COLOURS[status])
            pen.faces(self.faces(width, height), self.show)
        if label:
            colour = COLOURS[DetectionStatus.FAILED if self._trouble else status]
            Pen(Brush(pixels, format_), colour).caption(label)
        return opacity > 0 or bool(label)


def _pillow_pixels(image: Image.Image) -> tuple[NDArray[np.uint8], PixelFormat]:
    formats = {"RGB": PixelFormat.RGB, "RGBA": PixelFormat.RGBA, "L": PixelFormat.GRAY}
    if image.mode not in formats:
        raise InvalidFrameError(expected="a Pillow image of RGB, RGBA or L", actual=image.mode)
    with damage_reported("Pillow"), reading_of(image):
        return np.array(image), formats[image.mode]


def _array(image: Any) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray):
        raise InvalidFrameError(
            expected="an array of pixels, such as Frame.rgb() gives",
            actual=type(image).__name__[:40],
        )
    return image


def _mirrored(face: Face, width: int) -> Face:
    box = face.box
    return replace(
        face,
        box=BoundingBox(width - box.x_max, box.y_min, width - box.x_min, box.y_max),
        keypoints=tuple(Keypoint(p.name, width - p.x, p.y) for p in face.keypoints),
    )
