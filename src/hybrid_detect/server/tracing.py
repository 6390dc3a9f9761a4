"""The server's part of each frame's trace: waiting for a detector, decoding, detecting.

A client names its part in the request; the server's spans become parts of that. They are sent to an
OpenTelemetry collector from a thread, in batches, and dropped if that cannot keep up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hybrid_detect.exchange.wire import DetectRequest, ErrorReply, ResultReply, peek_trace
from hybrid_detect.extras import require
from hybrid_detect.monitoring.exporters.opentelemetry_tracing import OpenTelemetryTracer
from hybrid_detect.monitoring.tracing import NO_TRACER, Span, Tracer
from hybrid_detect.server.observation import PICTURE_ROUTES, Record
from hybrid_detect.server.rate_limit import RateLimiter
from hybrid_detect.sources.daemon_threads import in_daemon_thread

if TYPE_CHECKING:
    from hybrid_detect.server.detectors import Detection

__all__ = ["RefusalSpans", "Tracing", "traces_url"]

logger = logging.getLogger("hybrid_detect.server")

TRACES_PATH = "/v1/traces"
"""Where a collector takes traces. Source: OpenTelemetry's "OTLP Specification", OTLP/HTTP."""

WHOLE_URL = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"

CLOSE_S = 2.0
"""Seconds that stopping waits for the last spans to be sent."""

REFUSALS_PER_S, REFUSALS_AT_ONCE = 10.0, 50
"""Spans of refusals, which cost a stranger nothing and may come by the thousand. Chosen: enough to
see each of a client that is set up wrongly, and too few to fill a collector."""

SERVICE_NAME = "hybrid-detect-server"


class Tracing:
    """Traces the pictures of one server.

    Args:
        endpoint: The collector's URL, such as ``http://127.0.0.1:4318``; `None` traces nothing.
        tracer: Starts the spans instead, for an app that has a tracer of its own.
    """

    def __init__(self, endpoint: str | None = None, *, tracer: Tracer | None = None) -> None:
        self._endpoint = endpoint
        self._tracer = tracer or NO_TRACER
        self.is_on = endpoint is not None or self._tracer is not NO_TRACER
        """Whether anything is traced."""
        self._provider: Any = None
        self._refusals = RateLimiter(rate_per_s=REFUSALS_PER_S, burst=REFUSALS_AT_ONCE)

    def start(self) -> None:
        """Make what sends the spans; nothing is sent yet.

        Raises:
            MissingExtraError: If OpenTelemetry's SDK or its exporter is not installed.
        """
        if self._endpoint is None:
            return
        purpose = "sending traces (--otlp)"
        sdk = require("opentelemetry.sdk.trace", extra="otel", purpose=purpose)
        export = require("opentelemetry.sdk.trace.export", extra="otel", purpose=purpose)
        otlp = require(
            "opentelemetry.exporter.otlp.proto.http.trace_exporter", extra="otel", purpose=purpose
        )
        # Not at the program's exit: `aclose` does it, and does not wait for a collector that hangs.
        self._provider = sdk.TracerProvider(resource=_resource(), shutdown_on_exit=False)
        exporter = otlp.OTLPSpanExporter(endpoint=traces_url(self._endpoint))
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = OpenTelemetryTracer(self._provider)

    def takes_refusal(self) -> bool:
        """Whether one more refusal is traced now; counts it."""
        return self.is_on and not self._refusals.take("")

    def refused_unread(
        self, trace: tuple[str, str], reply_status: int, code: str, *, took_s: float = 0.0
    ) -> None:
        """Add a picture that was refused unread to its trace.

        Args:
            trace: Its ``traceparent`` and ``tracestate``.
            reply_status: The HTTP status that it was refused with.
            code: The word for it.
            took_s: Seconds that it took, until now.
        """
        now_s = time.time()
        self._tracer.start_span(
            "picture",
            {"http.response.status_code": reply_status},
            kind="server",
            parent=trace[0],
            parent_state=trace[1],
            began_s=now_s - took_s,
        ).end(error=code, ended_s=now_s)

    async def look(
        self, request: DetectRequest, look: Callable[[], Awaitable[Detection]]
    ) -> Detection:
        """Have the picture of `request` looked at by `look`, as a part of its frame's trace."""
        came_s = time.time()
        with self._tracer.start_span(
            "picture",
            {"hybrid_detect.picture.size": len(request.image)},
            kind="server",
            parent=request.traceparent,
            parent_state=request.tracestate,
            own_trace=True,
        ) as span:
            seen = await look()
            if span.is_recording:
                _tell(span, seen, came_s)
        return seen

    def refused(self, trace: tuple[str, str], error: Exception) -> None:
        """Trace a picture that `error` refused before it had come, if not too many are.

        Args:
            trace: Its ``traceparent`` and ``tracestate``; both may be empty.
            error: Why.
        """
        if self.takes_refusal():
            self._tracer.start_span(
                "picture", kind="server", parent=trace[0], parent_state=trace[1], own_trace=True
            ).end(error=type(error).__name__)

    async def aclose(self) -> None:
        """Send the last spans, within `CLOSE_S` seconds. May be called more than once."""
        provider, self._provider = self._provider, None
        if provider is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await in_daemon_thread(provider.shutdown)


