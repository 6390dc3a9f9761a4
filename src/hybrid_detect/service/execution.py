"""What became of one frame, attempt by attempt, and the result made of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from hybrid_detect.backends.base import UploadGate, open_frame
from hybrid_detect.charges import SentRequest
from hybrid_detect.errors import (
    AllBackendsFailedError,
    BackendError,
    HybridDetectError,
    InvalidFrameError,
    SupersededError,
)
from hybrid_detect.frames.frame import Frame, ImageLike, PixelFormat
from hybrid_detect.monitoring.events import (
    Answer,
    FrameEvent,
    FrameOutcome,
    frame_event,
    outcome_of,
)
from hybrid_detect.monitoring.tracing import NO_SPAN, Span, Tracer
from hybrid_detect.service.conditions_builder import FrameContext
from hybrid_detect.types import Attempt, DetectionResult, DetectionStatus, Plan, Timings

__all__ = ["Execution", "RunningAttempt"]


@dataclass(slots=True, eq=False)
class RunningAttempt:
    """One backend being asked about one frame."""

    gate: UploadGate
    """Counts the bytes it hands over."""
    started_s: float
    """When it started, in seconds of the service's clock."""
    ended_s: float | None = None
    """When it ended; `None` while it runs."""
    result: DetectionResult | None = None
    """Its answer, if it had one."""
    error: BackendError | None = None
    """Why it had none; a `SupersededError` if a newer frame took its place."""

    @property
    def bytes_sent(self) -> int:
        """Bytes it handed to a network. A backend without a gate tells them in its answer."""
        return max(self.gate.bytes_sent, self.result.bytes_sent if self.result else 0)

    def to_attempt(self, *, now_s: float) -> Attempt:
        """The record of an attempt that did not bring the frame's answer."""
        if self.error is not None:
            return Attempt.from_error(self.error, bytes_sent=self.bytes_sent)
        if self.result is not None:
            message = "another backend's answer was taken"
        elif self.ended_s is None:
            message = "still under way: another backend answered first"
        else:
            message = "given up before it had answered"
        elapsed_s = (now_s if self.ended_s is None else self.ended_s) - self.started_s
        return Attempt(self.gate.backend.value, "", message, elapsed_s, self.bytes_sent)


