"""Streams: which frame a result is for, what was dropped, and sources that block or are lost."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import SourceError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.frames.timed_image import TimedImage
from hybrid_detect.monitoring.monitor import BackendProcessingMonitor
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.sources.sources import open_source
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BoundingBox, DetectionResult, Face

from ..waiting import LIMIT_S, until

pytestmark = pytest.mark.anyio


def image_of(number: int) -> np.ndarray:
    return np.full((16, 16, 3), number, np.uint8)


def number_of(frame: Frame) -> int:
    return int(frame.rgb()[0, 0, 0])


def sees_number(frame: Frame) -> list[Face]:
    """A face whose left edge is what the picture's pixels say."""
    return [Face(BoundingBox(number_of(frame), 0, 255, 255), 1.0)]


def seen(result: DetectionResult) -> int:
    return int(result.faces[0].box.x_min)


@pytest.fixture
async def service(anyio_backend: str) -> AsyncIterator[HybridDetectionService]:
    config = ServiceConfig(deadline_s=LIMIT_S)
    backend = FakeBackend("device", faces=sees_number)
    async with HybridDetectionService(config=config, backends=[backend]) as opened:
        yield opened


class Blocks:
    """A camera that gives `count` frames and then nothing until it is let go."""

    def __init__(self, count: int) -> None:
        self._left = count
        self.go = threading.Event()

    def read(self) -> tuple[bool, Any]:
        if not self._left:
            self.go.wait(LIMIT_S)
            return False, None
        self._left -= 1
        return True, image_of(self._left)


async def test_frames_of_a_source_that_reuses_its_memory_are_looked_at_as_given(
    service: HybridDetectionService,
) -> None:
    memory = image_of(0)

    def reused() -> Iterator[np.ndarray]:
        for number in range(6):
            memory[:] = number
            yield memory

    stream = service.start_detection(reused(), max_fps=None)
    assert [seen(result) async for result in stream] == list(range(6))


async def test_an_image_may_be_written_while_it_is_looked_at() -> None:
    device = FakeBackend("device", faces=sees_number)
    go = asyncio.Event()

    async def wait(_seconds: float) -> None:
        await go.wait()

    device._sleep = wait
    config = ServiceConfig(deadline_s=LIMIT_S)
    async with HybridDetectionService(config=config, backends=[device]) as service:
        image = image_of(7)
        asked = asyncio.create_task(service.process_image(image))
        await until(lambda: device.plans)
        image[:] = 200
        go.set()
        assert seen(await asked) == 7


async def test_a_result_tells_which_frame_of_its_source_it_is_for(
    service: HybridDetectionService,
) -> None:
    images = [image_of(0), b"no image", image_of(2), image_of(3)]
    results = [result async for result in service.start_detection(images, max_fps=None)]
    assert [result.source_index for result in results] == [0, 1, 2, 3]
    assert [result.dropped_before for result in results] == [0, 0, 0, 0]
    assert [result.frame for result in results] == [None] * 4
    assert all(result.captured_at_s is not None for result in results)
    alone = await service.process_image(image_of(1))
    assert (alone.source_index, alone.dropped_before) == (None, 0)


async def test_a_result_holds_its_frame_on_request(service: HybridDetectionService) -> None:
    images = [image_of(number) for number in range(5)]
    stream = service.start_detection(images, max_fps=None, keep_frames=True, skip_unchanged=True)
    async for result in stream:
        assert number_of(result.frame) == result.source_index
        assert "frame=" not in repr(result)
        assert "frame" not in result.to_dict()


async def test_what_was_dropped_is_told_by_the_next_result_the_status_and_the_monitor() -> None:
    go, given = threading.Event(), threading.Semaphore(0)

    class Fast:
        reads = 0

        def read(self) -> tuple[bool, Any]:
            self.reads += 1
            if self.reads == 2:
                go.wait(LIMIT_S)
            if self.reads > 6:
                given.release()
                threading.Event().wait(0.001)
            return True, image_of(0)

    monitor = BackendProcessingMonitor()
    async with HybridDetectionService(backends=[FakeBackend("device")], hooks=[monitor]) as service:
        stream = service.start_detection(Fast(), max_fps=None)
        first = await anext(stream)
        go.set()
        await asyncio.to_thread(given.acquire)
        late = [await anext(stream) for _ in range(4)]
        await stream.aclose()
        assert first.dropped_before == 0
        dropped = sum(result.dropped_before for result in late)
        assert dropped > 0
        assert service.status().frames_dropped >= dropped
        assert monitor.figures().dropped >= dropped
        indices = [result.source_index for result in (first, *late)]
        assert indices == sorted(set(indices))


