"""What events cost a frame: without a hook, with the monitor, and with the hooks that write.

A service with a backend that answers at once is asked in turns, with another set of hooks each
time, so that the machine's moods fall on all of them alike. A frame's own time varies more than an
event costs, so the making and the telling are timed on their own as well.

Then a frame of 1280x720 goes over a stream to a server in a process of its own, and the processor
time of this process is counted. What Prometheus and OpenTelemetry add to it, with one frame in a
hundred traced, is less than the processor time of frames varies on a busy machine, so that their
calls for such a frame are timed on their own, and set against it. Spans are thrown away when they
would be sent.

    python benchmarks/bench_events.py [ROUNDS]
"""

import asyncio
import logging
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_overhead import serve_instant, until_healthy
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from prometheus_client import CollectorRegistry
from skimage import data

from hybrid_detect import (
    BackendProcessingMonitor,
    BoundingBox,
    CostMeter,
    DetectionResult,
    DetectionStatus,
    Face,
    HybridDetectionService,
    JsonLinesHook,
    LoggingHook,
    OpenTelemetryHook,
    OpenTelemetryTracer,
    PrometheusHook,
    SentRequest,
)
from hybrid_detect.monitoring.events import FrameEvent, frame_event
from hybrid_detect.monitoring.hooks import Dispatcher
from hybrid_detect.monitoring.usage_meter import UsageMeter
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind

ROUNDS = 40
STREAMED = 10
BATCH = 50
"""Calls timed together: one event takes microseconds, which a clock's own noise would hide."""

FACE = Face(BoundingBox(100.0, 100.0, 200.0, 200.0), 0.9)
RESULT = DetectionResult(
    status=DetectionStatus.OK, width=1280, height=720, faces=(FACE,), backend=BackendKind.DEVICE
)

REQUESTS = (
    SentRequest(
        at_s=time.time(), backend="cloud", target="a", provider="google", price_nanos=1_500_000
    ),
)


def told(hooks: list[Any]) -> Callable[[], None]:
    """One frame's event made and told to `hooks`, as the service does it."""
    dispatcher = Dispatcher(hooks)

    def tell() -> None:
        if dispatcher.wants_frames:
            event = frame_event(RESULT, at_s=time.time(), total_s=0.05, requests=REQUESTS)
            dispatcher.frame(event)

    return tell


