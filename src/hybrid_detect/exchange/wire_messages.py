"""What the messages of the wire format say (`wire`), as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hybrid_detect.types import Face, QualityLevel

__all__ = ["DetectRequest", "ErrorReply", "ResultReply"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectRequest:
    """A picture to look at."""

    request_id: int
    image: bytes = field(repr=False)
    """The compressed picture: upright and without metadata."""
    format: str = "jpeg"
    min_confidence: float | None = None
    """Faces below this score are not wanted; `None` for the threshold of the model that looks. A
    server that does not know of that takes 0.5."""
    deadline_s: float | None = None
    """Seconds after which the answer is worth nothing any more; `None` if unknown."""
    session_id: str | None = None
    quality: QualityLevel | None = None
    """How thoroughly to look; `None` leaves it to the server."""
    second_look: bool = False
    """Whether to look again at the picture turned by 90, 180 and 270 degrees if no face was found
    and there is time."""
    traceparent: str = ""
    """The client's part of the frame's trace, as W3C names it; empty if it is not traced. One that
    cannot be read counts as none."""
    tracestate: str = ""
    """What tracing systems add to it, as W3C names it; empty for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultReply:
    """The faces in a picture, in that picture's pixels."""

    request_id: int
    width: int
    height: int
    faces: Sequence[Face] = ()
    model: str = ""
    receive_s: float | None = None
    """From the first byte of the request to the last; `None` if it came in one piece."""
    queue_s: float | None = None
    """Waiting for a free detector."""
    detect_s: float | None = None
    """Decoding and detecting."""

    min_confidence: float | None = None
    """The lowest score that was reported: the one that was asked for, or the model's own, or a
    higher one that the server's operator has set; `None` if the server does not say."""
    quality: str = ""
    """The level that was used, which may be below the one that was asked for; empty if the server
    does not say. A text, so that a newer server may have other levels than `QualityLevel`."""
    min_face_px: float | None = None
    """Height in pixels of this picture of the smallest face that the look could have found; `None`
    if the server does not say."""

    number: int | None = None
    """The place of this result in its session, from 1; told to those who watch a session alone. It
    counts from when the server last heard of the session; what is left out is missing here."""
    at_s: float | None = None
    """Seconds since 1970 by the server's clock when it was ready; told to those who watch alone."""

    @property
    def server_s(self) -> float | None:
        """Seconds the server took once it had the picture; `None` if it did not say."""
        return None if self.detect_s is None else self.detect_s + (self.queue_s or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReply:
    """Why there is no answer."""

    request_id: int
    status: int
    """The HTTP status that says the same."""
    code: str
    """A word for programs, such as ``unauthorized`` or ``overloaded``."""
    detail: str = ""
    """A sentence for people."""
    retry_after_s: float | None = None
