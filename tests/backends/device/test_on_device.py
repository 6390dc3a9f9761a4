"""The on-device service: turns, deadlines, loading and closing.

Most tests put a stand-in in the engine's place, whose pictures take as long as the test wants.
Those of the process of its own run MediaPipe in it, on the generated model.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import pytest
from PIL import Image

from hybrid_detect.backends.device import engine as engine_module
from hybrid_detect.backends.device import face_detector
from hybrid_detect.backends.device import on_device as device
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.backends.device.worker_process import WorkerProcess
from hybrid_detect.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    ConfigurationError,
    InvalidFrameError,
    MissingExtraError,
    ModelError,
    SupersededError,
)
from hybrid_detect.extras import is_installed
from hybrid_detect.frames.frame import Frame
from hybrid_detect.testing.synthetic_model import synthetic_face_model
from hybrid_detect.types import (
    BackendKind,
    BoundingBox,
    DetectionResult,
    DetectionStatus,
    Face,
    Plan,
)

from ...waiting import LIMIT_S, until, wait_until
from . import stand_in

pytestmark = pytest.mark.anyio

ASTRONAUT_FACE = BoundingBox(169, 64, 283, 178)
SOON_S = 0.05


class FakeEngine:
    """Answers with one face as wide as the picture, once `may_answer` is set."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.may_load = threading.Event()
        self.may_load.set()
        self.load_error: Exception | None = None
        self.detect_error: Exception | None = None
        self.looking = threading.Event()
        self.loads = 0
        self.widths: list[int] = []
        self.threads: set[str] = set()
        self.closed = 0

    def load(self, _name: str, *, progress: Callable[..., None], **_: Any) -> bytes:
        self.loads += 1
        while not self.may_load.wait(0.005):
            progress("source", 0, None)
        if self.load_error:
            raise self.load_error
        return b"model"

    def build(self, _model: bytes, *, min_confidence: float, slim: bool) -> FakeEngine:
        self.threads.add(threading.current_thread().name)
        return self

    def detect(self, image_rgb: np.ndarray) -> tuple[Face, ...]:
        self.threads.add(threading.current_thread().name)
        self.looking.set()
        assert self.may_answer.wait(LIMIT_S)
        self.looking.clear()
        if self.detect_error:
            raise self.detect_error
        self.widths.append(image_rgb.shape[1])
        return (Face(BoundingBox(0, 0, image_rgb.shape[1], 1), 0.9),)

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed += 1


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    engine = FakeEngine()
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", lambda _: True)
    monkeypatch.setattr(device, "load_model", engine.load)
    monkeypatch.setattr(face_detector, "MediaPipeFaceDetector", engine.build)
    yield engine
    engine.may_load.set()
    engine.may_answer.set()
    assert_no_thread_of_ours()


def assert_no_thread_of_ours() -> None:
    wait_until(lambda: not any(t.name.startswith("hybrid-detect") for t in threading.enumerate()))


def service_of(**options: Any) -> OnDeviceDetectionService:
    """The service around the stand-in, which lives in this process."""
    return OnDeviceDetectionService(isolation="none", **options)


def frame_of(width: int) -> Frame:
    return Frame.of(np.zeros((8, width, 3), np.uint8))


def plan(deadline_s: float = LIMIT_S) -> Plan:
    return Plan(backend=BackendKind.DEVICE, reason="test", deadline_s=deadline_s)


# ---- construction


async def test_missing_mediapipe_is_told_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", lambda _: False)
    with pytest.raises(
        MissingExtraError, match=r"pip install 'hybrid-detect\[device\]'$"
    ) as caught:
        service_of()
    assert caught.value.extra == "device"


async def test_unusable_configuration_is_told_at_construction(engine: FakeEngine) -> None:
    with pytest.raises(ConfigurationError, match="short_range, full_range, got 'huge'"):
        service_of(model="huge")
    with pytest.raises(ConfigurationError, match="min_confidence"):
        service_of(min_confidence=1.5)
    with pytest.raises(ConfigurationError, match="expected 'process' or 'none', got 'thread'"):
        OnDeviceDetectionService(isolation="thread")  # type: ignore[arg-type]


