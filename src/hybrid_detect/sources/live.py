"""Live sources: silence is noticed, old frames are dropped, and a lost camera is opened again."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from hybrid_detect.errors import ConfigurationError, SourceError
from hybrid_detect.sources.camera_reads import CameraReads
from hybrid_detect.sources.captured import CapturedFrame, DropCause, OnFrame, OpenSource
from hybrid_detect.sources.daemon_threads import in_daemon_thread
from hybrid_detect.sources.protocol import Reader, Source
from hybrid_detect.sources.thread_reader import ThreadReader

__all__ = ["OPEN_LIMIT_S", "LiveSource", "Pauses", "reader_of"]

OPEN_LIMIT_S = 30.0
"""Seconds that opening a camera or an address may take; FFmpeg gives an address up by then."""

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
"""Before a lost camera is opened again. A USB camera that was plugged in again is there after one
or two seconds; a camera that is away for the night is asked twice a minute."""

MAX_LEFT_THREADS = 3
"""Threads of one source that may be stuck in a read before it is opened no more: each holds a
connection and its memory."""


@dataclass(slots=True)
class Pauses:
    """How long to wait before the next try: doubled each time, and never the same for two apps.

    Source: full to half jitter, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    draw: Callable[[float, float], float] = random.uniform
    _failures: int = field(default=0, init=False)

    def next_s(self) -> float:
        """Seconds to wait now."""
        longest_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return self.draw(longest_s / 2, longest_s)

    def succeeded(self) -> None:
        """Start anew."""
        self._failures = 0


async def reader_of(source: Source) -> Reader:
    """Open `source` in a thread, within `OPEN_LIMIT_S`; one that comes later is closed again.

    Raises:
        SourceError: If it takes longer.
        Exception: What opening it raises.
    """
    lock = threading.Lock()
    opened: list[Reader] = []
    is_given_up = False

    def open_it() -> None:
        reader = source.open()
        with lock:
            if not is_given_up:
                opened.append(reader)
                return
        reader.close()

    try:
        async with asyncio.timeout(OPEN_LIMIT_S):
            await in_daemon_thread(open_it)
        return opened.pop()
    except TimeoutError:
        msg = f"camera: it could not be opened within {OPEN_LIMIT_S:g} s"
        raise SourceError(msg) from None
    finally:
        with lock:
            is_given_up = True
        # It may have come at the moment in which the wait for it ended.
        for reader in opened:
            threading.Thread(target=reader.close, name="hybrid-detect-call", daemon=True).start()


class LiveSource(OpenSource):
    """Reads a live source in a thread, and notices when something is wrong with it.

    Args:
        camera: What is read first.
        source: What it was opened by, and is ours to close; `None` if the caller opened it.
        reconnect: Whether `source` is opened again when it is lost or silent.
        drops: Whether to keep the newest frame only.
        silence_s: Seconds without a frame that are trouble; `None` for any number.
        max_age_s: The age of a frame above which it is dropped; `None` for none.
        on_frame: Told each frame that was read.
        pauses: How long to wait before it is opened again.
    """

    is_live = True

    def __init__(
        self,
        camera: Any,
        *,
        source: Source | None,
        reconnect: bool = True,
        drops: bool,
        silence_s: float | None,
        max_age_s: float | None,
        on_frame: OnFrame | None,
        pauses: Pauses | None = None,
    ) -> None:
        self.drops = drops
        self._is_ours = source is not None
        self._source = source if reconnect else None
        self._silence_s = silence_s
        self._max_age_s = max_age_s
        self._on_frame = on_frame
        self._pauses = pauses or Pauses()
        self._counts: Counter[DropCause] = Counter()
        self._stale_before = 0
        self._left: list[ThreadReader] = []
        self._thread: ThreadReader | None = self._read(camera, first_index=0)

    def _read(self, camera: Any, *, first_index: int) -> ThreadReader:
        self.pixel_format = getattr(camera, "pixel_format", None)
        self._next_index = first_index
        thread = ThreadReader(
            CameraReads(camera, on_miss=partial(self._counts.update, (DropCause.MISSED,))),
            drops=self.drops,
            release=camera.close if self._is_ours else None,
            interrupt=getattr(camera, "interrupt", None),
            pixel_format=self.pixel_format,
            on_frame=self._on_frame,
            first_index=first_index,
            counts=self._counts,
        )
        thread.holds_back = self.holds_back
        return thread

    @property
    def drop_counts(self) -> Mapping[DropCause, int]:
        """Frames that were not given out, by cause."""
        return self._counts

    def hold_back(self, cause: DropCause) -> None:
        """Say why frames are not taken from now on."""
        self.holds_back = cause
        if self._thread is not None:
            self._thread.holds_back = cause

    async def take(self) -> CapturedFrame | None:
        """The next frame, or `None` at the end."""
        thread = self._thread or await self._opened_again()
        is_late = False
        silence = asyncio.timeout(self._silence_s)
        try:
            async with silence:
                while (captured := await thread.take()) is not None:
                    age_s = time.monotonic() - captured.captured_at_s
                    if self._max_age_s is None or age_s <= self._max_age_s:
                        return self._given_out(captured)
                    self._counts[DropCause.STALE] += 1
                    self._stale_before += 1 + captured.dropped_before
                    is_late = True
        except (OSError, SourceError) as error:
            if silence.expired():
                given = "no frame that was fresh enough" if is_late else "no frame"
                why = f"the source has given {given} for {self._silence_s:g} s"
                raise self._lost(why) from None
            if self._source is None:
                raise
            raise self._lost(str(error) or type(error).__name__) from error
        return None

    def _given_out(self, captured: CapturedFrame) -> CapturedFrame:
        self._pauses.succeeded()
        stale, self._stale_before = self._stale_before, 0
        if not stale:
            return captured
        return replace(captured, dropped_before=captured.dropped_before + stale)

    def _lost(self, why: str) -> SourceError:
        """What tells of a loss; the thread is left, if the source can be opened again."""
        if self._source is None:
            return SourceError(why, goes_on=True)
        if self._thread is not None:
            self._thread.leave()
            self._next_index = self._thread.count
            self._left.append(self._thread)
            self._thread = None
        return SourceError(f"{why}; it is being opened again", goes_on=True)

    async def _opened_again(self) -> ThreadReader:
        source = self._source
        if source is None:  # cannot be: without a source the thread is never left
            raise SourceError
        await asyncio.sleep(self._pauses.next_s())
        self._left = [thread for thread in self._left if not thread.has_ended]
        if len(self._left) >= MAX_LEFT_THREADS:
            msg = f"the source blocks: {len(self._left)} reads of it have not returned yet"
            raise SourceError(msg, goes_on=True)
        try:
            reader = await reader_of(source)
        except (OSError, SourceError, ConfigurationError) as error:
            msg = f"the source could not be opened again: {error or type(error).__name__}"
            raise SourceError(msg, goes_on=True) from error
        self._thread = self._read(reader, first_index=self._next_index)
        return self._thread

    async def aclose(self) -> None:
        """Stop reading, within about a second whatever the source does."""
        if self._thread is not None:
            await self._thread.aclose()
