"""One trace from the camera to the detector, as a collector of OpenTelemetry's gets it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http", reason="the OTLP exporter is an extra"
)

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    use_span,
)

from hybrid_detect import (
    BackendKind,
    CloudDetectionService,
    HybridDetectionService,
    OpenTelemetryTracer,
    Plan,
    ServiceConfig,
    StreamingService,
)
from hybrid_detect.exchange.key_files import write_key_file
from hybrid_detect.exchange.key_ring import KeyRing
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.testing.provider_servers import Failure, GoogleServer

from ..otlp import Received, Receiver, otlp_receiver, recorded_traces, trace_id_of
from ..server.loopback import OneFace, served

pytestmark = pytest.mark.anyio

IMAGE = np.zeros((48, 64, 3), np.uint8)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as receiver:
        yield receiver


def provider_to(receiver: Receiver, sampler: Sampler | None = None) -> TracerProvider:
    provider = TracerProvider(sampler=sampler, resource=Resource.create({"service.name": "app"}))
    exporter = OTLPSpanExporter(endpoint=f"{receiver.url}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


class StuckOnce(OneFace):
    """Its first look does not end."""

    async def detect(self, request: DetectRequest, **options: Any) -> Detection:
        if not self.looks:
            self.looks += 1
            await asyncio.Event().wait()
        return await super().detect(request, **options)


class Hedged:
    """The stream first, the cloud as well at once."""

    def decide(self, _conditions: Any) -> Plan:
        return Plan(
            backend=BackendKind.STREAMING,
            hedge=BackendKind.CLOUD,
            hedge_after_s=0.02,
            reason="a test",
            deadline_s=20.0,
        )


def connected(spans: list[Received]) -> Received:
    """The root of `spans`, which are one tree."""
    ids = {span.span_id for span in spans}
    (root,) = [span for span in spans if span.parent_id not in ids]
    assert not root.parent_id
    return root


def parts_of(spans: list[Received], parent: Received) -> list[str]:
    """The names of its parts, in the order of the alphabet."""
    return sorted(span.name for span in spans if span.parent_id == parent.span_id)


def named(spans: list[Received], name: str) -> Received:
    (found,) = [span for span in spans if span.name == name]
    return found


@pytest.mark.parametrize("mode", ["cloud", "streaming"])
async def test_what_a_tracing_system_added_to_the_caller_s_trace_reaches_the_server(
    mode: str,
) -> None:
    spans, tracer = recorded_traces()
    state = TraceState([("rojo", "00f067aa0ba902b7"), ("congo", "t61rcWkgMzE")])
    caller = SpanContext(0xAB, 0xCD, True, TraceFlags(TraceFlags.SAMPLED), state)
    async with served(ServerConfig(rate_per_s=0), tracer=tracer) as server:
        backend = {"cloud": CloudDetectionService, "streaming": StreamingService}[mode]
        remote = backend(endpoint=f"http://127.0.0.1:{server.port}")
        async with HybridDetectionService(backends=[remote], mode=mode, tracer=tracer) as service:
            with use_span(NonRecordingSpan(caller)):
                await service.process_image(IMAGE)
    found = {span.name: span.context for span in spans()}
    assert found["picture"].trace_id == caller.trace_id
    assert {span.trace_state.to_header() for span in found.values()} == {state.to_header()}


async def test_a_frame_that_was_hedged_is_one_connected_trace(receiver: Receiver) -> None:
    config = ServerConfig(rate_per_s=0, otlp_endpoint=receiver.url)
    provider = provider_to(receiver)
    async with served(config, detector=StuckOnce()) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with HybridDetectionService(
            backends=[StreamingService(endpoint=url), CloudDetectionService(endpoint=url)],
            policy=Hedged(),
            tracer=OpenTelemetryTracer(provider),
        ) as service:
            await service.wait_ready()
            result = await service.process_image(IMAGE, deadline_s=20.0)
    assert result.backend is BackendKind.CLOUD
    spans = receiver.of(result.trace_id)
    root = connected(spans)
    assert root.name == "frame"
    assert root.attributes["hybrid_detect.outcome"] == "answered"
    assert parts_of(spans, root) == ["attempt cloud", "attempt streaming", "capture", "decide"]

    hedge, first = named(spans, "attempt cloud"), named(spans, "attempt streaming")
    assert hedge.attributes["hybrid_detect.role"] == "hedge"
    assert first.attributes["hybrid_detect.role"] == "first"
    assert first.attributes["hybrid_detect.given_up"] is True
    assert not first.is_error
    assert parts_of(spans, hedge) == ["POST /v1/detect", "compress", "restore"]
    assert parts_of(spans, first) == ["compress", "send /v1/stream"]

    request, message = named(spans, "POST /v1/detect"), named(spans, "send /v1/stream")
    assert (request.kind, message.kind) == ("client", "client")
    assert request.attributes["http.request.method"] == "POST"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["server.port"] == server.port
    at_server = {span.parent_id: span for span in spans if span.service == "hybrid-detect-server"}
    assert at_server[request.span_id].kind == at_server[message.span_id].kind == "server"
    assert parts_of(spans, at_server[request.span_id]) == ["detect", "queue"]
    assert {span.service for span in spans} == {"app", "hybrid-detect-server"}
    provider.shutdown()


@asynccontextmanager
async def traced(
    receiver: Receiver, mode: str, *, sampler: Sampler | None = None, **options: Any
) -> AsyncIterator[HybridDetectionService]:
    """A service and its server, which both send their spans to `receiver`."""
    server_options = {"keys_path": options.pop("keys_path", None)}
    config = ServerConfig(rate_per_s=0, otlp_endpoint=receiver.url, **server_options)
    provider = provider_to(receiver, sampler)
    async with (
        served(config) as server,
        HybridDetectionService(
            endpoint=f"http://127.0.0.1:{server.port}",
            mode=mode,
            tracer=OpenTelemetryTracer(provider),
            **options,
        ) as service,
    ):
        yield service
    provider.shutdown()


@pytest.mark.parametrize("mode", ["cloud", "streaming"])
async def test_a_sealed_picture_carries_its_trace_inside(
    receiver: Receiver, mode: str, tmp_path: Path
) -> None:
    key = PrivateKey.generate(Suite.X25519_CHACHA20, datetime.now(UTC) + timedelta(days=1))
    keys_path = tmp_path / "keys.json"
    write_key_file(keys_path, KeyRing((key,)))
    config = ServiceConfig(server_public_key=key.public.text)
    async with traced(receiver, mode, keys_path=keys_path, config=config) as service:
        result = await service.process_image(IMAGE)
    spans = receiver.of(result.trace_id)
    connected(spans)
    exchange = named(spans, "POST /v1/detect" if mode == "cloud" else "send /v1/stream")
    assert parts_of(spans, exchange) == ["picture", "seal"]


@pytest.mark.parametrize("mode", ["cloud", "streaming"])
async def test_a_frame_that_is_not_sampled_is_sampled_nowhere(
    receiver: Receiver, mode: str
) -> None:
    async with traced(receiver, mode, sampler=ParentBased(ALWAYS_OFF)) as service:
        result = await service.process_image(IMAGE)
        assert result.answered
    assert result.trace_id == ""
    assert receiver.spans == []


async def test_each_frame_of_a_stream_is_a_trace_that_links_to_its_reader(
    receiver: Receiver,
) -> None:
    mine = provider_to(receiver)
    async with traced(receiver, "streaming") as service:
        with mine.get_tracer("the app").start_as_current_span("watch"):
            results = [result async for result in service.start_detection([IMAGE] * 3)]
            alone = await service.process_image(IMAGE)
    ids = {result.trace_id for result in results}
    assert len(ids) == 3
    watch = named(receiver.spans, "watch")
    for trace_id in ids:
        root = connected(receiver.of(trace_id))
        assert root.links == (watch.trace_id,)
        assert "picture" in {span.name for span in receiver.of(trace_id)}
    assert alone.trace_id == watch.trace_id
    assert named(receiver.of(watch.trace_id), "frame").parent_id == watch.span_id
    mine.shutdown()


class TheCloud:
    """The cloud alone, which may be asked twice."""

    def decide(self, _conditions: Any) -> Plan:
        return Plan(backend=BackendKind.CLOUD, reason="a test", deadline_s=20.0, retries=1)


async def test_each_try_is_a_span_and_a_provider_is_told_nothing_of_the_trace() -> None:
    spans, tracer = recorded_traces()
    with GoogleServer(api_key="k") as google:
        cloud = CloudDetectionService("google", endpoint=google.url, api_key="k")
        async with HybridDetectionService(
            backends=[cloud], policy=TheCloud(), tracer=tracer
        ) as service:
            await service.wait_ready()
            google.fail_next(Failure(503))
            result = await service.process_image(IMAGE)
            sent = google.requests[-2:]
    assert result.answered
    first, second = [span for span in spans() if span.kind is SpanKind.CLIENT]
    assert (first.attributes or {})["error.type"] == "503"
    assert (first.attributes or {})["http.response.status_code"] == 503
    assert not first.status.is_ok
    assert (second.attributes or {})["http.request.resend_count"] == 1
    assert second.status.is_unset
    assert "key" not in str((second.attributes or {})["url.full"])
    assert {trace_id_of(span) for span in spans()} == {result.trace_id}
    assert not [name for request in sent for name in request.headers if "trace" in name.lower()]
