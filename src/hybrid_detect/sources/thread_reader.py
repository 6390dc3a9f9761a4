"""Reading a source that blocks, in a thread of its own.

The thread is a daemon. A camera that never returns from a read cannot be interrupted; its thread
is left behind, and holds up neither the stream's end nor the program's.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from hybrid_detect.frames.frame import PixelFormat
from hybrid_detect.frames.ownership import read_owned
from hybrid_detect.sources.captured import CapturedFrame, DropCause, OnFrame, OpenSource, tell

__all__ = ["END", "ThreadReader"]

logger = logging.getLogger("hybrid_detect")

END: Any = object()
"""Given by a read at the end of the source."""

LEAVE_S = 0.5
"""Seconds that closing waits for a read to return: ten frames of a slow camera."""

LAST_STEP_S = 0.01
"""Seconds that closing waits, at most, for a thread that has said its last word."""


class ThreadReader(OpenSource):
    """Reads images in a thread: all the time, keeping the newest, or one whenever one is taken.

    Args:
        read: Gives the next image, or `END`. May block.
        drops: Whether to read all the time and keep the newest image only.
        release: Called in the thread once it has ended reading, if the source is ours to close.
        interrupt: Makes a read that blocks return, if the source has such a thing.
        pixel_format: The channels of its arrays, if the source tells them.
        on_frame: Told each frame that was read, in the thread.
        first_index: The number of its first frame.
        counts: Where to count drops.
    """

    def __init__(
        self,
        read: Callable[[], Any],
        *,
        drops: bool,
        release: Callable[[], Any] | None = None,
        interrupt: Callable[[], Any] | None = None,
        pixel_format: PixelFormat | None = None,
        on_frame: OnFrame | None = None,
        first_index: int = 0,
        counts: Counter[DropCause] | None = None,
    ) -> None:
        self.drops = drops
        self.pixel_format = pixel_format
        self._read = read
        self._release = release
        self._interrupt = interrupt
        self._on_frame = on_frame
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._captured: CapturedFrame | None = None
        self._count = first_index
        self._counts = Counter() if counts is None else counts
        self._dropped_before = 0
        self._error: BaseException | None = None
        self._stopping = False
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, name="hybrid-detect-source", daemon=True)
        self._thread.start()

    @property
    def drop_counts(self) -> Mapping[DropCause, int]:
        """Frames that were not given out, by cause."""
        return self._counts

    @property
    def count(self) -> int:
        """The number of the frame that comes next."""
        return self._count

    async def take(self) -> CapturedFrame | None:
        """The next frame, or `None` at the end."""
        while True:
            self._changed.clear()
            has_ended = self._has_ended  # asked first: its last image comes before its end
            with self._lock:
                captured, self._captured = self._captured, None
                if captured is not None:
                    self._dropped_before = 0
            if captured is not None:
                return captured
            if has_ended:
                if self._error is not None:
                    raise self._error
                return None
            self._wanted.set()
            await self._changed.wait()

    async def aclose(self) -> None:
        """Stop reading, within about `LEAVE_S` seconds whatever the source does."""
        self.leave()
        ends_s = time.monotonic() + LEAVE_S
        while not self._has_ended:
            self._changed.clear()
            left_s = ends_s - time.monotonic()
            if left_s <= 0:
                logger.warning("a source did not return from a read; its thread is left behind")
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
        self._thread.join(LAST_STEP_S)

    def leave(self) -> None:
        """Have the thread end after the read it is in, without waiting for it."""
        self._stopping = True
        self._wanted.set()
        if self._interrupt is not None:
            self._interrupt()

    @property
    def has_ended(self) -> bool:
        """Whether the thread reads no more."""
        return self._has_ended

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            while self._may_read():
                image = read_owned(self._read)
                if image is END:
                    break
                if self._stopping:  # left behind: a newer thread counts by now
                    break
                self._keep(image)
                del image  # a source that is slow must not hold the last image's memory
        except BaseException as error:  # raised where the next frame is taken
            self._error = error
        finally:
            self._end()

    def _may_read(self) -> bool:
        if not self.drops:
            self._wanted.wait()
            self._wanted.clear()
        return not self._stopping

    def _keep(self, image: Any) -> None:
        with self._lock:
            if self._captured is not None:
                self._counts[self.holds_back] += 1
                self._dropped_before += 1
            captured = self._captured = CapturedFrame.of(
                image,
                index=self._count,
                dropped_before=self._dropped_before,
                pixel_format=self.pixel_format,
            )
            self._count += 1
        self._wake()
        tell(self._on_frame, captured)

    def _end(self) -> None:
        try:
            if self._release is not None:
                self._release()
        except Exception:
            logger.exception("a source could not be released")
        finally:
            self._has_ended = True
            self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop has ended, and this thread was left behind
            self._loop.call_soon_threadsafe(self._changed.set)
