"""What a source gives: an image with its number and times, and the interface of an open source."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from hybrid_detect.errors import SourceError
from hybrid_detect.frames.frame import PixelFormat
from hybrid_detect.frames.timed_image import TimedImage

__all__ = ["CapturedFrame", "DropCause", "Intent", "OnFrame", "OpenSource", "tell"]

logger = logging.getLogger("hybrid_detect")

CLOCK_SLACK_S = 10.0
"""A camera's time that lies further back than this is of another clock than ours, or of a frame
that is too old to be wanted."""


class Intent(StrEnum):
    """What is wanted of a source when its frames come faster than they are looked at."""

    AUTO = "auto"
    """`FRESHEST` of a camera and a live stream, `EVERY_FRAME` of files, folders and iterables."""
    FRESHEST = "freshest"
    """The newest frame always; those that were not taken before are dropped, and counted."""
    EVERY_FRAME = "every_frame"
    """Each frame; the source waits."""


class DropCause(StrEnum):
    """Why a frame was read and not given out."""

    BUSY = "busy"
    """A newer one came before this one was taken."""
    MAX_FPS = "max_fps"
    """A newer one came while `max_fps` allowed none."""
    STALE = "stale"
    """It was older than `max_age_s` when it could be given out."""
    MISSED = "missed"
    """The camera had none to give when it was asked. It has no number."""


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """An image as its source gave it, in memory that the source cannot write any more."""

    image: Any = field(repr=False)
    """What `Frame.of` takes."""
    captured_at_s: float
    """When it was taken, by the camera's clock if that is ours as well, or else when it came: in
    seconds of `time.monotonic`."""
    index: int
    """Its number in the source, from 0, dropped images counted."""
    dropped_before: int
    """Images that were dropped between the one given out before and this one."""
    source_time_s: float | None = None
    """The source's own time of it, in seconds: from the start of a video, or of a camera's clock;
    `None` if it tells none."""
    pixel_format: PixelFormat | None = None
    """The channels, if it is an array and the source tells them."""

    @classmethod
    def of(
        cls, image: Any, *, index: int, dropped_before: int, pixel_format: PixelFormat | None
    ) -> Self:
        """The frame of `image`, which came now and may be a `TimedImage`."""
        now_s = time.monotonic()
        if not isinstance(image, TimedImage):
            return cls(image, now_s, index, dropped_before, None, pixel_format)
        taken_s = image.captured_at_s
        is_ours = taken_s is not None and now_s - CLOCK_SLACK_S < taken_s <= now_s
        captured_at_s = taken_s if is_ours and taken_s is not None else now_s
        return cls(
            image.image, captured_at_s, index, dropped_before, image.source_time_s, pixel_format
        )


OnFrame = Callable[[CapturedFrame], object]
"""What is told each frame that was read."""


class OpenSource(ABC):
    """A source that is being read. Iterate over it, or `take` one frame after the other."""

    drops = False
    """Whether it gives up frames for newer ones, so that any one frame may be left out."""

    is_live = False
    """Whether its frames come by themselves, as a camera's do, so that silence is trouble."""

    pixel_format: PixelFormat | None = None
    """The channels of its arrays, where the source is known to give no other."""

    holds_back: DropCause = DropCause.BUSY
    """Why frames are not taken at the moment."""

    def hold_back(self, cause: DropCause) -> None:
        """Say why frames are not taken from now on."""
        self.holds_back = cause

    @property
    def dropped(self) -> int:
        """Frames that were read and not given out."""
        return sum(n for cause, n in self.drop_counts.items() if cause is not DropCause.MISSED)

    @property
    def drop_counts(self) -> Mapping[DropCause, int]:
        """Frames that were not given out, by cause; a cause that never was is left out."""
        return Counter()

    @abstractmethod
    async def take(self) -> CapturedFrame | None:
        """The next frame, or `None` at the end.

        Raises:
            SourceError: If it was lost or is silent. Where the error says `goes_on`, take again.
        """

    async def aclose(self) -> None:
        """Stop reading, within about a second whatever the source does."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CapturedFrame:
        """The next frame; waits, with a line in the log, while a lost camera is opened again.

        Raises:
            SourceError: If it was lost for good.
        """
        while True:
            try:
                captured = await self.take()
            except SourceError as error:
                if not error.goes_on:
                    raise
                logger.warning("%s", str(error))  # Kivy keeps records, and an error its frames
                continue
            if captured is None:
                raise StopAsyncIteration
            return captured


def tell(on_frame: OnFrame | None, captured: CapturedFrame) -> None:
    """Call `on_frame`; an error of it is logged and hurts no frame."""
    if on_frame is None:
        return
    try:
        on_frame(captured)
    except Exception:
        logger.exception("on_frame raised an error")
