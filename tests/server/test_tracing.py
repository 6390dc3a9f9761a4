"""The server's part of a trace: what it tells of a look, and how it ends."""

import socket
import sys
import threading
import time
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is an extra")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hybrid_detect.errors import MissingExtraError
from hybrid_detect.exchange.batch import BATCH_CONTENT_TYPE, BATCH_PATH, encode_batch
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DETECT_PATH,
    STREAM_PATH,
    DetectRequest,
    ErrorReply,
    encode_request,
)
from hybrid_detect.monitoring.exporters.opentelemetry_tracing import OpenTelemetryTracer
from hybrid_detect.server import tracing
from hybrid_detect.server.admission import OverloadedError
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.observation import Record
from hybrid_detect.server.tracing import RefusalSpans, Tracing

from ..otlp import otlp_receiver, recorded_traces
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


TRACED = {"traceparent": PARENT, "tracestate": "rojo=1,congo=2"}


def told(span: ReadableSpan) -> tuple[str, str, str, int]:
    """Trace and parent of a span, its tracestate, and the error that it ended with."""
    assert span.parent is not None
    assert not span.status.is_ok
    attributes = span.attributes or {}
    return (
        f"00-{span.context.trace_id:032x}-{span.parent.span_id:016x}-01",
        span.context.trace_state.to_header(),
        str(attributes["error.type"]),
        int(str(attributes.get("http.response.status_code", 0))),
    )


@pytest.mark.parametrize(
    ("config", "headers", "body", "error", "status"),
    [
        ({"auth_token": "a-token"}, {}, b"x", "unauthorized", 401),
        ({}, {"Origin": "https://a-page.example"}, b"x", "wrong_origin", 403),
        ({"max_body_bytes": 9}, {}, b"a body of more", "too_large", 413),
        ({}, {"Content-Type": "application/json"}, b"{}", "unsupported_body", 415),
        ({}, {"Content-Type": CONTENT_TYPE}, b"no message", "bad_request", 400),
        ({}, {"X-Quality": "utmost"}, b"x", "bad_request", 400),
        ({}, {}, b"no picture", "InvalidFrameError", 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_refused_request_is_a_span_of_its_trace_once(
    config: dict[str, Any], headers: dict[str, str], body: bytes, error: str, status: int
) -> None:
    spans, tracer = recorded_traces()
    async with (
        served(ServerConfig(rate_per_s=0, **config), tracer=tracer) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        for named in (TRACED, {}, {"traceparent": "none"}):
            answer = await client.post(DETECT_PATH, content=body, headers={**headers, **named})
            assert answer.status_code == (status or 422)
            refused = [span for span in spans() if span.parent is not None]
            assert [told(span) for span in refused] == [(PARENT, "rojo=1,congo=2", error, status)]


def traced_message(number: int, image: bytes) -> bytes:
    return encode_request(
        DetectRequest(
            request_id=number, image=image, traceparent=PARENT, tracestate=f"picture={number}"
        )
    )


async def test_of_several_pictures_each_refused_one_is_a_span_of_its_own_trace() -> None:
    spans, tracer = recorded_traces()
    unreadable = traced_message(3, b"x").replace(b'"format":"jpeg"', b'"second_look":3')
    messages = [traced_message(1, jpeg()), traced_message(2, jpeg()), unreadable]
    config = ServerConfig(rate_per_s=0.001, burst=3, stream_rate_per_s=0)
    async with (
        served(config, tracer=tracer) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        headers = {"Content-Type": BATCH_CONTENT_TYPE, "Accept": BATCH_CONTENT_TYPE}
        await client.post(BATCH_PATH, content=encode_batch(messages[1:]), headers=headers)
        async with connect(f"ws://127.0.0.1:{server.port}{STREAM_PATH}") as stream:
            for message in messages:
                await stream.send(message)
                await stream.recv()
    ended = {told(span)[1:] for span in spans() if span.parent and not span.status.is_ok}
    assert ended == {
        ("picture=3", "bad_request", 400),
        ("picture=2", "too_fast", 429),
        ("picture=3", "too_fast", 429),
    }
    looks = [span for span in spans() if span.name == "picture" and span.status.is_unset]
    assert [span.context.trace_state.to_header() for span in looks] == ["picture=2", "picture=1"]


def test_refusals_by_the_hundred_fill_no_collector() -> None:
    traced = Traced()
    spans = RefusalSpans(traced.tracing)
    record = Record(route=DETECT_PATH, is_stream=False, peer="", traceparent=PARENT, status=401)
    message, refusal = traced_message(1, b"x"), ErrorReply(request_id=1, status=429, code="x")
    began_s = time.monotonic()
    for _ in range(200):
        spans.on_end(record)
        spans.on_reply(record, refusal, message)
    most = tracing.REFUSALS_AT_ONCE + tracing.REFUSALS_PER_S * (time.monotonic() - began_s) + 1
    assert tracing.REFUSALS_AT_ONCE <= len(traced.exporter.get_finished_spans()) <= most


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
