"""A camera for a window: read, looked at and drawn in threads of its own.

The service's event loop has a thread to itself: inside a toolkit's own loop it would get a turn
only between two drawn frames, and a detection needs many turns.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.config import detection_mode
from hybrid_detect.errors import HybridDetectError, SourceError
from hybrid_detect.frames.frame import PixelFormat
from hybrid_detect.frames.overlay import Overlay
from hybrid_detect.integrations.viewfinder import Viewfinder
from hybrid_detect.privacy.privacy_policy import FramePrivacy, PrivacyPolicy
from hybrid_detect.service.conditions_builder import frame_privacy
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.service.loop_thread import LoopThread
from hybrid_detect.sources.sources import FrameSource, open_source
from hybrid_detect.types import BackendKind, DetectionMode, DetectionResult

__all__ = ["CameraFeed", "FeedState", "FeedStatus"]

logger = logging.getLogger("hybrid_detect")

Shown = TypeVar("Shown")

RATE_S = 2.0
"""Seconds over which the rate of answers is counted: short enough to see a network break."""


class FeedState(StrEnum):
    """What a camera's view is doing."""

    STARTING = "starting"
    """The service is being opened: its first backend is on the way up."""
    RUNNING = "running"
    """Frames are looked at."""
    LOST = "lost"
    """The camera is silent or was lost; it is opened again if it can be."""
    PAUSED = "paused"
    """Nothing is read: the window is hidden, or the app has asked for it."""
    ENDED = "ended"
    """The video or folder is at its end."""
    FAILED = "failed"
    """The camera was lost for good, or it cannot work as it is configured."""
    CLOSED = "closed"
    """It was closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedStatus:
    """What a person may want to know of a camera's view."""

    state: FeedState = FeedState.STARTING
    """What it is doing."""
    fps: float = 0.0
    """Frames in a second that a backend has answered lately."""
    backend: BackendKind | None = None
    """The backend that answered last."""
    reason: str = ""
    """Why that backend, or what is wrong."""
    trouble: str = ""
    """Why the last change of mode or privacy was refused; empty if it was not."""
    mode: DetectionMode = DetectionMode.AUTO
    """The mode that holds now."""
    may_leave: bool = True
    """Whether frames may leave the device now."""

    @property
    def notice(self) -> str:
        """What to show in place of a moving picture; empty while there is one, or is to be none."""
        if self.state in {FeedState.LOST, FeedState.FAILED}:
            return self.reason
        return "starting" if self.state is FeedState.STARTING else ""

    def __str__(self) -> str:
        """A line for people, such as ``device, 9.8 fps: prefer_on_device: device (31 ms)``."""
        running = f"{self.backend.value if self.backend else 'no answer'}, {self.fps:.1f} fps"
        first = running if self.state is FeedState.RUNNING else self.state.value
        text = f"{first}: {self.reason}" if self.reason else first
        return f"{text} ({self.trouble})" if self.trouble else text


