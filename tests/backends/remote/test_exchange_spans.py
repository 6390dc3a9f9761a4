"""The spans of a request that goes wrong before it is sent."""

from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hybrid_detect.backends.remote.exchange_spans import ExchangeSpans
from hybrid_detect.errors import EncryptionError
from hybrid_detect.monitoring.exporters.opentelemetry_tracing import OpenTelemetryTracer


def test_a_seal_that_fails_has_its_span() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = OpenTelemetryTracer(provider)
    jobs: Any = [SimpleNamespace(span=tracer.start_span("attempt"), requests=0) for _ in range(2)]
    capabilities = SimpleNamespace(takes_trace=True)
    target: Any = SimpleNamespace(
        endpoint=None, provider="p", region="", protocol=SimpleNamespace(capabilities=capabilities)
    )
    with (
        pytest.raises(EncryptionError),
        ExchangeSpans(jobs, target, is_http=True) as spans,
        spans.sealing(),
    ):
        raise EncryptionError
    ended = [
        (span.name, dict(span.attributes or {}).get("error.type"))
        for span in exporter.get_finished_spans()
    ]
    assert sorted(ended) == [
        ("exchange", "EncryptionError"),
        ("exchange", "EncryptionError"),
        ("seal", "EncryptionError"),
        ("seal", "EncryptionError"),
    ]
