"""What `FakeBackend` does by its script."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hybrid_detect.errors import BackendTimeoutError, BackendUnavailableError, ConfigurationError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend, FakeClock
from hybrid_detect.types import BackendKind, Plan

pytestmark = pytest.mark.anyio

FRAME = np.zeros((48, 64, 3), np.uint8)
PLAN = Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=2.0)


async def test_each_frame_meets_its_step_and_then_all_is_well() -> None:
    clock = FakeClock()
    gone = BackendUnavailableError("the tunnel")
    fake = FakeBackend("cloud", script=["ok", 0.5, gone, "hang", 3], sleep=clock.sleep)
    frame = Frame.of(FRAME)

    assert (await fake.detect(frame, PLAN)).timings.total_s == 0.0
    assert (await fake.detect(frame, PLAN)).timings.total_s == 0.5
    with pytest.raises(BackendUnavailableError) as caught:
        await fake.detect(frame, PLAN)
    assert caught.value.backend == "cloud"
    for _ in range(2):  # one that hangs, and one that takes too long
        began_s = clock()
        with pytest.raises(BackendTimeoutError):
            await fake.detect(frame, PLAN)
        assert clock() - began_s == PLAN.deadline_s
    for _ in range(2):
        assert (await fake.detect(frame, PLAN)).answered
    assert len(fake.plans) == 7


async def test_a_script_may_have_no_end() -> None:
    fake = FakeBackend("cloud", script=itertools.cycle(["ok", BackendUnavailableError("odd")]))
    for _ in range(3):
        assert (await fake.detect(Frame.of(FRAME), PLAN)).answered
        with pytest.raises(BackendUnavailableError):
            await fake.detect(Frame.of(FRAME), PLAN)


@pytest.mark.virtual_time
async def test_the_device_answers_where_the_script_fails() -> None:
    server = FakeBackend("streaming", script=["ok", BackendUnavailableError("the tunnel"), "hang"])
    async with HybridDetectionService(backends=[server, FakeBackend("device")]) as service:
        seen = [(await service.process_image(FRAME, deadline_s=1.0)).backend for _ in range(3)]
    assert seen == [BackendKind.STREAMING, BackendKind.DEVICE, BackendKind.DEVICE]


def test_a_kind_or_a_latency_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="got 'clod'"):
        FakeBackend("clod")
    for latency_s in (-1.0, float("nan")):
        with pytest.raises(ConfigurationError, match="latency_s"):
            FakeBackend(latency_s=latency_s)


@pytest.mark.parametrize("step", ["slow", -1, float("nan"), None, ValueError("no")])
async def test_a_step_that_is_none_is_refused(step: object) -> None:
    with pytest.raises(ConfigurationError, match="script"):
        FakeBackend("cloud", script=["ok", step])  # type: ignore[list-item]
    fake = FakeBackend("cloud", script=iter([step]))  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="script"):
        await fake.detect(Frame.of(FRAME), PLAN)