@dataclass(slots=True, eq=False, kw_only=True)
class Execution:
    """One frame on its way through the service: what was planned, tried and answered so far."""

    started_s: float
    """When the frame was handed in, in seconds of the service's clock."""
    context: FrameContext
    """Its deadline, privacy and place in its source."""
    frame: Frame | None = None
    """The frame, once it is known to be an image."""
    plan: Plan | None = None
    """The plan, once it is made."""
    attempts: list[RunningAttempt] = field(default_factory=list)
    """Every attempt that was started, in that order."""
    result: DetectionResult | None = None
    """The answer, once there is one."""
    failures: list[BackendError] = field(default_factory=list)
    """Why attempts failed, in that order."""
    probing: asyncio.Task[RunningAttempt] | None = None
    """The attempt that goes on after the answer, because it was sent to learn about the link."""
    superseded: SupersededError | None = None
    """A newer frame took this one's place while it waited."""
    notes: list[str] = field(default_factory=list)
    """What a person may want to know besides, for the result's reason."""
    span: Span = NO_SPAN
    """The frame's own part of its trace, which all others are parts of."""
    _capture: Span = NO_SPAN

    def start_trace(self, tracer: Tracer, *, own_trace: bool) -> None:
        """Start the frame's span, from when it was captured.

        Args:
            tracer: Starts it.
            own_trace: Whether it is one of many frames of a stream, which get a trace each.
        """
        captured_at_s = self.context.captured_at_s
        began_s = None
        if captured_at_s is not None:
            began_s = time.time() - (time.monotonic() - captured_at_s)
        self.span = tracer.start_span("frame", own_trace=own_trace, began_s=began_s)
        self._capture = self.span.child("capture", began_s=began_s)

    def end_trace(self, result: DetectionResult, error: BaseException | None) -> None:
        """End the frame's span with what became of the frame; as in `to_event`."""
        if not self.span.is_recording:
            return
        outcome = self._outcome(error) or outcome_of(result)
        self.span.set(
            {"hybrid_detect.outcome": outcome.value, "hybrid_detect.frame_id": result.frame_id}
        )
        if result.backend is not None:
            self.span.set(
                {
                    "hybrid_detect.backend": result.backend.value,
                    "hybrid_detect.faces": len(result.faces),
                }
            )
        has_failed = outcome in {FrameOutcome.FAILED, FrameOutcome.INVALID}
        self.span.end(error=type(error or result.error).__name__ if has_failed else "")

    async def open(
        self,
        image: ImageLike,
        pixel_format: PixelFormat | str,
        *,
        now_s: float,
        max_pixels: int | None,
    ) -> Frame:
        """Make the frame of `image`.

        Args:
            image: Anything `Frame.of` takes.
            pixel_format: What the channels of an ndarray are.
            now_s: The time, in seconds of the service's clock.
            max_pixels: The most pixels it may have.

        Raises:
            InvalidFrameError: If it is not an image.
            AllBackendsFailedError: If it could not be read in time.
        """
        limit_s = max(self.context.ends_s - now_s, 0.0)
        try:
            with self._capture:
                self.frame = await open_frame(
                    image,
                    limit_s=limit_s,
                    is_owned=self.context.source_index is not None,
                    pixel_format=pixel_format,
                    captured_at_s=self.context.captured_at_s,
                    max_pixels=max_pixels,
                )
        except TimeoutError:
            msg = f"the image could not be read within its deadline of {limit_s:.3f} s"
            raise AllBackendsFailedError(msg) from None
        return self.frame

    async def decide(self, decide: Callable[[FrameContext], Awaitable[Plan]]) -> Plan:
        """Have `decide` make the plan."""
        with self.span.child("decide") as span:
            plan = self.plan = await decide(self.context)
            if span.is_recording:
                chosen = plan.backend.value if plan.backend else "none"
                span.set({"hybrid_detect.backend": chosen, "hybrid_detect.reason": plan.reason})
        return plan

    def take(self, attempt: RunningAttempt) -> None:
        """Go by the answer or the error of an attempt that has ended."""
        if attempt.result is not None:
            self.result = attempt.result
        elif isinstance(attempt.error, SupersededError):
            self.superseded = attempt.error
        elif attempt.error is not None:
            self.failures.append(attempt.error)

    def to_result(self, *, now_s: float, session_id: str | None) -> DetectionResult:
        """The result that the caller gets.

        Args:
            now_s: The time, in seconds of the service's clock.
            session_id: The caller's name for this run of the app.
        """
        if self.result is None:
            return self._without_answer(now_s=now_s, session_id=session_id)
        return replace(
            self.result,
            status=DetectionStatus.DEGRADED if self.failures else self.result.status,
            reason=self._reason(self.result.reason),
            attempts=self._unused_attempts(now_s=now_s),
            timings=replace(self.result.timings, total_s=now_s - self.started_s),
            age_s=self.frame.age_s() if self.frame else 0.0,
            bytes_sent=self.bytes_sent,
            captured_at_s=self.frame.captured_at_s if self.frame else None,
            source_index=self.context.source_index,
            source_time_s=self.context.source_time_s,
            dropped_before=self.context.dropped_before,
            session_id=session_id,
            trace_id=self.span.trace_id,
        )

    def failed(
        self, error: BaseException, *, now_s: float, session_id: str | None
    ) -> DetectionResult:
        """The result for a frame that ended in `error`.

        Args:
            error: Why there is no answer.
            now_s: The time, in seconds of the service's clock.
            session_id: The caller's name for this run of the app.
        """
        frame = self.frame
        is_skipped = isinstance(error, SupersededError)
        # The message of any other library's error may hold anything.
        ours = error if isinstance(error, HybridDetectError) else None
        return DetectionResult(
            status=DetectionStatus.SKIPPED if is_skipped else DetectionStatus.FAILED,
            width=frame.width if frame else 0,
            height=frame.height if frame else 0,
            reason=str(error) if ours else type(error).__name__,
            timings=Timings(total_s=now_s - self.started_s),
            attempts=self._unused_attempts(now_s=now_s),
            age_s=frame.age_s() if frame else 0.0,
            bytes_sent=self.bytes_sent,
            frame_id=frame.frame_id if frame else 0,
            captured_at_s=frame.captured_at_s if frame else self.context.captured_at_s,
            source_index=self.context.source_index,
            source_time_s=self.context.source_time_s,
            dropped_before=self.context.dropped_before,
            session_id=session_id,
            trace_id=self.span.trace_id,
            error=ours,
        )

    def _without_answer(self, *, now_s: float, session_id: str | None) -> DetectionResult:
        reason = self._reason(self.plan.reason if self.plan else "")
        error: BaseException | None = self.superseded
        if error is None and self.plan is not None and self.plan.skip:
            error = SupersededError(self.plan.reason)
        if error is None:
            message = f"no backend could answer: {reason}" if self.failures else reason
            error = AllBackendsFailedError(message, attempts=tuple(self.failures))
        return replace(self.failed(error, now_s=now_s, session_id=session_id), reason=reason)

    def to_event(
        self, result: DetectionResult, error: BaseException | None, *, now_s: float
    ) -> FrameEvent:
        """What the hooks are told of the frame.

        Args:
            result: Its result, without the frame.
            error: What it raised instead of giving the result to its caller, if it did.
            now_s: The time, in seconds of the service's clock.
        """
        return frame_event(
            result,
            at_s=time.time(),
            total_s=now_s - self.started_s,
            planned=self.plan.backend if self.plan else None,
            outcome=self._outcome(error),
            error=error,
            bytes_sent=self.bytes_sent,
            requests=self.requests,
            answers=self.answers,
            span_id=self.span.span_id,
        )

    @staticmethod
    def _outcome(error: BaseException | None) -> FrameOutcome | None:
        """What became of a frame that raised `error`; `None` if its result says it."""
        if isinstance(error, InvalidFrameError):
            return FrameOutcome.INVALID
        return FrameOutcome.CANCELLED if isinstance(error, asyncio.CancelledError) else None

    def when_all_has_left(self, tell: Callable[[], None]) -> None:
        """Call `tell` once nothing leaves for this frame any more: now, unless it was a probe."""
        if self.probing is None or self.probing.done():
            tell()
        else:
            self.probing.add_done_callback(lambda _task: tell())

    @property
    def bytes_sent(self) -> int:
        """Bytes that all attempts together handed to a network."""
        return sum(attempt.bytes_sent for attempt in self.attempts)

    @property
    def requests(self) -> tuple[SentRequest, ...]:
        """The requests that all attempts together handed to a network."""
        return tuple(request for attempt in self.attempts for request in attempt.gate.requests)

    @property
    def answers(self) -> tuple[Answer, ...]:
        """Every answer that came, that of the frame among them."""
        return tuple(
            Answer(
                backend=attempt.gate.backend,
                faces=len(attempt.result.faces),
                confidence=attempt.result.faces[0].score if attempt.result.faces else None,
                elapsed_s=(attempt.ended_s or attempt.started_s) - attempt.started_s,
            )
            for attempt in self.attempts
            if attempt.result is not None
        )

    def _unused_attempts(self, *, now_s: float) -> tuple[Attempt, ...]:
        """The attempts that failed, and those that sent the picture without bringing the answer."""
        return tuple(
            attempt.to_attempt(now_s=now_s)
            for attempt in self.attempts
            if attempt.error in self.failures
            or (attempt.bytes_sent and (self.result is None or attempt.result is not self.result))
        )

    def _reason(self, first: str) -> str:
        """`first`, and what came between."""
        failed = (f"{error.backend} could not answer ({error})" for error in self.failures)
        return "; ".join((first, *self.notes, *failed))
