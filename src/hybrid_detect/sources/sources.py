"""Sources: where frames come from: cameras, videos, folders, iterables, at a bounded rate.

A camera is read all the time and only its newest frame is kept, so that what is looked at is
never older than it must be. A file or an iterable waits until its next frame is taken.
"""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterable, Iterable
from importlib.metadata import entry_points
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from hybrid_detect.errors import ConfigurationError, SourceError
from hybrid_detect.extras import is_installed
from hybrid_detect.frames.camera import CameraImage
from hybrid_detect.frames.frame import Frame
from hybrid_detect.sources.async_readers import AsyncNewest, AsyncPulled
from hybrid_detect.sources.camera_reads import CameraReads, frame_count
from hybrid_detect.sources.captured import CapturedFrame, Intent, OnFrame, OpenSource, tell
from hybrid_detect.sources.daemon_threads import in_daemon_thread
from hybrid_detect.sources.live import LiveSource, reader_of
from hybrid_detect.sources.names import SCHEMES, image_files, scheme_of
from hybrid_detect.sources.opencv_source import OpenCVSource
from hybrid_detect.sources.pacing import Throttled
from hybrid_detect.sources.picamera2_source import Picamera2Source
from hybrid_detect.sources.protocol import Camera, Reader, Source
from hybrid_detect.sources.pyav_source import PyAVSource
from hybrid_detect.sources.thread_reader import END, ThreadReader

__all__ = ["SILENCE_S", "Camera", "CapturedFrame", "FrameSource", "OpenSource", "open_source"]

SILENCE_S = 5.0
"""A camera that gives no frame for as long is in trouble: it blocks, or a network camera stalls."""

ENTRY_POINTS = "hybrid_detect.sources"
"""Entry points of this group are called with an address of the scheme that they are named after,
and return a `Source`."""

_EXPECTED = (
    "camera: expected a camera with read(), an iterable or async iterable of images, the path of a "
    "video or of a folder of images, a camera's index, or an rtsp address"
)


