"""An event tells every request that left the device, at its price, and none that did not leave."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.charges import SentRequest
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import (
    AllBackendsFailedError,
    BackendResponseError,
    BackendTimeoutError,
    BackendUnavailableError,
)
from hybrid_detect.monitoring.events import FrameEvent
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.server.config import ServerConfig as ServerSettings
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, Plan

from ..server.loopback import OneFace, served
from ..waiting import until

pytestmark = pytest.mark.anyio

IMAGE = np.random.default_rng(5).integers(0, 255, (96, 128, 3), np.uint8)
CLOUD, DEVICE = BackendKind.CLOUD, BackendKind.DEVICE


class Fixed:
    """Gives every frame the same plan, its deadline aside."""

    def __init__(self, **plan: Any) -> None:
        self._plan = plan

    def decide(self, conditions: Conditions) -> Plan:
        return Plan(reason="test", deadline_s=conditions.deadline_s, **self._plan)


class Events(list[FrameEvent]):
    def on_frame(self, event: FrameEvent) -> None:
        self.append(event)


def target(url: str = "http://127.0.0.1:9", **options: Any) -> Target:
    return Target(url=url, **({"price_per_frame": "0.0015", "region": "eu"} | options))


class Scripted(CloudDetectionService):
    """A cloud whose exchange does as `script` says."""

    def __init__(self, script: Callable[[Any], Any], **options: Any) -> None:
        super().__init__(targets=(target(),), **options)
        self.script = script

    async def check(self, *, deadline_s: float) -> None:
        pass

    async def exchange(self, request: Any, *, deadline_s: float, upload: Any = None) -> Any:
        return await self.script(upload)


async def events_of(backends: list[Any], plan: Fixed, frames: int = 1, **options: Any) -> Events:
    events = Events()
    async with HybridDetectionService(
        config=ServiceConfig(deadline_s=10.0),
        backends=backends,
        policy=plan,
        hooks=[events],
        **options,
    ) as service:
        await service.wait_ready()
        for _ in range(frames):
            try:
                await service.process_image(IMAGE)
            except AllBackendsFailedError:
                continue
    return events


async def test_an_answered_request_is_told_at_its_price() -> None:
    async with served(ServerSettings(), detector=OneFace()) as server:
        where = target(f"http://127.0.0.1:{server.port}", name="mine", currency="EUR")
        cloud = CloudDetectionService(targets=(where,))
        (event,) = await events_of([cloud, FakeBackend("device")], Fixed(backend=CLOUD))
    (request,) = event.requests
    assert request.bytes_sent == event.bytes_sent > 500
    assert request == SentRequest(
        at_s=request.at_s,
        backend="cloud",
        target="mine",
        provider="custom_backend",
        region="eu",
        images=1,
        bytes_sent=event.bytes_sent,
        price_nanos=1_500_000,
        currency="EUR",
        answered=True,
    )
    assert abs(request.at_s - event.at_s) < 60
    assert event.to_dict()["requests"][0]["price"] == "0.001500000"


async def test_retries_are_told_each() -> None:
    async def breaks(upload: Any) -> Any:
        upload.handed_over()
        raise BackendUnavailableError("the connection broke", retryable=True)

    plan = Fixed(backend=CLOUD, fallbacks=(DEVICE,), retries=2, reserve_s=0.5)
    (event,) = await events_of([Scripted(breaks), FakeBackend("device")], plan)
    assert event.backend is DEVICE
    assert [request.answered for request in event.requests] == [False] * 3
    assert sum(request.price_nanos for request in event.requests) == 4_500_000


async def test_a_loser_of_a_race_and_a_timeout_are_told() -> None:
    async def hangs(upload: Any) -> Any:
        upload.handed_over()
        await asyncio.sleep(60)

    for plan in (
        Fixed(backend=CLOUD, hedge=DEVICE, hedge_after_s=0.2),
        Fixed(backend=CLOUD, fallbacks=(DEVICE,), reserve_s=9.7, retries=0),
    ):
        (event,) = await events_of([Scripted(hangs), FakeBackend("device")], plan)
        assert event.backend is DEVICE
        assert [request.answered for request in event.requests] == [False]


async def test_a_probe_that_leaves_after_the_answer_is_told() -> None:
    device = FakeBackend("device")
    left = asyncio.Event()

    async def leaves_late(upload: Any) -> Any:
        await until(lambda: bool(device.plans))
        await asyncio.sleep(0)
        upload.handed_over()
        left.set()
        raise BackendUnavailableError("the connection broke")

    events = Events()
    async with HybridDetectionService(
        config=ServiceConfig(deadline_s=10.0),
        backends=[Scripted(leaves_late), device],
        policy=Fixed(backend=CLOUD, hedge=DEVICE, probe=True),
        hooks=[events],
    ) as service:
        result = await service.process_image(IMAGE)
        assert (result.backend, result.bytes_sent) == (DEVICE, 0)
        await left.wait()
        await until(lambda: bool(events))
    (event,) = events
    assert event.result == result
    assert len(event.requests) == 1
    assert event.bytes_sent == event.requests[0].bytes_sent > 0


async def test_a_probe_under_way_is_told_when_the_service_closes() -> None:
    async def hangs(upload: Any) -> Any:
        upload.handed_over()
        await asyncio.sleep(60)

    plan = Fixed(backend=CLOUD, hedge=DEVICE, hedge_after_s=0.2, probe=True)
    (event,) = await events_of([Scripted(hangs), FakeBackend("device")], plan)
    assert (event.backend, len(event.requests)) == (DEVICE, 1)


async def test_a_channel_that_does_not_tell_is_taken_at_its_response() -> None:
    """A response that cannot be read has left, too."""
    from hybrid_detect.backends.remote.protocol import HttpResponse

    async def answers(upload: Any) -> Any:
        return HttpResponse(status=200, body=b"rubbish")

    plan = Fixed(backend=CLOUD, fallbacks=(DEVICE,), retries=0)
    (event,) = await events_of([Scripted(answers), FakeBackend("device")], plan)
    assert [request.answered for request in event.requests] == [False]


async def test_what_never_left_is_not_told() -> None:
    async def no_connection(upload: Any) -> Any:
        raise BackendUnavailableError("the server could not be reached", retryable=True)

    plan = Fixed(backend=CLOUD, fallbacks=(DEVICE,), retries=1, reserve_s=1.0)
    events = await events_of([Scripted(no_connection), FakeBackend("device")], plan, frames=3)
    assert [event.requests for event in events] == [()] * 3
    assert all(event.attempts for event in events)

    refused = PrivacyPolicy(sources={"another"})
    (event,) = await events_of(
        [Scripted(no_connection), FakeBackend("device")], plan, privacy=refused
    )
    assert event.requests == ()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, 1),
        (BackendTimeoutError("late"), 1),
        (BackendResponseError("busy", status_code=503), 1),
        (BackendUnavailableError("no link"), 0),
    ],
)
async def test_a_backend_of_one_s_own_without_a_gate_is_told_by_its_outcome(
    error: Any, told: int
) -> None:
    cloud = FakeBackend("cloud")
    events = Events()
    async with HybridDetectionService(
        backends=[cloud, FakeBackend("device")],
        policy=Fixed(backend=CLOUD, fallbacks=(DEVICE,)),
        hooks=[events],
    ) as service:
        await service.wait_ready()
        cloud.error = error
        await service.process_image(IMAGE)
    (event,) = events
    assert len(event.requests) == told
    assert all(request.backend == "cloud" for request in event.requests)


async def test_a_backend_of_one_s_own_that_is_given_up_may_have_sent_its_frame() -> None:
    cloud = FakeBackend("cloud")
    events = Events()
    async with HybridDetectionService(
        backends=[cloud], policy=Fixed(backend=CLOUD), hooks=[events]
    ) as service:
        await service.wait_ready()
        cloud.latency_s = 3600.0
        look = asyncio.ensure_future(service.process_image(IMAGE))
        await until(lambda: cloud.plans)
        look.cancel()
        with pytest.raises(asyncio.CancelledError):
            await look
    (event,) = events
    assert [request.backend for request in event.requests] == ["cloud"]


async def test_the_device_sends_nothing() -> None:
    (event,) = await events_of([FakeBackend("device")], Fixed(backend=DEVICE))
    assert event.requests == ()
