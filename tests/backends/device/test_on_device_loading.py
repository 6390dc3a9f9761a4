"""The on-device service: loading and closing, with a stand-in for MediaPipe in this process."""

from __future__ import annotations

import asyncio

import pytest

from hybrid_detect.backends.device import engine as engine_module
from hybrid_detect.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    MissingExtraError,
    ModelError,
)

from ...waiting import LIMIT_S, until
from .service_support import (
    SOON_S,
    FakeEngine,
    assert_no_thread_of_ours,
    frame_of,
    plan,
    service_of,
)

pytestmark = pytest.mark.anyio


# ---- loading


async def test_check_waits_no_longer_than_told_and_never_loads_twice(engine: FakeEngine) -> None:
    engine.may_load.clear()
    async with service_of() as service:
        for _ in range(3):
            with pytest.raises(BackendTimeoutError, match=r"was not loaded within 0\.050 s"):
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
