"""A camera and a service in one event loop, for as long as a view of them is there."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, Self

from hybrid_detect.config import detection_mode
from hybrid_detect.errors import ConfigurationError, HybridDetectError, SourceError
from hybrid_detect.frames.frame import PixelFormat
from hybrid_detect.integrations.feed_status import FeedState, FeedStatus
from hybrid_detect.integrations.viewfinder import Viewfinder
from hybrid_detect.service.detection_stream import DetectionStream
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.sources.captured import CapturedFrame
from hybrid_detect.sources.live import Pauses
from hybrid_detect.sources.sources import FrameSource, open_source
from hybrid_detect.types import DetectionResult

__all__ = ["CameraSession"]

logger = logging.getLogger("hybrid_detect")

RATE_S = 2.0
"""Seconds over which the rate of answers is counted: short enough to see a network break."""


class CameraSession:
    """Reads a camera and looks at its frames for as long as it is entered.

    It refers to nothing of the window's, so that a view which is dropped without being closed is
    freed, and then ends it. Its coroutines belong to the event loop in which it is entered; `ask`,
    `closed`, `status` and `result` are the window's as well.

    Args:
        camera: Anything that `open_source` takes, or an `open_source`.
        service: Looks at the frames; entered and left with this.
        viewfinder: Shows them; closed with this.
        max_fps: Most frames to look at in a second.
        pixel_format: The channels of arrays whose source does not tell them.
        is_paused: Whether it waits for `resume` before it opens the camera.
    """

    def __init__(
        self,
        camera: FrameSource,
        service: HybridDetectionService,
        viewfinder: Viewfinder[Any],
        *,
        max_fps: float | None,
        pixel_format: PixelFormat | str,
        is_paused: bool,
    ) -> None:
        self._camera = camera
        self._service = service
        self._viewfinder = viewfinder
        self._max_fps = max_fps
        self._pixel_format = pixel_format
        self.status = FeedStatus(mode=detection_mode(service.config.mode))
        """How it stands; replaced by a new value when it changes."""
        self.result: DetectionResult | None = None
        """The newest result."""
        self._setting = threading.Lock()
        self._asked = 0
        self._answers_s: deque[float] = deque()
        self._pauses = Pauses()
        self._is_ready = asyncio.Event()
        self._is_wanted = asyncio.Event()
        if not is_paused:
            self._is_wanted.set()
        self._is_hurried = asyncio.Event()
        self._stream: DetectionStream | None = None
        self._streaming: asyncio.Task[bool] | None = None
        self._changes: set[asyncio.Task[None]] = set()
        self._living: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Say that a `change` was asked for, which begins in a moment."""
        with self._setting:
            self._asked += 1
        self._set()

    def closed(self) -> None:
        """Say that it was closed; `status` changes no more."""
        self._set(state=FeedState.CLOSED)

    def _set(self, *, only_in: FeedState | None = None, **values: Any) -> None:
        # Closing is told by the window's thread, the first frame by the camera's.
        with self._setting:
            state = self.status.state
            if state is not FeedState.CLOSED and only_in in {None, state}:
                self.status = replace(self.status, is_changing=self._asked > 0, **values)

    async def __aenter__(self) -> Self:
        self._living = asyncio.ensure_future(self._live())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._living is not None:
            self._living.cancel()
            with suppress(asyncio.CancelledError):
                await self._living
        self._viewfinder.close()

    async def pause(self) -> None:
        """Let a camera go until `resume`. What is not live is held where it is."""
        self._is_wanted.clear()
        is_held = self._stream is not None and self._stream.is_live is False
        if self._streaming is not None and not is_held:
            self._streaming.cancel()
        if self.status.state in {FeedState.RUNNING, FeedState.LOST}:
            self._set_paused()

    async def resume(self) -> None:
        """Go on after `pause`, or try at once to open a camera that could not be opened."""
        self._is_wanted.set()
        self._is_hurried.set()

    async def change(self, change: Callable[[], Awaitable[None]]) -> None:
        """Change the service, once it is open, and tell in `status` when it holds or why not."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine of the loop's
        self._changes.add(task)
        trouble = ""
        try:
            await self._is_ready.wait()
            await change()
        except HybridDetectError as error:
            trouble = str(error)
        finally:
            self._changes.discard(task)
            with self._setting:
                self._asked -= 1
            now = self._service.status()
            self._set(mode=now.mode, may_leave=now.privacy.may_leave, trouble=trouble)

    async def _live(self) -> None:
        try:
            async with self._service:
                self._is_ready.set()
                self._set(may_leave=self._service.status().privacy.may_leave)
                while self._changes:  # what was asked for before holds from the first frame on
                    await asyncio.gather(*self._changes)
                while not await self._is_at_end():
                    pass
        except HybridDetectError as error:
            self._set_failed(str(error))
        except Exception as error:
            self._set_failed(type(error).__name__)
            logger.exception("a camera's view has ended by a bug")

    async def _is_at_end(self) -> bool:
        """Read the camera once it is wanted, until that is over; whether there is no more."""
        if not self._is_wanted.is_set() and self.status.state is not FeedState.FAILED:
            self._set_paused()
        await self._is_wanted.wait()
        self._is_hurried.clear()
        self._streaming = streaming = asyncio.create_task(self._has_ended())
        try:
            await asyncio.wait([streaming])
        finally:
            streaming.cancel()  # ends it if this was cancelled, which closing does
            await asyncio.wait([streaming])
            self._stream = None
        if streaming.cancelled():
            return False
        try:
            if streaming.result():
                return True
        except (ConfigurationError, SourceError) as error:
            self._set_failed(str(error))
        # It may be plugged in later, or another program, or the view before this one, holds it.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pauses.next_s()):
                await self._is_hurried.wait()
        return False

    async def _has_ended(self) -> bool:
        """Look at the camera's frames until there are no more; False if it was lost."""
        self._answers_s.clear()
        if self.status.state is not FeedState.FAILED:
            self._set(state=FeedState.STARTING, backend=None, reason="")
        camera = self._camera
        source = camera if isinstance(camera, open_source) else open_source(camera)
        self._stream = stream = self._service.start_detection(
            source.shown_to(self._offer), max_fps=self._max_fps, pixel_format=self._pixel_format
        )
        async with aclosing(stream):
            async for result in stream:
                await self._is_wanted.wait()
                self._take(result)
        if self.status.state is FeedState.LOST:
            self._set_failed(self.status.reason)
            return False
        self._set(state=FeedState.ENDED, fps=0.0, reason="")
        return True

    def _offer(self, captured: CapturedFrame) -> None:  # in the camera's thread
        self._viewfinder.offer(captured)
        self._set(only_in=FeedState.STARTING, state=FeedState.RUNNING)

    def _take(self, result: DetectionResult) -> None:
        self.result = result
        self._viewfinder.update(result)
        now_s = time.monotonic()
        if result.answered:
            self._answers_s.append(now_s)
        while len(self._answers_s) > 1 and self._answers_s[0] < now_s - RATE_S:
            self._answers_s.popleft()
        is_lost = isinstance(result.error, SourceError)
        if not is_lost:
            self._pauses.succeeded()
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

    def _set_paused(self) -> None:
        self._set(state=FeedState.PAUSED, fps=0.0, reason="")

    def _set_failed(self, reason: str) -> None:
        self._set(state=FeedState.FAILED, fps=0.0, reason=reason)
