"""Many images at once: their order, what fails, what is shared, and how many are held."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import hybrid_detect
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.errors import (
    AllBackendsFailedError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    ConfigurationError,
    InvalidFrameError,
)
from hybrid_detect.exchange.wire import DetectRequest, ErrorReply, ResultReply
from hybrid_detect.frames.frame import Frame
from hybrid_detect.monitoring.events import FrameEvent, FrameOutcome
from hybrid_detect.selection.fixed import FixedPolicy
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.service.streams import Window
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, DetectionResult, DetectionStatus, Plan

from ..backends.remote.test_batches import Server, reply_to
from ..waiting import until

pytestmark = pytest.mark.anyio

DEADLINE_S = 20.0


def image(width: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.zeros((48, width, 3), np.uint8)


def images(count: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    return [image(64 + 8 * n) for n in range(count)]


class Hook:
    def __init__(self) -> None:
        self.events: list[FrameEvent] = []

    def on_frame(self, event: FrameEvent) -> None:
        self.events.append(event)


class Cloud(CloudDetectionService):
    async def check(self, *, deadline_s: float) -> None:
        """The transport of these tests knows pictures alone."""


def service_of(server: Server, **options: Any) -> HybridDetectionService:
    cloud = Cloud(endpoint="https://faces.example", transport=httpx.MockTransport(server))
    return HybridDetectionService(
        mode="cloud", backends=[cloud], policy=FixedPolicy(backend="cloud"), **options
    )


async def test_each_image_has_its_own_result_in_order_though_they_share_requests() -> None:
    server, hook = Server(), Hook()
    async with service_of(server, hooks=[hook], session_id="s") as service:
        results = [each async for each in service.process_images(images(40), deadline_s=DEADLINE_S)]
    assert [result.source_index for result in results] == list(range(40))
    assert [result.width for result in results] == [64 + 8 * n for n in range(40)]
    assert [round(result.faces[0].box.x_max) for result in results] == [
        64 + 8 * n for n in range(40)
    ]
    assert sum(server.sizes) == 40
    assert len(server.sizes) < 40, "some shared a request"
    assert len(hook.events) == 40
    assert all(event.outcome is FrameOutcome.ANSWERED for event in hook.events)
    assert sum(event.bytes_sent for event in hook.events) == sum(
        len(body) for _, body in server.bodies
    )
    assert sum(request.images for event in hook.events for request in event.requests) == 40


async def test_a_failure_is_one_images_own() -> None:
    def reply(request: DetectRequest) -> ResultReply | ErrorReply:
        answer = reply_to(request)
        if isinstance(answer, ResultReply) and answer.width == 72:
            return ErrorReply(request_id=0, status=422, code="invalid_image")
        return answer

    given: list[Any] = images(4)
    given[2] = b"no image"
    async with service_of(Server(reply)) as service:
        results = [each async for each in service.process_images(given, deadline_s=DEADLINE_S)]
    statuses = [result.status.value for result in results]
    assert statuses == ["ok", "failed", "failed", "ok"]
    assert isinstance(results[1].error, AllBackendsFailedError)
    assert "422" in results[1].reason
    assert isinstance(results[2].error, InvalidFrameError)


async def test_images_come_from_a_generator_an_async_generator_and_a_folder(tmp_path: Path) -> None:
    for n in range(3):
        Image.fromarray(image(64 + 8 * n)).save(tmp_path / f"{n}.png")

    def generator() -> Iterator[Any]:
        yield from images(3)

    async def async_generator() -> AsyncIterator[Any]:
        for each in images(3):
            yield each

    async with service_of(Server()) as service:
        for source in (generator(), async_generator(), tmp_path, sorted(tmp_path.iterdir())):
            results = [each async for each in service.process_images(source, deadline_s=DEADLINE_S)]
            assert [result.width for result in results] == [64, 72, 80]
            assert all(result.status is DetectionStatus.OK for result in results)
        with pytest.raises(ConfigurationError, match="one image"):
            await anext(service.process_images(image()))


class Counted(Frame):
    __slots__ = ("__weakref__",)


class Held:
    """Images that count how many of them are alive."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.alive = 0
        self.most = 0
        self.taken = 0

    def __iter__(self) -> Iterator[Frame]:
        for _ in range(self._count):
            made = Counted.of(image())
            self.alive += 1
            self.taken += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(made, self._gone)
            yield made
            del made

    def _gone(self) -> None:
        self.alive -= 1


@pytest.mark.parametrize("limit", [1, 3, None])
async def test_only_so_many_images_are_held_as_are_under_way(limit: int | None) -> None:
    held = Held(120)
    async with service_of(Server()) as service:
        count = 0
        async for result in service.process_images(
            held, deadline_s=DEADLINE_S, max_in_flight=limit
        ):
            count += result.answered
    gc.collect()
    assert count == 120
    assert held.alive == 0
    assert held.most <= (limit or 16) + 3, "those under way, and the one that is being taken"


async def test_no_image_is_taken_ahead_of_a_caller_that_does_not_go_on() -> None:
    held = Held(1000)
    async with service_of(Server()) as service:
        results = service.process_images(held, deadline_s=DEADLINE_S)
        for _ in range(5):
            await anext(results)
        for _ in range(50):
            await asyncio.sleep(0)
        assert held.taken <= 5 + 16
        await results.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(results)


