"""Pacing: at most so many frames in a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from hybrid_detect.sources.captured import CapturedFrame, DropCause, OpenSource

__all__ = ["Throttled"]


class Throttled(OpenSource):
    """Gives out a frame at most every `period_s` seconds."""

    def __init__(self, source: OpenSource, period_s: float) -> None:
        self._source = source
        self.drops = source.drops
        self.is_live = source.is_live
        self.pixel_format = source.pixel_format
        self._period_s = period_s
        self._due_s = float("-inf")

    async def aclose(self) -> None:
        """Stop reading."""
        await self._source.aclose()

    @property
    def drop_counts(self) -> Mapping[DropCause, int]:
        """Frames that were not given out, by cause."""
        return self._source.drop_counts

    async def take(self) -> CapturedFrame | None:
        """The next frame when it is due, or `None` at the end."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            self._source.hold_back(DropCause.MAX_FPS)
            await asyncio.sleep(self._due_s - now_s)
            now_s = time.monotonic()
        self._source.hold_back(DropCause.BUSY)
        # On a fixed grid, so that waking up a little late does not lower the rate; after a real
        # pause the grid starts anew instead of catching up in a burst.
        on_grid = now_s - self._due_s < self._period_s
        self._due_s = (self._due_s if on_grid else now_s) + self._period_s
        return await self._source.take()
