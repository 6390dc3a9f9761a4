import asyncio
import io
import logging
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import (
    AllBackendsFailedError,
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    ConfigurationError,
    InvalidFrameError,
    ModelError,
    ProtocolError,
    SupersededError,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.privacy.consent import ConsentLedger
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import (
    BackendKind,
    BoundingBox,
    DetectionMode,
    DetectionResult,
    DetectionStatus,
    Face,
    Plan,
)

from ..frames.bad_inputs import BAD_INPUTS
from ..waiting import LIMIT_S, until

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

IMAGE = np.zeros((48, 64, 3), np.uint8)
CLOUD, STREAMING, DEVICE = BackendKind.CLOUD, BackendKind.STREAMING, BackendKind.DEVICE
REFUSED = BackendResponseError("the token was refused (status 401)", status_code=401)


class Ways:
    """Three fake backends and a service over them."""

    def __init__(self, mode: str = "auto", *, kinds: Any = BackendKind, **options: Any) -> None:
        self.fakes = {kind: FakeBackend(kind) for kind in map(BackendKind, kinds)}
        options.setdefault("config", ServiceConfig(deadline_s=0.5))
        self.service = HybridDetectionService(mode=mode, backends=self.fakes.values(), **options)
        self.cloud, self.streaming, self.device = map(self.fakes.get, (CLOUD, STREAMING, DEVICE))

    def asked(self) -> list[BackendKind]:
        """Every backend that was given a frame."""
        return [kind for kind, fake in self.fakes.items() if fake.plans]

    async def __aenter__(self) -> "Ways":
        await self.service.__aenter__()
        await self.service.wait_ready()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.service.__aexit__(*exc_info)


@pytest.fixture(autouse=True)
async def nothing_left_running(anyio_backend: str) -> AsyncIterator[None]:
    yield
    left = [t for t in asyncio.all_tasks() if "TestRunner" not in repr(t.get_coro())]
    assert [t for t in left if t is not asyncio.current_task()] == []
    # A thread's answer is there a moment before the thread has ended.
    await until(lambda: not any(t.name.startswith("hybrid-detect") for t in threading.enumerate()))


# -- which backend ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "order"),
    [
        ("auto", [STREAMING, DEVICE, CLOUD]),
        ("cloud", [CLOUD]),
        ("streaming", [STREAMING]),
        ("on_device", [DEVICE]),
        ("prefer_cloud", [CLOUD, DEVICE, STREAMING]),
        ("prefer_on_device", [DEVICE, STREAMING, CLOUD]),
    ],
)
async def test_every_mode_has_its_order(mode: str, order: list[BackendKind]) -> None:
    async with Ways(mode) as backends:
        result = await backends.service.process_image(IMAGE)
        assert (result.status, result.backend) == (DetectionStatus.OK, order[0])
        assert backends.asked() == [order[0]]
        for kind in order:
            backends.fakes[kind].error = BackendUnavailableError("down")
        with pytest.raises(AllBackendsFailedError) as caught:
            await backends.service.process_image(IMAGE)
        assert [attempt.backend for attempt in caught.value.attempts] == order


async def test_a_result_tells_who_why_and_for_whom() -> None:
    face = Face(BoundingBox(1, 2, 3, 4), 0.9)
    backend = FakeBackend(DEVICE, faces=[face])
    async with HybridDetectionService(session_id="me", backends=[backend]) as service:
        result = await service.process_image(IMAGE)
    assert result.faces == (face,)
    assert (result.width, result.height) == (64, 48)
    assert result.session_id == "me"
    assert "device" in result.reason
    assert result.attempts == ()
    assert result.timings.total_s >= 0


async def test_the_mode_s_other_ways_are_never_given_a_frame() -> None:
    async with Ways("on_device") as backends:
        assert backends.device is not None
        backends.device.error = BackendUnavailableError("down")
        with pytest.raises(AllBackendsFailedError):
            await backends.service.process_image(IMAGE)
        assert backends.asked() == [DEVICE]


