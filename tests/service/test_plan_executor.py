"""Carrying plans out: hedges, fallbacks and escalations, with backends that do as they are told."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from hybrid_detect.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    SupersededError,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.privacy.privacy_policy import FramePrivacy
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.selection.hedging import HedgeBudget
from hybrid_detect.service.conditions_builder import FrameContext
from hybrid_detect.service.execution import Execution
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.service.managed_backend import ManagedBackend
from hybrid_detect.service.plan_executor import PlanExecutor
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import (
    BackendKind,
    BoundingBox,
    DetectionResult,
    DetectionStatus,
    Face,
    Plan,
)

from ..waiting import LIMIT_S, until

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

CLOUD, STREAMING, DEVICE = BackendKind.CLOUD, BackendKind.STREAMING, BackendKind.DEVICE
IMAGE = np.zeros((48, 64, 3), np.uint8)
LONG_S = 1000.0
"""A deadline that nobody is meant to wait for."""
SURE = Face(BoundingBox(1, 2, 30, 40), 0.95)
UNSURE = Face(BoundingBox(1, 2, 30, 40), 0.5)


class Told(FakeBackend):
    """Begins when it is given a frame, and answers when it is told to.

    Attributes:
        begun: Set when it has been given a frame.
        go: Set to have it answer; set from the start unless it `waits`.
        cancelled: How many of its frames were taken back.
        bug: Raised instead of an answer, as nothing that anybody expects.
    """

    def __init__(self, kind: BackendKind, *, waits: bool = False, **options: Any) -> None:
        super().__init__(kind, sleep=self._wait, **options)
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.cancelled = 0
        self.bug: Exception | None = None
        if not waits:
            self.go.set()

    async def _wait(self, _seconds: float) -> None:
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.bug is not None:
            raise self.bug

    @property
    def asked(self) -> int:
        return len(self.plans)


class Course:
    """A plan executor over told backends, and what it spawned."""

    def __init__(self, *backends: Told) -> None:
        self.clock = asyncio.get_running_loop().time
        self.backends = {
            backend.kind: ManagedBackend(backend, clock=self.clock) for backend in backends
        }
        self.forbidden: dict[BackendKind, str] = {}
        self.tasks: list[asyncio.Task[Any]] = []
        self.runner = PlanExecutor(
            self.backends,
            {CLOUD: "there is no endpoint"},
            clock=self.clock,
            spawn=self._spawn,
            denied_reason=lambda kind, _privacy, _where: self.forbidden.get(kind, ""),
        )

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.create_task(coroutine))
        return self.tasks[-1]

    async def look(self, *, deadline_s: float = LONG_S, **plan: Any) -> Execution:
        """Carry out a plan that begins with the stream, if nothing else is told."""
        known: dict[str, Any] = {"backend": STREAMING, "reason": "test", "deadline_s": deadline_s}
        context = FrameContext(ends_s=self.clock() + deadline_s, privacy=FramePrivacy.DEFAULT)
        execution = Execution(
            started_s=self.clock(),
            context=context,
            frame=Frame.of(IMAGE),
            plan=Plan(**(known | plan)),
        )
        async with asyncio.timeout(LIMIT_S):
            await self.runner.execute(execution)
        return execution


@asynccontextmanager
async def course(*backends: Told) -> AsyncIterator[Course]:
    made = Course(*backends)
    for backend in made.backends.values():
        await backend.start()
        await backend.checked.wait()
    try:
        yield made
    finally:
        for backend in made.backends.values():
            await backend.aclose()
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)


def backend_of(execution: Execution) -> BackendKind | None:
    return execution.result.backend if execution.result else None


# -- hedging -------------------------------------------------------------------------------------


async def test_who_answers_before_the_hedge_is_alone() -> None:
    stream, device = Told(STREAMING), Told(DEVICE)
    async with course(stream, device) as backends:
        execution = await backends.look(hedge=DEVICE, hedge_after_s=LONG_S)
        assert backend_of(execution) is STREAMING
        assert device.asked == 0
        assert (backends.runner.hedges.started, backends.runner.hedges.won) == (0, 0)
        assert execution.notes == []


async def test_the_hedge_starts_after_its_time_and_wins() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE)
    async with course(stream, device) as backends:
        began_s = backends.clock()
        execution = await backends.look(hedge=DEVICE, hedge_after_s=0.05)
        assert backends.clock() - began_s >= 0.049
        assert backend_of(execution) is DEVICE
        assert (backends.runner.hedges.started, backends.runner.hedges.won) == (1, 1)
        assert any("device started as well" in note for note in execution.notes)
        await until(lambda: stream.cancelled == 1)


async def test_the_first_way_may_still_win_after_the_hedge_has_started() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE, waits=True)
    async with course(stream, device) as backends:
        looking = asyncio.create_task(backends.look(hedge=DEVICE, hedge_after_s=0.0))
        await device.begun.wait()
        stream.go.set()
        execution = await looking
        assert backend_of(execution) is STREAMING
        assert (backends.runner.hedges.started, backends.runner.hedges.won) == (1, 0)
        await until(lambda: device.cancelled == 1)


async def test_each_gets_what_is_left_of_the_deadline() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE)
    async with course(stream, device) as backends:
        await backends.look(hedge=DEVICE, hedge_after_s=0.05, deadline_s=10.0)
        assert stream.plans[0].deadline_s == pytest.approx(10.0, abs=0.04)
        assert device.plans[0].deadline_s <= 9.951
        assert device.plans[0].backend is DEVICE


async def test_a_probe_goes_on_when_the_device_has_answered() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE)
    async with course(stream, device) as backends:
        execution = await backends.look(hedge=DEVICE, hedge_after_s=0.0, probe=True)
        assert backend_of(execution) is DEVICE
        (probe,) = [task for task in backends.tasks if not task.done()]
        stream.go.set()
        result = (await probe).result
        assert result is not None
        assert result.backend is STREAMING
        assert stream.cancelled == 0


async def test_probes_are_no_hedges_in_the_books() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE)
    async with course(stream, device) as backends:
        for _ in range(50):
            await backends.look(hedge=DEVICE, hedge_after_s=0.0, probe=True)
        hedges = backends.runner.hedges
        assert (hedges.started, hedges.won, hedges.denied) == (0, 0, 0)


async def test_a_probe_that_fails_in_the_end_is_seen_by_nobody_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE)
    async with course(stream, device) as backends:
        await backends.look(hedge=DEVICE, probe=True)
        stream.error = BackendUnavailableError("the link broke")
        stream.go.set()
        await until(lambda: all(task.done() for task in backends.tasks))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# -- when backends fail -------------------------------------------------------------------------


async def test_a_failure_before_the_hedge_falls_back_at_once() -> None:
    stream, device = Told(STREAMING), Told(DEVICE)
    stream.error = BackendUnavailableError("refused")
    async with course(stream, device) as backends:
        execution = await backends.look(hedge=DEVICE, hedge_after_s=LONG_S)
        assert backend_of(execution) is DEVICE
        assert [failure.backend for failure in execution.failures] == ["streaming"]
        # It was the only one who looked, so nothing was hedged.
        assert (backends.runner.hedges.started, backends.runner.hedges.won) == (0, 0)


async def test_a_failure_after_the_hedge_waits_for_the_hedge() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE, waits=True)
    async with course(stream, device) as backends:
        looking = asyncio.create_task(backends.look(hedge=DEVICE))
        await device.begun.wait()
        stream.error = BackendUnavailableError("the link broke")
        stream.go.set()
        await until(lambda: stream.asked == 1 and backends.tasks[0].done())
        assert not looking.done()
        device.go.set()
        execution = await looking
        assert backend_of(execution) is DEVICE
        assert len(execution.failures) == 1


async def test_a_hedge_that_fails_leaves_the_first_way_its_time() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE)
    device.error = BackendError("out of memory")
    async with course(stream, device) as backends:
        looking = asyncio.create_task(backends.look(hedge=DEVICE))
        await until(lambda: len(backends.tasks) == 2 and backends.tasks[1].done())
        stream.go.set()
        execution = await looking
        assert backend_of(execution) is STREAMING
        assert [failure.backend for failure in execution.failures] == ["device"]


@pytest.mark.parametrize("hedge_after_s", [0.0, LONG_S])
async def test_when_both_fail_the_other_ways_are_asked_once_each(hedge_after_s: float) -> None:
    stream, device, cloud = Told(STREAMING), Told(DEVICE), Told(CLOUD)
    stream.error = BackendUnavailableError("refused")
    device.error = BackendError("out of memory")
    async with course(stream, device, cloud) as backends:
        execution = await backends.look(
            hedge=DEVICE, hedge_after_s=hedge_after_s, fallbacks=(DEVICE, CLOUD)
        )
        assert backend_of(execution) is CLOUD
        assert [failure.backend for failure in execution.failures] == ["streaming", "device"]
        assert (stream.asked, device.asked, cloud.asked) == (1, 1, 1)


async def test_when_all_fail_there_is_no_answer_and_every_failure_is_told() -> None:
    stream, device = Told(STREAMING), Told(DEVICE)
    stream.error = BackendUnavailableError("refused")
    device.error = BackendError("out of memory")
    async with course(stream, device) as backends:
        execution = await backends.look(hedge=DEVICE, fallbacks=(DEVICE, CLOUD))
        assert execution.result is None
        assert [str(failure) for failure in execution.failures] == [
            "refused",
            "out of memory",
            "there is no endpoint",
        ]
        assert all(failure.__traceback__ is None for failure in execution.failures)


async def test_a_hedge_that_is_not_there_is_as_if_it_were_not_asked_for() -> None:
    stream = Told(STREAMING)
    async with course(stream) as backends:
        assert backend_of(await backends.look(hedge=DEVICE)) is STREAMING


async def test_a_first_way_that_hangs_is_given_up_with_its_deadline() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE, waits=True)
    async with course(stream, device) as backends:
        execution = await backends.look(hedge=DEVICE, hedge_after_s=0.01, deadline_s=0.1)
        assert execution.result is None
        assert {type(failure) for failure in execution.failures} == {BackendTimeoutError}


# -- superseded ----------------------------------------------------------------------------------


async def test_a_superseded_frame_is_looked_at_by_nobody_else() -> None:
    stream, device = Told(STREAMING), Told(DEVICE)
    stream.error = SupersededError("a newer frame took its place")
    async with course(stream, device) as backends:
        execution = await backends.look(hedge=DEVICE, hedge_after_s=LONG_S, fallbacks=(DEVICE,))
        assert execution.result is None
        assert execution.superseded is not None
        assert execution.failures == []
        assert device.asked == 0


async def test_a_hedge_that_has_begun_still_answers_a_superseded_frame() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE, waits=True)
    async with course(stream, device) as backends:
        looking = asyncio.create_task(backends.look(hedge=DEVICE))
        await device.begun.wait()
        stream.error = SupersededError("a newer frame took its place")
        stream.go.set()
        await until(backends.tasks[0].done)
        device.go.set()
        execution = await looking
        assert backend_of(execution) is DEVICE
        assert execution.superseded is None


# -- the budget ----------------------------------------------------------------------------------


async def test_a_storm_of_hedges_is_denied_and_every_frame_is_answered_all_the_same() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE)
    frames = 100
    async with course(stream, device) as backends:
        for _ in range(frames):
            execution = await backends.look(
                hedge=DEVICE, fallbacks=(DEVICE,), deadline_s=0.2, reserve_s=0.19
            )
            assert backend_of(execution) is DEVICE
        hedges = backends.runner.hedges
        assert hedges.denied > 0
        assert hedges.started + hedges.denied == frames
        assert hedges.won == hedges.started
        most = HedgeBudget.BURST + HedgeBudget.SHARE * frames
        assert hedges.started <= most


async def test_without_a_storm_no_hedge_is_denied() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE)
    async with course(stream, device) as backends:
        for number in range(120):
            stream.go.clear() if number % 3 == 0 else stream.go.set()
            await backends.look(hedge=DEVICE, hedge_after_s=LONG_S if stream.go.is_set() else 0.0)
        assert (backends.runner.hedges.started, backends.runner.hedges.denied) == (40, 0)


async def test_a_denied_hedge_is_a_fallback_when_its_time_comes() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE)
    async with course(stream, device) as backends:
        while backends.runner.hedges.denied == 0:
            await backends.look(hedge=DEVICE, deadline_s=0.2, reserve_s=0.15)
        began_s = backends.clock()
        execution = await backends.look(hedge=DEVICE, deadline_s=0.3, reserve_s=0.1)
        if (
            backends.runner.hedges.denied == 1
        ):  # half a token at a time: every second one is granted
            began_s = backends.clock()
            execution = await backends.look(hedge=DEVICE, deadline_s=0.3, reserve_s=0.1)
        assert backends.runner.hedges.denied == 2
        assert backend_of(execution) is DEVICE
        assert backends.clock() - began_s >= 0.19, "the first backend was not given its time"


# -- cancelled, closed, broken -------------------------------------------------------------------


async def test_cancelling_the_caller_takes_the_frame_back_from_both() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE, waits=True)
    async with course(stream, device) as backends:
        looking = asyncio.create_task(backends.look(hedge=DEVICE))
        await device.begun.wait()
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        await until(lambda: (stream.cancelled, device.cancelled) == (1, 1))
        assert all(task.done() for task in backends.tasks)


@pytest.mark.parametrize("probe", [False, True])
async def test_cancelling_the_caller_before_the_hedge_takes_the_frame_back(probe: bool) -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE)
    async with course(stream, device) as backends:
        looking = asyncio.create_task(
            backends.look(hedge=DEVICE, hedge_after_s=LONG_S, probe=probe)
        )
        await stream.begun.wait()
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        await until(lambda: stream.cancelled == 1)
        assert device.asked == 0


@pytest.mark.parametrize("buggy", [STREAMING, DEVICE])
async def test_a_bug_is_seen_and_the_other_way_is_called_off(buggy: BackendKind) -> None:
    told = {kind: Told(kind, waits=True) for kind in (STREAMING, DEVICE)}
    told[buggy].bug = RuntimeError("a bug")
    async with course(*told.values()) as backends:
        looking = asyncio.create_task(backends.look(hedge=DEVICE))
        await told[DEVICE].begun.wait()
        told[buggy].go.set()
        with pytest.raises(RuntimeError, match="a bug"):
            await looking
        other = next(backend for kind, backend in told.items() if kind is not buggy)
        await until(lambda: other.cancelled == 1)


async def test_a_bug_of_a_way_that_nobody_waits_for_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE)
    stream.bug = RuntimeError("a bug")
    async with course(stream, device) as backends:
        await backends.look(hedge=DEVICE, probe=True)
        stream.go.set()
        await until(lambda: all(task.done() for task in backends.tasks))
        await until(lambda: bool(caplog.records))
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "a bug"


async def test_a_bug_that_was_raised_is_not_logged_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream, device = Told(STREAMING), Told(DEVICE)
    stream.bug = RuntimeError("a bug")
    async with course(stream, device) as backends:
        with pytest.raises(RuntimeError):
            await backends.look(hedge=DEVICE, hedge_after_s=LONG_S)
        await until(lambda: all(task.done() for task in backends.tasks))
    assert not caplog.records


async def test_a_way_that_is_closed_says_so_to_the_caller() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE, waits=True)
    async with course(stream, device) as backends:
        looking = asyncio.create_task(backends.look(hedge=DEVICE))
        await device.begun.wait()
        await stream.aclose()
        stream.go.set()
        with pytest.raises(ClosedError):
            await looking


# -- what may leave the device -------------------------------------------------------------------


async def test_consent_withdrawn_after_the_plan_was_made_keeps_the_frame() -> None:
    stream, device, cloud = Told(STREAMING), Told(DEVICE), Told(CLOUD)
    async with course(stream, device, cloud) as backends:
        backends.forbidden = {STREAMING: "no consent", CLOUD: "no consent"}
        for plan in (
            {"fallbacks": (CLOUD, DEVICE)},
            {"hedge": DEVICE, "hedge_after_s": LONG_S},
            {"hedge": DEVICE, "probe": True},
        ):
            execution = await backends.look(**plan)
            assert backend_of(execution) is DEVICE
            assert all(str(failure) == "no consent" for failure in execution.failures)
        assert (stream.asked, cloud.asked) == (0, 0)


async def test_consent_withdrawn_while_the_first_way_looks_forbids_the_second() -> None:
    cloud, stream = Told(CLOUD), Told(STREAMING, waits=True)
    async with course(cloud, stream) as backends:
        looking = asyncio.create_task(backends.look(hedge=CLOUD, hedge_after_s=0.05))
        await stream.begun.wait()
        backends.forbidden = {CLOUD: "no consent"}
        await until(lambda: len(backends.tasks) == 2 and backends.tasks[1].done())
        stream.go.set()
        assert backend_of(await looking) is STREAMING
        assert cloud.asked == 0


async def test_consent_withdrawn_while_the_device_looks_stops_the_escalation() -> None:
    device, stream = Told(DEVICE, waits=True), Told(STREAMING)
    async with course(device, stream) as backends:
        looking = asyncio.create_task(backends.look(backend=DEVICE, escalation=STREAMING))
        await device.begun.wait()
        backends.forbidden = {STREAMING: "no consent"}
        device.go.set()
        assert backend_of(await looking) is DEVICE
        assert stream.asked == 0


# -- escalation ----------------------------------------------------------------------------------


def seen(execution: Execution) -> DetectionResult:
    assert execution.result is not None
    return execution.result


async def test_a_device_that_is_sure_is_believed() -> None:
    device, stream = Told(DEVICE, faces=[SURE]), Told(STREAMING)
    async with course(device, stream) as backends:
        execution = await backends.look(backend=DEVICE, escalation=STREAMING)
        assert backend_of(execution) is DEVICE
        assert stream.asked == 0
        assert execution.notes == []


@pytest.mark.parametrize(("faces", "why"), [([], "no face"), ([UNSURE], "50%")])
async def test_a_device_that_is_unsure_asks_the_server(faces: list[Face], why: str) -> None:
    device, stream = Told(DEVICE, faces=faces), Told(STREAMING, faces=[SURE])
    async with course(device, stream) as backends:
        execution = await backends.look(backend=DEVICE, escalation=STREAMING)
        assert backend_of(execution) is STREAMING
        assert seen(execution).faces == (SURE,)
        assert why in " ".join(execution.notes)


@pytest.mark.parametrize(
    "error",
    [
        BackendUnavailableError("refused"),
        BackendTimeoutError("late"),
        SupersededError("a newer frame took its place"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_device_s_answer_stands_when_the_server_has_none(error: BackendError) -> None:
    device, stream = Told(DEVICE, faces=[UNSURE]), Told(STREAMING)
    async with course(device, stream) as backends:
        stream.error = error
        execution = await backends.look(backend=DEVICE, escalation=STREAMING)
        assert backend_of(execution) is DEVICE
        assert seen(execution).faces == (UNSURE,)
        assert execution.superseded is None


async def test_the_device_s_answer_stands_when_the_server_hangs() -> None:
    device, stream = Told(DEVICE, faces=[UNSURE]), Told(STREAMING, waits=True)
    async with course(device, stream) as backends:
        execution = await backends.look(backend=DEVICE, escalation=STREAMING, deadline_s=0.05)
        assert backend_of(execution) is DEVICE


async def test_a_server_that_is_out_is_not_asked() -> None:
    device, stream = Told(DEVICE, faces=[UNSURE]), Told(STREAMING)
    async with course(device, stream) as backends:
        stream.error = BackendUnavailableError("refused")
        for _ in range(5):
            await backends.look(backend=DEVICE, escalation=STREAMING)
        assert stream.asked == 2  # then its breaker was open


async def test_an_answer_of_the_server_is_not_escalated_to_it() -> None:
    device, stream = Told(DEVICE), Told(STREAMING)
    device.error = BackendError("out of memory")
    async with course(device, stream) as backends:
        execution = await backends.look(
            backend=DEVICE, fallbacks=(STREAMING,), escalation=STREAMING
        )
        assert backend_of(execution) is STREAMING
        assert stream.asked == 1


# -- in a service --------------------------------------------------------------------------------


class Always:
    """Plans the same for every frame."""

    def __init__(self, **plan: Any) -> None:
        self._plan = Plan(backend=STREAMING, reason="test", deadline_s=LONG_S, **plan)

    def decide(self, conditions: Conditions) -> Plan:
        return self._plan


async def test_closing_the_service_ends_a_probe_that_goes_on() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE)
    before = asyncio.all_tasks()
    policy = Always(hedge=DEVICE, probe=True)
    async with HybridDetectionService(backends=[stream, device], policy=policy) as service:
        await service.wait_ready()
        result = await service.process_image(IMAGE)
        assert result.backend is DEVICE
        assert stream.cancelled == 0
    assert stream.cancelled == 1
    assert asyncio.all_tasks() == before


async def test_what_hedges_cost_and_bring_is_in_the_status() -> None:
    stream, device = Told(STREAMING, waits=True), Told(DEVICE)
    async with HybridDetectionService(
        backends=[stream, device], policy=Always(hedge=DEVICE)
    ) as service:
        await service.wait_ready()
        result = await service.process_image(IMAGE)
        assert (result.backend, result.status) == (DEVICE, DetectionStatus.OK)
        assert "device started as well" in result.reason
        hedges = service.status().hedges
        assert (hedges.started, hedges.won, hedges.denied) == (1, 1, 0)


async def test_one_frame_may_be_looked_at_twice_at_the_same_time() -> None:
    device = Told(DEVICE, waits=True)
    async with HybridDetectionService(backends=[device]) as service:
        frame = Frame.of(IMAGE)
        looking = [asyncio.create_task(service.process_image(frame)) for _ in range(2)]
        await until(lambda: device.asked == 2)
        device.go.set()
        results = await asyncio.gather(*looking)
        assert [result.backend for result in results] == [DEVICE, DEVICE]
