"""Many frames of one source: a few under way at the same time, the results in order."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Self

from hybrid_detect.errors import AllBackendsFailedError, SourceError
from hybrid_detect.frames.frame import Frame, PixelFormat
from hybrid_detect.privacy.privacy_policy import FramePrivacy
from hybrid_detect.selection.scene import SceneEstimator
from hybrid_detect.service.conditions_builder import FrameContext
from hybrid_detect.sources.change_gate import ChangeGate
from hybrid_detect.sources.sources import CapturedFrame, OpenSource
from hybrid_detect.types import DetectionResult, DetectionStatus, Timings

__all__ = ["IN_FLIGHT", "ResultsInOrder", "Stream", "Window"]

IN_FLIGHT = 2
"""Frames of one stream under way at the same time. The second uses the time that the first
spends on the network; a third would only make each result older. Source: measured over emulated
links, `docs/explanation/performance.md`."""

MAX_INTERVAL_S = 1.0
"""A source slower than this gives lone pictures, as far as deciding is concerned."""


class Window:
    """How many frames of one run may be under way at the same time.

    It grows by one with each answer, and after a first miss by one with each window of answers, up
    to its limit; it halves with each frame that no backend could answer. So it finds out what a
    link and a server carry, as TCP does (RFC 5681, 3.1).

    Args:
        limit: The most frames.
    """

    def __init__(self, limit: int = IN_FLIGHT) -> None:
        self._limit = limit
        self._threshold = float(limit)
        self._size = float(min(IN_FLIGHT, limit))

    @property
    def size(self) -> int:
        """Frames that may be under way now."""
        return int(self._size)

    def note(self, result: DetectionResult) -> None:
        """Learn from the result of a frame."""
        if result.answered:
            step = 1.0 if self._size < self._threshold else 1 / self._size
            self._size = min(self._size + step, float(self._limit))
        elif isinstance(result.error, AllBackendsFailedError):
            self._threshold = self._size = max(self._size / 2, 1.0)


class ResultsInOrder:
    """Iterates over the results that `look` gives for the frames of `source`, in their order.

    A source that is silent or was lost gives a result that says so, and ends if it does not go on.
    Any other error of the source is raised after the results of the frames that came before it.
    This is no async generator, because an event loop that ends closes all of those at once, an
    inner one while its outer one closes it.

    Args:
        source: Where the frames come from.
        look: Gives a result for any frame and raises for none.
        spawn: Runs a coroutine as a task that its owner may cancel.
        lost: Gives the result that tells of a source that was lost or is silent.
        window: How many frames may be under way at the same time.
    """

    def __init__(
        self,
        source: OpenSource,
        look: Callable[[CapturedFrame], Awaitable[DetectionResult]],
        *,
        spawn: Callable[[Any], asyncio.Task[Any]],
        lost: Callable[[SourceError], DetectionResult],
        window: Window | None = None,
    ) -> None:
        self._source = source
        self._look = look
        self._spawn = spawn
        self._lost = lost
        self._window = window or Window()
        self._pending: deque[asyncio.Task[DetectionResult]] = deque()
        self._taking: asyncio.Task[CapturedFrame | None] | None = None
        self._error: BaseException | None = None
        self._is_exhausted = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> DetectionResult:
        while True:
            if self._pending and self._pending[0].done():
                result = self._pending.popleft().result()
                self._window.note(result)
                return result
            if self._is_exhausted and not self._pending:
                error, self._error = self._error, None
                if isinstance(error, SourceError):
                    return self._lost(error)
                raise error or StopAsyncIteration
            await self._step()

    async def _step(self) -> None:
        """Wait for the next frame or the first result."""
        taking = self._taking
        if taking is None and not self._is_exhausted and len(self._pending) < self._window.size:
            taking = self._taking = self._spawn(self._source.take())
        waited = [task for task in (taking, self._pending[0] if self._pending else None) if task]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if taking is not None and taking.done():
            self._taking = None
            error = taking.exception()
            captured = None if error else taking.result()
            if captured is not None:
                self._pending.append(self._spawn(self._look(captured)))
            elif isinstance(error, SourceError) and error.goes_on:
                self._pending.append(self._spawn(self._told(error)))
            else:
                self._error = error
                self._is_exhausted = True

    async def _told(self, error: SourceError) -> DetectionResult:
        return self._lost(error)

    async def aclose(self) -> None:
        """Give up the frames under way."""
        left = [task for task in (self._taking, *self._pending) if task]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


class Stream:
    """One run of `start_detection`: what holds for its frames, and the last one looked at.

    Args:
        pixel_format: What the channels of ndarrays are.
        privacy: What may be done with its frames.
        deadline_s: Seconds that each of its frames has.
        max_fps: Most frames in a second; `None` if the source sets the pace; 0 for pictures that
            have nothing to do with each other.
        must_answer: Whether no frame may be left out.
        gate: Tells frames that show nothing new; `None` to look at all of them.
        keep_frames: Whether results hold their frames.
        scene: What will have been seen in them; `None` if a frame tells nothing of the next.
    """

    def __init__(
        self,
        *,
        pixel_format: PixelFormat | str,
        privacy: FramePrivacy,
        deadline_s: float,
        max_fps: float | None,
        must_answer: bool,
        gate: ChangeGate | None = None,
        keep_frames: bool = False,
        scene: SceneEstimator | None = None,
    ) -> None:
        self.pixel_format = pixel_format
        self._privacy = privacy
        self._deadline_s = deadline_s
        self._interval_s = 0.0 if max_fps is None else math.inf if max_fps == 0 else 1 / max_fps
        self._must_answer = must_answer
        self._gate = gate
        self._keep_frames = keep_frames
        self._scene = scene
        self._last: DetectionResult | None = None
        self._last_captured_s = 0.0
        self._captured_s: float | None = None

    def context(self, captured: CapturedFrame | None, *, now_s: float) -> FrameContext:
        """What holds for `captured`, taken at `now_s`, or for the lack of a frame then."""
        ends_s = now_s + self._deadline_s
        if captured is None:
            return FrameContext(ends_s=ends_s, privacy=self._privacy)
        since_s = (
            math.inf if self._captured_s is None else captured.captured_at_s - self._captured_s
        )
        self._captured_s = captured.captured_at_s
        return FrameContext(
            ends_s=ends_s,
            # The source may be slower than it is allowed to be.
            interval_s=max(self._interval_s, min(since_s, MAX_INTERVAL_S)),
            must_answer=self._must_answer,
            is_patient=math.isinf(self._interval_s),
            privacy=self._privacy,
            captured_at_s=captured.captured_at_s,
            source_index=captured.index,
            source_time_s=captured.source_time_s,
            dropped_before=captured.dropped_before,
            scene=self._scene,
        )

    def unchanged(
        self, frame: Frame, context: FrameContext, *, now_s: float
    ) -> DetectionResult | None:
        """The faces of an earlier frame if `frame` shows nothing new, else `None`."""
        if self._gate is None or self._last is None:
            return None
        if not self._gate.is_unchanged(frame, now_s=now_s):
            return None
        return replace(
            self._last,
            status=DetectionStatus.STALE,
            reason=f"nothing has changed since frame {self._last.frame_id}",
            timings=Timings(),
            age_s=frame.age_s() + frame.captured_at_s - self._last_captured_s,
            bytes_sent=0,
            attempts=(),
            frame_id=frame.frame_id,
            captured_at_s=frame.captured_at_s,
            source_index=context.source_index,
            source_time_s=context.source_time_s,
            dropped_before=context.dropped_before,
        )

    def with_frame(self, result: DetectionResult, frame: Frame, *, now_s: float) -> DetectionResult:
        """`result` as the stream's reader gets it; an answer is remembered for what follows."""
        is_new = result.answered and result.status is not DetectionStatus.STALE
        if self._gate is not None and is_new:
            self._gate.looked_at(frame, now_s=now_s)
            self._last, self._last_captured_s = result, frame.captured_at_s
        return replace(result, frame=frame) if self._keep_frames else result
