"""A hook that measures events with OpenTelemetry (extra ``[otel]``).

It needs OpenTelemetry's API alone. The app chooses the SDK and where the figures go; where it has
none, measuring costs next to nothing and goes nowhere.

Names and units follow OpenTelemetry's semantic conventions: ``error.type`` for what an attempt
ended with, seconds (``s``), bytes (``By``), and counts with their unit in braces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from hybrid_detect.extras import require
from hybrid_detect.monitoring.events import BackendEvent, FrameEvent, FrameOutcome
from hybrid_detect.monitoring.exporters.series import (
    DURATION_BOUNDS_S,
    ERROR_NAMES,
    SIZE_BOUNDS_BYTES,
    STAGES,
    error_name,
)
from hybrid_detect.types import BackendKind

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

__all__ = ["OpenTelemetryHook"]

_BACKEND = "hybrid_detect.backend"
_OUTCOME = "hybrid_detect.outcome"
_STAGE = "hybrid_detect.stage"
_USABLE = "hybrid_detect.usable"
_ERROR = "error.type"


class OpenTelemetryHook:
    """Measures what becomes of frames and backends with an OpenTelemetry meter.

    Services may share one hook.

    Args:
        meter_provider: The provider of the meter; the app's global one if `None`.

    Raises:
        MissingExtraError: If ``opentelemetry-api`` is not installed.
    """

    blocking: ClassVar[bool] = False
    """Called on the event loop: an SDK exports from a thread of its own."""

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        metrics: Any = require(
            "opentelemetry.metrics", extra="otel", purpose="measuring with OpenTelemetry"
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
        self._start_at_zero()

    def _start_at_zero(self) -> None:
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
        self._degraded.add(0)
        self._dropped.add(0)

    def on_frame(self, event: FrameEvent) -> None:
        """Measure what became of a frame."""
        self._frames.add(1, {_OUTCOME: event.outcome.value})
        if event.dropped_before:
            self._dropped.add(event.dropped_before)
        if event.planned is not None:
            self._plans.add(1, {_BACKEND: event.planned.value})
        if event.bytes_sent:
            self._bytes.record(event.bytes_sent)
        for attempt in event.attempts:
            self._attempts.add(1, {_BACKEND: attempt.backend, _ERROR: error_name(attempt)})
        if event.outcome is FrameOutcome.ANSWERED and event.backend is not None:
            self._measure_answer(event, {_BACKEND: event.backend.value})

    def _measure_answer(self, event: FrameEvent, attributes: dict[str, str]) -> None:
        self._answers.add(1, attributes)
        self._faces.add(event.faces, attributes)
        if event.degraded:
            self._degraded.add(1)
        self._seconds.record(event.total_s, attributes)
        self._age.record(event.age_s)
        for stage in STAGES:
            seconds = getattr(event, f"{stage}_s")
            if seconds is not None:
                self._stages.record(seconds, {_STAGE: stage})

    def on_backend(self, event: BackendEvent) -> None:
        """Measure a change of a backend."""
        backend = event.backend.value
        self._usable.set(int(event.usable), {_BACKEND: backend})
        self._changes.add(1, {_BACKEND: backend, _USABLE: event.usable})