async def test_app_without_an_interpreter_is_told_what_to_do(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ConfigurationError, match="pass isolation='none'"):
        OnDeviceDetectionService()
    async with service_of() as service:
        assert (await service.detect(frame_of(4), plan())).answered


# ---- answering


async def test_answer_is_complete(engine: FakeEngine) -> None:
    frame = frame_of(20)
    async with service_of(model="full_range") as service:
        result = await service.detect(frame, plan())
    assert result.answered
    assert result.backend is BackendKind.DEVICE
    assert result.model == "full_range"
    assert (result.width, result.height, result.frame_id) == (20, 8, frame.frame_id)
    assert [face.box.width for face in result.faces] == [20]
    assert result.bytes_sent == 0
    assert result.reason == "test"
    assert result.timings.detect_s is not None
    assert 0 <= result.timings.detect_s <= result.timings.total_s


async def test_everything_happens_on_one_thread_off_the_loop(engine: FakeEngine) -> None:
    async with service_of() as service:
        for width in (1, 2, 3):
            await service.detect(frame_of(width), plan())
    assert engine.threads == {"hybrid-detect-device"}
    assert engine.closed == 1


async def test_a_bad_picture_is_the_caller_s_error(engine: FakeEngine) -> None:
    engine.detect_error = InvalidFrameError("damaged")
    async with service_of() as service:
        with pytest.raises(InvalidFrameError):
            await service.detect(frame_of(4), plan())
        engine.detect_error = None
        assert (await service.detect(frame_of(4), plan())).answered


async def test_the_detector_s_failure_keeps_its_type_and_gets_the_time(engine: FakeEngine) -> None:
    engine.detect_error = BackendUnavailableError("broken", backend="device", retryable=True)
    async with service_of() as service:
        with pytest.raises(BackendUnavailableError) as caught:
            await service.detect(frame_of(4), plan())
    assert caught.value.elapsed_s > 0


# ---- deadlines and turns


async def test_late_answer_is_dropped_and_the_next_frame_waits_for_it(engine: FakeEngine) -> None:
    async with service_of() as service:
        await service.check(deadline_s=LIMIT_S)
        engine.may_answer.clear()
        with pytest.raises(BackendTimeoutError) as caught:
            await service.detect(frame_of(1), plan(SOON_S))
        assert caught.value.deadline_s == SOON_S
        assert caught.value.elapsed_s >= SOON_S * 0.9
        assert caught.value.backend == "device"
        with pytest.raises(BackendTimeoutError):
            await service.detect(frame_of(2), plan(SOON_S))  # the first still runs
        third = asyncio.create_task(service.detect(frame_of(3), plan()))
        await asyncio.sleep(0)
        engine.may_answer.set()
        assert (await third).faces[0].box.width == 3
    assert engine.widths == [1, 3], "the second was never begun"


async def test_newest_waiting_frame_wins(engine: FakeEngine) -> None:
    async with service_of() as service:
        await service.check(deadline_s=LIMIT_S)
        engine.may_answer.clear()
        tasks = []
        for width in range(1, 6):
            tasks.append(asyncio.create_task(service.detect(frame_of(width), plan())))
            await until(engine.looking.is_set)
            await asyncio.sleep(0)
        engine.may_answer.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert engine.widths == [1, 5]
    assert isinstance(outcomes[0], DetectionResult)
    assert isinstance(outcomes[4], DetectionResult)
    for outcome in outcomes[1:4]:
        assert isinstance(outcome, SupersededError)
        assert not outcome.retryable
        assert outcome.backend == "device"


async def test_older_frame_that_comes_late_does_not_displace_a_newer_one(
    engine: FakeEngine,
) -> None:
    older = frame_of(2)
    async with service_of() as service:
        await service.check(deadline_s=LIMIT_S)
        engine.may_answer.clear()
        running = asyncio.create_task(service.detect(frame_of(1), plan()))
        await until(engine.looking.is_set)
        newer = asyncio.create_task(service.detect(frame_of(3), plan()))
        await asyncio.sleep(0)
        with pytest.raises(SupersededError):
            await service.detect(older, plan())
        engine.may_answer.set()
        await asyncio.gather(running, newer)
    assert engine.widths == [1, 3]


