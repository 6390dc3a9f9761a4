"""The service for code without an event loop: the same names, blocking.

One event loop runs in a thread of its own; every call goes to it and waits for the answer.
Calls may come from any thread, so a UI calls it from a worker thread and never blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from hybrid_detect.errors import ClosedError
from hybrid_detect.frames.frame import ImageLike, PixelFormat
from hybrid_detect.privacy.privacy_policy import FramePrivacy
from hybrid_detect.service import hybrid as _async
from hybrid_detect.service.status import ServiceStatus
from hybrid_detect.service.streams import SILENCE_S
from hybrid_detect.sources.sources import FrameSource
from hybrid_detect.types import DetectionResult

__all__ = ["HybridDetectionService"]

T = TypeVar("T")

CANCEL_TIMEOUT_S = 5.0
"""How long an interrupted call may take to end in the loop's thread: it only has to let go."""


class HybridDetectionService:
    """`hybrid_detect.HybridDetectionService`, blocking.

    Takes the same arguments and raises the same errors. Use it as a context manager, or with
    `open` and `close`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._service = _async.HybridDetectionService(*args, **kwargs)
        self._portal: BlockingPortal | None = None
        self._stack = ExitStack()

    def process_image(
        self,
        image: ImageLike,
        *,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        deadline_s: float | None = None,
        privacy: FramePrivacy | str = FramePrivacy.DEFAULT,
    ) -> DetectionResult:
        """Find the faces in one image; see the async method of this name."""
        return self._wait_for(
            partial(
                self._service.process_image,
                image,
                pixel_format=pixel_format,
                deadline_s=deadline_s,
                privacy=privacy,
            )
        )

    def start_detection(
        self,
        camera: FrameSource,
        *,
        max_fps: float | None = 10,
        every_frame: bool | None = None,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        privacy: FramePrivacy | str = FramePrivacy.DEFAULT,
        skip_unchanged: bool = False,
        keep_frames: bool = False,
        silence_s: float | None = SILENCE_S,
    ) -> Iterator[DetectionResult]:
        """Yield a result for each frame of `camera`; see the async method of this name."""
        self._require_portal()
        results = self._service.start_detection(
            camera,
            max_fps=max_fps,
            every_frame=every_frame,
            pixel_format=pixel_format,
            privacy=privacy,
            skip_unchanged=skip_unchanged,
            keep_frames=keep_frames,
            silence_s=silence_s,
        )
        try:
            while True:
                try:
                    result = self._wait_for(results.__anext__)
                except StopAsyncIteration:
                    return
                yield result
        finally:
            if self._portal is not None:  # else closing the service has ended them
                self._wait_for(results.aclose)

    def status(self) -> ServiceStatus:
        """What the next frame would get, and how each way stands."""
        return self._require_portal().call(self._service.status)

    def wait_ready(self) -> None:
        """Wait until every way has either become ready or failed to for the first time."""
        self._wait_for(self._service.wait_ready)

    def _wait_for(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run `function` in the loop's thread; if interrupted, end it there before leaving."""
        ended = threading.Event()

        async def run() -> T:
            try:
                return await function()
            finally:
                ended.set()

        future = self._require_portal().start_task_soon(run)
        try:
            return future.result()
        except BaseException:
            if future.cancel():  # Ctrl-C in this thread: the other does not know of it
                ended.wait(CANCEL_TIMEOUT_S)
            raise

    def _require_portal(self) -> BlockingPortal:
        if self._portal is None:
            msg = "the service is not open: use it as 'with HybridDetectionService(...)'"
            raise ClosedError(msg)
        return self._portal

    def open(self) -> None:
        """Enter the context, for apps with a start and a stop instead of a block."""
        if self._portal is not None:
            return
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            stack.enter_context(portal.wrap_async_context_manager(self._service))
            self._stack = stack.pop_all()
        self._portal = portal

    def close(self) -> None:
        """Leave the context. May be called more than once."""
        self._portal = None
        self._stack.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
