"""Timed images: an image together with the times that its source knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["TimedImage"]


@dataclass(frozen=True, slots=True)
class TimedImage:
    """An image with the times that its source knows, for a reader or an iterable to give."""

    image: Any = field(repr=False)
    """What `Frame.of` takes."""
    captured_at_s: float | None = None
    """When it was taken, in seconds of `time.monotonic`; `None` means when it came."""
    source_time_s: float | None = None
    """The source's own time of it, in seconds: from a video's start, or of a camera's clock."""
