"""What a source must be: the interfaces that cameras of any kind implement.

The smallest is `Camera`, an object with ``read()``. A `Source` can be opened again, so a lost
connection is; ours for OpenCV, PyAV and picamera2 are such, and yours may be.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

__all__ = ["Camera", "Reader", "Source"]


@runtime_checkable
class Camera(Protocol):
    """A live source that is open already, such as ``cv2.VideoCapture``."""

    def read(self) -> Any:
        """The next image, as ``(ok, image)``, as the image alone, or `None`. May block."""
        ...


class Reader(Protocol):
    """An open connection to a source. Read in one thread, and closed there.

    Three attributes are looked for and may lack: ``is_live``, whether frames come by themselves
    (taken as true if it lacks); ``pixel_format``, the channels of its arrays; and a method
    ``interrupt()``, called from another thread, that makes a blocking `read` return.
    """

    def read(self) -> Any:
        """The next image: what `Frame.of` takes, or a `TimedImage` of it. May block.

        `None` means that a frame was missed; after ten in a row the source counts as lost.

        Raises:
            EOFError: At the end, which is final.
            SourceError: If it was lost, or has ended and should be opened again. An `OSError`
                says the same.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@runtime_checkable
class Source(Protocol):
    """A source that can be opened, and opened again when it was lost."""

    def open(self) -> Reader:
        """Connect to it. May block; called in a thread of its own.

        Raises:
            ConfigurationError: If it will never work as asked for.
            SourceError: If it does not work now. So does an `OSError`.
        """
        ...