@pytest.mark.parametrize("after_turn", [False, True], ids=["waiting", "just given the turn"])
async def test_cancelled_waiting_frame_leaves_the_turn_to_the_next(
    engine: FakeEngine, after_turn: bool
) -> None:
    async with service_of() as service:
        await service.check(deadline_s=LIMIT_S)
        engine.may_answer.clear()
        running = asyncio.create_task(service.detect(frame_of(1), plan()))
        await until(engine.looking.is_set)
        waiting = asyncio.create_task(service.detect(frame_of(2), plan()))
        await asyncio.sleep(0)
        if after_turn:
            running.add_done_callback(lambda _: waiting.cancel())
            engine.may_answer.set()
        else:
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        engine.may_answer.set()
        await running
        assert (await service.detect(frame_of(3), plan())).answered
    assert engine.widths[0] == 1
    assert engine.widths[-1] == 3


async def test_cancelled_detection_is_let_finish(engine: FakeEngine) -> None:
    async with service_of() as service:
        await service.check(deadline_s=LIMIT_S)
        engine.may_answer.clear()
        task = asyncio.create_task(service.detect(frame_of(1), plan()))
        await until(engine.looking.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        engine.detect_error = RuntimeError("unheard")
        following = asyncio.create_task(service.detect(frame_of(2), plan()))
        engine.may_answer.set()
        await until(lambda: not engine.looking.is_set())
        engine.detect_error = None
        await asyncio.gather(following, return_exceptions=True)
        assert (await service.detect(frame_of(3), plan())).answered


async def test_storm_of_short_deadlines_never_jams_the_turn(engine: FakeEngine) -> None:
    async with service_of() as service:
        await service.check(deadline_s=LIMIT_S)
        tasks = []
        for number in range(300):
            deadline_s = (number % 7) * 0.0005
            tasks.append(asyncio.create_task(service.detect(frame_of(4), plan(deadline_s))))
            if number % 11 == 0:
                tasks[number // 2].cancel()
            if number % 3 == 0:
                await asyncio.sleep(0)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(
                outcome,
                DetectionResult | SupersededError | BackendTimeoutError | asyncio.CancelledError,
            )
        assert (await service.detect(frame_of(5), plan())).answered


# ---- loading


async def test_check_waits_no_longer_than_told_and_never_loads_twice(engine: FakeEngine) -> None:
    engine.may_load.clear()
    async with service_of() as service:
        for _ in range(3):
            with pytest.raises(BackendTimeoutError, match=r"was not loaded within 0\.05 s"):
                await service.check(deadline_s=SOON_S)
        assert service.unavailable_reason == ""
        engine.may_load.set()
        await service.check(deadline_s=LIMIT_S)
        await service.check(deadline_s=LIMIT_S)
        assert (await service.detect(frame_of(4), plan())).answered
    assert engine.loads == 1


async def test_a_long_load_is_told(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "LOADING_GRACE_S", 0.0)
    engine.may_load.clear()
    async with service_of() as service:
        await until(lambda: service.unavailable_reason)
        assert "'short_range' is being fetched" in service.unavailable_reason


async def test_frame_during_the_load_waits_for_it(engine: FakeEngine) -> None:
    engine.may_load.clear()
    async with service_of() as service:
        with pytest.raises(BackendTimeoutError):
            await service.detect(frame_of(1), plan(SOON_S))
        waiting = asyncio.create_task(service.detect(frame_of(2), plan()))
        await asyncio.sleep(0)
        engine.may_load.set()
        assert (await waiting).answered
    assert engine.widths == [2]


async def test_missing_model_refuses_frames_at_once_until_a_check_cures_it(
    engine: FakeEngine,
) -> None:
    engine.load_error = ModelError("no model to be had", name="short_range")
    service = service_of()
    with pytest.raises(ModelError, match="no model to be had"):
        await service.check(deadline_s=LIMIT_S)
    assert service.unavailable_reason == "no model to be had"
    for _ in range(5):
        with pytest.raises(BackendUnavailableError, match="no model to be had") as caught:
            await service.detect(frame_of(1), plan())
        assert not caught.value.retryable
    assert engine.loads == 1, "a fetch that failed is not repeated for every frame"

    engine.load_error = None
    await service.check(deadline_s=LIMIT_S)
    assert service.unavailable_reason == ""
    assert (await service.detect(frame_of(1), plan())).answered
    await service.aclose()


async def test_failed_load_is_tried_again_after_a_while(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "LOAD_RETRY_S", 0.0)
    engine.load_error = MissingExtraError("needs libGL", extra="device")
    service = service_of()
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match="needs libGL"):
            await service.detect(frame_of(1), plan())
    with pytest.raises(BackendUnavailableError, match="needs libGL"):
        await service.check(deadline_s=LIMIT_S)
    assert engine.loads == 3
    assert service.unavailable_reason == ""
    await service.aclose()


# ---- closing


async def test_closed_service_refuses_everything(engine: FakeEngine) -> None:
    service = service_of()
    await service.aclose()
    await service.aclose()
    assert "closed" in service.unavailable_reason
    with pytest.raises(ClosedError):
        await service.detect(frame_of(1), plan())
    with pytest.raises(ClosedError):
        await service.check(deadline_s=LIMIT_S)
    with pytest.raises(ClosedError):
        await service.start()
    assert engine.loads == 0


async def test_close_lets_the_running_frame_finish_and_refuses_the_waiting_one(
    engine: FakeEngine,
) -> None:
    service = service_of()
    await service.check(deadline_s=LIMIT_S)
    engine.may_answer.clear()
    running = asyncio.create_task(service.detect(frame_of(1), plan()))
    await until(engine.looking.is_set)
    waiting = asyncio.create_task(service.detect(frame_of(2), plan()))
    await asyncio.sleep(0)
    closing = asyncio.create_task(service.aclose())
    with pytest.raises(ClosedError):
        await waiting
    assert not closing.done()
    engine.may_answer.set()
    await closing
    assert (await running).answered
    assert engine.closed == 1
    assert_no_thread_of_ours()


async def test_close_does_not_wait_for_ever(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "CLOSE_TIMEOUT_S", SOON_S)
    service = service_of()
    await service.check(deadline_s=LIMIT_S)
    engine.may_answer.clear()
    hung = asyncio.create_task(service.detect(frame_of(1), plan(SOON_S)))
    await until(engine.looking.is_set)
    await service.aclose()
    assert engine.closed == 0
    with pytest.raises(BackendTimeoutError):
        await hung
    engine.may_answer.set()
    await until(lambda: engine.closed)
    assert_no_thread_of_ours()


async def test_close_stops_a_fetch(engine: FakeEngine) -> None:
    engine.may_load.clear()
    service = service_of()
    await service.start()
    frame = asyncio.create_task(service.detect(frame_of(1), plan()))
    await until(lambda: engine.loads)
    async with asyncio.timeout(LIMIT_S):
        await service.aclose()
    with pytest.raises(ClosedError):
        await frame
    assert_no_thread_of_ours()


# ---- with a process of its own


@pytest.fixture
def synthetic(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes | Exception]]:
    """What loading gives, first to last; the generated model when this list is empty."""
    if not is_installed("mediapipe"):
        pytest.skip("MediaPipe is not installed")
    if sys.platform == "win32":
        pytest.skip("tests speak in signals")
    model = synthetic_face_model()
    answers: list[bytes | Exception] = []

    def load(*_: object, **__: object) -> bytes:
        answer = answers.pop(0) if answers else model
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(device, "load_model", load)
    yield answers
    assert_no_thread_of_ours()
    assert not [c for c in psutil.Process().children() if "worker_child" in str(c.cmdline())]


