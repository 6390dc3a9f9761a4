"""Networks that are slow, or ask to wait, on a clock that jumps over every wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hybrid_detect.backends.base import UploadGate
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.errors import BackendError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.service.managed_backend import ManagedBackend
from hybrid_detect.testing import FaultyLink
from hybrid_detect.types import Plan

from ...server.loopback import jpeg, served
from .hostile_network import Gateway, Names, page, raw_server

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

NAME = "faces.test"
TRANSPORTS: dict[str, type[RemoteBackend]] = {
    "cloud": CloudDetectionService,
    "streaming": StreamingService,
}


@asynccontextmanager
async def managed(transport: str, url: str) -> AsyncIterator[ManagedBackend]:
    """A backend with its breaker and its checks, as a service has it."""
    backend = TRANSPORTS[transport](endpoint=url, allow_insecure_http=True)  # type: ignore[call-arg]
    watched = ManagedBackend(backend, clock=time.monotonic)
    await watched.start()
    try:
        yield watched
    finally:
        await watched.aclose()


async def answers(
    watched: ManagedBackend, *, seconds: float, interval_s: float, deadline_s: float
) -> list[bool | None]:
    """What became of a frame each `interval_s`; `None` for those it was not given."""
    plan = Plan(backend=watched.kind, reason="test", deadline_s=deadline_s, retries=0)
    seen: list[bool | None] = []
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        begun_s = time.monotonic()
        if not watched.conditions().usable:
            seen.append(None)
        else:
            try:
                gate = UploadGate(watched.kind, lambda _: "")
                await watched.detect(Frame.of(jpeg()), plan, gate)
                seen.append(True)
            except BackendError:
                seen.append(False)
        await asyncio.sleep(max(begun_s + interval_s - time.monotonic(), 0.0))
    return seen


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_round_trip_of_a_second_and_a_half_is_slow_and_lives(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(monkeypatch)
    names.set(NAME, "10.1.2.3")
    names.route("10.1.2.3", delay_s=1.6)
    async with (
        served(ServerConfig()) as running,
        FaultyLink(f"http://127.0.0.1:{running.port}") as link,
    ):
        link.delay_s = 0.8
        async with managed(transport, link.url.replace("127.0.0.1", NAME)) as watched:
            seen = await answers(watched, seconds=90.0, interval_s=2.0, deadline_s=8.0)
    assert seen[-10:] == [True] * 10
    assert seen.count(True) > 30
    assert seen.count(False) <= 1


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("asked", "pause_s"), [("12", 12.0), ("3600", 30.0)])
async def test_no_request_and_no_handshake_comes_before_the_time_that_was_asked_for(
    transport: str, asked: str, pause_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(monkeypatch).set(NAME, "127.0.0.1")
    gateway = Gateway(answer=page(503, b"", f"Retry-After: {asked}"))
    async with (
        raw_server(gateway) as port,
        managed(transport, f"http://{NAME}:{port}") as watched,
    ):
        await answers(watched, seconds=pause_s - 1, interval_s=0.1, deadline_s=1.0)
        assert gateway.requests == 1
        await answers(watched, seconds=4.0, interval_s=0.1, deadline_s=1.0)
        assert gateway.requests == 2


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_gateway_s_trouble_of_a_second_costs_seconds(
    transport: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(monkeypatch).set(NAME, "127.0.0.1")
    async with served(ServerConfig()) as running:
        gateway = Gateway(running.port)
        async with (
            raw_server(gateway) as port,
            managed(transport, f"http://{NAME}:{port}") as watched,
        ):
            await answers(watched, seconds=2.0, interval_s=0.1, deadline_s=1.0)
            gateway.fail(page(status))
            await answers(watched, seconds=1.5, interval_s=0.1, deadline_s=1.0)
            gateway.answer = None
            seen = await answers(watched, seconds=6.0, interval_s=0.1, deadline_s=1.0)
    first = seen.index(True)
    assert first <= 30, "back within 3 s"
    assert all(seen[first:])
