"""The runs over many frames of one service: a camera's stream, or a list of pictures."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from hybrid_detect.errors import ConfigurationError, InvalidFrameError, SourceError
from hybrid_detect.frames.frame import ImageLike, PixelFormat
from hybrid_detect.privacy.privacy_policy import FramePrivacy
from hybrid_detect.selection.scene import SceneEstimator
from hybrid_detect.service.conditions_builder import FrameContext
from hybrid_detect.service.detection_stream import DetectionStream
from hybrid_detect.service.execution import Execution
from hybrid_detect.service.streams import IN_FLIGHT, ResultsInOrder, Stream, Window
from hybrid_detect.sources.captured import DropCause, Intent
from hybrid_detect.sources.change_gate import ChangeGate
from hybrid_detect.sources.sources import CapturedFrame, FrameSource, OpenSource, open_source
from hybrid_detect.types import DetectionResult

__all__ = ["FrameRuns", "Process"]

Process = Callable[
    [ImageLike, PixelFormat | str, FrameContext, Stream | None], Awaitable[DetectionResult]
]


class FrameRuns:
    """Takes frames from sources and yields their results in order.

    Args:
        process: Looks at one frame.
        failed: Gives the result of a frame that ended in an error.
        deadline_s: Seconds that each frame of a camera has.
        require_open: Raises a `ClosedError` if the service is not open.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        *,
        process: Process,
        failed: Callable[[Execution, BaseException], DetectionResult],
        deadline_s: float,
        require_open: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._process = process
        self._failed = failed
        self._deadline_s = deadline_s
        self._require_open = require_open
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sources: set[OpenSource] = set()
        self._dropped: Counter[DropCause] = Counter()

    @property
    def dropped(self) -> Counter[DropCause]:
        """Frames of sources that no backend got to look at, by cause."""
        return sum((Counter(source.drop_counts) for source in self._sources), self._dropped)

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        """Run `coroutine` as a task that `aclose` cancels."""
        self._tasks.add(task := asyncio.create_task(coroutine))
        task.add_done_callback(self._tasks.discard)
        return task

    def of_camera(
        self,
        camera: FrameSource,
        *,
        max_fps: float | None,
        intent: Intent | str,
        pixel_format: PixelFormat | str,
        privacy: FramePrivacy,
        skip_unchanged: bool,
        keep_frames: bool,
        silence_s: float | None,
    ) -> DetectionStream:
        """The results of `HybridDetectionService.start_detection`."""
        is_live: bool | None = None

        def stream(source: OpenSource) -> Stream:
            nonlocal is_live
            is_live = source.is_live
            return Stream(
                pixel_format=source.pixel_format or pixel_format,
                privacy=privacy,
                deadline_s=self._deadline_s,
                max_fps=max_fps,
                must_answer=not source.drops,
                gate=ChangeGate() if skip_unchanged else None,
                keep_frames=keep_frames,
                scene=SceneEstimator(),
            )

        def source() -> open_source:
            if isinstance(camera, open_source):
                return camera.limited(max_fps)
            return open_source(camera, intent=intent, max_fps=max_fps, silence_s=silence_s)

        def with_frames() -> None:
            nonlocal keep_frames
            keep_frames = True

        return DetectionStream(
            self._results(source, stream), keep_frames=with_frames, is_live=lambda: is_live
        )

    def of_pictures(
        self,
        images: Any,
        *,
        pixel_format: PixelFormat | str,
        deadline_s: float,
        privacy: FramePrivacy,
        max_in_flight: int | None,
        most_pictures: int,
    ) -> AsyncGenerator[DetectionResult]:
        """The results of `HybridDetectionService.process_images`.

        Raises:
            ConfigurationError: If `max_in_flight` is no whole number above 0.
        """
        usual = max(IN_FLIGHT, most_pictures)
        limit = usual if max_in_flight is None else max_in_flight
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            msg = f"max_in_flight: expected a whole number above 0, got {limit!r}"
            raise ConfigurationError(msg)

        def stream(source: OpenSource) -> Stream:
            return Stream(
                pixel_format=source.pixel_format or pixel_format,
                privacy=privacy,
                deadline_s=deadline_s,
                max_fps=0,
                must_answer=True,
            )

        def source() -> open_source:
            return open_source(images, intent=Intent.EVERY_FRAME)

        return self._results(source, stream, window=Window(limit))

    async def _results(
        self,
        make_source: Callable[[], open_source],
        make_stream: Callable[[OpenSource], Stream],
        *,
        window: Window | None = None,
    ) -> AsyncGenerator[DetectionResult]:
        """Yield a result for each frame of a source, in their order.

        Args:
            make_source: Says where the frames come from.
            make_stream: What holds for its frames.
            window: How many frames may be under way at the same time.

        Raises:
            ConfigurationError: If it is no source of frames.
            ClosedError: If the service is not open, or is closed meanwhile.
        """
        self._require_open()
        async with make_source() as opened:
            self._sources.add(opened)
            stream = make_stream(opened)
            results = ResultsInOrder(
                opened,
                partial(self._look_at, stream),
                spawn=self.spawn,
                lost=partial(self._without_frame, stream),
                window=window,
            )
            async with aclosing(results):
                try:
                    async for result in results:
                        yield result
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is None or not task.cancelling():
                        # The caller was not cancelled: closing has cancelled its frames.
                        self._require_open()
                    raise
                finally:
                    self._sources.discard(opened)
                    self._dropped.update(opened.drop_counts)

    def _without_frame(self, stream: Stream, error: SourceError) -> DetectionResult:
        context = stream.context(None, now_s=self._clock())
        return self._failed(Execution(started_s=self._clock(), context=context), error)

    async def _look_at(self, stream: Stream, captured: CapturedFrame) -> DetectionResult:
        context = stream.context(captured, now_s=self._clock())
        try:
            pixel_format = captured.pixel_format or stream.pixel_format
            self._require_open()
            return await self._process(captured.image, pixel_format, context, stream)
        except InvalidFrameError as error:
            result = self._failed(Execution(started_s=self._clock(), context=context), error)
            return replace(result, reason=f"not an image: {error}")

    async def aclose(self) -> None:
        """Give up the frames under way, and read no source any more."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A camera must not be read any more, even if no caller goes on with its stream.
        await asyncio.gather(*(source.aclose() for source in tuple(self._sources)))
