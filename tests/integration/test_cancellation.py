"""A call that is cancelled after any step of the event loop costs that call and nothing else.

Client, server and their sockets share one loop, so that a call is cut off in each moment: before
and while it is prepared, sent, looked at, answered and read.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from hybrid_detect.backends.base import Backend
from hybrid_detect.backends.device import face_detector, on_device
from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.types import BoundingBox, DetectionResult, DetectionStatus, Face

from ..loop_steps import LoopSteps
from ..server.loopback import served
from ..waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

IMAGE = np.zeros((48, 64, 3), np.uint8)
MODES = ("cloud", "streaming", "on_device", "auto")
SLICE = 20
"""Every so many steps of a start, one is tried in the suite."""
MOST_STEPS = 5000
LEAST_STEPS = {"cloud": 10, "streaming": 8, "on_device": 5, "auto": 8}
"""A frame that takes fewer is not the frame that these tests are about."""


class Detector:
    """Stands for MediaPipe."""

    runs_on = "a stand-in"

    def __init__(self, _model: bytes, **_options: object) -> None: ...

    def detect(self, _image: np.ndarray) -> tuple[Face, ...]:
        return (Face(BoundingBox(0, 0, 9, 9), 0.9),)

    def close(self) -> None: ...


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", "mediapipe".__eq__)
    monkeypatch.setattr(on_device, "load_model", lambda *_, **__: b"model")
    monkeypatch.setattr(face_detector, "MediaPipeFaceDetector", Detector)


def service_of(mode: str, url: str) -> HybridDetectionService:
    config = ServiceConfig(endpoint=url, mode=mode, deadline_s=5.0)
    backends: list[Backend] = []
    if mode in {"cloud", "auto"}:
        backends.append(CloudDetectionService(endpoint=url))
    if mode in {"streaming", "auto"}:
        backends.append(StreamingService(endpoint=url))
    if mode in {"on_device", "auto"}:
        backends.append(OnDeviceDetectionService(isolation="none"))
    return HybridDetectionService(config=config, backends=backends)


async def tried_at_every_step(
    call: Callable[[], Awaitable[object]], *, apart: int, afterwards: Callable[[], Awaitable[None]]
) -> int:
    """Cancel `call` after its first step, in another round after its second, and so on.

    Args:
        call: What is cancelled.
        apart: Every so many steps, one is tried.
        afterwards: Awaited after each round; raises if the call left harm behind.

    Returns:
        How many rounds there were: enough to reach the end of an undisturbed call.
    """
    for rounds, number in enumerate(range(0, MOST_STEPS, apart), 1):
        task = asyncio.ensure_future(call())
        cancelled_at: list[int] = []

        def cancel(step: int, number: int = number, task: asyncio.Future[object] = task) -> None:
            if step == number and not task.done():
                cancelled_at.append(step)  # noqa: B023 - it is this round's
                task.cancel()

        with LoopSteps(cancel), contextlib.suppress(asyncio.CancelledError):
            await task
        await afterwards()
        if not cancelled_at:
            return rounds
    raise AssertionError(f"the call took more than {MOST_STEPS} steps")


async def check_every_frame(mode: str) -> None:
    async with served(ServerConfig(rate_per_s=0)) as server:
        service = service_of(mode, f"http://127.0.0.1:{server.port}")
        async with service:
            await service.wait_ready()

            async def look() -> DetectionResult:
                return await service.process_image(IMAGE)

            async def next_frame_is_answered() -> None:
                assert (await look()).status is DetectionStatus.OK

            await next_frame_is_answered()
            before = len(asyncio.all_tasks())
            rounds = await tried_at_every_step(look, apart=1, afterwards=next_frame_is_answered)
            assert rounds >= LEAST_STEPS[mode]
            await until(lambda: len(asyncio.all_tasks()) <= before)
            assert all(each.usable for each in service.status().backends)


async def check_every_start(mode: str, *, apart: int) -> None:
    async with served(ServerConfig(rate_per_s=0)) as server:
        before = len(asyncio.all_tasks())
        services: list[HybridDetectionService] = []

        async def start_and_end() -> None:
            services.append(service_of(mode, f"http://127.0.0.1:{server.port}"))
            async with services[-1] as service:
                await service.process_image(IMAGE)

        async def nothing_is_left() -> None:
            await services.pop().aclose()
            await until(lambda: len(asyncio.all_tasks()) <= before)

        assert (
            await tried_at_every_step(start_and_end, apart=apart, afterwards=nothing_is_left) >= 3
        )
        await until(lambda: server.connections == 0)
    await until(lambda: not [t for t in threading.enumerate() if is_ours(t)])


def is_ours(thread: threading.Thread) -> bool:
    return thread.name.startswith("hybrid-detect")


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("mode", MODES)
async def test_the_frame_after_one_cancelled_at_any_step_is_answered(mode: str) -> None:
    await check_every_frame(mode)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "apart", [SLICE, pytest.param(1, marks=pytest.mark.hostile)], ids=["slice", "all"]
)
async def test_a_start_cancelled_at_any_step_leaves_nothing_behind(mode: str, apart: int) -> None:
    await check_every_start(mode, apart=apart)
