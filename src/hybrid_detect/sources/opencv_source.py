"""Videos, cameras and streams, opened with OpenCV."""

from __future__ import annotations

import os
import sys
from typing import Any

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.extras import require
from hybrid_detect.frames.frame import PixelFormat
from hybrid_detect.frames.timed_image import TimedImage
from hybrid_detect.sources.camera_reads import frame_count
from hybrid_detect.sources.names import SCHEMES, described, scheme_of, spelled, unopened

__all__ = ["OpenCVSource"]

POSITION_MS = 0
"""Source: OpenCV, ``CAP_PROP_POS_MSEC`` in ``videoio.hpp``."""


class OpenCVSource:
    """A camera by its index, a video file, or the address of a stream, read with OpenCV.

    OpenCV turns phone clips upright by itself, and gives BGR arrays. It may block for half a
    minute where a network camera falls silent; `open_source` notices and opens it anew.

    Args:
        target: The index of a camera, the path of a video, or an address.
        api: One of OpenCV's ``CAP_...`` numbers, such as ``cv2.CAP_V4L2``; any that works if 0.
        properties: What to set on it, by OpenCV's ``CAP_PROP_...`` numbers: a size, a rate.
    """

    def __init__(
        self,
        target: int | str | os.PathLike[str],
        *,
        api: int = 0,
        properties: dict[int, float] | None = None,
    ) -> None:
        self._target = target
        self._api = api
        self._properties = dict(properties or {})

    def open(self) -> _OpenCVReader:
        """Open it. May block.

        Raises:
            MissingExtraError: If OpenCV is not installed.
            ConfigurationError: If it cannot be opened.
        """
        described(self._target)  # refuses a file that is not there
        cv2 = require("cv2", extra="opencv", purpose="opening a video or camera with OpenCV")
        is_index = isinstance(self._target, int)
        name = self._target if isinstance(self._target, int) else os.fspath(self._target)
        if isinstance(name, str) and scheme_of(name) in SCHEMES:
            name = spelled(name)
        capture = cv2.VideoCapture(name, self._api)
        for number, value in self._properties.items():
            capture.set(number, value)
        if not capture.isOpened():
            capture.release()
            raise ConfigurationError(unopened(self._target))
        return _OpenCVReader(capture, is_index=is_index)

    def __repr__(self) -> str:
        return f"<OpenCVSource: {described(self._target, check=False)}>"


class _OpenCVReader:
    """An open ``cv2.VideoCapture``."""

    pixel_format = PixelFormat.BGR

    def __init__(self, capture: Any, *, is_index: bool) -> None:
        self._capture = capture
        # V4L2 stamps frames with the kernel's monotonic clock; other systems count from the start.
        self._has_our_clock = is_index and sys.platform == "linux"
        self.is_live = frame_count(capture) == 0
        self.get = capture.get

    def read(self) -> TimedImage | None:
        """The next image, or `None` if it was missed."""
        ok, image = self._capture.read()
        if not ok:
            return None
        time_s = self._capture.get(POSITION_MS) / 1000
        if not time_s >= 0:
            return TimedImage(image)
        return TimedImage(image, time_s if self._has_our_clock else None, time_s)

    def close(self) -> None:
        """Let go of it."""
        self._capture.release()