def medians_us(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started_s = time.process_time()
            for _ in range(BATCH):
                call()
            taken[name].append((time.process_time() - started_s) / BATCH * 1e6)
    return {name: statistics.median(values) for name, values in taken.items()}


async def frames_us(sets: dict[str, list[Any]], rounds: int) -> dict[str, float]:
    """Median microseconds of a whole frame with each set of hooks, asked in turns."""
    image = np.zeros((48, 64, 3), np.uint8)
    taken: dict[str, list[float]] = {name: [] for name in sets}
    services = {
        name: HybridDetectionService(backends=[FakeBackend("device")], hooks=hooks)
        for name, hooks in sets.items()
    }
    for service in services.values():
        await service.__aenter__()
    for _ in range(rounds):
        for name, service in services.items():
            started_s = time.perf_counter()
            for _ in range(BATCH):
                await service.process_image(image)
            taken[name].append((time.perf_counter() - started_s) / BATCH * 1e6)
    for service in services.values():
        await service.aclose()
    return {name: statistics.median(values) for name, values in taken.items()}


class Nowhere(SpanExporter):
    """Takes spans and sends none."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def tracer(share: float) -> OpenTelemetryTracer:
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)))
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    return OpenTelemetryTracer(provider)


def metrics() -> list[Any]:
    reader = InMemoryMetricReader()
    return [PrometheusHook(CollectorRegistry()), OpenTelemetryHook(MeterProvider([reader]))]


class Last:
    """Keeps the last event."""

    event: FrameEvent

    def on_frame(self, event: FrameEvent) -> None:
        self.event = event


def traced(tracer: OpenTelemetryTracer) -> Callable[[], None]:
    """The spans of one streamed frame."""

    def trace() -> None:
        frame = tracer.start_span("frame", own_trace=True, began_s=time.time())
        for name in ("capture", "decide"):
            with frame.child(name):
                pass
        with frame.child("attempt streaming", {"hybrid_detect.role": "first"}) as attempt:
            for name in ("compress", "exchange", "restore"):
                with attempt.child(name) as part:
                    assert part.traceparent
        assert frame.trace_id is not None
        frame.end()

    return trace


async def streamed_us(rounds: int) -> tuple[dict[str, float], FrameEvent]:
    """Median microseconds of processor time of a streamed frame, each set asked in turns.

    The event of such a frame, too.
    """
    port = 8796
    serving = multiprocessing.get_context("spawn").Process(
        target=serve_instant, args=(port,), daemon=True
    )
    serving.start()
    url = f"http://127.0.0.1:{port}"
    await until_healthy(url)
    image = np.resize(data.astronaut(), (720, 1280, 3))
    sets: dict[str, dict[str, Any]] = {
        "nothing": {"hooks": [last := Last()]},
        "Prometheus and OpenTelemetry, 1 %": {"hooks": metrics(), "tracer": tracer(0.01)},
        "every frame traced": {"tracer": tracer(1.0)},
    }
    taken: dict[str, list[float]] = {name: [] for name in sets}
    services = {
        name: HybridDetectionService(endpoint=url, mode="streaming", **options)
        for name, options in sets.items()
    }
    for service in services.values():
        await service.__aenter__()
        for _ in range(BATCH):
            await service.process_image(image)
    for number in range(rounds):
        order = list(services.items())
        for name, service in order[number % len(order) :] + order[: number % len(order)]:
            started_s = time.process_time()
            for _ in range(STREAMED):
                await service.process_image(image)
            taken[name].append((time.process_time() - started_s) / STREAMED * 1e6)
    for service in services.values():
        await service.aclose()
    serving.terminate()
    return {name: statistics.median(values) for name, values in taken.items()}, last.event


def show(title: str, found: dict[str, float]) -> None:
    base = next(iter(found.values()))
    print(f"\n{title}\n{'':34}{'us':>9}  more than the first")
    for name, value in found.items():
        print(f"{name:34}{value:9.2f}  {value - base:8.2f}")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    quiet = logging.getLogger("bench")
    quiet.propagate = False
    with tempfile.TemporaryDirectory() as folder, JsonLinesHook(Path(folder) / "e.jsonl") as lines:
        sets: dict[str, list[Any]] = {
            "no hook": [],
            "the monitor": [BackendProcessingMonitor()],
            "the cost meter": [CostMeter()],
            "what costs_path keeps": [CostMeter(), UsageMeter()],
            "logging, below its level": [LoggingHook(quiet)],
            "monitor, logging and JSON lines": [
                BackendProcessingMonitor(),
                LoggingHook(quiet),
                lines,
            ],
            "Prometheus": [PrometheusHook(CollectorRegistry())],
            "OpenTelemetry's metrics": metrics()[1:],
        }
        show(
            "making and telling one event",
            medians_us({n: told(h) for n, h in sets.items()}, rounds),
        )
        show("a whole frame, backend free", asyncio.run(frames_us(sets, rounds)))
    streamed, event = asyncio.run(streamed_us(rounds))
    show("processor time of a frame over a stream", streamed)
    prometheus, opentelemetry = metrics()
    calls = {
        "Prometheus": partial(prometheus.on_frame, event),
        "OpenTelemetry's metrics": partial(opentelemetry.on_frame, event),
        "OpenTelemetry's traces, 1 %": traced(tracer(0.01)),
    }
    alone = medians_us(calls, rounds)
    alone["all of it"] = sum(alone.values())
    print("\nwhat is called for such a frame, and its part of the frame's processor time")
    for name, taken_us in alone.items():
        print(f"{name:34}{taken_us:9.2f}  {taken_us / streamed['nothing']:6.1%}")


if __name__ == "__main__":
    main()
