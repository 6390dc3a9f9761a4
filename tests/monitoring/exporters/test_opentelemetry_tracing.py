"""What OpenTelemetry's own SDK gets of a service's traces."""

import asyncio
import logging
from typing import Any

import numpy as np
import pytest

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is an extra")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import StatusCode

from hybrid_detect import (
    AllBackendsFailedError,
    BackendTimeoutError,
    FrameEvent,
    HybridDetectionService,
    InvalidFrameError,
    OpenTelemetryTracer,
    sync,
)
from hybrid_detect.testing import FakeBackend

IMAGE = np.zeros((48, 64, 3), np.uint8)


class Traced:
    """A tracer, and what an exporter gets of it."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=ParentBased(sampler))
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = OpenTelemetryTracer(self.provider)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def attributes(self, name: str) -> dict[str, Any]:
        return dict(self.spans[name].attributes or {})


@pytest.fixture
def traced() -> Traced:
    return Traced()


class Events:
    def __init__(self) -> None:
        self.frames: list[FrameEvent] = []

    def on_frame(self, event: FrameEvent) -> None:
        self.frames.append(event)


def test_a_part_tells_its_time_its_error_and_whose_part_it_is(traced: Traced) -> None:
    frame = traced.tracer.start_span("frame", began_s=100.0)
    part = frame.child("queue", {"a": 1}, began_s=101.0)
    part.end(error="LateError", ended_s=101.5)
    frame.end(ended_s=102.0)
    queue = traced.spans["queue"]
    assert queue.start_time == 101_000_000_000
    assert queue.end_time == 101_500_000_000
    assert queue.parent is not None
    assert f"{queue.parent.span_id:016x}" == frame.span_id
    assert traced.attributes("queue") == {"a": 1, "error.type": "LateError"}
    assert queue.status.status_code is StatusCode.ERROR
    assert traced.spans["frame"].status.status_code is StatusCode.UNSET


def test_the_first_end_counts(traced: Traced, caplog: pytest.LogCaptureFixture) -> None:
    with traced.tracer.start_span("frame") as frame:
        frame.end(error="FirstError")
        frame.set({"too": "late"})
        frame.rename("late")
    assert traced.attributes("frame") == {"error.type": "FirstError"}
    assert not caplog.records


def test_what_is_given_up_is_no_error(traced: Traced) -> None:
    with pytest.raises(asyncio.CancelledError), traced.tracer.start_span("attempt cloud"):
        raise asyncio.CancelledError
    assert traced.attributes("attempt cloud") == {"hybrid_detect.given_up": True}
    assert traced.spans["attempt cloud"].status.status_code is StatusCode.UNSET


def test_the_name_of_a_span_leads_to_it_from_another_machine(traced: Traced) -> None:
    elsewhere = Traced(ALWAYS_OFF)  # its sampler follows the parent's
    frame = traced.tracer.start_span("frame")
    elsewhere.tracer.start_span("picture", kind="server", parent=frame.traceparent).end()
    picture = elsewhere.spans["picture"]
    assert picture.parent is not None
    assert picture.parent.is_remote
    assert f"{picture.context.trace_id:032x}" == frame.trace_id
    assert f"{picture.parent.span_id:016x}" == frame.span_id


def test_what_is_not_sampled_is_told_so_and_makes_no_parts() -> None:
    traced = Traced(ALWAYS_OFF)
    with traced.tracer.start_span("frame") as frame:
        assert frame.child("compress") is frame
        assert frame.traceparent.endswith("-00") or frame.traceparent.endswith("-02")
        assert (frame.trace_id, frame.span_id) == ("", "")
        elsewhere = Traced()
        with elsewhere.tracer.start_span("picture", parent=frame.traceparent):
            pass
    assert not traced.spans
    assert not elsewhere.spans


def test_without_an_sdk_nothing_is_traced_and_nothing_named() -> None:
    with OpenTelemetryTracer(trace.NoOpTracerProvider()).start_span("frame") as frame:
        assert not frame.is_recording
        assert frame.traceparent == ""


class Broken(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if span.name == "decide":
            raise RuntimeError("a processor has a bug")

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("a processor has a bug")


class BrokenSampler(Sampler):
    def should_sample(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("a sampler has a bug")

    def get_description(self) -> str:
        return "broken"


@pytest.mark.anyio
@pytest.mark.parametrize("sampler", [ALWAYS_ON, BrokenSampler()])
async def test_an_sdk_that_raises_hurts_no_frame(
    sampler: Sampler, caplog: pytest.LogCaptureFixture
) -> None:
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(Broken())
    async with HybridDetectionService(
        backends=[FakeBackend("device")], tracer=OpenTelemetryTracer(provider)
    ) as service:
        for _ in range(3):
            assert (await service.process_image(IMAGE)).answered
    failures = [record for record in caplog.records if record.name == "hybrid_detect.tracing"]
    assert len(failures) == 1
    assert failures[0].levelno == logging.ERROR


@pytest.mark.anyio
async def test_events_and_results_name_the_trace_of_their_frame(traced: Traced) -> None:
    events = Events()
    cloud = FakeBackend("cloud")
    async with HybridDetectionService(
        backends=[cloud, FakeBackend("device")],
        mode="prefer_cloud",
        hooks=[events],
        tracer=traced.tracer,
    ) as service:
        cloud.error = BackendTimeoutError("late")
        result = await service.process_image(IMAGE)
        with pytest.raises(InvalidFrameError):
            await service.process_image(np.zeros(3, np.uint8))
    answered, invalid = events.frames
    assert result.trace_id == answered.trace_id
    assert result.to_dict()["trace_id"] == answered.trace_id
    frames = [span for span in traced.exporter.get_finished_spans() if span.name == "frame"]
    assert [f"{span.context.span_id:016x}" for span in frames] == [
        answered.span_id,
        invalid.span_id,
    ]
    assert frames[1].status.status_code is StatusCode.ERROR
    assert (frames[1].attributes or {})["error.type"] == "InvalidFrameError"
    assert traced.attributes("attempt cloud")["error.type"] == "BackendTimeoutError"
    assert traced.attributes("attempt device")["hybrid_detect.role"] == "fallback"


@pytest.mark.anyio
async def test_a_frame_without_an_answer_is_an_error(traced: Traced) -> None:
    cloud = FakeBackend("cloud")
    cloud.error = BackendTimeoutError("late")
    async with HybridDetectionService(
        backends=[cloud], mode="cloud", tracer=traced.tracer
    ) as service:
        with pytest.raises(AllBackendsFailedError):
            await service.process_image(IMAGE)
    assert traced.spans["frame"].status.status_code is StatusCode.ERROR
    assert traced.attributes("frame")["error.type"] == "AllBackendsFailedError"


@pytest.mark.anyio
async def test_a_stale_frame_has_a_trace_of_its_own(traced: Traced) -> None:
    async with HybridDetectionService(
        backends=[FakeBackend("device")], tracer=traced.tracer
    ) as service:
        results = service.start_detection([IMAGE] * 3, skip_unchanged=True, max_fps=None)
        found = [result async for result in results]
    assert {result.status.value for result in found} == {"ok", "stale"}
    assert len({result.trace_id for result in found}) == 3


def test_a_blocking_service_joins_its_callers_trace(traced: Traced) -> None:
    with (
        sync.HybridDetectionService(
            backends=[FakeBackend("device")], tracer=traced.tracer
        ) as service,
        traced.provider.get_tracer("the app").start_as_current_span("button") as button,
    ):
        result = service.process_image(IMAGE)
    assert result.trace_id == f"{button.get_span_context().trace_id:032x}"
    parent = traced.spans["frame"].parent
    assert parent is not None
    assert parent.span_id == button.get_span_context().span_id
