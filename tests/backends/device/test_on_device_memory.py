"""The detector is unloaded, or not started, before the memory is short."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import psutil
import pytest

from hybrid_detect import HybridDetectionService, ServiceConfig
from hybrid_detect.backends.device import engine, memory_guard
from hybrid_detect.backends.device.models import find_model
from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.errors import AllBackendsFailedError, BackendUnavailableError
from hybrid_detect.extras import is_installed
from hybrid_detect.system.memory_probe import MemoryReading
from hybrid_detect.testing import FakeBackend

from ...waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.device,
    pytest.mark.skipif(
        not is_installed("mediapipe") or find_model("short_range") is None,
        reason="needs MediaPipe and its short range model",
    ),
]

MIB = 1024 * 1024
PLENTY = MemoryReading(process_bytes=50 * MIB, available_bytes=8000 * MIB, bound_by="system")
SHORT = replace(PLENTY, available_bytes=20 * MIB, bound_by="cgroup")
BLANK = np.zeros((72, 128, 3), np.uint8)


class Memory:
    """A machine whose memory the test fills and empties."""

    def __init__(self) -> None:
        self.reading = PLENTY

    def read(self) -> MemoryReading:
        return self.reading


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MEMORY_EVERY_S", 0.01)


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if is_worker(child)]


def is_worker(child: psutil.Process) -> bool:
    try:
        return "worker_child" in str(child.cmdline())
    except psutil.NoSuchProcess:  # it has ended meanwhile, whether or not it was waited for
        return False


async def test_no_detector_is_started_while_memory_is_short() -> None:
    memory = Memory()
    memory.reading = SHORT
    async with OnDeviceDetectionService(read_memory=memory.read) as service:
        with pytest.raises(BackendUnavailableError, match="only 20 MiB are left in the cgroup"):
            await service.check(deadline_s=10)
        assert "only 20 MiB" in service.unavailable_reason
        assert workers() == []

        memory.reading = PLENTY
        await until(lambda: service.unavailable_reason == "")
        assert (await service.process_image(BLANK, deadline_s=10)).answered


async def test_a_running_detector_is_unloaded_and_comes_back() -> None:
    memory = Memory()
    async with OnDeviceDetectionService(read_memory=memory.read) as service:
        await service.check(deadline_s=10)
        assert len(workers()) == 1

        memory.reading = SHORT
        await until(lambda: service.unavailable_reason != "")
        await until(lambda: workers() == [])  # its process is ended right after the word
        with pytest.raises(BackendUnavailableError, match="only 20 MiB"):
            await service.process_image(BLANK, deadline_s=10)

        memory.reading = PLENTY
        await until(lambda: service.unavailable_reason == "")
        assert (await service.process_image(BLANK, deadline_s=10)).answered


async def test_the_budget_is_the_apps_own() -> None:
    memory = Memory()
    async with OnDeviceDetectionService(
        read_memory=memory.read, memory_budget_bytes=100 * MIB
    ) as service:
        with pytest.raises(BackendUnavailableError, match="the budget is 100"):
            await service.check(deadline_s=10)


async def test_memory_is_watched_without_a_start_too() -> None:
    memory = Memory()
    service = OnDeviceDetectionService(read_memory=memory.read)
    assert (await service.process_image(BLANK, deadline_s=10)).answered
    memory.reading = SHORT
    await until(lambda: workers() == [])
    await service.aclose()


async def test_a_picture_above_4k_takes_no_process_of_its_own() -> None:
    memory = Memory()
    async with OnDeviceDetectionService(read_memory=memory.read) as service:
        assert (await service.process_image(BLANK, deadline_s=10)).answered
        (worker,) = workers()
        large = np.zeros((4320, 7680, 3), np.uint8)
        assert (await service.process_image(large, deadline_s=10)).answered
        assert workers() == [worker]


@pytest.mark.parametrize("mode", ["auto", "prefer_on_device"])
async def test_the_service_goes_elsewhere_and_says_why(mode: str) -> None:
    memory = Memory()
    memory.reading = SHORT
    backends = [FakeBackend("cloud"), OnDeviceDetectionService(read_memory=memory.read)]
    async with HybridDetectionService(mode=mode, backends=backends) as service:
        await service.wait_ready()
        for _ in range(3):
            result = await service.process_image(BLANK)
            assert result.backend == "cloud"
            assert "device is out (only 20 MiB are left in the cgroup" in result.reason


async def test_the_budget_of_the_configuration_is_the_device_s() -> None:
    config = ServiceConfig(mode="on_device", memory_budget_bytes=MIB)
    async with HybridDetectionService(config=config) as service:
        with pytest.raises(AllBackendsFailedError, match="the budget is 1"):
            await service.process_image(BLANK, deadline_s=10)


def test_a_leak_that_was_ended_does_not_keep_a_fresh_one_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = Memory()
    guard = memory_guard.MemoryGuard(read=memory.read)
    guard.expect(needed_bytes=90 * MIB, recycle_bytes=128 * MIB)
    memory.reading = SHORT
    monkeypatch.setattr(memory_guard, "process_private_bytes", lambda _: 120 * MIB)
    assert guard.reason_to_stop(1)
    memory.reading = replace(PLENTY, available_bytes=180 * MIB)
    assert "needs 120" in guard.reason_not_to_start()  # and 64 for the app: what it really took
    monkeypatch.setattr(memory_guard, "process_private_bytes", lambda _: 900 * MIB)
    memory.reading = SHORT
    assert guard.reason_to_stop(1)
    memory.reading = replace(PLENTY, available_bytes=200 * MIB)
    assert guard.reason_not_to_start() == ""


async def test_the_device_alone_says_why_it_cannot_look() -> None:
    memory = Memory()
    memory.reading = SHORT
    backends = [OnDeviceDetectionService(read_memory=memory.read)]
    async with HybridDetectionService(mode="on_device", backends=backends) as service:
        with pytest.raises(AllBackendsFailedError, match="only 20 MiB are left"):
            await service.process_image(BLANK)


async def test_inside_the_app_nothing_is_unloaded_that_could_not_be_given_back() -> None:
    memory = Memory()
    async with OnDeviceDetectionService(isolation="none", read_memory=memory.read) as service:
        await service.check(deadline_s=10)
        memory.reading = SHORT
        await asyncio.sleep(0.05)  # several looks at the memory
        assert (await service.process_image(BLANK, deadline_s=10)).answered