def worker_of(service: OnDeviceDetectionService) -> DetectorWorker:
    worker = service._engine._worker.detector
    assert isinstance(worker, DetectorWorker)
    return worker


def pid_of(service: OnDeviceDetectionService) -> int | None:
    return worker_of(service).pid


def send(service: OnDeviceDetectionService, number: int) -> None:
    pid = pid_of(service)
    assert pid is not None
    os.kill(pid, number)


BRIGHT = Frame.of(np.full((90, 120, 3), 255, np.uint8))
process = pytest.mark.device


@process
@pytest.mark.usefixtures("synthetic")
async def test_process_answers_and_mediapipe_stays_out_of_this_one() -> None:
    async with OnDeviceDetectionService() as service:
        result = await service.detect(BRIGHT, plan())
        assert len(result.faces) == 1
        assert result.status is DetectionStatus.OK
        assert result.reason == "test"
        assert pid_of(service) not in (None, os.getpid())
    assert pid_of(service) is None


@process
@pytest.mark.usefixtures("synthetic")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_crash_costs_a_degraded_answer(number: int) -> None:
    async with OnDeviceDetectionService() as service:
        await service.check(deadline_s=LIMIT_S)
        send(service, number)
        result = await service.detect(BRIGHT, plan())
        assert result.status is DetectionStatus.DEGRADED
        assert result.reason == "test; the detector's process died and was started again"
        assert len(result.faces) == 1
        assert (await service.detect(BRIGHT, plan())).status is DetectionStatus.OK


