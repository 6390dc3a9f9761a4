"""What a camera's ``read()`` gives: an image, a miss, the end of a file, or nothing any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from hybrid_detect.errors import ConfigurationError, SourceError
from hybrid_detect.frames.camera import CameraImage
from hybrid_detect.frames.frame import Frame
from hybrid_detect.frames.timed_image import TimedImage
from hybrid_detect.sources.thread_reader import END

__all__ = ["CameraReads", "frame_count"]

MAX_MISSES = 10
MISS_PAUSE_S = 0.05
"""A camera that misses is asked again after a frame's time at 20 fps. Ten misses in a row, half a
second, are taken as its loss: USB cameras miss one to three frames when the bus is busy."""

FRAME_COUNT = 7
POSITION = 1
"""Source: OpenCV, ``CAP_PROP_FRAME_COUNT`` and ``CAP_PROP_POS_FRAMES`` in ``videoio.hpp``."""

END_SLACK = 0.02
"""A file's header may promise a few frames more than there are; 2 % is still its end."""

_EXPECTED = (
    "camera: expected read() to return (ok, image) as cv2.VideoCapture does, an image, or None "
    "for a frame that was missed"
)


def frame_count(camera: Any) -> int:
    """The number of frames if `camera` is a video file opened by OpenCV, else 0."""
    return max(int(_property(camera, FRAME_COUNT)), 0)


class CameraReads:
    """Reads a camera, going on after a few misses.

    Args:
        camera: A `Camera` or a `Reader`.
        on_miss: Called for each frame that it missed.
        sleep: Waits so many seconds between two misses.
    """

    def __init__(
        self,
        camera: Any,
        *,
        on_miss: Callable[[], object] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._camera = camera
        self._on_miss = on_miss
        self._sleep = sleep

    def __call__(self) -> Any:
        """The next image, or `END` at the end of a file. May block.

        Raises:
            SourceError: If the camera was lost, or the file breaks off.
            ConfigurationError: If it is no camera.
        """
        for _ in range(MAX_MISSES):
            try:
                image = _image_of(self._camera.read())
            except EOFError:
                return END
            if image is not None:
                return image
            del image
            if self._is_at_end():
                return END
            if self._on_miss is not None:
                self._on_miss()
            self._sleep(MISS_PAUSE_S)
        if frames := frame_count(self._camera):
            position = int(_property(self._camera, POSITION))
            msg = f"the video breaks off after frame {position} of {frames}"
        else:
            msg = f"the camera was lost: it gave no frame {MAX_MISSES} times in a row"
        raise SourceError(msg)

    def _is_at_end(self) -> bool:
        frames = frame_count(self._camera)
        position = _property(self._camera, POSITION)
        return frames > 0 and position >= frames - max(1.0, END_SLACK * frames)


def _image_of(value: Any) -> Any:
    """The image in what ``read()`` returned; `None` if it was missed."""
    if value is None:
        return None
    if isinstance(value, tuple | list):
        if len(value) == 2 and isinstance(value[0], bool | np.bool_):
            return value[1] if value[0] else None
        msg = f"{_EXPECTED}, got {type(value).__name__} of {len(value)}"
        raise ConfigurationError(msg)
    if isinstance(value, np.ndarray | Image.Image | CameraImage | Frame | TimedImage) or (
        isinstance(value, bytes | bytearray | memoryview) and len(value)
    ):
        return value
    empty = "empty " if isinstance(value, bytes | bytearray | memoryview | str) else ""
    msg = f"{_EXPECTED}, got {empty}{type(value).__name__}"
    raise ConfigurationError(msg)


def _property(camera: Any, number: int) -> float:
    get = getattr(camera, "get", None)
    if not callable(get):
        return 0.0
    try:
        value = float(get(number))
    except Exception:  # another camera's `get`
        return 0.0
    return value if 0 < value < 1e12 else 0.0
