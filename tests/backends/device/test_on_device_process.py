"""The on-device service with a process of its own: MediaPipe in it, on the generated model."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import pytest
from PIL import Image

from hybrid_detect.backends.device import engine as engine_module
from hybrid_detect.backends.device import on_device as device
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.backends.device.worker_process import WorkerProcess
from hybrid_detect.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    ModelError,
)
from hybrid_detect.extras import is_installed
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import DetectionStatus

from ...waiting import LIMIT_S, until
from . import stand_in
from .service_support import ASTRONAUT_FACE, SOON_S, assert_no_thread_of_ours, plan

pytestmark = pytest.mark.anyio


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


@pytest.mark.device
@pytest.mark.usefixtures("synthetic")
async def test_process_answers_and_mediapipe_stays_out_of_this_one() -> None:
    async with OnDeviceDetectionService() as service:
        result = await service.detect(BRIGHT, plan())
        assert len(result.faces) == 1
        assert result.status is DetectionStatus.OK
        assert result.reason == "test"
        assert pid_of(service) not in (None, os.getpid())
    assert pid_of(service) is None


@pytest.mark.device
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


@pytest.mark.device
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


@pytest.mark.device
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


@pytest.mark.device
@pytest.mark.usefixtures("synthetic")
async def test_process_that_is_used_is_not_idle() -> None:
    async with OnDeviceDetectionService(idle_s=1.0) as service:
        await service.check(deadline_s=LIMIT_S)
        pid = pid_of(service)
        for _ in range(11):  # longer together than it may be idle, and each pause far shorter
            await service.detect(BRIGHT, plan())
            await asyncio.sleep(0.1)
        assert pid_of(service) == pid


@pytest.mark.device
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


@pytest.mark.device
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


@pytest.mark.device
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
        with pytest.raises(BackendTimeoutError, match=r"did not answer within 0\.050 s"):
            await service.check(deadline_s=SOON_S)
        await until(lambda: pid_of(service) is None)
        await service.check(deadline_s=LIMIT_S)
        assert (await service.detect(BRIGHT, plan())).status is DetectionStatus.OK


@pytest.mark.device
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


@pytest.mark.device
async def test_model_that_mediapipe_refuses_is_told(synthetic: list[bytes | Exception]) -> None:
    synthetic.append(b"no model at all")
    async with OnDeviceDetectionService() as service:
        with pytest.raises(BackendUnavailableError, match="does not accept the model"):
            await service.detect(BRIGHT, plan())
        assert "does not accept the model" in service.unavailable_reason
        await service.check(deadline_s=LIMIT_S)
        assert service.unavailable_reason == ""


@pytest.mark.device
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


@pytest.mark.device
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


@pytest.mark.device
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


@pytest.mark.device
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


@pytest.mark.device
@pytest.mark.parametrize("deadline_s", [SOON_S, 0.0])
async def test_a_picture_that_is_dear_to_decode_takes_none_of_the_next_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deadline_s: float
) -> None:
    stand_in.install(tmp_path, monkeypatch)
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", "mediapipe".__eq__)
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


@pytest.mark.device
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


# ---- with the published model


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