class CameraFeed(Generic[Shown]):
    """A camera, a service and a viewfinder, for the widget of any toolkit.

    Every method returns at once and may be called from the window's thread.

    Args:
        camera: Anything that `open_source` takes.
        finish: As in `Viewfinder`.
        max_fps: Most frames to look at in a second; all of them are shown.
        pixel_format: The channels of arrays whose source does not tell them.
        mirror: Whether the picture is shown mirrored, as a selfie is.
        enlarges: As in `Viewfinder`.
        overlay: Draws the boxes; `None` for one as it comes.
        is_paused: Whether it waits for `resume` before it opens the camera.
        service: What `HybridDetectionService` takes.

    Raises:
        ConfigurationError: If the service cannot work as configured.
    """

    def __init__(
        self,
        camera: FrameSource,
        finish: Callable[[NDArray[np.uint8]], Shown],
        *,
        max_fps: float | None = 10,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        mirror: bool = False,
        enlarges: bool = False,
        overlay: Overlay | None = None,
        is_paused: bool = False,
        **service: Any,
    ) -> None:
        overlay = overlay or Overlay(mirror=mirror, label=False)
        self._camera = camera
        self._max_fps = max_fps
        self._pixel_format = pixel_format
        self._service = HybridDetectionService(**service)
        self._viewfinder = Viewfinder(
            finish, overlay=overlay, pixel_format=pixel_format, enlarges=enlarges
        )
        self.status = FeedStatus(mode=detection_mode(self._service.config.mode))
        """How it stands; replaced by a new value when it changes."""
        self.result: DetectionResult | None = None
        """The newest result."""
        self._setting = threading.Lock()
        self._answers_s: deque[float] = deque()
        self._is_ready = asyncio.Event()
        self._is_wanted = asyncio.Event()
        if not is_paused:
            self._is_wanted.set()
        self._streaming: asyncio.Task[None] | None = None
        self._changes: set[asyncio.Task[None]] = set()
        self._loop = LoopThread(_Session(self._live), type(self).__name__)

    def take(self) -> Shown | None:
        """The newest picture to show; `None` if there is none since the last one."""
        return self._viewfinder.take()

    def resize(self, width: int, height: int) -> None:
        """Make pictures that fit into `width` by `height` pixels."""
        self._viewfinder.resize(width, height)

    def set_mode(self, mode: DetectionMode | str) -> None:
        """Go on with another mode; `status` tells when it holds, or why it cannot.

        Raises:
            ConfigurationError: If there is no such mode.
        """
        self._change(partial(self._service.set_mode, detection_mode(mode)))

    def set_privacy(self, privacy: PrivacyPolicy | FramePrivacy | str) -> None:
        """Go on with another privacy policy, as `HybridDetectionService.set_privacy` does.

        It holds once the service's thread has got round to it, in the order of the calls, and
        before the first frame is looked at; `status` tells.

        Raises:
            ConfigurationError: If it is no privacy.
        """
        if not isinstance(privacy, PrivacyPolicy):
            privacy = frame_privacy(privacy)
        self._change(partial(self._service.set_privacy, privacy))

    def pause(self) -> None:
        """Read the camera no more, and look at nothing, until `resume`."""
        self._loop.start(self._pause)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._loop.start(self._resume)

    def close(self, *, wait: bool = False) -> None:
        """End everything. May be called more than once.

        Args:
            wait: Whether to return only once the camera and the service are closed.
        """
        self._viewfinder.close()
        self._set(state=FeedState.CLOSED)
        if wait:
            self._loop.close()
        else:
            self._loop.ask_to_close()

    def _set(self, **values: Any) -> None:
        with self._setting:  # closing is told by the window's thread, all else by the service's
            if self.status.state is not FeedState.CLOSED:
                self.status = replace(self.status, **values)

    # What follows runs in the service's thread.

    async def _live(self) -> None:
        try:
            async with self._service:
                self._is_ready.set()
                self._set(may_leave=self._service.status().privacy.may_leave)
                while self._changes:  # what was asked for before holds from the first frame on
                    await asyncio.gather(*self._changes)
                while True:
                    await self._is_wanted.wait()
                    self._streaming = streaming = asyncio.create_task(self._stream())
                    try:
                        await asyncio.wait([streaming])
                    finally:
                        streaming.cancel()  # ends it if this was cancelled, which closing does
                        await asyncio.wait([streaming])
                    if not streaming.cancelled():
                        streaming.result()
                        return
        except HybridDetectError as error:
            self._set(state=FeedState.FAILED, reason=str(error), fps=0.0)
        except Exception as error:
            self._set(state=FeedState.FAILED, reason=type(error).__name__, fps=0.0)
            logger.exception("a camera's view has ended by a bug")

    async def _stream(self) -> None:
        self._answers_s.clear()
        self._set(state=FeedState.RUNNING, backend=None)
        source = open_source(self._camera, on_frame=self._viewfinder.offer)
        stream = self._service.start_detection(
            source, max_fps=self._max_fps, pixel_format=self._pixel_format
        )
        async with aclosing(stream):
            async for result in stream:
                self._take(result)
        is_lost = self.status.state is FeedState.LOST
        self._set(
            state=FeedState.FAILED if is_lost else FeedState.ENDED,
            fps=0.0,
            reason=self.status.reason if is_lost else "",
        )

    def _take(self, result: DetectionResult) -> None:
        self.result = result
        self._viewfinder.update(result)
        now_s = time.monotonic()
        if result.answered:
            self._answers_s.append(now_s)
        while len(self._answers_s) > 1 and self._answers_s[0] < now_s - RATE_S:
            self._answers_s.popleft()
        is_lost = isinstance(result.error, SourceError)
        self._set(
            state=FeedState.LOST if is_lost else FeedState.RUNNING,
            fps=self._fps(now_s),
            backend=result.backend,
            reason=result.reason,
        )

    def _fps(self, now_s: float) -> float:
        """Answers in a second: those after the first one, by the time since then."""
        since_s = now_s - self._answers_s[0] if self._answers_s else 0.0
        return round((len(self._answers_s) - 1) / since_s, 1) if since_s > 0 else 0.0

    async def _pause(self) -> None:
        self._is_wanted.clear()
        if self._streaming is not None:
            self._streaming.cancel()
        if self.status.state in {FeedState.RUNNING, FeedState.LOST}:
            self._set(state=FeedState.PAUSED, fps=0.0, reason="")

    async def _resume(self) -> None:
        self._is_wanted.set()

    def _change(self, change: Callable[[], Awaitable[None]]) -> None:
        async def changed() -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - this is a coroutine of the loop's
            self._changes.add(task)
            try:
                await self._is_ready.wait()
                await change()
                trouble = ""
            except HybridDetectError as error:
                trouble = str(error)
            finally:
                self._changes.discard(task)
            now = self._service.status()
            self._set(mode=now.mode, may_leave=now.privacy.may_leave, trouble=trouble)

        self._loop.start(changed)


class _Session:
    """Runs a coroutine for as long as it is entered."""

    def __init__(self, live: Callable[[], Awaitable[None]]) -> None:
        self._live = live
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(self._live())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
