"""Reading an async iterable of images: one whenever one is taken, or the newest."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hybrid_detect.frames.ownership import owned, takes_long
from hybrid_detect.sources.captured import CapturedFrame, DropCause, OnFrame, OpenSource, tell
from hybrid_detect.sources.daemon_threads import in_daemon_thread
from hybrid_detect.sources.thread_reader import LEAVE_S

__all__ = ["AsyncNewest", "AsyncPulled"]

_END = object()


class AsyncPulled(OpenSource):
    """Asks an async iterable for an image whenever one is taken.

    Args:
        images: The images.
        on_frame: Told each frame that was read.
    """

    def __init__(self, images: AsyncIterable[Any], *, on_frame: OnFrame | None = None) -> None:
        self._images = aiter(images)
        self._on_frame = on_frame
        self._count = 0

    async def take(self) -> CapturedFrame | None:
        """The next frame, or `None` at the end."""
        image = await anext(self._images, _END)
        if image is _END:
            return None
        captured = CapturedFrame.of(
            image, index=self._count, dropped_before=0, pixel_format=self.pixel_format
        )
        image = captured.image
        image = await in_daemon_thread(owned, image) if takes_long(image) else owned(image)
        self._count += 1
        captured = replace(captured, image=image)
        tell(self._on_frame, captured)
        return captured

    async def aclose(self) -> None:
        """Stop reading, within about `LEAVE_S` seconds whatever the source does."""
        if hasattr(self._images, "aclose"):
            # A loop that ends closes it as well, at the same time.
            with suppress(TimeoutError, RuntimeError):
                async with asyncio.timeout(LEAVE_S):
                    await self._images.aclose()


class AsyncNewest(OpenSource):
    """Reads an async iterable all the time, in a task, and keeps the newest image.

    Args:
        images: The images.
        on_frame: Told each frame that was read.
    """

    drops = True

    def __init__(self, images: AsyncIterable[Any], *, on_frame: OnFrame | None = None) -> None:
        self._source = AsyncPulled(images, on_frame=on_frame)
        self._changed = asyncio.Event()
        self._captured: CapturedFrame | None = None
        self._counts: Counter[DropCause] = Counter()
        self._dropped_before = 0
        self._reader = asyncio.create_task(self._read())

    @property
    def drop_counts(self) -> Mapping[DropCause, int]:
        """Frames that were not given out, by cause."""
        return self._counts

    async def _read(self) -> None:
        try:
            while (captured := await self._source.take()) is not None:
                if self._captured is not None:
                    self._counts[self.holds_back] += 1
                    self._dropped_before += 1
                self._captured = replace(captured, dropped_before=self._dropped_before)
                self._changed.set()
        finally:
            self._changed.set()

    async def take(self) -> CapturedFrame | None:
        """The next frame, or `None` at the end."""
        while self._captured is None and not self._reader.done():
            self._changed.clear()
            await self._changed.wait()
        captured, self._captured = self._captured, None
        self._dropped_before = 0
        if captured is None:
            await self._reader  # raises what ended the source, if it did not just end
        return captured

    async def aclose(self) -> None:
        """Stop reading, within about `LEAVE_S` seconds whatever the source does."""
        self._reader.cancel()
        await asyncio.wait([self._reader], timeout=LEAVE_S)
        await self._source.aclose()
