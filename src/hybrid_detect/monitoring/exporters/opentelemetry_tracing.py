"""A tracer that makes OpenTelemetry's spans (extra ``[otel]``).

Like the hook it needs OpenTelemetry's API alone: the app chooses the SDK, its sampler, and where
the spans go. The sampler decides once for each frame. What it does not sample costs that decision
and nothing more: its parts make no spans, and servers are told not to sample it either.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hybrid_detect.extras import require
from hybrid_detect.monitoring.tracing import NO_SPAN, Attributes, Span, SpanKind

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["OpenTelemetryTracer"]

NANOS = 1_000_000_000

logger = logging.getLogger("hybrid_detect.tracing")


class OpenTelemetryTracer:
    """Traces frames with an OpenTelemetry tracer; give it to a service as ``tracer``.

    Services may share one.

    Args:
        tracer_provider: The provider of the tracer; the app's global one if `None`.

    Raises:
        MissingExtraError: If ``opentelemetry-api`` is not installed.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._trace: Any = require(
            "opentelemetry.trace", extra="otel", purpose="tracing with OpenTelemetry"
        )
        context: Any = require(
            "opentelemetry.context", extra="otel", purpose="tracing with OpenTelemetry"
        )
        self._nothing = context.Context()
        self._tracer = self._trace.get_tracer("hybrid_detect", tracer_provider=tracer_provider)
        kinds = self._trace.SpanKind
        self._kinds = {"internal": kinds.INTERNAL, "client": kinds.CLIENT, "server": kinds.SERVER}
        self._error = self._trace.StatusCode.ERROR
        self._has_failed = False

    def failed(self) -> None:
        """The SDK, a sampler or a processor raised: it is logged once, and no frame fails of it."""
        if not self._has_failed:
            self._has_failed = True
            logger.exception("tracing failed; this is logged once")

    def start_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        kind: SpanKind = "internal",
        parent: str = "",
        parent_state: str = "",
        own_trace: bool = False,
        began_s: float | None = None,
    ) -> Span:
        """Start a span, as in `Tracer.start_span`."""
        context: Any = None
        links: tuple[Any, ...] = ()
        if parent:
            context = self._context_of(parent, parent_state)
        elif own_trace:
            current = self._trace.get_current_span().get_span_context()
            context = self._nothing
            links = (self._trace.Link(current),) if current.is_valid else ()
        return self._started(name, attributes, kind, began_s, context, links)

    def _started(
        self,
        name: str,
        attributes: Attributes | None,
        kind: SpanKind,
        began_s: float | None,
        context: Any,
        links: Any = (),
    ) -> Span:
        try:
            span = self._tracer.start_span(
                name,
                context,
                kind=self._kinds[kind],
                attributes=attributes,
                links=links,
                start_time=_nanos(began_s),
            )
        except Exception:
            self.failed()
            return NO_SPAN
        return _Span(self, span)

    def _context_of(self, traceparent: str, tracestate: str) -> Any:
        _version, trace_id, span_id, flags = traceparent.split("-")
        parent = self._trace.SpanContext(
            int(trace_id, 16),
            int(span_id, 16),
            is_remote=True,
            trace_flags=self._trace.TraceFlags(int(flags, 16)),
            trace_state=self._trace.TraceState.from_header([tracestate] if tracestate else []),
        )
        return self._trace.set_span_in_context(self._trace.NonRecordingSpan(parent), self._nothing)


class _Span(Span):
    __slots__ = ("_context", "_has_ended", "_is_recording", "_span", "_tracer")

    def __init__(self, tracer: OpenTelemetryTracer, span: Any) -> None:
        self._tracer = tracer
        self._span = span
        self._is_recording: bool = span.is_recording()
        self._has_ended = not self._is_recording
        self._context = span.get_span_context()

    @property
    def is_recording(self) -> bool:
        return self._is_recording

    @property
    def trace_id(self) -> str:
        return f"{self._context.trace_id:032x}" if self._context.trace_flags.sampled else ""

    @property
    def span_id(self) -> str:
        return f"{self._context.span_id:016x}" if self._context.trace_flags.sampled else ""

    @property
    def traceparent(self) -> str:
        context = self._context
        if not context.is_valid:  # without an SDK
            return ""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    @property
    def tracestate(self) -> str:
        state: str = self._context.trace_state.to_header()
        return state

    def child(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        kind: SpanKind = "internal",
        began_s: float | None = None,
    ) -> Span:
        if not self._is_recording:
            return self  # its sampler's decision holds for its parts
        tracer = self._tracer
        context = tracer._trace.set_span_in_context(self._span, tracer._nothing)
        return tracer._started(name, attributes, kind, began_s, context)

    def rename(self, name: str) -> None:
        if not self._has_ended:
            self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        if not self._has_ended:
            self._span.set_attributes(attributes)

    def end(self, *, error: str = "", ended_s: float | None = None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(self._tracer._error)
        try:
            self._span.end(_nanos(ended_s))
        except Exception:  # of a processor: the SDK passes them on
            self._tracer.failed()


def _nanos(at_s: float | None) -> int | None:
    return None if at_s is None else round(at_s * NANOS)
