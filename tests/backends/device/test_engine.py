"""The engine on its own: loading, turns of its thread, retries and hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.device import engine as engine_module
from hybrid_detect.backends.device.engine import Engine
from hybrid_detect.backends.device.memory_guard import MemoryGuard
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.errors import (
    BackendUnavailableError,
    ClosedError,
    InvalidFrameError,
    ModelError,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.system.memory_probe import MemoryReading
from hybrid_detect.types import QualityLevel

from ...waiting import LIMIT_S, until

pytestmark = pytest.mark.anyio

PLENTY = MemoryReading(process_bytes=2**20, available_bytes=2**33, bound_by="system")
FRAME = Frame.of(np.zeros((8, 8, 3), np.uint8))


class SlowDetector:
    """Finds nothing, once `may_answer` is set."""

    has_process = False
    asked_since_s = None
    look_s = 0.0

    def __init__(self, *errors: Exception) -> None:
        self.may_answer = threading.Event()
        self.looking = threading.Event()
        self.is_closed = False
        self.errors = list(errors)
        """What the next loads raise."""

    def start(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    def ping(self) -> None:
        pytest.fail("it was asked without being loaded")

    def detect_frame(self, _frame: Frame, _level: QualityLevel) -> tuple[()]:
        self.looking.set()
        assert self.may_answer.wait(LIMIT_S)
        return ()

    def kill(self) -> None:
        """It cannot be killed."""

    def close(self) -> None:
        self.is_closed = True


def engine_of(detector: Any) -> Engine:
    return Engine(
        "short_range", lambda *_: detector, idle_s=None, guard=MemoryGuard(read=lambda: PLENTY)
    )


async def test_a_detection_that_ends_says_so_once() -> None:
    detector = SlowDetector()
    detector.may_answer.set()
    done: list[None] = []
    engine = engine_of(detector)
    assert not engine.is_loaded
    assert (await engine.detect(FRAME, 0.0, when_done=lambda: done.append(None))).faces == ()
    assert engine.is_loaded
    assert len(done) == 1
    await engine.aclose()
    assert not engine.is_loaded
    assert detector.is_closed


async def test_a_detection_given_up_is_done_when_the_thread_is() -> None:
    detector = SlowDetector()
    done: list[None] = []
    engine = engine_of(detector)
    detection = asyncio.create_task(engine.detect(FRAME, 0.0, when_done=lambda: done.append(None)))
    await until(detector.looking.is_set)
    detection.cancel()
    with pytest.raises(asyncio.CancelledError):
        await detection
    assert not done
    detector.may_answer.set()
    await until(lambda: done)
    await engine.aclose()
    assert len(done) == 1


async def test_a_detection_that_never_began_is_done_at_once() -> None:
    done: list[None] = []
    engine = engine_of(SlowDetector(ModelError("no model to be had", name="short_range")))
    with pytest.raises(ModelError):
        await engine.detect(FRAME, 0.0, when_done=lambda: done.append(None))
    with pytest.raises(BackendUnavailableError, match="no model to be had"):
        await engine.detect(FRAME, 0.0, when_done=lambda: done.append(None))
    assert len(done) == 2
    await engine.aclose()


async def test_nothing_is_loaded_once_it_is_closed() -> None:
    done: list[None] = []
    detector = SlowDetector(ModelError("it was loaded"))
    engine = engine_of(detector)
    await engine.aclose()
    with pytest.raises(ClosedError, match="OnDeviceDetectionService"):
        await engine.detect(FRAME, 0.0, when_done=lambda: done.append(None))
    with pytest.raises(ClosedError):
        await engine.ready()
    await engine.unload()
    assert detector.errors
    assert len(done) == 1


async def test_a_thread_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    done: list[None] = []
    detector = SlowDetector()
    detector.may_answer.set()
    engine = engine_of(detector)
    unused = engine_of(SlowDetector())
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(BackendUnavailableError, match="can't start new thread") as caught:
            await engine.detect(FRAME, 0.0, when_done=lambda: done.append(None))
        with pytest.raises(BackendUnavailableError):
            await unused.ready()
        await unused.aclose()
    assert caught.value.retryable
    assert len(done) == 1
    assert not engine.is_loaded
    assert (await engine.detect(FRAME, 0.0, when_done=lambda: done.append(None))).faces == ()
    await engine.aclose()


async def test_a_lack_of_memory_in_the_app_is_a_typed_error() -> None:
    class NoMemory(SlowDetector):
        def detect_frame(self, _frame: Frame, _level: QualityLevel) -> tuple[()]:
            raise MemoryError

    engine = engine_of(NoMemory())
    with pytest.raises(BackendUnavailableError, match="memory for a picture of 8x8 pixels"):
        await engine.detect(FRAME, 0.0, when_done=lambda: None)
    await engine.aclose()


class OwingWorker(DetectorWorker):
    """Owes an answer until it is killed, or told to give one."""

    def __init__(self) -> None:
        super().__init__(lambda: b"")
        self.end = threading.Event()
        self.asked = threading.Event()
        self.killed_s: float | None = None

    def start(self) -> None:
        """There is no process."""

    ping = start

    def detect_frame(self, _frame: Frame, _level: QualityLevel) -> tuple[()]:
        self._process.asked_since_s = time.monotonic()
        self.asked.set()
        assert self.end.wait(LIMIT_S)
        self._process.asked_since_s = None
        return ()

    def kill(self) -> None:
        self.killed_s = time.monotonic()
        self.end.set()


@pytest.mark.parametrize(
    ("usual_s", "grace_s"),
    [(0.0, engine_module.HANG_GRACE_MAX_S), (0.001, engine_module.HANG_GRACE_MIN_S), (0.05, 0.5)],
    ids=["unknown", "fast", "slow"],
)
async def test_a_hang_is_ended_some_time_after_the_deadline(usual_s: float, grace_s: float) -> None:
    worker = OwingWorker()
    engine = engine_of(worker)
    engine._usual_s = usual_s
    await engine.ready()
    ends_s = time.monotonic() + 0.2
    detection = asyncio.create_task(engine.detect(FRAME, ends_s, when_done=lambda: None))
    await until(worker.asked.is_set)
    detection.cancel()  # Another backend was faster, which makes no detection a hang.
    assert await until(lambda: worker.killed_s) >= ends_s + grace_s
    await engine.aclose()


async def test_an_impatient_check_does_not_shorten_a_frame_s_time() -> None:
    worker = OwingWorker()
    engine = engine_of(worker)
    engine._usual_s = 0.001
    await engine.ready()
    ends_s = time.monotonic() + 2 * engine_module.HANG_GRACE_MIN_S
    detection = asyncio.create_task(engine.detect(FRAME, ends_s, when_done=lambda: None))
    await until(worker.asked.is_set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await engine.ready(due_s=time.monotonic())
    assert (await detection).faces == ()
    assert worker.killed_s is not None
    assert worker.killed_s >= ends_s + engine_module.HANG_GRACE_MIN_S
    await engine.aclose()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((0, 80, 3), np.uint8),
        np.zeros((40, 80), np.uint8),
        np.zeros((40, 80, 4), np.uint8),
        np.zeros((40, 80, 3), np.float32),
        np.zeros((40, 80, 3), np.uint8)[:, :, ::-1],
        None,
    ],
)
def test_no_process_is_started_for_pixels_of_another_layout(pixels: Any) -> None:
    worker = DetectorWorker(lambda: pytest.fail("it was started"))
    with pytest.raises(InvalidFrameError, match="expected a C-contiguous uint8 array of shape"):
        worker.detect(pixels)
