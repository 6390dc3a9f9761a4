"""The service for code without an event loop: the same names, blocking.

One event loop runs in a thread of its own; every call goes to it and waits for the answer.
Calls may come from any thread, so a UI calls it from a worker thread and never blocks.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

from hybrid_detect.backends.base import Backend
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import ClosedError
from hybrid_detect.frames.frame import Frame, ImageLike, PixelFormat
from hybrid_detect.monitoring.hooks import Hook
from hybrid_detect.monitoring.prices import PriceTable
from hybrid_detect.monitoring.tracing import NO_TRACER, Tracer
from hybrid_detect.privacy.consent import ConsentLedger
from hybrid_detect.privacy.privacy_policy import FramePrivacy, PrivacyPolicy
from hybrid_detect.selection.policy import Policy
from hybrid_detect.service import hybrid as _async
from hybrid_detect.service.detection_stream import DetectionStream
from hybrid_detect.service.loop_thread import LoopThread
from hybrid_detect.service.status import ServiceStatus
from hybrid_detect.sources.captured import Intent
from hybrid_detect.sources.sources import SILENCE_S, FrameSource
from hybrid_detect.types import DetectionMode, DetectionResult, FeedbackVerdict

__all__ = ["HybridDetectionService"]


class HybridDetectionService:
    """`hybrid_detect.HybridDetectionService`, blocking.

    Takes the same arguments and raises the same errors. Use it as a context manager, or with
    `open` and `close`.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        auth_token: str | None = None,
        mode: DetectionMode | str | None = None,
        session_id: str | None = None,
        *,
        config: ServiceConfig | None = None,
        backends: Iterable[Backend] | None = None,
        policy: Policy | None = None,
        privacy: PrivacyPolicy | None = None,
        consent: ConsentLedger | None = None,
        hooks: Iterable[Hook] = (),
        prices: Iterable[PriceTable] = (),
        tracer: Tracer = NO_TRACER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = _async.HybridDetectionService(
            endpoint,
            auth_token,
            mode,
            session_id,
            config=config,
            backends=backends,
            policy=policy,
            privacy=privacy,
            consent=consent,
            hooks=hooks,
            prices=prices,
            tracer=tracer,
            clock=clock,
        )
        self._loop: LoopThread | None = None

    def process_image(
        self,
        image: ImageLike,
        *,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        deadline_s: float | None = None,
        privacy: FramePrivacy | str = FramePrivacy.DEFAULT,
    ) -> DetectionResult:
        """Find the faces in one image; see the async method of this name."""
        return self._require_open().call(
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
        intent: Intent | str = Intent.AUTO,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        privacy: FramePrivacy | str = FramePrivacy.DEFAULT,
        skip_unchanged: bool = False,
        keep_frames: bool = False,
        silence_s: float | None = SILENCE_S,
    ) -> SyncDetectionStream:
        """Give a result for each frame of `camera`; see the async method of this name."""
        loop = self._require_open()
        results = self._service.start_detection(
            camera,
            max_fps=max_fps,
            intent=intent,
            pixel_format=pixel_format,
            privacy=privacy,
            skip_unchanged=skip_unchanged,
            keep_frames=keep_frames,
            silence_s=silence_s,
        )
        return SyncDetectionStream(loop, results)

    def process_images(
        self,
        images: Iterable[ImageLike] | str | os.PathLike[str],
        *,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        deadline_s: float | None = None,
        privacy: FramePrivacy | str = FramePrivacy.DEFAULT,
        max_in_flight: int | None = None,
    ) -> Iterator[DetectionResult]:
        """Yield a result for each of `images`; see the async method of this name."""
        loop = self._require_open()
        results = self._service.process_images(
            images,
            pixel_format=pixel_format,
            deadline_s=deadline_s,
            privacy=privacy,
            max_in_flight=max_in_flight,
        )
        return _blocking(loop, results)

    def status(self) -> ServiceStatus:
        """What the next frame would get, and how each backend stands."""

        async def status() -> ServiceStatus:
            return self._service.status()

        return self._require_open().call(status)

    def report_feedback(
        self, result: DetectionResult, verdict: FeedbackVerdict | str, *, face: int | None = None
    ) -> None:
        """Tell what is said of a result; see the async method of this name."""

        async def report() -> None:
            self._service.report_feedback(result, verdict, face=face)

        self._require_open().call(report)

    def set_mode(self, mode: DetectionMode | str) -> None:
        """Go on with another mode; see the async method of this name."""
        self._require_open().call(partial(self._service.set_mode, mode))

    def set_privacy(self, privacy: PrivacyPolicy | FramePrivacy | str) -> None:
        """Go on with another privacy policy; see the async method of this name."""
        self._require_open().call(partial(self._service.set_privacy, privacy))

    def wait_ready(self) -> None:
        """Wait until every backend has either become ready or failed to for the first time."""
        self._require_open().call(self._service.wait_ready)

    def _require_open(self) -> LoopThread:
        if self._loop is None:
            msg = "the service is not open: use it as 'with HybridDetectionService(...)'"
            raise ClosedError(msg)
        return self._loop

    def open(self) -> Self:
        """Enter the context, for apps with a start and a stop instead of a block; returns this.

        A service that is not closed is closed when it is dropped or the program ends. In a
        process that forks, open it in the child.
        """
        if self._loop is None:
            self._loop = LoopThread(self._service, "HybridDetectionService")
        return self

    def close(self) -> None:
        """Leave the context. May be called more than once."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class SyncDetectionStream(Iterator[DetectionResult]):
    """Gives a result for each frame that was taken, in their order; see `start_detection`.

    Leave the loop, or call `close`, to end it.
    """

    def __init__(self, loop: LoopThread, stream: DetectionStream) -> None:
        self._stream = stream
        self._results = _blocking(loop, stream)

    def __next__(self) -> DetectionResult:
        return next(self._results)

    def with_frames(self) -> Iterator[tuple[Frame | None, DetectionResult]]:
        """The same stream as pairs: ``for frame, result in ...with_frames()``.

        The frame is `None` where there is none to look at. Call this before the first result is
        asked for.
        """
        self._stream.with_frames()
        return ((result.frame, result) for result in self)

    def close(self) -> None:
        """End it: the source is read no more, and frames under way are given up."""
        self._results.close()


def _blocking(
    loop: LoopThread, results: AsyncGenerator[DetectionResult] | DetectionStream
) -> Generator[DetectionResult]:
    step: asyncio.Task[DetectionResult] | None = None

    async def take() -> DetectionResult:
        nonlocal step
        step = asyncio.current_task()
        return await anext(results)

    async def close() -> None:
        if step is not None and not step.done():  # Ctrl-C, and again before that had ended it
            step.cancel()
            await asyncio.wait([step])
        await results.aclose()

    try:
        while True:
            try:
                result = loop.call(take)
            except StopAsyncIteration:
                return
            yield result
    finally:
        with suppress(ClosedError):  # closing the service has ended them
            loop.call(close)
