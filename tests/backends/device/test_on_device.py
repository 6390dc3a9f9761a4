"""The on-device service: construction, answers, turns and deadlines.

A stand-in takes the place of MediaPipe in this process, and takes as long as the test wants.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import pytest

from hybrid_detect.backends import create_backend
from hybrid_detect.backends.device import on_device
from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    ConfigurationError,
    InvalidFrameError,
    MissingExtraError,
    SupersededError,
)
from hybrid_detect.types import (
    BackendKind,
    DetectionResult,
)

from ...waiting import LIMIT_S, until
from .service_support import SOON_S, FakeEngine, frame_of, plan, service_of

pytestmark = pytest.mark.anyio


# ---- construction


async def test_a_missing_runtime_is_told_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", lambda _: False)
    with pytest.raises(
        MissingExtraError, match=r"pip install 'hybrid-detect\[device-lite\]'$"
    ) as caught:
        service_of()
    assert caught.value.extra == "device-lite"


async def test_unusable_configuration_is_told_at_construction(engine: FakeEngine) -> None:
    with pytest.raises(ConfigurationError, match="full_range, centerface, got 'huge'"):
        service_of(model="huge")
    with pytest.raises(ConfigurationError, match="min_confidence"):
        service_of(min_confidence=1.5)
    with pytest.raises(ConfigurationError, match="expected 'process' or 'none', got 'thread'"):
        OnDeviceDetectionService(isolation="thread")  # type: ignore[arg-type]


@pytest.mark.parametrize("isolation", ["process", "none"])
@pytest.mark.parametrize("quality", ["fast", "high", "max"])
@pytest.mark.parametrize(
    ("model", "side_px", "own"),
    [
        ("short_range", None, 0.5),
        ("full_range", None, 0.5),
        ("centerface", None, 0.45),
        ("centerface", 480, 0.40),
        ("centerface", 640, 0.45),
        ("centerface", 960, 0.40),
        ("centerface", 1280, 0.45),
    ],
)
async def test_the_lowest_score_is_the_model_s_own_unless_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
    isolation: str,
    quality: str,
    model: str,
    side_px: int | None,
    own: float,
) -> None:
    made: list[float] = []

    def detector(_: object, *, min_confidence: float, **__: object) -> None:
        made.append(min_confidence)

    class Making:
        def __init__(self, name: str, make: Callable[..., None], **_: object) -> None:
            make(name, lambda *_: None, lambda: None)

    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", lambda _: True)
    monkeypatch.setattr(on_device, "Engine", Making)
    monkeypatch.setattr(on_device, "DetectorWorker", detector)
    monkeypatch.setattr(on_device, "InProcessDetector", detector)
    options = {"model": model, "side_px": side_px, "isolation": isolation, "quality": quality}
    for given in (None, 0.0, 0.7):
        OnDeviceDetectionService(min_confidence=given, **options)  # type: ignore[arg-type]
    assert made == [own, 0.0, 0.7]
    if side_px is None:  # which the configuration does not choose
        config = ServiceConfig(model=model, isolation=isolation, device_quality=quality)
        create_backend(BackendKind.DEVICE, config)
        assert made[-1] == own


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
        with pytest.raises(BackendTimeoutError, match=r"within 0\.050 s") as caught:
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