async def test_a_silent_camera_is_told_again_and_again_and_left_at_once(
    service: HybridDetectionService, caplog: pytest.LogCaptureFixture
) -> None:
    camera = Blocks(1)
    stream = service.start_detection(camera, max_fps=None, silence_s=0.01)
    while not (await anext(stream)).answered:
        pass  # a busy machine may take longer for the first frame
    for _ in range(2):
        result = await anext(stream)
        assert (result.status, result.source_index) == ("failed", None)
        assert isinstance(result.error, SourceError)
        assert "no frame for 0.01 s" in result.reason
    await stream.aclose()
    assert "left behind" in caplog.text
    camera.go.set()


async def test_closing_the_service_does_not_wait_for_a_camera_that_blocks() -> None:
    camera = Blocks(1)
    async with HybridDetectionService(backends=[FakeBackend("device")]) as service:
        stream = service.start_detection(camera, max_fps=None)
        await anext(stream)
    assert any(thread.name == "hybrid-detect-source" for thread in threading.enumerate())
    camera.go.set()


async def test_a_camera_that_is_lost_ends_the_stream_with_a_failed_result(
    service: HybridDetectionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid_detect.sources.camera_reads.MISS_PAUSE_S", 0.0)
    camera = Blocks(3)
    camera.go.set()
    stream = service.start_detection(camera, max_fps=None, intent="every_frame")
    results = [result async for result in stream]
    assert [result.status for result in results] == ["ok", "ok", "ok", "failed"]
    assert isinstance(results[-1].error, SourceError)
    assert "lost" in results[-1].reason
    with pytest.raises(SourceError):
        results[-1].raise_for_status()


async def test_a_stream_gives_each_frame_with_its_result(service: HybridDetectionService) -> None:
    images = [image_of(0), b"no image", image_of(2)]
    pairs = service.start_detection(images, max_fps=None).with_frames()
    seen_frames = [(frame, result.source_index, result.status) async for frame, result in pairs]
    assert [number_of(frame) if frame else None for frame, *_ in seen_frames] == [0, None, 2]
    assert [rest for _, *rest in seen_frames] == [[0, "ok"], [1, "failed"], [2, "ok"]]


async def test_a_source_is_given_with_settings_of_its_own(service: HybridDetectionService) -> None:
    told: list[int | None] = []
    camera = open_source(
        [image_of(number) for number in range(4)],
        intent="every_frame",
        on_frame=lambda captured: told.append(captured.index),
    )
    times = [TimedImage(image_of(5), source_time_s=1.5)]
    results = [result async for result in service.start_detection(camera, max_fps=None)]
    assert [result.source_index for result in results] == told == [0, 1, 2, 3]
    (result,) = [result async for result in service.start_detection(times)]
    assert result.source_time_s == result.to_dict()["source_time_s"] == 1.5


async def test_a_camera_that_comes_back_is_told_and_goes_on(
    service: HybridDetectionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid_detect.sources.live.FIRST_PAUSE_S", 0.001)

    class Flaky:
        def __init__(self) -> None:
            self.opened = 0

        def open(self) -> Any:
            self.opened += 1
            if self.opened == 2:
                raise OSError("busy")
            return Connection(self.opened)

    class Connection:
        def __init__(self, number: int) -> None:
            self._images = iter([image_of(number)])
            self._number = number

        def read(self) -> Any:
            for image in self._images:
                return image
            raise EOFError if self._number == 3 else SourceError("unplugged")

        def close(self) -> None:
            pass

    stream = service.start_detection(Flaky(), max_fps=None, intent="every_frame")
    results = [result async for result in stream]
    assert [result.status for result in results] == ["ok", "failed", "failed", "ok"]
    assert [result.source_index for result in results] == [0, None, None, 1]
    assert "unplugged; it is being opened again" in results[1].reason
    assert "busy" in results[2].reason


async def test_what_was_dropped_is_told_by_cause() -> None:
    class Old:
        reads = 0

        def open(self) -> Any:
            return self

        def read(self) -> Any:
            self.reads += 1
            if self.reads > 4:
                raise EOFError
            age_s = 5.0 if self.reads < 4 else 0.0
            return TimedImage(image_of(0), captured_at_s=time.monotonic() - age_s)

        def close(self) -> None:
            pass

    class Source:
        def open(self) -> Any:
            return Old()

    async with HybridDetectionService(backends=[FakeBackend("device")]) as service:
        camera = open_source(Source(), intent="every_frame", max_age_s=1.0)
        (result,) = [result async for result in service.start_detection(camera, max_fps=None)]
        status = service.status()
    assert result.dropped_before == 3
    assert status.drops == {"stale": 3}
    assert status.frames_dropped == 3
