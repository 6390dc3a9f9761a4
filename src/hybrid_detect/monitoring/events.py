"""What happened, as frozen values: an event for each frame and each change of a backend or setting.

An event holds no pixel, no key, no token and no body of a message, so that a hook may write all
of it anywhere. Making one does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from hybrid_detect.charges import SentRequest
from hybrid_detect.types import (
    Attempt,
    BackendKind,
    DetectionMode,
    DetectionResult,
    DetectionStatus,
    FeedbackVerdict,
)

__all__ = [
    "Answer",
    "BackendEvent",
    "FeedbackEvent",
    "FrameEvent",
    "FrameOutcome",
    "SettingsEvent",
    "frame_event",
    "outcome_of",
]


class FrameOutcome(StrEnum):
    """What became of a frame that entered the service."""

    ANSWERED = "answered"
    """A backend looked at it; see `FrameEvent.degraded`."""
    STALE = "stale"
    """It showed nothing new, and got the faces of an earlier frame."""
    SKIPPED = "skipped"
    """A newer frame took its place, or the policy left it out."""
    INVALID = "invalid"
    """It is not an image that the library can read."""
    FAILED = "failed"
    """No backend could answer inside its deadline."""
    CANCELLED = "cancelled"
    """The caller, or closing the service, gave it up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one backend answered about a frame, whether or not its answer was the frame's."""

    backend: BackendKind
    """The backend."""
    faces: int
    """Number of faces it found."""
    confidence: float | None
    """Score of its best face, 0 to 1; `None` without a face or a score."""
    elapsed_s: float
    """Seconds from asking it to its answer."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameEvent:
    """What became of one frame. Emitted once for each frame that entered the service."""

    at_s: float
    """When it was emitted, in seconds since 1970."""
    outcome: FrameOutcome
    """What became of the frame."""
    degraded: bool = False
    """Whether it was answered after a first attempt had failed."""
    session_id: str | None = None
    """The caller's name for this run of the app."""
    frame_id: int | None = None
    """Number of the frame in its process; `None` if it was no image."""
    source_index: int | None = None
    """Number of the frame in its source, from 0; `None` outside a stream."""
    dropped_before: int = 0
    """Frames of the source that were dropped between the last one and this one."""
    planned: BackendKind | None = None
    """The backend that the policy chose; `None` if it chose none, or was not asked."""
    backend: BackendKind | None = None
    """The backend that answered; `None` if none did."""
    model: str = ""
    """The model that looked, as the backend names it."""
    target: str = ""
    """The target that answered, by its name; empty if the picture stayed on the device."""
    provider: str = ""
    """Whose protocol that target speaks, such as ``aws``."""
    region: str = ""
    """Where that target processes pictures; empty if it does not say."""
    reason: str = ""
    """Why that backend was chosen, and what came between."""
    error: str = ""
    """Class of the error that ended it, such as ``AllBackendsFailedError``."""
    attempts: tuple[Attempt, ...] = ()
    """The attempts that brought no answer."""
    answers: tuple[Answer, ...] = ()
    """Every answer that came: several if the frame was hedged, probed or looked at twice."""
    width: int = 0
    """Width of the upright picture in pixels."""
    height: int = 0
    """Height of the upright picture in pixels."""
    faces: int = 0
    """Number of faces found."""
    confidence: float | None = None
    """Score of the best face, 0 to 1; `None` without a face or a score."""
    bytes_sent: int = 0
    """Bytes that left the device for this frame, those of failed attempts included."""
    requests: tuple[SentRequest, ...] = ()
    """Every request that left the device for this frame, answered or not, at its price."""
    total_s: float = 0.0
    """Seconds from the frame being handed in to its end."""
    age_s: float = 0.0
    """Seconds between the capture of the picture the faces are from and the end."""
    prepare_s: float | None = None
    """Seconds spent compressing; `None` if it was not sent."""
    exchange_s: float | None = None
    """Seconds between handing the bytes to the network and having the whole answer."""
    server_receive_s: float | None = None
    """Seconds the server took to receive the picture, by its own account."""
    server_queue_s: float | None = None
    """Seconds the picture waited for a detector, by the server's account."""
    detect_s: float | None = None
    """Seconds of decoding and detecting."""
    trace_id: str = ""
    """The trace of the frame, 32 hexadecimal digits; empty if it was not sampled."""
    span_id: str = ""
    """The frame's own span in it, 16 hexadecimal digits; empty if it was not sampled."""
    result: DetectionResult | None = None
    """The result without its frame; `None` if the frame was invalid or cancelled."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values by name, without the whole `result`."""
        values = {name: getattr(self, name) for name in _PLAIN}
        values["attempts"] = [attempt.to_dict() for attempt in self.attempts]
        values["answers"] = [answer.to_dict() for answer in self.answers]
        values["requests"] = [request.to_dict() for request in self.requests]
        return values