class RefusalSpans:
    """Traces pictures that are refused before they are looked at: an observer of requests.

    Only where the caller has named a trace; a sealed message names it inside.

    Args:
        tracing: Makes the spans.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def on_begin(self, record: Record) -> None:
        """As in `Observer`."""

    def on_look(self, record: Record, seen: Detection, trace_id: str) -> None:
        """As in `Observer`."""

    def on_reply(
        self, record: Record, reply: ResultReply | ErrorReply, message: bytes = b""
    ) -> None:
        """As in `Observer`."""
        if message and isinstance(reply, ErrorReply) and self._tracing.takes_refusal():
            trace = peek_trace(message)
            if trace[0]:
                self._tracing.refused_unread(trace, reply.status, reply.code)

    def on_end(self, record: Record) -> None:
        """As in `Observer`."""
        if record.status < 400 or record.is_read or record.route not in PICTURE_ROUTES:
            return
        if record.traceparent and self._tracing.takes_refusal():
            self._tracing.refused_unread(
                (record.traceparent, record.tracestate),
                record.status,
                record.cause or str(record.status),
                took_s=record.duration_s,
            )

    def on_refused_connection(self, error: ErrorReply) -> None:
        """As in `Observer`."""


def traces_url(endpoint: str) -> str:
    """Where a collector at `endpoint` takes traces.

    What `WHOLE_URL` names is taken as it is, as OpenTelemetry's "Protocol Exporter" wants it.
    """
    if endpoint == os.environ.get(WHOLE_URL):
        return endpoint
    url = endpoint.rstrip("/")
    return url if url.endswith(TRACES_PATH) else url + TRACES_PATH


def _tell(span: Span, seen: Detection, came_s: float) -> None:
    """Add the parts that a look had, by the times that it tells."""
    span.set(
        {
            "hybrid_detect.picture.width": seen.width,
            "hybrid_detect.picture.height": seen.height,
            "hybrid_detect.faces": len(seen.faces),
            "hybrid_detect.model": seen.model,
            "hybrid_detect.quality": seen.quality or "",
        }
    )
    parts = {"queue": seen.queue_s}
    if seen.decode_s is not None:
        parts["decode"] = min(max(seen.decode_s, 0.0), seen.detect_s)
    parts["detect"] = seen.detect_s - parts.get("decode", 0.0)
    at_s = came_s
    for name, took_s in parts.items():
        part = span.child(name, began_s=at_s)
        at_s += took_s
        part.end(ended_s=at_s)


def _resource() -> Any:
    """What a collector is told of the server, by OpenTelemetry's variables where they say it."""
    resources = require("opentelemetry.sdk.resources", extra="otel", purpose="sending traces")
    told = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    names = {"service.version": version("hybrid-detect")}
    if "OTEL_SERVICE_NAME" not in os.environ and "service.name=" not in told:
        names["service.name"] = SERVICE_NAME
    return resources.Resource.create(names)
