"""A hook that counts events for Prometheus (extra ``[prometheus]``).

Names have the prefix ``hybrid_detect_`` and base units. Every label has a small set of values that
is known beforehand, and every series is there from the start: ``increase()`` of a counter that
appears with its first failure would not see that failure. Only counters, histograms and gauges
that are set are used, which all work over several processes (``PROMETHEUS_MULTIPROC_DIR``).
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
    from prometheus_client import CollectorRegistry

__all__ = ["PrometheusHook"]


class PrometheusHook:
    """Counts what becomes of frames and backends in a Prometheus registry.

    It opens no port: expose the registry with ``prometheus_client.start_http_server`` or in your
    own web app. Services may share one hook; a second hook needs a registry of its own.

    Args:
        registry: The registry; `prometheus_client.REGISTRY` if `None`.
        currency: The currency whose costs are there at zero from the start; costs in another one
            appear with the first.

    Raises:
        MissingExtraError: If ``prometheus-client`` is not installed.
        ValueError: If `registry` has these metrics already.
    """

    blocking: ClassVar[bool] = False
    """Called on the event loop: it only counts."""

    def __init__(
        self, registry: CollectorRegistry | None = None, *, currency: str = DEFAULT_CURRENCY
    ) -> None:
        client: Any = require(
            "prometheus_client", extra="prometheus", purpose="exporting to Prometheus"
        )
        made: dict[str, Any] = {"registry": client.REGISTRY if registry is None else registry}
        durations = {**made, "buckets": DURATION_BOUNDS_S}
        backends = [kind.value for kind in BackendKind]

        self._frames = client.Counter(
            "hybrid_detect_frames",
            "Frames that entered the service, by what became of them.",
            ["outcome"],
            **made,
        )
        self._answers = client.Counter(
            "hybrid_detect_answers", "Frames answered, by backend.", ["backend"], **made
        )
        self._degraded = client.Counter(
            "hybrid_detect_degraded", "Frames answered after a first attempt had failed.", **made
        )
        self._plans = client.Counter(
            "hybrid_detect_plans",
            "Frames by the backend that was chosen first.",
            ["backend"],
            **made,
        )
        self._attempts = client.Counter(
            "hybrid_detect_failed_attempts",
            "Attempts that brought no answer, by backend and class of the error; "
            "'given_up' if another backend answered first.",
            ["backend", "error"],
            **made,
        )
        self._dropped = client.Counter(
            "hybrid_detect_dropped_frames", "Frames that sources dropped for newer ones.", **made
        )
        self._faces = client.Counter(
            "hybrid_detect_faces", "Faces found, by backend.", ["backend"], **made
        )
        self._switches = client.Counter(
            "hybrid_detect_switches",
            "Answers by another backend than the answer before, in the same session.",
            **made,
        )
        self._requests = client.Counter(
            "hybrid_detect_requests",
            "Requests with pictures that left the device, failed and given up ones included.",
            ["backend", "answered"],
            **made,
        )
        self._cost = client.Counter(
            "hybrid_detect_cost",
            "What these requests cost, in units of the currency.",
            ["backend", "currency"],
            **made,
        )
        self._bytes = client.Histogram(
            "hybrid_detect_sent_bytes",
            "Bytes that left the device for a frame that was sent.",
            buckets=SIZE_BOUNDS_BYTES,
            **made,
        )
        self._seconds = client.Histogram(
            "hybrid_detect_frame_duration_seconds",
            "From handing an answered frame in to its result, by backend.",
            ["backend"],
            **durations,
        )
        self._age = client.Histogram(
            "hybrid_detect_answer_age_seconds",
            "From the capture of the picture to the result that its faces are in.",
            **durations,
        )
        self._stages = client.Histogram(
            "hybrid_detect_stage_duration_seconds",
            "Parts of an answered frame's time.",
            ["stage"],
            **durations,
        )
        self._usable = client.Gauge(
            "hybrid_detect_backend_usable",
            "1 if frames may be given to the backend, 0 if not.",
            ["backend"],
            multiprocess_mode="livemin",
            **made,
        )
        self._changes = client.Counter(
            "hybrid_detect_backend_changes",
            "Times a backend became usable or unusable, or its circuit breaker changed.",
            ["backend", "usable"],
            **made,
        )

        for outcome in FrameOutcome:
            self._frames.labels(outcome.value)
        for backend in backends:
            for metric in (self._answers, self._plans, self._faces, self._seconds):
                metric.labels(backend)
            for error in ERROR_NAMES:
                self._attempts.labels(backend, error)
            for usable in ("true", "false"):
                self._changes.labels(backend, usable)
        for backend in REMOTE:
            self._cost.labels(backend, currency)
            for answered in ("true", "false"):
                self._requests.labels(backend, answered)
        for stage in STAGES:
            self._stages.labels(stage)
        self._switch = Switches()

    def on_frame(self, event: FrameEvent) -> None:
        """Count what became of a frame."""
        self._frames.labels(event.outcome.value).inc()
        if event.dropped_before:
            self._dropped.inc(event.dropped_before)
        if event.planned is not None:
            self._plans.labels(event.planned.value).inc()
        if event.bytes_sent:
            self._bytes.observe(event.bytes_sent)
        for attempt in event.attempts:
            self._attempts.labels(attempt.backend, error_name(attempt)).inc(1, _exemplar(event))
        for request in event.requests:
            self._requests.labels(request.backend, "true" if request.answered else "false").inc()
            if request.price_nanos:
                self._cost.labels(request.backend, request.currency).inc(request.price_nanos / 1e9)
        if event.outcome is FrameOutcome.ANSWERED and event.backend is not None:
            self._count_answer(event, event.backend)

    def _count_answer(self, event: FrameEvent, backend: BackendKind) -> None:
        if event.degraded:
            self._degraded.inc()
        if self._switch.before(backend, event.session_id) != backend:
            self._switches.inc()
        self._answers.labels(backend.value).inc()
        self._faces.labels(backend.value).inc(event.faces)
        exemplar = _exemplar(event)
        self._seconds.labels(backend.value).observe(event.total_s, exemplar)
        self._age.observe(event.age_s, exemplar)
        for stage in STAGES:
            seconds = getattr(event, f"{stage}_s")
            if seconds is not None:
                self._stages.labels(stage).observe(seconds, exemplar)

    def on_backend(self, event: BackendEvent) -> None:
        """Count a change of a backend."""
        backend = event.backend.value
        self._usable.labels(backend).set(int(event.usable))
        self._changes.labels(backend, "true" if event.usable else "false").inc()


def _exemplar(event: FrameEvent) -> dict[str, str] | None:
    """What leads from a figure to the trace of a frame that it counts; `None` without a trace."""
    if not (event.trace_id and event.span_id):  # a tracer may tell the trace alone
        return None
    return {"trace_id": event.trace_id, "span_id": event.span_id}
