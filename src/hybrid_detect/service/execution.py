"""What became of one frame, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hybrid_detect.errors import AllBackendsFailedError, BackendError, SupersededError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import Attempt, DetectionResult, DetectionStatus, Plan

__all__ = ["Execution"]


@dataclass(slots=True)
class Execution:
    """What became of a frame."""

    result: DetectionResult | None = None
    failures: list[BackendError] = field(default_factory=list)
    superseded: SupersededError | None = None
    """A newer frame took this one's place while it waited."""
    notes: list[str] = field(default_factory=list)
    """What else a person may want to know of the way it took."""

    def to_result(
        self, frame: Frame, plan: Plan, *, total_s: float, session_id: str | None
    ) -> DetectionResult:
        """The result that the caller gets.

        Args:
            frame: The frame.
            plan: What was to be done with it.
            total_s: Seconds it took altogether.
            session_id: The caller's name for this run of the app.
        """
        failures = tuple(map(Attempt.from_error, self.failures))
        if self.result is None:
            return self._without_answer(frame, plan, failures, session_id)
        return replace(
            self.result,
            status=DetectionStatus.DEGRADED if failures else self.result.status,
            reason=self._reason(self.result.reason),
            attempts=failures,
            timings=replace(self.result.timings, total_s=total_s),
            age_s=frame.age_s(),
            session_id=session_id,
        )

    def _without_answer(
        self, frame: Frame, plan: Plan, failures: tuple[Attempt, ...], session_id: str | None
    ) -> DetectionResult:
        reason = self._reason(plan.reason)
        skipped = self.superseded or (SupersededError(plan.reason) if plan.skip else None)
        message = f"no way could answer: {reason}" if failures else reason
        return DetectionResult(
            status=DetectionStatus.SKIPPED if skipped else DetectionStatus.FAILED,
            width=frame.width,
            height=frame.height,
            reason=reason,
            attempts=failures,
            age_s=frame.age_s(),
            frame_id=frame.frame_id,
            session_id=session_id,
            error=skipped or AllBackendsFailedError(message, attempts=tuple(self.failures)),
        )

    def _reason(self, first: str) -> str:
        """`first`, and what came between."""
        failed = (f"{error.backend} could not answer ({error})" for error in self.failures)
        return "; ".join((first, *self.notes, *failed))