@process
@pytest.mark.usefixtures("synthetic")
async def test_unload_ends_the_process_until_the_next_frame() -> None:
    async with OnDeviceDetectionService() as service:
        await service.unload()
        await service.check(deadline_s=LIMIT_S)
        pid = pid_of(service)
        await service.unload()
        await service.unload()
        assert pid_of(service) is None
        result = await service.detect(BRIGHT, plan())
        assert result.status is DetectionStatus.OK
        assert pid_of(service) not in (None, pid)
    await service.unload()


@process
@pytest.mark.usefixtures("synthetic")
@pytest.mark.parametrize("used_by", ["detect", "check"])
async def test_idle_process_is_ended(used_by: str) -> None:
    async with OnDeviceDetectionService(idle_s=SOON_S) as service:
        for _ in range(2):
            if used_by == "detect":
                assert (await service.detect(BRIGHT, plan())).status is DetectionStatus.OK
            else:
                await service.check(deadline_s=LIMIT_S)
            await until(lambda: pid_of(service) is None)


@process
@pytest.mark.usefixtures("synthetic")
async def test_process_that_is_used_is_not_idle() -> None:
    async with OnDeviceDetectionService(idle_s=1.0) as service:
        await service.check(deadline_s=LIMIT_S)
        pid = pid_of(service)
        for _ in range(11):  # longer together than it may be idle, and each pause far shorter
            await service.detect(BRIGHT, plan())
            await asyncio.sleep(0.1)
        assert pid_of(service) == pid


@process
@pytest.mark.usefixtures("synthetic")
async def test_hanging_process_is_killed_and_the_next_frames_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "HANG_GRACE_MAX_S", SOON_S)
    async with OnDeviceDetectionService() as service:
        await service.check(deadline_s=LIMIT_S)
        hung = pid_of(service)
        send(service, signal.SIGSTOP)
        with pytest.raises(BackendTimeoutError):
            await service.detect(BRIGHT, plan(SOON_S))
        result = await service.detect(BRIGHT, plan())  # waits for the killing
        assert result.status is DetectionStatus.OK
        assert pid_of(service) != hung


@process
@pytest.mark.usefixtures("synthetic")
async def test_start_that_takes_long_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow device every frame's deadline passes before the process stands."""
    monkeypatch.setattr(engine_module, "HANG_GRACE_MAX_S", 0.001)
    async with OnDeviceDetectionService() as service:
        await service.check(deadline_s=LIMIT_S)
        await service.unload()
        with pytest.raises(BackendTimeoutError):
            await service.detect(BRIGHT, plan(0.001))
        await until(lambda: pid_of(service))
        started = pid_of(service)
        await asyncio.sleep(SOON_S)
        assert pid_of(service) == started
        process = worker_of(service)._process
        await until(lambda: not process.starting)
        # The late frame itself may be killed now; the process came up all the same.


