"""Where frames come from: cameras, iterables and async iterables, at a bounded rate.

A camera is read all the time and only its newest frame is kept, so that what is looked at is
never older than it must be. An iterable waits for whoever takes from it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from hybrid_detect.errors import ConfigurationError

__all__ = ["Camera", "CapturedFrame", "FrameSource", "OpenSource", "open_source"]


@runtime_checkable
class Camera(Protocol):
    """A live source, such as ``cv2.VideoCapture``."""

    def read(self) -> tuple[bool, Any]:
        """The next image and whether there was one. May block until it is there."""
        ...


type_of_source = "a camera with read(), an iterable or an async iterable of images"
FrameSource = Camera | Iterable[Any] | AsyncIterable[Any]


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """An image as its source gave it."""

    image: Any
    captured_at_s: float
    """When it came, in seconds of `time.monotonic`."""
    index: int = 0
    """Its number in the source, from 0, dropped images counted."""
    dropped_before: int = 0
    """Images that were dropped between the one given out before and this one."""


class OpenSource(ABC):
    """A source that is being read."""

    drops = False
    """Whether it gives up frames for newer ones, so that any one frame may be left out."""

    @property
    def dropped(self) -> int:
        """Frames that were read but replaced by a newer one before anybody took them."""
        return 0

    @abstractmethod
    async def take(self) -> CapturedFrame | None:
        """The next frame, or `None` at the end."""

    async def aclose(self) -> None:
        """Stop reading."""


@asynccontextmanager
async def open_source(
    source: FrameSource, *, max_fps: float | None = None, every_frame: bool | None = None
) -> AsyncIterator[OpenSource]:
    """Read `source` inside a ``with`` block.

    Args:
        source: A camera, an iterable or an async iterable of images.
        max_fps: Most frames to give out in a second; `None` for no limit.
        every_frame: Whether to make the source wait rather than drop frames; by default only a
            camera's frames are dropped.

    Raises:
        ConfigurationError: If `source` is none of these or a camera that is not open, or `max_fps`
            is not above 0.
    """
    if max_fps is not None and not max_fps > 0:
        msg = f"max_fps: expected a number above 0, got {max_fps!r}"
        raise ConfigurationError(msg)
    # One image is iterable, too, but not by images.
    is_image = isinstance(source, str | bytes | bytearray | memoryview | np.ndarray | Image.Image)
    if is_image or not isinstance(source, Camera | Iterable | AsyncIterable):
        msg = f"camera: expected {type_of_source}, got {type(source).__name__}"
        raise ConfigurationError(msg)
    is_opened = getattr(source, "isOpened", None)
    if is_opened is not None and not is_opened():
        # OpenCV's would give no image and no error: no face would be seen, and nobody told why.
        msg = "the camera is not open"
        raise ConfigurationError(msg)
    opened: OpenSource
    if isinstance(source, AsyncIterable):
        opened = _AsyncPulled(source) if every_frame is not False else _AsyncNewest(source)
    else:
        images = _shots(source) if isinstance(source, Camera) else iter(source)
        drop = isinstance(source, Camera) if every_frame is None else not every_frame
        opened = _Newest(images) if drop else _Pulled(images)
    try:
        yield _Throttled(opened, 1 / max_fps) if max_fps else opened
    finally:
        await opened.aclose()


def _shots(camera: Camera) -> Iterator[Any]:
    while True:
        ok, image = camera.read()
        if not ok:
            return
        yield image


_END = object()


class _AsyncPulled(OpenSource):
    def __init__(self, images: AsyncIterable[Any]) -> None:
        self._images = aiter(images)

    async def take(self) -> CapturedFrame | None:
        image = await anext(self._images, _END)
        return None if image is _END else CapturedFrame(image, time.monotonic())

    async def aclose(self) -> None:
        if hasattr(self._images, "aclose"):
            await self._images.aclose()


class _AsyncNewest(OpenSource):
    """Reads all the time, in a task of its own, and keeps the newest image."""

    drops = True

    def __init__(self, images: AsyncIterable[Any]) -> None:
        self._source = _AsyncPulled(images)
        self._arrived = asyncio.Event()
        self._shot: CapturedFrame | None = None
        self._dropped = 0
        self._reader = asyncio.create_task(self._read())

    @property
    def dropped(self) -> int:
        return self._dropped

    async def _read(self) -> None:
        try:
            while (captured := await self._source.take()) is not None:
                self._dropped += self._shot is not None
                self._shot = captured
                self._arrived.set()
        finally:
            self._arrived.set()

    async def take(self) -> CapturedFrame | None:
        while self._shot is None and not self._reader.done():
            self._arrived.clear()
            await self._arrived.wait()
        captured, self._shot = self._shot, None
        if captured is None:
            await self._reader  # raises what ended the source, if it did not just end
        return captured

    async def aclose(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._source.aclose()


class _Pulled(OpenSource):
    """Reads the next image when it is asked for, in one thread of its own."""

    def __init__(self, images: Iterator[Any]) -> None:
        self._images = images
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hybrid-detect-source")

    async def take(self) -> CapturedFrame | None:
        image = await asyncio.get_running_loop().run_in_executor(
            self._thread, next, self._images, _END
        )
        return None if image is _END else CapturedFrame(image, time.monotonic())

    async def aclose(self) -> None:
        # An image that is being read now is waited for: a camera cannot be interrupted.
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)


class _Newest(OpenSource):
    """Reads all the time, in one thread of its own, and keeps the newest image."""

    drops = True

    def __init__(self, images: Iterator[Any]) -> None:
        self._images = images
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._lock = threading.Lock()
        self._shot: CapturedFrame | None = None
        self._dropped = 0
        self._error: BaseException | None = None
        self._ended = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="hybrid-detect-source", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._dropped

    def _read(self) -> None:
        try:
            for image in self._images:
                with self._lock:
                    self._dropped += self._shot is not None
                    self._shot = CapturedFrame(image, time.monotonic())
                if self._stop.is_set():
                    return
                self._wake()
        except BaseException as error:  # the camera's own, told to whoever takes the next frame
            self._error = error
        self._ended = True
        if not self._stop.is_set():
            self._wake()

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._arrived.set)

    async def take(self) -> CapturedFrame | None:
        while True:
            self._arrived.clear()
            ended = self._ended
            with self._lock:
                captured, self._shot = self._shot, None
            if captured is not None:
                return captured
            if ended:
                if self._error is not None:
                    raise self._error
                return None
            await self._arrived.wait()

    async def aclose(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join)


class _Throttled(OpenSource):
    """Gives out a frame at most every `period_s` seconds."""

    def __init__(self, source: OpenSource, period_s: float) -> None:
        self._source = source
        self.drops = source.drops
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
