"""Where frames come from: cameras, videos, folders, iterables, at a bounded rate.

A camera is read all the time and only its newest frame is kept, so that what is looked at is
never older than it must be. A file or an iterable waits until its next frame is taken.
"""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import AsyncIterable, Iterable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from PIL import Image

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.frames.camera import CameraImage
from hybrid_detect.frames.frame import Frame, PixelFormat
from hybrid_detect.sources.async_readers import AsyncNewest, AsyncPulled
from hybrid_detect.sources.camera_reads import CameraReads, frame_count
from hybrid_detect.sources.captured import CapturedFrame, OpenSource
from hybrid_detect.sources.daemon_threads import in_daemon_thread
from hybrid_detect.sources.thread_reader import END, ThreadReader
from hybrid_detect.sources.video import image_files, open_video

__all__ = ["Camera", "CapturedFrame", "FrameSource", "OpenSource", "open_source"]

OPEN_LIMIT_S = 30.0
"""Seconds that opening a camera or an address may take; FFmpeg gives an address up by then."""


@runtime_checkable
class Camera(Protocol):
    """A live source, such as ``cv2.VideoCapture``."""

    def read(self) -> Any:
        """The next image, as ``(ok, image)``, as the image alone, or `None`. May block."""
        ...


FrameSource: TypeAlias = Camera | Iterable[Any] | AsyncIterable[Any] | str | os.PathLike[str] | int
"""What `open_source` opens."""

_EXPECTED = (
    "camera: expected a camera with read(), an iterable or async iterable of images, the path of a "
    "video or of a folder of images, a camera's index, or an rtsp address"
)


class open_source:  # noqa: N801 - used as a function in a `with` statement
    """Reads `source` inside an ``async with`` block.

    Args:
        source: A camera, an iterable or an async iterable of images, or the name of one: the path
            of a video or of a folder of images, a camera's index, an address of a live stream.
        max_fps: Most frames to give out in a second; `None` for no limit.
        every_frame: Whether to make the source wait rather than drop frames; by default only a
            camera's frames are dropped, and not those of a video file.

    Raises:
        ConfigurationError: If `source` is none of these or cannot be opened, or `max_fps` is not
            above 0.
        MissingExtraError: If it is a name that needs OpenCV, which is not installed.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        max_fps: float | None = None,
        every_frame: bool | None = None,
    ) -> None:
        if max_fps is not None and not max_fps > 0:
            msg = f"max_fps: expected a number above 0, got {max_fps!r}"
            raise ConfigurationError(msg)
        _refuse_one_image(source)
        self._source = source
        self._max_fps = max_fps
        self._every_frame = every_frame

    async def __aenter__(self) -> OpenSource:
        self._opened = await _opened(self._source, self._every_frame)
        return _Throttled(self._opened, 1 / self._max_fps) if self._max_fps else self._opened

    async def __aexit__(self, *exc_info: object) -> None:
        await self._opened.aclose()


async def _opened(source: Any, every_frame: bool | None) -> OpenSource:
    if isinstance(source, AsyncIterable):
        return AsyncPulled(source) if every_frame is not False else AsyncNewest(source)
    if isinstance(source, str | os.PathLike):
        files = await in_daemon_thread(image_files, source)
        if files is not None:
            return ThreadReader(lambda: next(files, END), drops=every_frame is False)
    if isinstance(source, str | os.PathLike | int):
        try:
            async with asyncio.timeout(OPEN_LIMIT_S):
                capture = await in_daemon_thread(open_video, source)
        except TimeoutError:
            msg = f"camera: it could not be opened within {OPEN_LIMIT_S:g} s"
            raise ConfigurationError(msg) from None
        opened = _of_camera(capture, every_frame, release=capture.release)
        opened.pixel_format = PixelFormat.BGR  # as OpenCV delivers
        return opened
    if isinstance(source, Camera):
        is_opened = getattr(source, "isOpened", None)
        if is_opened is not None and not is_opened():
            # OpenCV's would give no image and no error: no face would be seen, without a reason.
            msg = "the camera is not open"
            raise ConfigurationError(msg)
        return _of_camera(source, every_frame)
    images = iter(source)
    return ThreadReader(lambda: next(images, END), drops=every_frame is False)


def _of_camera(camera: Any, every_frame: bool | None, *, release: Any = None) -> OpenSource:
    is_file = frame_count(camera) > 0
    drops = not is_file if every_frame is None else not every_frame
    opened = ThreadReader(CameraReads(camera), drops=drops, release=release)
    opened.is_live = not is_file
    return opened


def _refuse_one_image(source: Any) -> None:
    """Refuse what is one image, or nothing that frames can be read from."""
    got = type(source).__name__
    if isinstance(source, io.IOBase) or (hasattr(source, "read") and hasattr(source, "readline")):
        msg = f"{_EXPECTED}; got an open file ({got}): pass its path, or one image to process_image"
        raise ConfigurationError(msg)
    one_image = bytes | bytearray | memoryview | np.ndarray | Image.Image | CameraImage | Frame
    if isinstance(source, one_image):
        msg = f"{_EXPECTED}; got one image ({got}): pass it to process_image"
        raise ConfigurationError(msg)
    is_source = isinstance(source, Camera | Iterable | AsyncIterable | os.PathLike | int)
    if not is_source or isinstance(source, bool) or source == "":
        msg = f"{_EXPECTED}; got {got}"
        raise ConfigurationError(msg)


class _Throttled(OpenSource):
    """Gives out a frame at most every `period_s` seconds."""

    def __init__(self, source: OpenSource, period_s: float) -> None:
        self._source = source
        self.drops = source.drops
        self.is_live = source.is_live
        self.pixel_format = source.pixel_format
        self._period_s = period_s
        self._due_s = float("-inf")

    async def aclose(self) -> None:
        await self._source.aclose()

    @property
    def dropped(self) -> int:
        return self._source.dropped

    async def take(self) -> CapturedFrame | None:
        now_s = time.monotonic()
        if now_s < self._due_s:
            await asyncio.sleep(self._due_s - now_s)
            now_s = time.monotonic()
        # On a fixed grid, so that waking up a little late does not lower the rate; after a real
        # pause the grid starts anew instead of catching up in a burst.
        on_grid = now_s - self._due_s < self._period_s
        self._due_s = (self._due_s if on_grid else now_s) + self._period_s
        return await self._source.take()
