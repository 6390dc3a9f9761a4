"""What is said of a result, as an event for the hooks."""

from __future__ import annotations

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.monitoring.events import FeedbackEvent
from hybrid_detect.types import DetectionResult, DetectionStatus, FeedbackVerdict

__all__ = ["feedback_event"]


def feedback_event(
    result: DetectionResult, verdict: FeedbackVerdict | str, *, face: int | None, at_s: float
) -> FeedbackEvent:
    """The event of a judgement.

    Args:
        result: The result that is judged.
        verdict: What is said of it.
        face: Which of its faces that is about; `None` for all of it.
        at_s: The time, in seconds since 1970.

    Raises:
        ConfigurationError: If there is no such verdict or face, or no backend looked at the frame.
    """
    try:
        verdict = FeedbackVerdict(verdict)
    except ValueError:
        msg = f"verdict: expected one of {', '.join(FeedbackVerdict)}, got {verdict!r}"
        raise ConfigurationError(msg) from None
    if result.backend is None or not result.answered or result.status is DetectionStatus.STALE:
        msg = f"result: expected one of a frame that was looked at, got status {result.status!s}"
        raise ConfigurationError(msg)
    if face is not None and (isinstance(face, bool) or face not in range(len(result.faces))):
        msg = f"face: expected the place of one of {len(result.faces)} faces, got {face!r}"
        raise ConfigurationError(msg)
    if verdict is FeedbackVerdict.FALSE_POSITIVE and not result.faces:
        msg = "verdict: expected a result with faces for false_positive, got none"
        raise ConfigurationError(msg)
    confidence = None
    # A face that was missed has no score.
    if verdict is not FeedbackVerdict.MISSED_FACE and result.faces:
        confidence = result.faces[face or 0].score
    return FeedbackEvent(
        at_s=at_s,
        verdict=verdict,
        face=face,
        session_id=result.session_id,
        frame_id=result.frame_id,
        captured_at_s=result.captured_at_s,
        backend=result.backend,
        model=result.model,
        confidence=confidence,
    )