_PLAIN = tuple(field.name for field in fields(FrameEvent) if field.name != "result")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendEvent:
    """A backend became usable or unusable, or its circuit breaker changed."""

    at_s: float
    """When it was noticed, in seconds since 1970."""
    backend: BackendKind
    """The backend."""
    host: str = ""
    """Name of the host it sends frames to; empty for the device."""
    usable: bool
    """Whether a frame may be given to it now."""
    reason: str = ""
    """If not usable: why."""
    breaker: str = ""
    """``closed``, ``open`` or ``half_open``."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsEvent:
    """The app has changed the mode or the privacy policy of an open service."""

    at_s: float
    """When it took effect, in seconds since 1970."""
    mode: DetectionMode
    """The mode that holds from then on."""
    may_leave: bool
    """Whether any frame may leave the device from then on."""
    session_id: str | None = None
    """The caller's name for this run of the app."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackEvent:
    """A person, or a check of the app's, has judged a result."""

    at_s: float
    """When it was reported, in seconds since 1970."""
    verdict: FeedbackVerdict
    """What the judgement is."""
    face: int | None = None
    """Which of the result's faces it is about, from 0; `None` for all of it."""
    session_id: str | None = None
    """The caller's name for this run of the app."""
    frame_id: int
    """Number of the frame in its process."""
    captured_at_s: float | None = None
    """When the source gave the frame, in seconds of `time.monotonic`; with `frame_id` it tells the
    frame from one of another process."""
    backend: BackendKind
    """The backend whose answer it is about."""
    model: str = ""
    """The model that had looked."""
    confidence: float | None = None
    """Score of that face, else of the best; `None` without a face or a score."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values by name."""
        return {name: getattr(self, name) for name in self.__slots__}


_OUTCOMES = {
    DetectionStatus.OK: FrameOutcome.ANSWERED,
    DetectionStatus.DEGRADED: FrameOutcome.ANSWERED,
    DetectionStatus.STALE: FrameOutcome.STALE,
    DetectionStatus.SKIPPED: FrameOutcome.SKIPPED,
    DetectionStatus.FAILED: FrameOutcome.FAILED,
}


def outcome_of(result: DetectionResult) -> FrameOutcome:
    """What became of a frame that ended in `result`, as far as that says it."""
    return _OUTCOMES[result.status]


def frame_event(
    result: DetectionResult,
    *,
    at_s: float,
    total_s: float,
    planned: BackendKind | None = None,
    outcome: FrameOutcome | None = None,
    error: BaseException | None = None,
    bytes_sent: int = 0,
    requests: tuple[SentRequest, ...] = (),
    answers: tuple[Answer, ...] = (),
    span_id: str = "",
) -> FrameEvent:
    """The event for a frame that ended in `result`.

    Args:
        result: The result, without its frame.
        at_s: The time, in seconds since 1970.
        total_s: Seconds the frame took altogether.
        planned: The backend that the policy chose.
        outcome: What became of the frame; `None` for what the result's status says.
        error: What the frame raised instead of giving a result to its caller, if it did.
        bytes_sent: Bytes that left the device for it.
        requests: The requests that left the device for it.
        answers: Every answer that came.
        span_id: The frame's own span in the trace that the result names.
    """
    timings = result.timings
    return FrameEvent(
        at_s=at_s,
        outcome=outcome or outcome_of(result),
        degraded=result.status is DetectionStatus.DEGRADED,
        session_id=result.session_id,
        frame_id=result.frame_id or None,
        source_index=result.source_index,
        dropped_before=result.dropped_before,
        planned=planned,
        backend=result.backend,
        model=result.model,
        target=result.target,
        provider=result.provider,
        region=result.region,
        reason=result.reason,
        error=_class_name(error or result.error),
        attempts=result.attempts,
        answers=answers,
        width=result.width,
        height=result.height,
        faces=len(result.faces),
        confidence=result.faces[0].score if result.faces else None,
        bytes_sent=bytes_sent,
        requests=requests,
        total_s=total_s,
        age_s=result.age_s,
        prepare_s=timings.prepare_s,
        exchange_s=timings.exchange_s,
        server_receive_s=timings.server_receive_s,
        server_queue_s=timings.server_queue_s,
        detect_s=timings.detect_s,
        trace_id=result.trace_id,
        span_id=span_id,
        result=result if error is None else None,
    )


def _class_name(error: BaseException | None) -> str:
    return "" if error is None else type(error).__name__
