"""The server's part of a trace: what it tells of a look, and how it ends."""

import socket
import sys
import threading

import pytest

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is an extra")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hybrid_detect.errors import MissingExtraError
from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.monitoring.exporters.opentelemetry_tracing import OpenTelemetryTracer
from hybrid_detect.server import tracing
from hybrid_detect.server.admission import OverloadedError
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.tracing import Tracing

from ..otlp import otlp_receiver
from ..waiting import until
from .loopback import jpeg, served

pytestmark = pytest.mark.anyio

PARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"
REQUEST = DetectRequest(request_id=1, image=b"a picture", traceparent=PARENT)


class Traced:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(tracer=OpenTelemetryTracer(provider))

    def durations_s(self) -> dict[str, float]:
        return {span.name: _duration_s(span) for span in self.exporter.get_finished_spans()}


def _duration_s(span: ReadableSpan) -> float:
    assert span.end_time is not None
    assert span.start_time is not None
    return (span.end_time - span.start_time) / 1e9


def detection(decode_s: float | None) -> Detection:
    return Detection(width=64, height=48, faces=(), queue_s=0.5, detect_s=2.0, decode_s=decode_s)


@pytest.mark.parametrize(
    ("decode_s", "expected"),
    [
        (0.25, {"queue": 0.5, "decode": 0.25, "detect": 1.75}),
        (None, {"queue": 0.5, "detect": 2.0}),
        (-1.0, {"queue": 0.5, "decode": 0.0, "detect": 2.0}),
        (9.0, {"queue": 0.5, "decode": 2.0, "detect": 0.0}),
    ],
)
async def test_a_look_is_told_by_its_parts(
    decode_s: float | None, expected: dict[str, float]
) -> None:
    traced = Traced()

    async def look() -> Detection:
        return detection(decode_s)

    await traced.tracing.look(REQUEST, look)
    durations_s = traced.durations_s()
    del durations_s["picture"]
    assert durations_s == pytest.approx(expected, abs=1e-6)
    assert {f"{span.context.trace_id:032x}" for span in traced.exporter.get_finished_spans()} == {
        "ab" * 16
    }


async def test_a_picture_that_is_refused_says_why() -> None:
    traced = Traced()

    async def look() -> Detection:
        raise OverloadedError(1.0)

    with pytest.raises(OverloadedError):
        await traced.tracing.look(REQUEST, look)
    (span,) = traced.exporter.get_finished_spans()
    assert (span.attributes or {})["error.type"] == "OverloadedError"
    assert not span.status.is_ok


async def test_the_header_of_a_gateway_wins_over_the_message() -> None:
    with otlp_receiver() as receiver:
        async with served(ServerConfig(rate_per_s=0, otlp_endpoint=receiver.url)) as server:
            picture = jpeg()
            head = f"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(picture)}\r\n"
            trace = f"traceparent: 00-{'12' * 16}-{'34' * 8}-03\r\nConnection: close\r\n\r\n"
            answer = await server.raw((head + trace).encode() + picture)
            assert answer.startswith(b"HTTP/1.1 200 ")
        assert {span.trace_id for span in receiver.spans} == {"12" * 16}
        (root,) = [span for span in receiver.spans if span.parent_id == "34" * 8]
        assert (root.name, root.kind) == ("picture", "server")
        assert root.service == "hybrid-detect-server"


@pytest.mark.parametrize("variable", ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"])
async def test_the_server_goes_by_the_name_that_its_operator_gave(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    value = "faces" if variable == "OTEL_SERVICE_NAME" else "service.name=faces"
    monkeypatch.setenv(variable, value)
    with otlp_receiver() as receiver:
        sending = Tracing(f"{receiver.url}/v1/traces/")

        async def look() -> Detection:
            return detection(None)

        sending.start()
        await sending.look(REQUEST, look)
        await sending.aclose()
        await until(lambda: receiver.spans)
    assert {span.service for span in receiver.spans} == {"faces"}


async def test_a_collector_that_is_not_there_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "CLOSE_S", 0.05)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.3")
    before = set(threading.enumerate())
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)  # takes the connection and never answers
        sending = Tracing(f"http://127.0.0.1:{deaf.getsockname()[1]}")

        async def look() -> Detection:
            return detection(None)

        sending.start()
        assert (await sending.look(REQUEST, look)).width == 64
        await sending.aclose()
        await sending.aclose()
        # Its thread gives up by itself; it must not write into another test's log.
        await until(lambda: set(threading.enumerate()) <= before)


def test_without_the_extra_the_server_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(MissingExtraError, match=r"--otlp.*pip install 'hybrid-detect\[otel\]'"):
        Tracing("http://127.0.0.1:4318").start()


@pytest.mark.parametrize(
    ("endpoint", "whole", "expected"),
    [
        ("http://a:4318", "", "http://a:4318/v1/traces"),
        ("http://a/otlp/", "", "http://a/otlp/v1/traces"),
        ("http://a/otlp/v1/traces", "", "http://a/otlp/v1/traces"),
        ("http://a/own?x=1", "http://a/own?x=1", "http://a/own?x=1"),
        ("http://a:4318", "http://other", "http://a:4318/v1/traces"),
    ],
)
def test_a_collector_is_asked_where_it_takes_traces(
    endpoint: str, whole: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tracing.WHOLE_URL, whole)
    assert tracing.traces_url(endpoint) == expected