# -- falling back ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        BackendUnavailableError("refused"),
        BackendTimeoutError("late"),
        BackendResponseError("overloaded", status_code=503),
        BackendResponseError("not for you", status_code=401),
        ProtocolError("garbage"),
        BackendError("something"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_falls_back_when_the_first_way_cannot_answer(error: BackendError) -> None:
    async with Ways() as backends:
        backends.fakes[STREAMING].error = error
        result = await backends.service.process_image(IMAGE)
        assert (result.status, result.backend) == (DetectionStatus.DEGRADED, DEVICE)
        (attempt,) = result.attempts
        assert (attempt.backend, attempt.error) == ("streaming", type(error).__name__)
        assert str(error) in result.reason


async def test_falls_back_inside_the_deadline_when_the_first_way_hangs() -> None:
    async with Ways() as backends:
        backends.fakes[STREAMING].latency_s = 60
        result = await backends.service.process_image(IMAGE, deadline_s=0.4)
        assert result.backend is DEVICE
        assert result.timings.total_s < 0.4
        assert result.attempts[0].error == "BackendTimeoutError"


async def test_the_reserve_leaves_the_fallback_its_time() -> None:
    async with Ways() as backends:
        backends.fakes[STREAMING].latency_s = 60
        await backends.service.process_image(IMAGE, deadline_s=1.0)
        first, fallback = backends.fakes[STREAMING].plans[0], backends.fakes[DEVICE].plans[0]
        assert first.reserve_s == pytest.approx(0.3)
        assert first.deadline_s == pytest.approx(0.7)
        assert fallback.deadline_s == pytest.approx(0.3)
        assert fallback.backend is DEVICE


async def test_a_fallback_that_was_fast_may_be_slower_this_time() -> None:
    async with Ways("prefer_cloud", kinds=[CLOUD, DEVICE]) as backends:
        backends.fakes[CLOUD].error = BackendUnavailableError("down")
        assert (await backends.service.process_image(IMAGE)).backend is DEVICE
        backends.fakes[CLOUD].error, backends.fakes[CLOUD].latency_s = None, 60
        backends.fakes[DEVICE].latency_s = 0.03
        result = await backends.service.process_image(IMAGE, deadline_s=1.0)
        assert (result.status, result.backend) == (DetectionStatus.DEGRADED, DEVICE)


async def test_fails_when_all_ways_fail_and_the_next_frame_works() -> None:
    async with Ways() as backends:
        for fake in backends.fakes.values():
            fake.error = BackendUnavailableError("down")
        with pytest.raises(AllBackendsFailedError, match="device could not answer") as caught:
            await backends.service.process_image(IMAGE)
        assert [a.backend for a in caught.value.attempts] == [STREAMING, DEVICE, CLOUD]
        for fake in backends.fakes.values():
            fake.error = None
        assert (await backends.service.process_image(IMAGE)).status is DetectionStatus.OK


async def test_a_way_that_is_late_for_the_deadline_is_passed_over() -> None:
    async with Ways() as backends:
        backends.fakes[STREAMING].latency_s = 0.2
        await backends.service.process_image(IMAGE, deadline_s=2.0)
        result = await backends.service.process_image(IMAGE, deadline_s=0.1)
        assert (result.status, result.backend) == (DetectionStatus.OK, DEVICE)
        assert "would be late" in result.reason


@pytest.mark.parametrize("deadline_s", [0.0, -1.0])
async def test_no_time_at_all_fails_at_once(deadline_s: float) -> None:
    async with Ways() as backends:
        with pytest.raises(AllBackendsFailedError, match="no time was left"):
            await backends.service.process_image(IMAGE, deadline_s=deadline_s)
        assert backends.asked() == []


async def test_a_superseded_frame_is_skipped_not_failed_over() -> None:
    async with Ways() as backends:
        backends.fakes[STREAMING].error = SupersededError("a newer frame took its place")
        result = await backends.service.process_image(IMAGE)
        assert result.status is DetectionStatus.SKIPPED
        assert isinstance(result.error, SupersededError)
        assert not result.answered
        assert backends.asked() == [STREAMING]
        status = backends.service.status().backends[[*backends.fakes].index(STREAMING)]
        assert status.failed == 0


class Buggy(FakeBackend):
    """Has a bug in `detect`."""

    async def detect(self, frame: Frame, plan: Plan) -> DetectionResult:
        raise RuntimeError("a bug")


async def test_a_bug_is_seen_and_no_reason_to_fall_back() -> None:
    device = FakeBackend(DEVICE)
    async with HybridDetectionService(backends=[Buggy(STREAMING), device]) as service:
        await service.wait_ready()
        with pytest.raises(RuntimeError, match="a bug"):
            await service.process_image(IMAGE)
        assert device.plans == []


async def test_a_bug_in_a_stream_is_seen() -> None:
    async with HybridDetectionService(backends=[Buggy(DEVICE)]) as service:
        with pytest.raises(RuntimeError, match="a bug"):
            async for _ in service.start_detection([IMAGE], max_fps=None):
                pass


class BuggyCheck(FakeBackend):
    """Has a bug in `check`."""

    async def check(self, *, deadline_s: float) -> None:
        raise RuntimeError("a bug in the check")


async def test_a_bug_in_a_check_is_logged_and_neither_hangs_nor_stops_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backends = [BuggyCheck(STREAMING), FakeBackend(DEVICE)]
    async with HybridDetectionService(backends=backends) as service:
        await service.wait_ready()
        result = await service.process_image(IMAGE)
        assert result.backend is DEVICE
        assert "bug" in result.reason
    assert any(record.exc_info for record in caplog.records if record.levelno == logging.ERROR)
    with pytest.raises(ClosedError):  # it was closed in spite of the bug
        await backends[0].detect(Frame.of(IMAGE), result_plan())


def result_plan() -> Plan:
    return Plan(backend=None, reason="", deadline_s=1.0)


async def test_a_bug_in_the_only_way_s_check_does_not_hang_the_start() -> None:
    async with asyncio.timeout(LIMIT_S):
        async with HybridDetectionService(backends=[BuggyCheck(DEVICE)]) as service:
            with pytest.raises(AllBackendsFailedError, match="bug"):
                await service.process_image(IMAGE)


# -- breakers --------------------------------------------------------------------------------


async def test_a_refusal_opens_the_breaker_at_once_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Ways() as backends:
        backends.fakes[STREAMING].error = REFUSED
        for _ in range(10):
            result = await backends.service.process_image(IMAGE)
            assert result.backend is DEVICE
        assert len(backends.fakes[STREAMING].plans) == 1
        assert result.status is DetectionStatus.OK
        assert "the token was refused" in result.reason
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "streaming is out" in errors[0].getMessage()


async def test_a_refusal_of_frames_in_flight_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Ways() as backends:
        backends.fakes[STREAMING].latency_s = 0.05
        waiting = [asyncio.create_task(backends.service.process_image(IMAGE)) for _ in range(4)]
        await until(lambda: len(backends.fakes[STREAMING].plans) == 4)
        backends.fakes[STREAMING].error = REFUSED
        results = await asyncio.gather(*waiting)
        assert {result.backend for result in results} == {DEVICE}
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


async def test_two_failures_in_a_row_close_a_way_to_frames() -> None:
    async with Ways() as backends:
        backends.fakes[STREAMING].error = BackendUnavailableError("down")
        for _ in range(5):
            await backends.service.process_image(IMAGE)
        assert len(backends.fakes[STREAMING].plans) == 2
        assert len(backends.fakes[DEVICE].plans) == 5


async def test_a_way_comes_back_without_a_restart_and_without_risking_a_frame(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with Ways() as backends:
        streaming = backends.fakes[STREAMING]
        streaming.error = BackendUnavailableError("down")
        for _ in range(3):
            await backends.service.process_image(IMAGE)
        given = len(streaming.plans)
        streaming.error = None
        await until(lambda: backends.service.status().plan.backend is STREAMING)
        assert len(streaming.plans) == given
        result = await backends.service.process_image(IMAGE)
        assert (result.status, result.backend) == (DetectionStatus.OK, STREAMING)
    assert "streaming is back" in caplog.text


async def test_frames_that_fail_while_it_is_out_do_not_take_it_out_again_later() -> None:
    """Many in flight fail at once; when the backend is back, it stays."""
    async with Ways(kinds=[STREAMING, DEVICE]) as backends:
        streaming = backends.fakes[STREAMING]
        streaming.latency_s = 0.05
        waiting = [asyncio.create_task(backends.service.process_image(IMAGE)) for _ in range(6)]
        await until(lambda: len(streaming.plans) == 6)
        streaming.error = BackendUnavailableError("down")
        await asyncio.gather(*waiting)
        streaming.error, streaming.latency_s = None, 0.0
        await until(lambda: backends.service.status().plan.backend is STREAMING)
        for _ in range(50):
            await asyncio.sleep(0)
            assert backends.service.status().backends[0].breaker == "closed"


async def test_status_tells_of_every_way() -> None:
    async with Ways() as backends:
        await backends.service.process_image(IMAGE)
        backends.fakes[STREAMING].error = REFUSED
        await backends.service.process_image(IMAGE)
        status = backends.service.status()
        assert status.mode is DetectionMode.AUTO
        assert status.plan.backend is DEVICE
        assert "token was refused" in status.plan.reason
        by_kind = {backend.kind: backend for backend in status.backends}
        assert set(by_kind) == set(BackendKind)
        assert (by_kind[STREAMING].answered, by_kind[STREAMING].failed) == (1, 1)
        assert by_kind[STREAMING].breaker == "open"
        assert not by_kind[STREAMING].usable
        assert by_kind[DEVICE].usable
        assert by_kind[DEVICE].latency_s is not None
        assert by_kind[CLOUD].latency_s is None


# -- starting --------------------------------------------------------------------------------


class Slow(FakeBackend):
    """Starts when it is told to."""

    def __init__(self, kind: BackendKind) -> None:
        super().__init__(kind)
        self.ready = asyncio.Event()

    async def check(self, *, deadline_s: float) -> None:
        await self.ready.wait()
        await super().check(deadline_s=deadline_s)


async def test_entering_waits_for_the_first_way_only() -> None:
    slow = Slow(STREAMING)
    async with HybridDetectionService(backends=[slow, FakeBackend(DEVICE)]) as service:
        assert (await service.process_image(IMAGE)).backend is DEVICE
        assert "starting" in service.status().plan.reason
        slow.ready.set()
        await service.wait_ready()
        assert (await service.process_image(IMAGE)).backend is STREAMING


async def test_a_frame_waits_for_a_way_that_is_still_starting() -> None:
    slow, other = Slow(DEVICE), FakeBackend(STREAMING)
    async with HybridDetectionService(backends=[slow, other]) as service:
        other.error = REFUSED
        with pytest.raises(AllBackendsFailedError):
            await service.process_image(IMAGE)
        waiting = asyncio.create_task(service.process_image(IMAGE, deadline_s=LIMIT_S))
        await until(lambda: not service.status().backends[1].usable)
        assert not waiting.done()
        slow.ready.set()
        assert (await waiting).backend is DEVICE


async def test_waiting_for_a_start_ends_with_the_deadline() -> None:
    slow, other = Slow(DEVICE), FakeBackend(STREAMING)
    async with HybridDetectionService(backends=[slow, other]) as service:
        other.error = REFUSED
        for _ in range(2):
            with pytest.raises(AllBackendsFailedError):
                await service.process_image(IMAGE, deadline_s=0.05)


class SlowStart(FakeBackend):
    """Is on its way up until it is told that it stands; its checks give up meanwhile."""

    def __init__(self, kind: BackendKind) -> None:
        super().__init__(kind)
        self.stands = asyncio.Event()
        self.checks = 0

    @property
    def is_starting(self) -> bool:
        return not self.stands.is_set()

    async def check(self, *, deadline_s: float) -> None:
        self.checks += 1
        try:
            await asyncio.wait_for(self.stands.wait(), 0.01)
        except TimeoutError:
            raise BackendTimeoutError("not loaded within 0.01 s; loading goes on") from None
        await super().check(deadline_s=deadline_s)


async def test_a_frame_waits_for_a_slow_start_inside_its_deadline(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = SlowStart(DEVICE)
    async with HybridDetectionService(backends=[slow]) as service:
        asked = [
            asyncio.create_task(service.process_image(IMAGE, deadline_s=LIMIT_S)) for _ in range(3)
        ]
        late = asyncio.create_task(service.process_image(IMAGE, deadline_s=0.05))
        await until(lambda: slow.checks > 3)
        with pytest.raises(AllBackendsFailedError, match="loading goes on"):
            await late
        assert not any(task.done() for task in asked)
        slow.stands.set()
        assert [(await task).backend for task in asked] == [DEVICE] * 3
    assert not caplog.records


async def test_a_slow_start_that_fails_ends_the_waiting() -> None:
    slow = SlowStart(DEVICE)
    async with HybridDetectionService(backends=[slow]) as service:
        asked = asyncio.create_task(service.process_image(IMAGE, deadline_s=LIMIT_S))
        await until(lambda: slow.checks > 1)
        slow.error = BackendUnavailableError("no memory")
        slow.stands.set()
        with pytest.raises(AllBackendsFailedError, match="no memory"):
            await asked


class NoModel(FakeBackend):
    """Lacks its model."""

    async def check(self, *, deadline_s: float) -> None:
        raise ModelError("the model can be had nowhere")


async def test_entering_returns_when_no_way_gets_ready_and_frames_say_why() -> None:
    async with asyncio.timeout(LIMIT_S):
        async with HybridDetectionService(backends=[NoModel(DEVICE)]) as service:
            with pytest.raises(AllBackendsFailedError, match="had nowhere"):
                await service.process_image(IMAGE)


class NeverStarts(FakeBackend):
    async def start(self) -> None:
        raise ConfigurationError("it can never work")


async def test_a_way_that_cannot_start_is_left_out_and_the_others_go_on() -> None:
    never = NeverStarts(CLOUD)
    async with HybridDetectionService(backends=[FakeBackend(DEVICE), never]) as service:
        assert (await service.process_image(IMAGE)).backend is DEVICE
        (cloud,) = (backend for backend in service.status().backends if backend.kind is CLOUD)
        assert (cloud.usable, cloud.unavailable_reason) == (False, "it can never work")
    with pytest.raises(ClosedError):
        await never.detect(Frame.of(IMAGE), result_plan())


async def test_the_only_way_that_cannot_start_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="can never work"):
        async with HybridDetectionService(backends=[NeverStarts(CLOUD)]):
            pass


async def test_a_policy_that_asks_for_a_way_that_is_not_there_gets_the_next() -> None:
    class Hopeful:
        def decide(self, conditions: Conditions) -> Plan:
            return Plan(
                backend=BackendKind.STREAMING,
                fallbacks=(BackendKind.DEVICE,),
                deadline_s=conditions.deadline_s,
                reason="hope",
            )

    async with HybridDetectionService(backends=[FakeBackend(DEVICE)], policy=Hopeful()) as service:
        result = await service.process_image(IMAGE)
    assert (result.status, result.backend) == (DetectionStatus.DEGRADED, DEVICE)
    assert "this service has no such backend" in result.reason


@pytest.mark.parametrize("deadline_s", [float("nan"), float("inf"), "1"])
async def test_a_deadline_that_is_no_time_is_refused(deadline_s: Any) -> None:
    async with HybridDetectionService(backends=[FakeBackend(DEVICE)]) as service:
        with pytest.raises(ConfigurationError, match="deadline_s"):
            await service.process_image(IMAGE, deadline_s=deadline_s)


async def test_a_camera_is_not_read_any_more_once_the_service_is_closed() -> None:
    reads = 0

    class Camera:
        def read(self) -> tuple[bool, np.ndarray]:
            nonlocal reads
            reads += 1
            time.sleep(0.001)
            return True, IMAGE

    async with HybridDetectionService(backends=[FakeBackend(DEVICE)]) as service:
        results = service.start_detection(Camera(), max_fps=None)
        await anext(results)  # and nobody goes on with it
    seen = reads
    await asyncio.sleep(0.05)
    assert reads == seen
    with pytest.raises(ClosedError):
        await anext(results)


async def test_an_outage_is_logged_once_whatever_numbers_its_message_holds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Counting(FakeBackend):
        checks = 0

        async def check(self, *, deadline_s: float) -> None:
            self.checks += 1
            msg = f"only {self.checks} MiB are left"
            raise BackendUnavailableError(msg, backend=self.kind)

    backend = Counting(DEVICE)
    async with HybridDetectionService(backends=[backend]):
        await until(lambda: backend.checks >= 3)
    assert [record.message for record in caplog.records] == ["device is out: only 1 MiB are left"]


async def test_a_pipe_is_read_off_the_event_loop() -> None:
    encoded = io.BytesIO()
    Image.fromarray(IMAGE).save(encoded, "PNG")
    read_fd, write_fd = os.pipe()
    async with HybridDetectionService(backends=[FakeBackend(DEVICE)]) as service:
        with open(read_fd, "rb") as reader:
            looking = asyncio.create_task(service.process_image(reader))
            for _ in range(100):  # a loop that was blocked would never come back
                await asyncio.sleep(0)
            assert not looking.done()
            os.write(write_fd, encoded.getvalue())
            os.close(write_fd)
            assert (await looking).answered


@pytest.mark.parametrize("mode", ["cloud", "streaming"])
async def test_a_remote_mode_without_an_endpoint_is_refused(mode: str) -> None:
    with pytest.raises(ConfigurationError, match="no endpoint"):
        HybridDetectionService(mode=mode)


async def test_a_missing_extra_is_reported_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", lambda _: False)
    service = HybridDetectionService("http://127.0.0.1:9", mode="prefer_on_device")
    async with service:
        by_kind = {backend.kind: backend for backend in service.status().backends}
        assert by_kind[DEVICE].breaker == ""
        assert by_kind[DEVICE].unavailable_reason.endswith(
            "pip install 'hybrid-detect[device-lite]'"
        )
        with pytest.raises(AllBackendsFailedError, match="pip install"):
            await service.process_image(IMAGE)


async def test_all_reasons_are_told_when_no_way_can_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", lambda _: False)
    with pytest.raises(ConfigurationError, match=r"no endpoint.*pip install"):
        HybridDetectionService()


async def test_a_policy_of_one_s_own_decides() -> None:
    class CloudAlways:
        seen: Conditions | None = None

        def decide(self, conditions: Conditions) -> Plan:
            self.seen = conditions
            return Plan(backend=CLOUD, reason="because", deadline_s=conditions.deadline_s)

    policy = CloudAlways()
    async with Ways(policy=policy) as backends:
        result = await backends.service.process_image(IMAGE)
        assert (result.backend, result.reason) == (CLOUD, "because")
        assert policy.seen is not None
        assert {backend.kind for backend in policy.seen.backends} == set(BackendKind)


async def test_a_policy_is_told_what_carries_the_first_hop() -> None:
    class Remote(FakeBackend):
        measures_link = True

    media: list[str] = []

    class CloudAlways:
        def decide(self, conditions: Conditions) -> Plan:
            link = conditions.link_to(CLOUD)
            media.append(link.medium if link else "")
            return Plan(backend=CLOUD, reason="because", deadline_s=conditions.deadline_s)

    config = ServiceConfig(medium=lambda: "cellular")
    backends = [Remote(CLOUD), FakeBackend()]
    async with HybridDetectionService(
        config=config, backends=backends, policy=CloudAlways()
    ) as service:
        await service.process_image(IMAGE)
    assert media == ["cellular"]


# -- closing ---------------------------------------------------------------------------------


async def test_a_service_that_is_not_open_says_so() -> None:
    service = HybridDetectionService(backends=[FakeBackend()])
    with pytest.raises(ClosedError, match="async with"):
        await service.process_image(IMAGE)
    with pytest.raises(ClosedError, match="async with"):
        await anext(service.start_detection([IMAGE]))
    async with service:
        await service.process_image(IMAGE)
    with pytest.raises(ClosedError):
        await service.process_image(IMAGE)
    with pytest.raises(ClosedError):
        await anext(service.start_detection([IMAGE]))
    await service.aclose()


async def test_closing_ends_a_stream_with_an_error_not_a_cancellation() -> None:
    """A cancellation would end the user's own task, and a task group would hide it."""
    backend = FakeBackend(latency_s=60)

    async def watch(service: HybridDetectionService) -> None:
        async for _ in service.start_detection([IMAGE] * 5, max_fps=None):
            pass

    async with HybridDetectionService(backends=[backend]) as service:
        watching = asyncio.create_task(watch(service))
        await until(lambda: bool(backend.plans))
    with pytest.raises(ClosedError):
        await watching


# -- streams ---------------------------------------------------------------------------------


async def results_of(
    service: HybridDetectionService, source: Any, **options: Any
) -> list[DetectionResult]:
    options.setdefault("max_fps", None)
    async with asyncio.timeout(LIMIT_S):
        return [result async for result in service.start_detection(source, **options)]


async def test_every_frame_of_an_iterable_gets_a_result() -> None:
    async with Ways() as backends:
        results = await results_of(backends.service, [IMAGE] * 7)
        assert [result.status for result in results] == [DetectionStatus.OK] * 7


async def test_results_come_in_the_frames_order_with_two_in_flight() -> None:
    """The first of two takes longer; its result still comes first."""
    under_way = most = 0
    gates = [asyncio.Event() for _ in range(6)]

    class Gated(FakeBackend):
        async def detect(self, frame: Frame, plan: Plan) -> DetectionResult:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            number = int(frame.rgb()[0, 0, 0])
            if number % 2 == 0:
                await gates[number].wait()
            else:
                gates[number - 1].set()
            under_way -= 1
            return await super().detect(frame, plan)

    images = [np.full((8, 8 + number, 3), number, np.uint8) for number in range(6)]
    async with HybridDetectionService(backends=[Gated()]) as service:
        results = await results_of(service, images)
    assert [result.width for result in results] == [8, 9, 10, 11, 12, 13]
    assert most == 2


async def test_a_frame_that_is_no_image_yields_a_failed_result_and_the_next_works() -> None:
    async with Ways(session_id="me") as backends:
        results = await results_of(
            backends.service, [IMAGE, "no/such.jpg", b"garbage", None, IMAGE]
        )
    assert [result.status.value for result in results] == ["ok", *["failed"] * 3, "ok"]
    for result in results[1:4]:
        assert isinstance(result.error, InvalidFrameError)
        assert result.to_dict()["faces"] is None
        assert result.session_id == "me"


async def test_a_frame_that_nobody_could_look_at_yields_a_failed_result() -> None:
    async with Ways() as backends:
        for fake in backends.fakes.values():
            fake.error = BackendUnavailableError("down")
        (result,) = await results_of(backends.service, [IMAGE])
        assert result.status is DetectionStatus.FAILED
        assert isinstance(result.error, AllBackendsFailedError)
        assert [attempt.backend for attempt in result.attempts] == [STREAMING, DEVICE, CLOUD]
        for fake in backends.fakes.values():
            fake.error = None
        (result,) = await results_of(backends.service, [IMAGE])
        assert result.status is DetectionStatus.OK


async def test_breaking_out_of_a_stream_cleans_up() -> None:
    closed = asyncio.Event()

    async def camera() -> AsyncIterator[Any]:
        try:
            while True:
                yield IMAGE
        finally:
            closed.set()

    async with Ways() as backends:
        async for _ in backends.service.start_detection(camera(), max_fps=None):
            break
        async with asyncio.timeout(LIMIT_S):
            await closed.wait()
        assert (await backends.service.process_image(IMAGE)).answered


async def test_breaking_out_of_a_camera_s_stream_stops_reading_it() -> None:
    class Camera:
        def read(self) -> tuple[bool, Any]:
            return True, IMAGE

    def readers() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name == "hybrid-detect-source"]

    async with Ways() as backends:
        async for _ in backends.service.start_detection(Camera(), max_fps=100):
            break
        await until(lambda: not readers())


async def test_an_error_of_the_camera_reaches_the_caller() -> None:
    def camera() -> Iterator[Any]:
        yield IMAGE
        raise OSError("unplugged")

    async with Ways() as backends:
        with pytest.raises(OSError, match="unplugged"):
            await results_of(backends.service, camera())
        assert (await backends.service.process_image(IMAGE)).answered


async def test_what_is_no_camera_is_refused() -> None:
    async with Ways() as backends:
        with pytest.raises(ConfigurationError, match="camera"):
            await results_of(backends.service, 7)
        with pytest.raises(ConfigurationError, match="max_fps"):
            await results_of(backends.service, [IMAGE], max_fps=0)


async def test_the_pixel_format_of_a_stream_reaches_the_frames() -> None:
    seen = []

    def look(frame: Frame) -> list[Face]:
        seen.append(frame.rgb()[0, 0].tolist())
        return []

    blue_as_bgr = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    async with HybridDetectionService(backends=[FakeBackend(faces=look)]) as service:
        await results_of(service, [blue_as_bgr], pixel_format="bgr")
    assert seen == [[0, 0, 255]]


# -- bad inputs ------------------------------------------------------------------------------


async def test_no_bad_input_gets_further_than_an_invalid_frame_error(tmp_path: Path) -> None:
    """One open service over all of them; the frame after each is answered."""
    assert len(BAD_INPUTS) >= 50
    wrong = []
    device = FakeBackend(DEVICE)
    async with HybridDetectionService(backends=[device]) as service:
        for bad in BAD_INPUTS:
            try:
                image, options = bad.make(tmp_path)
                if set(options) - {"pixel_format"}:
                    continue  # options of `Frame.of` alone
                await service.process_image(image, deadline_s=10, **options)
            except InvalidFrameError:
                pass
            except Exception as error:
                wrong.append(f"{bad.name}: {type(error).__name__}: {error}")
            else:
                wrong.append(f"{bad.name}: no error")
            assert (await service.process_image(IMAGE)).status is DetectionStatus.OK, bad.name
    assert wrong == []


async def test_bad_inputs_in_a_stream_yield_failed_results(tmp_path: Path) -> None:
    images = []
    for bad in BAD_INPUTS:
        if bad.raises_itself:
            continue
        image, options = bad.make(tmp_path)
        if not options:
            images.append(image)
    async with HybridDetectionService(backends=[FakeBackend()]) as service:
        results = await results_of(service, [*images, IMAGE])
    assert {result.status for result in results[:-1]} == {DetectionStatus.FAILED}
    assert results[-1].status is DetectionStatus.OK


async def test_a_broken_camera_is_told_after_the_frames_before_it() -> None:
    def camera() -> Iterator[np.ndarray]:
        yield np.zeros((8, 8, 3), np.uint8)
        yield np.zeros((8, 8, 3), np.uint8)
        msg = "the cable"
        raise OSError(msg)

    seen = 0

    async def watch(service: HybridDetectionService) -> None:
        nonlocal seen
        async for result in service.start_detection(camera(), max_fps=None):
            seen += result.answered

    async with HybridDetectionService(backends=[FakeBackend("device", latency_s=0.01)]) as service:
        with pytest.raises(OSError, match="the cable"):
            await watch(service)
    assert seen == 2


async def test_a_consent_that_is_withdrawn_recalls_the_frames_under_way() -> None:
    ledger = ConsentLedger()
    ledger.grant("s", version="1", recorded_by="test")
    cloud = FakeBackend(BackendKind.CLOUD, latency_s=math.inf)
    device = FakeBackend(BackendKind.DEVICE)
    service = HybridDetectionService(
        mode=DetectionMode.PREFER_CLOUD,
        session_id="s",
        backends=[cloud, device],
        privacy=PrivacyPolicy(require_consent=True, consent_version="1"),
        consent=ledger,
    )
    async with service:
        await service.wait_ready()
        asked = asyncio.create_task(service.process_image(IMAGE, deadline_s=30))
        await until(lambda: cloud.plans)
        recalled: list[BackendKind] = []
        cloud.recall = lambda: recalled.append(cloud.kind)  # type: ignore[method-assign]
        await asyncio.to_thread(ledger.withdraw, "s", recorded_by="test")
        result = await asyncio.wait_for(asked, LIMIT_S)
        assert recalled == [BackendKind.CLOUD]
        assert result.backend is BackendKind.DEVICE
        assert "withdrawn" in result.reason or "no consent" in result.reason
        assert (await service.process_image(IMAGE)).backend is BackendKind.DEVICE
    assert len(cloud.plans) == 1


async def test_a_host_is_allowed_by_where_the_way_really_leads() -> None:
    for hosts, looked in (({"here.example"}, 0), ({"elsewhere.example"}, 1)):
        elsewhere = FakeBackend(BackendKind.CLOUD)
        elsewhere.host = "elsewhere.example"
        service = HybridDetectionService(
            "https://here.example",
            mode=DetectionMode.PREFER_CLOUD,
            backends=[elsewhere, FakeBackend(BackendKind.DEVICE)],
            privacy=PrivacyPolicy(hosts=frozenset(hosts)),
        )
        async with service:
            await service.wait_ready()
            await service.process_image(IMAGE)
        assert len(elsewhere.plans) == looked


async def test_a_way_that_may_never_have_a_frame_is_not_even_made() -> None:
    never = PrivacyPolicy(may_leave=False)
    with pytest.raises(ConfigurationError, match="no frame leave"):
        HybridDetectionService("https://a.example", mode="cloud", privacy=never)
    service = HybridDetectionService("https://a.example", mode="auto", privacy=never)
    whys = {backend.kind: backend.unavailable_reason for backend in service.status().backends}
    assert "no frame leave" in whys[BackendKind.CLOUD]
    assert "no frame leave" in whys[BackendKind.STREAMING]
    assert set(service._backends.by_kind) == {BackendKind.DEVICE}
    wireless = PrivacyPolicy(backends=frozenset({BackendKind.STREAMING}))
    service = HybridDetectionService("https://a.example", mode="auto", privacy=wireless)
    assert BackendKind.CLOUD not in service._backends.by_kind
    assert BackendKind.STREAMING in service._backends.by_kind


async def test_a_local_frame_stays_and_unchanged_frames_are_stale() -> None:
    stream = FakeBackend(BackendKind.STREAMING)
    device = FakeBackend(BackendKind.DEVICE)
    async with HybridDetectionService(backends=[stream, device]) as service:
        await service.wait_ready()
        result = await service.process_image(IMAGE, privacy="local_only")
        assert result.backend is BackendKind.DEVICE
        with pytest.raises(ConfigurationError, match="local_only"):
            await service.process_image(IMAGE, privacy="secret")
        results = [
            each
            async for each in service.start_detection(
                [IMAGE] * 4, max_fps=None, privacy="local_only", skip_unchanged=True
            )
        ]
    assert not stream.plans
    assert [each.status.value for each in results[-1:]] == ["stale"]
    assert results[-1].age_s >= 0
    assert results[-1].answered


async def test_a_service_is_entered_once_and_says_so_by_its_own_name() -> None:
    service = HybridDetectionService(backends=[FakeBackend(DEVICE)])
    async with service:
        with pytest.raises(ClosedError, match="this HybridDetectionService is open already"):
            await service.__aenter__()
        assert (await service.process_image(IMAGE)).answered
    with pytest.raises(ClosedError, match="this HybridDetectionService is closed: make a new one"):
        await service.__aenter__()
