"""A source that an app pushes its frames into: camera widgets and callbacks of any toolkit."""

from __future__ import annotations

import threading
from typing import Any

from hybrid_detect.frames.array_picture import PixelFormat, as_pixel_format
from hybrid_detect.frames.ownership import owned
from hybrid_detect.frames.timed_image import TimedImage

__all__ = ["FrameFeed"]


class FrameFeed:
    """Takes the frames that an app is given by a callback, and is a source of them.

    `push` never blocks and may be called from any thread; it replaces a frame that was not taken
    yet. Frames come when the app pushes them, so a camera that stops is noticed.

    Args:
        pixel_format: What the channels of pushed arrays are.

    Raises:
        InvalidFrameError: If there is no such pixel format.
    """

    def __init__(self, *, pixel_format: PixelFormat | str = PixelFormat.RGB) -> None:
        self.pixel_format = as_pixel_format(pixel_format)
        self._changed = threading.Condition()
        self._newest: TimedImage | None = None
        self._has_ended = False

    def push(
        self,
        image: Any,
        *,
        captured_at_s: float | None = None,
        source_time_s: float | None = None,
    ) -> None:
        """Hand a frame over; its memory is copied, so it may be written again at once.

        Args:
            image: What `Frame.of` takes.
            captured_at_s: When it was taken, in seconds of `time.monotonic`; `None` means now.
            source_time_s: The camera's own time of it.
        """
        timed = TimedImage(owned(image), captured_at_s, source_time_s)
        with self._changed:
            self._newest = timed
            self._changed.notify_all()

    def end(self) -> None:
        """Say that no more frames will come."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    @property
    def has_ended(self) -> bool:
        """Whether no more frames will come."""
        return self._has_ended

    def open(self) -> _FeedReader:
        """A reader of what is pushed from now on."""
        return _FeedReader(self)

    def wait(self, reader: _FeedReader) -> TimedImage | None:
        """The frame that was pushed last and not yet taken; `None` at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._newest is not None or self._has_ended or reader.is_interrupted
            )
            if reader.is_interrupted:
                return None  # the frame is for the reader that came after it
            newest, self._newest = self._newest, None
            return newest

    def wake(self) -> None:
        """Have readers look whether they are interrupted."""
        with self._changed:
            self._changed.notify_all()


class _FeedReader:
    """Reads what is pushed into a feed."""

    is_live = True

    def __init__(self, feed: FrameFeed) -> None:
        self._feed = feed
        self.pixel_format = feed.pixel_format
        self.is_interrupted = False

    def read(self) -> TimedImage:
        """The next frame.

        Raises:
            EOFError: If the feed has ended.
        """
        timed = self._feed.wait(self)
        if timed is None:
            raise EOFError
        return timed

    def interrupt(self) -> None:
        """Make a read that waits return."""
        self.is_interrupted = True
        self._feed.wake()

    def close(self) -> None:
        """Read no more."""
        self.is_interrupted = True
