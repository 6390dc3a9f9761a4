"""A result tells every attempt that handed over bytes, whoever answered in the end."""

import asyncio
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import AllBackendsFailedError, BackendUnavailableError
from hybrid_detect.monitoring.events import FrameEvent
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, Plan

from ..waiting import until
from .stalling_server import stalling_server

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

IMAGE = np.random.default_rng(5).integers(0, 255, (480, 640, 3), np.uint8)
CLOUD, STREAMING, DEVICE = BackendKind.CLOUD, BackendKind.STREAMING, BackendKind.DEVICE


@pytest.fixture(autouse=True)
def no_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers nothing, so that a check would take its whole time."""

    async def check(self: Any, *, deadline_s: float) -> None:
        await self.start()

    monkeypatch.setattr(CloudDetectionService, "check", check)
    monkeypatch.setattr(StreamingService, "check", check)


class Fixed:
    """Gives every frame the same plan, its deadline aside."""

    def __init__(self, **plan: Any) -> None:
        self._plan = plan

    def decide(self, conditions: Conditions) -> Plan:
        return Plan(reason="test", deadline_s=conditions.deadline_s, **self._plan)


class Events(list[FrameEvent]):
    def on_frame(self, event: FrameEvent) -> None:
        self.append(event)


def remote(kind: BackendKind, url: str) -> CloudDetectionService | StreamingService:
    if kind is CLOUD:
        return CloudDetectionService(endpoint=url, auth_token="t")
    return StreamingService(endpoint=url, auth_token="t")


def service_for(kind: BackendKind, url: str, device: FakeBackend, **plan: Any) -> Any:
    events = Events()
    service = HybridDetectionService(
        config=ServiceConfig(deadline_s=2.0),
        backends=[remote(kind, url), device],
        policy=Fixed(**plan),
        hooks=[events],
    )
    return service, events


PLANS = {
    "fallback": {"fallbacks": (DEVICE,), "reserve_s": 1.4},
    "loser of a race": {"hedge": DEVICE, "hedge_after_s": 0.4},
    "probe": {"hedge": DEVICE, "hedge_after_s": 0.4, "probe": True},
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", [CLOUD, STREAMING])
async def test_a_picture_that_was_uploaded_in_vain_is_told(kind: BackendKind, plan: str) -> None:
    async with stalling_server(kind.value) as url:
        service, events = service_for(kind, url, FakeBackend("device"), backend=kind, **PLANS[plan])
        async with service:
            await until(lambda: not service.status().backends[0].unavailable_reason)
            result = await service.process_image(IMAGE)
    assert result.backend is DEVICE
    (attempt,) = result.attempts
    assert attempt.backend == kind.value
    assert attempt.bytes_sent > 10_000
    assert result.bytes_sent == attempt.bytes_sent
    assert result.status == ("degraded" if plan == "fallback" else "ok")
    (event,) = events
    assert (event.bytes_sent, event.attempts) == (result.bytes_sent, result.attempts)


@pytest.mark.parametrize("kind", [CLOUD, STREAMING])
async def test_a_frame_that_failed_or_was_cancelled_tells_its_bytes(kind: BackendKind) -> None:
    device = FakeBackend("device")
    device.error = BackendUnavailableError("down")
    async with stalling_server(kind.value) as url:
        service, events = service_for(
            kind, url, device, backend=kind, fallbacks=(DEVICE,), reserve_s=0.2
        )
        async with service:
            await until(lambda: not service.status().backends[0].unavailable_reason)
            with pytest.raises(AllBackendsFailedError):
                await service.process_image(IMAGE, deadline_s=1.0)
            await until(lambda: not service.status().backends[0].unavailable_reason)
            asked = asyncio.create_task(service.process_image(IMAGE, deadline_s=20.0))
            before = service.status().traffic.sent_bytes
            await until(lambda: service.status().traffic.sent_bytes > before)
            asked.cancel()
            await asyncio.wait([asked])
    assert [event.outcome for event in events] == ["failed", "cancelled"]
    for event in events:
        assert event.bytes_sent > 10_000
        assert event.attempts[0].bytes_sent == event.bytes_sent


async def test_retries_are_counted_each() -> None:
    class Flaky(CloudDetectionService):
        sizes: list[int] = []  # noqa: RUF012 - one test

        async def exchange(self, request: Any, *, deadline_s: float, upload: Any = None) -> Any:
            self.sizes.append(len(request.body))
            upload.handed_over()
            raise BackendUnavailableError("the connection broke", retryable=True)

    cloud = Flaky(endpoint="http://127.0.0.1:9", auth_token="t")
    service = HybridDetectionService(
        backends=[cloud, FakeBackend("device")],
        policy=Fixed(backend=CLOUD, fallbacks=(DEVICE,), retries=2, reserve_s=0.5),
        config=ServiceConfig(deadline_s=5.0),
    )
    async with service:
        result = await service.process_image(IMAGE)
    assert len(cloud.sizes) == 3
    assert result.backend is DEVICE
    (attempt,) = result.attempts
    assert attempt.bytes_sent == result.bytes_sent == sum(cloud.sizes)


async def test_what_stayed_on_the_device_sent_nothing() -> None:
    async with HybridDetectionService(backends=[FakeBackend("device")]) as service:
        result = await service.process_image(IMAGE)
    assert (result.bytes_sent, result.attempts) == (0, ())