@process
@pytest.mark.usefixtures("synthetic")
async def test_check_finds_a_dead_and_a_hanging_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "HANG_GRACE_MAX_S", SOON_S)
    async with OnDeviceDetectionService() as service:
        await service.check(deadline_s=LIMIT_S)
        await service.check(deadline_s=LIMIT_S)
        send(service, signal.SIGKILL)
        with pytest.raises(BackendUnavailableError, match="signal 9"):
            await service.check(deadline_s=LIMIT_S)
        assert (await service.detect(BRIGHT, plan())).status is DetectionStatus.OK
        send(service, signal.SIGSTOP)
        with pytest.raises(BackendTimeoutError, match=r"did not answer within 0\.05 s"):
            await service.check(deadline_s=SOON_S)
        await until(lambda: pid_of(service) is None)
        await service.check(deadline_s=LIMIT_S)
        assert (await service.detect(BRIGHT, plan())).status is DetectionStatus.OK


@process
@pytest.mark.usefixtures("synthetic")
async def test_death_at_the_first_start_costs_one_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = WorkerProcess.ready
    to_kill = [True]

    def killed_first(self: WorkerProcess) -> tuple[int, bytes]:
        if to_kill:
            to_kill.pop()
            self.kill()
        return ready(self)

    monkeypatch.setattr(WorkerProcess, "ready", killed_first)
    async with OnDeviceDetectionService() as service:
        with pytest.raises(BackendUnavailableError, match="died at its start") as caught:
            await service.detect(BRIGHT, plan())
        assert caught.value.retryable
        assert service.unavailable_reason == "", "the next frame may try at once"
        assert (await service.detect(BRIGHT, plan())).answered


@process
async def test_model_that_mediapipe_refuses_is_told(synthetic: list[bytes | Exception]) -> None:
    synthetic.append(b"no model at all")
    async with OnDeviceDetectionService() as service:
        with pytest.raises(BackendUnavailableError, match="does not accept the model"):
            await service.detect(BRIGHT, plan())
        assert "does not accept the model" in service.unavailable_reason
        await service.check(deadline_s=LIMIT_S)
        assert service.unavailable_reason == ""


@process
@pytest.mark.usefixtures("synthetic")
async def test_close_kills_a_hanging_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CLOSE_TIMEOUT_S", SOON_S)
    service = OnDeviceDetectionService()
    await service.check(deadline_s=LIMIT_S)
    hung = pid_of(service)
    assert hung is not None
    send(service, signal.SIGSTOP)
    frame = asyncio.create_task(service.detect(BRIGHT, plan()))
    await asyncio.sleep(SOON_S)
    await service.aclose()
    with pytest.raises(BackendUnavailableError, match="signal 9"):
        await frame
    await until(lambda: not psutil.pid_exists(hung))


@process
@pytest.mark.usefixtures("synthetic")
async def test_close_that_is_broken_off_leaves_no_hanging_process_behind() -> None:
    """Nor the thread that waits for it, which the app's own end would wait for."""
    service = OnDeviceDetectionService()
    await service.check(deadline_s=LIMIT_S)
    send(service, signal.SIGSTOP)
    frame = asyncio.create_task(service.detect(BRIGHT, plan()))
    await asyncio.sleep(SOON_S)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SOON_S):
            await service.aclose()
    await service.aclose()
    with pytest.raises(BackendUnavailableError, match="signal 9"):
        await frame


@process
@pytest.mark.usefixtures("synthetic")
async def test_a_frame_given_up_early_has_its_whole_deadline_before_it_counts_as_a_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "HANG_GRACE_MAX_S", 0.001)
    async with OnDeviceDetectionService() as service:
        await service.check(deadline_s=LIMIT_S)
        pid = pid_of(service)
        send(service, signal.SIGSTOP)
        frame = asyncio.create_task(service.detect(BRIGHT, plan()))
        await asyncio.sleep(SOON_S)
        frame.cancel()
        with pytest.raises(asyncio.CancelledError):
            await frame
        await asyncio.sleep(SOON_S)
        send(service, signal.SIGCONT)
        assert (await service.detect(BRIGHT, plan())).status is DetectionStatus.OK
        assert pid_of(service) == pid


