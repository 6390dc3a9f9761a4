"""Each frame that enters the service is told to the hooks, once, whatever becomes of it."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import AllBackendsFailedError, BackendUnavailableError, InvalidFrameError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.monitoring.events import BackendEvent, FrameEvent
from hybrid_detect.monitoring.monitor import BackendProcessingMonitor
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.storage.history import DetectionHistory
from hybrid_detect.sync import HybridDetectionService as SyncService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, BoundingBox, Face, Plan

from ..waiting import until

pytestmark = pytest.mark.anyio

IMAGE = np.zeros((48, 64, 3), np.uint8)
MARK = b"PIXELS-MARK"


class Collects:
    """Keeps the events."""

    def __init__(self) -> None:
        self.frames: list[FrameEvent] = []
        self.backends: list[BackendEvent] = []

    def on_frame(self, event: FrameEvent) -> None:
        self.frames.append(event)

    def on_backend(self, event: BackendEvent) -> None:
        self.backends.append(event)

    @property
    def outcomes(self) -> list[str]:
        return [event.outcome.value for event in self.frames]


async def test_an_answer_is_told_with_what_a_result_says() -> None:
    hook = Collects()
    device = FakeBackend("device", faces=[Face(BoundingBox(1, 2, 3, 4), 0.9)])
    async with HybridDetectionService(backends=[device], hooks=[hook], session_id="me") as service:
        result = await service.process_image(IMAGE)
    (event,) = hook.frames
    assert event.outcome == "answered"
    assert (event.backend, event.planned) == (BackendKind.DEVICE, BackendKind.DEVICE)
    assert (event.frame_id, event.session_id) == (result.frame_id, "me")
    assert (event.width, event.height, event.faces, event.confidence) == (64, 48, 1, 0.9)
    assert event.total_s >= result.timings.total_s > 0
    assert event.result == result
    assert not event.degraded


async def test_a_fallback_is_told_as_degraded_with_its_attempts() -> None:
    hook = Collects()
    cloud, device = FakeBackend("cloud"), FakeBackend("device")
    async with HybridDetectionService(
        mode="prefer_cloud", backends=[cloud, device], hooks=[hook]
    ) as service:
        await service.wait_ready()
        cloud.error = BackendUnavailableError("down")
        await service.process_image(IMAGE)
    (event,) = hook.frames
    assert (event.outcome, event.degraded) == ("answered", True)
    assert (event.planned, event.backend) == (BackendKind.CLOUD, BackendKind.DEVICE)
    assert [attempt.error for attempt in event.attempts] == ["BackendUnavailableError"]


async def test_frames_without_an_answer_are_told() -> None:
    hook = Collects()
    device = FakeBackend("device")
    async with HybridDetectionService(backends=[device], hooks=[hook]) as service:
        with pytest.raises(InvalidFrameError):
            await service.process_image(b"garbage")
        device.error = BackendUnavailableError("down")
        with pytest.raises(AllBackendsFailedError):
            await service.process_image(IMAGE)
        device.error, device.latency_s = None, 60.0
        given_up = asyncio.create_task(service.process_image(IMAGE, deadline_s=60.0))
        await until(lambda: len(device.plans) == 2)
        given_up.cancel()
        await asyncio.wait([given_up])
    assert hook.outcomes == ["invalid", "failed", "cancelled"]
    invalid, failed, cancelled = hook.frames
    assert (invalid.error, invalid.frame_id) == ("InvalidFrameError", None)
    assert failed.error == "AllBackendsFailedError"
    assert (cancelled.error, cancelled.width) == ("CancelledError", 64)


async def test_skipped_frames_and_bugs_are_told() -> None:
    class Skips:
        def decide(self, conditions: Conditions) -> Plan:
            return Plan(backend=None, skip=True, reason="later", deadline_s=1.0)

    class Buggy(FakeBackend):
        async def detect(self, frame: Frame, plan: Plan) -> Any:
            raise RuntimeError(MARK.decode())

    hook = Collects()
    async with HybridDetectionService(
        backends=[FakeBackend("device")], policy=Skips(), hooks=[hook]
    ) as service:
        await service.process_image(IMAGE)
    async with HybridDetectionService(backends=[Buggy("device")], hooks=[hook]) as service:
        with pytest.raises(RuntimeError):
            await service.process_image(IMAGE)
    assert hook.outcomes == ["skipped", "failed"]
    assert hook.frames[1].error == "RuntimeError"
    assert MARK.decode() not in str(hook.frames[1])


async def test_a_stream_s_frames_are_told_once_each() -> None:
    hook = Collects()
    async with HybridDetectionService(
        config=ServiceConfig(deadline_s=5.0), backends=[FakeBackend("device")], hooks=[hook]
    ) as service:
        stream = service.start_detection(
            [IMAGE, b"garbage", IMAGE, IMAGE], max_fps=None, skip_unchanged=True
        )
        results = [result async for result in stream]
    assert [result.status for result in results][:2] == ["ok", "failed"]
    assert sorted(hook.outcomes) == sorted(
        ["answered", "invalid"]
        + ["answered" if result.status == "ok" else "stale" for result in results[2:]]
    )
    assert len(results) == 4


async def test_a_result_that_holds_its_frame_leaves_it_out_of_the_event() -> None:
    hook = Collects()
    async with HybridDetectionService(backends=[FakeBackend("device")], hooks=[hook]) as service:
        async for result in service.start_detection([IMAGE], keep_frames=True):
            assert result.frame.width == 64
    (event,) = hook.frames
    assert event.result is not None
    assert event.result.frame is None


async def test_changes_of_a_backend_are_told_once_each() -> None:
    hook = Collects()
    cloud, device = FakeBackend("cloud"), FakeBackend("device")
    async with HybridDetectionService(
        mode="prefer_cloud", backends=[cloud, device], hooks=[hook]
    ) as service:
        await service.wait_ready()
        cloud.error = BackendUnavailableError("down")
        for _ in range(5):
            await service.process_image(IMAGE)
        cloud.error = None
        await until(lambda: hook.backends[-1].usable)
    told = [(event.usable, event.breaker) for event in hook.backends if event.backend == "cloud"]
    assert (True, "closed") in told
    assert (False, "open") in told
    assert told[-1] == (True, "closed")
    assert all(one != other for one, other in itertools.pairwise(told))
    out = next(
        event for event in hook.backends if event.breaker == "open" and event.reason == "down"
    )
    assert not out.usable


async def test_the_monitor_is_a_hook() -> None:
    monitor = BackendProcessingMonitor()
    async with HybridDetectionService(backends=[FakeBackend("device")], hooks=[monitor]) as service:
        for _ in range(4):
            await service.process_image(IMAGE)
        with pytest.raises(InvalidFrameError):
            await service.process_image(b"garbage")
        figures = monitor.figures()
    assert (figures.frames, figures.success_rate) == (5, 0.8)
    assert figures.shares == {"device": 1.0}


@pytest.fixture
def history(tmp_path: Any) -> Iterator[DetectionHistory]:
    with DetectionHistory(tmp_path / "history.sqlite", sweeps=False) as opened:
        yield opened


async def test_the_history_is_a_hook(history: DetectionHistory) -> None:
    async with HybridDetectionService(
        backends=[FakeBackend("device")], hooks=[history], session_id="me"
    ) as service:
        await service.process_image(IMAGE)
        with pytest.raises(InvalidFrameError):
            await service.process_image(b"garbage")
    (kept,) = history.results("me")
    assert kept.result["status"] == "ok"


def test_the_blocking_service_takes_hooks() -> None:
    hook = Collects()
    with SyncService(backends=[FakeBackend("device")], hooks=[hook]) as service:
        service.process_image(IMAGE)
    assert hook.outcomes == ["answered"]


async def test_no_event_holds_pixels() -> None:
    hook = Collects()
    image = np.frombuffer(MARK * 4096, np.uint8)[: 64 * 64 * 3].reshape(64, 64, 3)
    async with HybridDetectionService(backends=[FakeBackend("device")], hooks=[hook]) as service:
        await service.process_image(image)
        with pytest.raises(InvalidFrameError):
            await service.process_image(MARK)
    for event in hook.frames:
        assert MARK.decode() not in f"{event!r}{event.to_dict()}"