async def test_a_caller_that_breaks_off_leaves_nothing_under_way() -> None:
    server = Server()
    server.waits = asyncio.Event().wait
    async with service_of(server) as service:
        results = service.process_images(images(8), deadline_s=DEADLINE_S)
        first = asyncio.ensure_future(anext(results))
        await until(lambda: server.under_way)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await results.aclose()
        await until(lambda: not server.under_way)
        server.waits = None
        assert (await service.process_image(image(), deadline_s=DEADLINE_S)).answered


async def test_the_service_may_be_closed_meanwhile() -> None:
    server = Server()
    server.waits = asyncio.Event().wait
    service = service_of(server)
    async with service:
        results = service.process_images(images(8), deadline_s=DEADLINE_S)
        first = asyncio.ensure_future(anext(results))
        await until(lambda: server.under_way)
    with pytest.raises(ClosedError):
        await first
    with pytest.raises(ClosedError):
        await anext(service.process_images(images(1)))


class Busy(FakeBackend):
    """A cloud that answers late while more than `limit` frames are under way."""

    def __init__(self, limit: int) -> None:
        super().__init__(BackendKind.CLOUD)
        self._limit = limit
        self._under_way = 0
        self.most = 0

    async def detect(self, frame: Frame, plan: Plan) -> DetectionResult:
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        try:
            if self._under_way > self._limit:
                await asyncio.sleep(plan.deadline_s)
                raise BackendTimeoutError("late")
            await asyncio.sleep(0.1)
            return await super().detect(frame, plan)
        finally:
            self._under_way -= 1


@pytest.mark.virtual_time
async def test_fewer_are_under_way_where_they_are_not_answered_in_time() -> None:
    cloud = Busy(limit=4)
    async with HybridDetectionService(
        mode="cloud", backends=[cloud], policy=FixedPolicy(backend="cloud")
    ) as service:
        run = service.process_images([image()] * 200, deadline_s=1.0, max_in_flight=64)
        results = [each async for each in run]
    late = sum(not result.answered for result in results)
    assert cloud.most <= 16, "not the 64 that are allowed"
    assert late < 60


@pytest.mark.virtual_time
async def test_an_outage_costs_the_images_under_way_and_not_all_that_follow() -> None:
    cloud = FakeBackend(BackendKind.CLOUD, latency_s=0.1)
    results = []
    async with HybridDetectionService(
        mode="cloud", backends=[cloud], policy=FixedPolicy(backend="cloud")
    ) as service:
        run = service.process_images([image()] * 100, deadline_s=5.0, max_in_flight=4)
        async for result in run:
            results.append(result)
            if len(results) == 10:
                cloud.error = BackendUnavailableError("down", retryable=True)
                asyncio.get_running_loop().call_later(3.0, setattr, cloud, "error", None)
    failed = sum(not result.answered for result in results)
    assert 0 < failed <= 8
    assert len(results) == 100


def test_the_window_grows_with_answers_and_halves_with_a_miss() -> None:
    window = Window(4)
    answered = DetectionResult(status=DetectionStatus.OK, width=1, height=1)
    missed = DetectionResult(
        status=DetectionStatus.FAILED, width=1, height=1, error=AllBackendsFailedError("late")
    )
    invalid = DetectionResult(
        status=DetectionStatus.FAILED, width=0, height=0, error=InvalidFrameError("no image")
    )
    sizes = []
    misses = (missed, missed, missed)
    for result in (*[answered] * 3, invalid, *misses, *[answered] * 4):
        window.note(result)
        sizes.append(window.size)
    assert sizes == [3, 4, 4, 4, 2, 1, 1, 2, 2, 2, 3]
    assert Window(1).size == 1


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "2"])
async def test_a_limit_that_cannot_be_is_refused(limit: Any) -> None:
    async with HybridDetectionService(backends=[FakeBackend()]) as service:
        with pytest.raises(ConfigurationError, match="max_in_flight"):
            service.process_images([], max_in_flight=limit)
        with pytest.raises(ConfigurationError, match="deadline_s"):
            service.process_images([], deadline_s=float("inf"))
        with pytest.raises(ConfigurationError, match="privacy"):
            service.process_images([], privacy="secret")


async def test_images_that_may_not_leave_stay_on_the_device() -> None:
    cloud, device = FakeBackend(BackendKind.CLOUD), FakeBackend(BackendKind.DEVICE)
    async with HybridDetectionService(backends=[cloud, device]) as service:
        run = service.process_images(images(5), privacy="local_only")
        results = [each async for each in run]
    assert {result.backend for result in results} == {BackendKind.DEVICE}
    assert cloud.plans == []


def test_the_blocking_service_has_it_too() -> None:
    device = FakeBackend(BackendKind.DEVICE)
    device.error = None
    with hybrid_detect.sync.HybridDetectionService(backends=[device]) as service:
        results = service.process_images(images(4))
        assert next(results).width == 64
        assert [result.width for result in results] == [72, 80, 88]
        device.error = BackendUnavailableError("down")
        statuses = [result.status.value for result in service.process_images(images(2))]
        assert statuses == ["failed", "failed"]
    with pytest.raises(ClosedError):
        service.process_images(images(1))