@process
@pytest.mark.usefixtures("synthetic")
async def test_a_picture_that_takes_long_to_decode_is_no_hang_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "HANG_GRACE_MAX_S", 0.001)
    may_decode = threading.Event()
    rgb = Frame.rgb

    def slow_rgb(self: Frame, *, enough_px: int | None) -> np.ndarray:
        assert may_decode.wait(LIMIT_S)
        return rgb(self, enough_px=enough_px)

    async with OnDeviceDetectionService() as service:
        await service.check(deadline_s=LIMIT_S)
        pid = pid_of(service)
        monkeypatch.setattr(Frame, "rgb", slow_rgb)
        with pytest.raises(BackendTimeoutError):
            await service.detect(BRIGHT, plan(SOON_S))
        await asyncio.sleep(SOON_S)
        assert pid_of(service) == pid
        may_decode.set()
        monkeypatch.undo()
        assert (await service.detect(BRIGHT, plan())).status is DetectionStatus.OK
        assert worker_of(service).restarts <= 1  # The late frame itself may count as hung.


@process
@pytest.mark.parametrize("deadline_s", [SOON_S, 0.0])
async def test_a_picture_that_is_dear_to_decode_takes_none_of_the_next_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deadline_s: float
) -> None:
    stand_in.install(tmp_path, monkeypatch)
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", lambda _: True)
    monkeypatch.setattr(device, "load_model", lambda *_, **__: b"dear pictures")
    monkeypatch.setattr(engine_module, "HANG_GRACE_MAX_S", SOON_S)
    files = {}
    for width in (stand_in.DEAR_SIDE_PX, 40):
        out = io.BytesIO()
        Image.new("RGB", (width, 30)).save(out, "PNG")
        files[width] = out.getvalue()
    async with OnDeviceDetectionService() as service:
        assert (await service.detect(Frame.of(files[40]), plan())).answered
        with pytest.raises(BackendTimeoutError):
            await service.detect(Frame.of(files[stand_in.DEAR_SIDE_PX]), plan(deadline_s))
        for _ in range(2):
            result = await service.detect(Frame.of(files[40]), plan())
            assert result.status is DetectionStatus.OK
            assert (result.width, result.height) == (40, 30)
        assert worker_of(service).restarts <= 1


@process
async def test_close_ends_a_start(
    synthetic: list[bytes | Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "CLOSE_TIMEOUT_S", SOON_S)
    ready = WorkerProcess.ready

    def stopped(self: WorkerProcess) -> tuple[int, bytes]:
        os.kill(self.pid, signal.SIGSTOP)
        return ready(self)

    monkeypatch.setattr(WorkerProcess, "ready", stopped)
    service = OnDeviceDetectionService()
    await service.start()
    await until(lambda: pid_of(service))
    await asyncio.sleep(SOON_S)
    async with asyncio.timeout(LIMIT_S):
        await service.aclose()
    await until(lambda: pid_of(service) is None)


# ---- with MediaPipe itself


@pytest.fixture
def real_model() -> None:
    if not is_installed("mediapipe"):
        pytest.skip("MediaPipe is not installed")
    try:
        load_model("short_range")
    except ModelError as exc:
        pytest.skip(f"no model to be had: {exc}")


@pytest.mark.device
@pytest.mark.usefixtures("real_model")
@pytest.mark.parametrize("isolation", ["process", "none"])
async def test_astronaut_is_found_and_no_thread_is_left(
    isolation: Literal["process", "none"], astronaut: np.ndarray
) -> None:
    image = astronaut
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    async with OnDeviceDetectionService(model_fetch=False, isolation=isolation) as service:
        await service.check(deadline_s=LIMIT_S)
        result = await service.process_image(image, deadline_s=LIMIT_S)
        from_bgr = await service.process_image(bgr, pixel_format="bgr", deadline_s=LIMIT_S)
        from_view = await service.process_image(
            bgr[:, :, ::-1], pixel_format="rgb", deadline_s=LIMIT_S
        )
    assert result.faces[0].box.iou(ASTRONAUT_FACE) >= 0.5
    assert result.faces == from_bgr.faces == from_view.faces
    assert_no_thread_of_ours()


@pytest.mark.device
@pytest.mark.usefixtures("real_model")
async def test_wrong_model_file_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.tflite"
    wrong.write_bytes(b"not a model")
    service = OnDeviceDetectionService(model_path=wrong)
    with pytest.raises(ModelError, match="is not the published model"):
        await service.check(deadline_s=LIMIT_S)
    assert "is not the published model" in service.unavailable_reason
    await service.aclose()
