"""A receiver of OpenTelemetry's own protocol (OTLP over HTTP) on loopback: it keeps the spans."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from hybrid_detect import OpenTelemetryTracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


@dataclass(frozen=True)
class Received:
    """A span as a collector gets it."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    service: str
    links: tuple[str, ...]
    attributes: dict[str, Any]
    duration_s: float
    is_error: bool


@dataclass
class Receiver:
    """What was received so far, in any order."""

    url: str
    spans: list[Received] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def of(self, trace_id: str) -> list[Received]:
        return [span for span in self.spans if span.trace_id == trace_id]


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    receiver = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            receiver.bodies.append(body)
            receiver.spans.extend(_spans(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            serving.join()


def _spans(body: bytes) -> Iterator[Received]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

    request = ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        service = _values(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    service=service,
                    links=tuple(link.trace_id.hex() for link in span.links),
                    attributes=_values(span.attributes),
                    duration_s=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                    is_error=span.status.code == Status.STATUS_CODE_ERROR,
                )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def recorded_traces() -> tuple[Callable[[], Sequence[ReadableSpan]], OpenTelemetryTracer]:
    """What gives the spans so far, and the tracer that makes them, without a collector."""
    pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is an extra")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter.get_finished_spans, OpenTelemetryTracer(provider)


def trace_id_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"
