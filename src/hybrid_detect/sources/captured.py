"""What a source gives: an image with its number and time, and the interface of an open source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from hybrid_detect.frames.frame import PixelFormat

__all__ = ["CapturedFrame", "OpenSource"]


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """An image as its source gave it, in memory that the source cannot write any more."""

    image: Any = field(repr=False)
    captured_at_s: float
    """When it came, in seconds of `time.monotonic`."""
    index: int
    """Its number in the source, from 0, dropped images counted."""
    dropped_before: int
    """Images that were dropped between the one given out before and this one."""


class OpenSource(ABC):
    """A source that is being read."""

    drops = False
    """Whether it gives up frames for newer ones, so that any one frame may be left out."""

    is_live = False
    """Whether its frames come by themselves, as a camera's do, so that silence is trouble."""

    pixel_format: PixelFormat | None = None
    """The channels of its arrays, where the source is known to give no other."""

    @property
    def dropped(self) -> int:
        """Frames that were read but replaced by a newer one before they were taken."""
        return 0

    @abstractmethod
    async def take(self) -> CapturedFrame | None:
        """The next frame, or `None` at the end.

        Raises:
            SourceError: If it was lost.
        """

    async def aclose(self) -> None:
        """Stop reading, within about a second whatever the source does."""
