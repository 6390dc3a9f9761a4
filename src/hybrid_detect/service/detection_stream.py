"""What `start_detection` returns: results, one after the other, with their frames on request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Self

from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import DetectionResult

__all__ = ["DetectionStream", "FramesWithResults"]


class DetectionStream(AsyncIterator[DetectionResult]):
    """Gives a result for each frame that was taken, in their order.

    Nothing is opened before the first one is asked for. Leave the loop, or call `aclose`, to end
    it.
    """

    def __init__(
        self,
        results: AsyncGenerator[DetectionResult],
        *,
        keep_frames: Callable[[], None],
        is_live: Callable[[], bool | None],
    ) -> None:
        self._results = results
        self._keep_frames = keep_frames
        self._is_live = is_live

    async def __anext__(self) -> DetectionResult:
        return await anext(self._results)

    @property
    def is_live(self) -> bool | None:
        """Whether frames come by themselves, as a camera's do; `None` until the source is open."""
        return self._is_live()

    def with_frames(self) -> FramesWithResults:
        """The same stream as pairs of a frame and its result: ``async for frame, result in ...``.

        The frame is `None` where there is none to look at: the camera is silent or lost, or gave
        something that is no image. Call this before the first result is asked for.
        """
        self._keep_frames()
        return FramesWithResults(self)

    async def aclose(self) -> None:
        """End it: the source is read no more, and frames under way are given up."""
        await self._results.aclose()


class FramesWithResults(AsyncIterator[tuple[Frame | None, DetectionResult]]):
    """Gives each frame that was taken with its result, in their order."""

    def __init__(self, results: DetectionStream) -> None:
        self._results = results

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Frame | None, DetectionResult]:
        result = await anext(self._results)
        return result.frame, result

    async def aclose(self) -> None:
        """End the stream."""
        await self._results.aclose()
