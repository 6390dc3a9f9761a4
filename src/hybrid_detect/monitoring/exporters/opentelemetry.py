"""A hook that measures events with OpenTelemetry (extra ``[otel]``).

It needs OpenTelemetry's API alone. The app chooses the SDK and where the figures go; where it has
none, measuring costs next to nothing and goes nowhere.

Names and units follow OpenTelemetry's semantic conventions: ``error.type`` for what an attempt
ended with, seconds (``s``), bytes (``By``), and counts with their unit in braces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from hybrid_detect.charges import DEFAULT_CURRENCY
from hybrid_detect.extras import require
from hybrid_detect.monitoring.events import BackendEvent, FrameEvent, FrameOutcome
from hybrid_detect.monitoring.exporters.series import (
    DURATION_BOUNDS_S,
    ERROR_NAMES,
    REMOTE,
    SIZE_BOUNDS_BYTES,
    STAGES,
    error_name,
)
from hybrid_detect.monitoring.switches import Switches
from hybrid_detect.types import BackendKind

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

__all__ = ["OpenTelemetryHook"]

_BACKEND = "hybrid_detect.backend"
_OUTCOME = "hybrid_detect.outcome"
_STAGE = "hybrid_detect.stage"
_USABLE = "hybrid_detect.usable"
_ANSWERED = "hybrid_detect.answered"
_CURRENCY = "hybrid_detect.currency"
_ERROR = "error.type"


class OpenTelemetryHook:
    """Measures what becomes of frames and backends with an OpenTelemetry meter.

    Services may share one hook.

    Args:
        meter_provider: The provider of the meter; the app's global one if `None`.
        currency: The currency whose costs are there at zero from the start; costs in another one
            appear with the first.

    Raises:
        MissingExtraError: If ``opentelemetry-api`` is not installed.
    """

    blocking: ClassVar[bool] = False
    """Called on the event loop: an SDK exports from a thread of its own."""

    def __init__(
        self, meter_provider: MeterProvider | None = None, *, currency: str = DEFAULT_CURRENCY
    ) -> None:
        metrics: Any = require(
            "opentelemetry.metrics", extra="otel", purpose="measuring with OpenTelemetry"
        )
        self._trace: Any = require(
            "opentelemetry.trace", extra="otel", purpose="measuring with OpenTelemetry"
        )
        meter = metrics.get_meter("hybrid_detect", meter_provider=meter_provider)

        def counter(name: str, unit: str, description: str) -> Any:
            return meter.create_counter(f"hybrid_detect.{name}", unit, description)

        def histogram(name: str, unit: str, bounds: tuple[float, ...], description: str) -> Any:
            return meter.create_histogram(
                f"hybrid_detect.{name}",
                unit,
                description,
                explicit_bucket_boundaries_advisory=bounds,
            )

        self._frames = counter(
            "frames", "{frame}", "Frames that entered the service, by what became of them."
        )
        self._answers = counter("answers", "{frame}", "Frames answered, by backend.")
        self._degraded = counter(
            "degraded", "{frame}", "Frames answered after a first attempt had failed."
        )
        self._plans = counter("plans", "{frame}", "Frames by the backend that was chosen first.")
        self._attempts = counter("failed_attempts", "{attempt}", "Attempts that brought no answer.")
        self._dropped = counter(
            "dropped_frames", "{frame}", "Frames that sources dropped for newer ones."
        )
        self._faces = counter("faces", "{face}", "Faces found, by backend.")
        self._switches = counter(
            "switches",
            "{frame}",
            "Answers by another backend than the answer before, in the same session.",
        )
        self._requests = counter(
            "requests",
            "{request}",
            "Requests with pictures that left the device, failed and given up ones included.",
        )
        self._cost = counter(
            "cost", "{currency}", "What these requests cost, in units of the currency."
        )
        self._changes = counter(
            "backend.changes",
            "{change}",
            "Times a backend became usable or unusable, or its circuit breaker changed.",
        )
        self._usable = meter.create_gauge(
            "hybrid_detect.backend.usable",
            "1",
            "1 if frames may be given to the backend, 0 if not.",
        )
        self._seconds = histogram(
            "frame.duration",
            "s",
            DURATION_BOUNDS_S,
            "From handing an answered frame in to its result, by backend.",
        )
        self._age = histogram(
            "answer.age",
            "s",
            DURATION_BOUNDS_S,
            "From the capture of the picture to the result that its faces are in.",
        )
        self._stages = histogram(
            "stage.duration", "s", DURATION_BOUNDS_S, "Parts of an answered frame's time."
        )
        self._bytes = histogram(
            "sent.size",
            "By",
            SIZE_BOUNDS_BYTES,
            "Bytes that left the device for a frame that was sent.",
        )
        self._switch = Switches()
        self._start_at_zero(currency)

    def _start_at_zero(self, currency: str) -> None:
        """Make every counter known: one that appears with its first failure hides it from rates."""
        for outcome in FrameOutcome:
            self._frames.add(0, {_OUTCOME: outcome.value})
        for backend in BackendKind:
            for counter in (self._answers, self._faces, self._plans):
                counter.add(0, {_BACKEND: backend.value})
            for name in ERROR_NAMES:
                self._attempts.add(0, {_BACKEND: backend.value, _ERROR: name})
            for usable in (False, True):
                self._changes.add(0, {_BACKEND: backend.value, _USABLE: usable})
        for remote in REMOTE:
            self._cost.add(0.0, {_BACKEND: remote, _CURRENCY: currency})
            for answered in (False, True):
                self._requests.add(0, {_BACKEND: remote, _ANSWERED: answered})
        for alone in (self._degraded, self._dropped, self._switches):
            alone.add(0)

    def on_frame(self, event: FrameEvent) -> None:
        """Measure what became of a frame."""
        context = self._context_of(event)
        self._frames.add(1, {_OUTCOME: event.outcome.value})
        if event.dropped_before:
            self._dropped.add(event.dropped_before)
        if event.planned is not None:
            self._plans.add(1, {_BACKEND: event.planned.value})
        if event.bytes_sent:
            self._bytes.record(event.bytes_sent)
        for attempt in event.attempts:
            failed = {_BACKEND: attempt.backend, _ERROR: error_name(attempt)}
            self._attempts.add(1, failed, context)
        for request in event.requests:
            sent_by = request.backend
            self._requests.add(1, {_BACKEND: sent_by, _ANSWERED: request.answered})
            if request.price_nanos:
                cost = {_BACKEND: sent_by, _CURRENCY: request.currency}
                self._cost.add(request.price_nanos / 1e9, cost)
        if event.outcome is FrameOutcome.ANSWERED and event.backend is not None:
            self._measure_answer(event, event.backend, context)

    def _context_of(self, event: FrameEvent) -> Any:
        """The frame's span, for exemplars that lead to its trace; `None` without one."""
        if not (event.trace_id and event.span_id):  # a tracer may tell the trace alone
            return None
        trace = self._trace
        sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
        ids = int(event.trace_id, 16), int(event.span_id, 16)
        span = trace.NonRecordingSpan(trace.SpanContext(*ids, is_remote=False, trace_flags=sampled))
        return trace.set_span_in_context(span)

    def _measure_answer(self, event: FrameEvent, backend: BackendKind, context: Any) -> None:
        attributes = {_BACKEND: backend.value}
        if self._switch.before(backend, event.session_id) != backend:
            self._switches.add(1)
        self._answers.add(1, attributes)
        self._faces.add(event.faces, attributes)
        if event.degraded:
            self._degraded.add(1)
        self._seconds.record(event.total_s, attributes, context)
        self._age.record(event.age_s, None, context)
        for stage in STAGES:
            seconds = getattr(event, f"{stage}_s")
            if seconds is not None:
                self._stages.record(seconds, {_STAGE: stage}, context)

    def on_backend(self, event: BackendEvent) -> None:
        """Measure a change of a backend."""
        backend = event.backend.value
        self._usable.set(int(event.usable), {_BACKEND: backend})
        self._changes.add(1, {_BACKEND: backend, _USABLE: event.usable})
