"""What a person may want to know of a camera's view."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hybrid_detect.types import BackendKind, DetectionMode

__all__ = ["FeedState", "FeedStatus"]


class FeedState(StrEnum):
    """What a camera's view is doing."""

    STARTING = "starting"
    """The service or the camera is being opened; no frame has come yet."""
    RUNNING = "running"
    """Frames are looked at."""
    LOST = "lost"
    """The camera is silent or was lost; it is opened again if it can be."""
    PAUSED = "paused"
    """Nothing is read: the window is hidden, or the app has asked for it."""
    ENDED = "ended"
    """The video or folder is at its end."""
    FAILED = "failed"
    """The camera cannot be opened, or was lost and is not ours to open; it is tried again, at
    growing intervals of up to half a minute. Or the service cannot work as it is configured."""
    CLOSED = "closed"
    """It was closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedStatus:
    """What a person may want to know of a camera's view."""

    state: FeedState = FeedState.STARTING
    """What it is doing."""
    fps: float = 0.0
    """Frames in a second that a backend has answered lately."""
    backend: BackendKind | None = None
    """The backend that answered last."""
    reason: str = ""
    """Why that backend, or what is wrong."""
    trouble: str = ""
    """Why the last change of mode or privacy was refused; empty if it was not."""
    mode: DetectionMode = DetectionMode.AUTO
    """The mode that holds now."""
    may_leave: bool = True
    """Whether frames may leave the device now."""
    is_changing: bool = False
    """Whether a change of mode or privacy was asked for that neither holds nor was refused yet."""

    @property
    def notice(self) -> str:
        """What to show in place of a moving picture; empty while there is one, or is to be none."""
        if self.state in {FeedState.LOST, FeedState.FAILED}:
            return self.reason
        return "starting" if self.state is FeedState.STARTING else ""

    def __str__(self) -> str:
        """A line for people, such as ``device, 9.8 fps: prefer_on_device: device (31 ms)``."""
        running = f"{self.backend.value if self.backend else 'no answer'}, {self.fps:.1f} fps"
        first = running if self.state is FeedState.RUNNING else self.state.value
        text = f"{first}: {self.reason}" if self.reason else first
        return f"{text} ({self.trouble})" if self.trouble else text