class open_source:  # noqa: N801 - used as a function in a `with` statement
    """Reads `source` inside an ``async with`` block, which gives an `OpenSource` to iterate over.

    Nothing is opened before the block is entered. It may also be handed to
    `HybridDetectionService.start_detection` in place of the source itself.

    Args:
        source: The name of a source: a camera's index, ``picamera2`` or ``picamera2:1``, the path
            of a video or of a folder of images, the address of a stream. Or the source itself:
            a `Source`; a camera with ``read()`` such as ``cv2.VideoCapture``; an iterable or async
            iterable of images.
        intent: What is wanted when frames come faster than they are taken.
        max_fps: Most frames to give out in a second; `None` for no limit.
        max_age_s: The age above which a live source's frames are dropped; `None` for none.
        silence_s: Seconds without a frame after which a live source is in trouble; `None` for
            never.
        reconnect: Whether a live source that was lost or is silent is opened again, after pauses
            that grow to half a minute. A camera that you opened yourself cannot be.
        on_frame: Told each `CapturedFrame` that is read, those that are then dropped as well, in
            the thread that reads: what a viewfinder shows. It must not write to the image.

    Raises:
        ConfigurationError: If `source` is none of these or cannot be opened, or an argument is out
            of range.
        MissingExtraError: If it is a name that needs a library which is not installed.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        intent: Intent | str = Intent.AUTO,
        max_fps: float | None = None,
        max_age_s: float | None = None,
        silence_s: float | None = SILENCE_S,
        reconnect: bool = True,
        on_frame: OnFrame | None = None,
    ) -> None:
        limits = {"max_fps": max_fps, "max_age_s": max_age_s, "silence_s": silence_s}
        for name, value in limits.items():
            if value is not None and not (isinstance(value, Real) and value > 0):
                msg = f"{name}: expected a number above 0, got {value!r}"
                raise ConfigurationError(msg)
        if isinstance(source, open_source):
            msg = f"{_EXPECTED}; got an open_source"
            raise ConfigurationError(msg)
        _refuse_one_image(source)
        self._source = source
        self._intent = _as_intent(intent)
        self._max_fps = max_fps
        self._max_age_s = max_age_s
        self._silence_s = silence_s
        self._reconnect = reconnect
        self._on_frame = on_frame
        self._is_open = False

    def limited(self, max_fps: float | None) -> open_source:
        """The same source, giving out at most `max_fps` frames in a second."""
        limits = [limit for limit in (self._max_fps, max_fps) if limit is not None]
        return self._with(max_fps=min(limits, default=None))

    def shown_to(self, on_frame: OnFrame) -> open_source:
        """The same source, with `on_frame` told each frame that is read as well."""
        others = self._on_frame

        def tell_both(captured: CapturedFrame) -> None:
            tell(others, captured)
            on_frame(captured)

        return self._with(on_frame=tell_both)

    def _with(self, **changed: Any) -> open_source:
        same = {
            "intent": self._intent,
            "max_fps": self._max_fps,
            "max_age_s": self._max_age_s,
            "silence_s": self._silence_s,
            "reconnect": self._reconnect,
            "on_frame": self._on_frame,
        }
        return open_source(self._source, **{**same, **changed})

    async def __aenter__(self) -> OpenSource:
        if self._is_open:  # the first one would never be closed
            msg = "this open_source is open already: make another one for another block"
            raise ConfigurationError(msg)
        self._is_open = True
        try:
            self._opened = await self._open(self._source)
        except BaseException:
            self._is_open = False
            raise
        return Throttled(self._opened, 1 / self._max_fps) if self._max_fps else self._opened

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_open = False
        await self._opened.aclose()

    async def _open(self, source: Any) -> OpenSource:
        if isinstance(source, AsyncIterable):
            if self._intent is Intent.FRESHEST:
                return AsyncNewest(source, on_frame=self._on_frame)
            return AsyncPulled(source, on_frame=self._on_frame)
        if isinstance(source, str | os.PathLike):
            files = await in_daemon_thread(image_files, source)
            if files is not None:
                return self._of_images(files)
        if isinstance(source, str | os.PathLike | int):
            source = named_source(source)
        if isinstance(source, Source) and not hasattr(source, "read"):
            return await self._of_source(source)
        if isinstance(source, Camera):
            is_opened = getattr(source, "isOpened", None)
            if is_opened is not None and not is_opened():
                # OpenCV's would give no image and no error: no face would be seen, without a
                # reason.
                msg = "the camera is not open"
                raise ConfigurationError(msg)
            return self._of_camera(source, source=None, is_live=frame_count(source) == 0)
        return self._of_images(source)

    async def _of_source(self, source: Source) -> OpenSource:
        try:
            reader = await reader_of(source)
        except (SourceError, OSError) as error:
            raise ConfigurationError(str(error) or type(error).__name__) from error
        return self._of_camera(reader, source=source, is_live=getattr(reader, "is_live", True))

    def _of_camera(
        self, camera: Camera | Reader, *, source: Source | None, is_live: bool
    ) -> OpenSource:
        if not is_live:
            return ThreadReader(
                CameraReads(camera),
                drops=self._intent is Intent.FRESHEST,
                release=getattr(camera, "close", None) if source is not None else None,
                pixel_format=getattr(camera, "pixel_format", None),
                on_frame=self._on_frame,
            )
        return LiveSource(
            camera,
            source=source,
            reconnect=self._reconnect,
            drops=self._intent is not Intent.EVERY_FRAME,
            silence_s=self._silence_s,
            max_age_s=self._max_age_s,
            on_frame=self._on_frame,
        )

    def _of_images(self, images: Iterable[Any]) -> OpenSource:
        iterator = iter(images)
        return ThreadReader(
            lambda: next(iterator, END),
            drops=self._intent is Intent.FRESHEST,
            on_frame=self._on_frame,
        )


FrameSource: TypeAlias = (
    open_source
    | Camera
    | Source
    | Iterable[Any]
    | AsyncIterable[Any]
    | str
    | os.PathLike[str]
    | int
)
"""What `open_source` opens."""


def named_source(name: str | os.PathLike[str] | int) -> Source:
    """The source that `name` stands for.

    A video or an address is read with PyAV, and with OpenCV where that alone is installed; a
    camera's index with OpenCV, which knows the cameras of every system, and else with PyAV.

    Raises:
        ConfigurationError: If it is an address of a scheme that nothing here knows.
    """
    is_file = not isinstance(name, int) and os.path.exists(name)
    if isinstance(name, str) and name.isdecimal() and not is_file:
        name = int(name)
    if isinstance(name, int):
        return OpenCVSource(name) if is_installed("cv2") else PyAVSource(name)
    scheme = "" if is_file else scheme_of(name)
    if isinstance(name, str) and name.partition(":")[0] == "picamera2" and not is_file:
        number = name.partition(":")[2].strip("/") or "0"
        if not number.isdecimal():
            msg = f"camera: expected picamera2 or picamera2:NUMBER, got {name[:40]!r}"
            raise ConfigurationError(msg)
        return Picamera2Source(int(number))
    if scheme and scheme not in SCHEMES:
        return _source_of_others(scheme, str(name))
    if not is_installed("av") and is_installed("cv2"):
        return OpenCVSource(name)
    return PyAVSource(name)


def _source_of_others(scheme: str, address: str) -> Source:
    """What an installed package opens addresses of `scheme` with."""
    found = entry_points(group=ENTRY_POINTS, name=scheme)
    if not found:
        known = ", ".join(sorted(SCHEMES))
        msg = f"camera: expected an address of {known}, got one of {scheme[:20]!r}"
        raise ConfigurationError(msg)
    source = next(iter(found)).load()(address)
    if not isinstance(source, Source):
        msg = f"camera: what is installed for {scheme[:20]!r} gave no source that opens"
        raise ConfigurationError(msg)
    return source


def _as_intent(value: Intent | str) -> Intent:
    try:
        return Intent(value)
    except ValueError:
        known = ", ".join(intent.value for intent in Intent)
        msg = f"intent: expected one of {known}, got {value!r}"
        raise ConfigurationError(msg) from None


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
    is_source = isinstance(source, Camera | Source | Iterable | AsyncIterable | os.PathLike | int)
    if not is_source or isinstance(source, bool) or source == "":
        msg = f"{_EXPECTED}; got {got}"
        raise ConfigurationError(msg)
