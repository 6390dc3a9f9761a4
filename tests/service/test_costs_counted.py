"""What is told to be spent is what servers on this machine counted, request by request."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.providers.face_mapping import FaceMapping
from hybrid_detect.backends.remote.providers.json_endpoint import JsonEndpoint
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import AllBackendsFailedError
from hybrid_detect.monitoring.costs import CostMeter, summarise
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.service import accounts
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.storage.cost_store import CostStore
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, Plan

from ..waiting import until

pytestmark = pytest.mark.anyio

IMAGE = np.random.default_rng(7).integers(0, 255, (32, 48, 3), np.uint8)
CLOUD, DEVICE = BackendKind.CLOUD, BackendKind.DEVICE
PRICES = {"a": "0.0015", "b": "0.0007", "free": "0"}

AT_ONCE = 16
"""Frames under way at the same time."""

ANSWER = b'{"faces": []}'


class ScriptedServer:
    """Counts the requests it has received whole, and answers some, fails some, ignores some."""

    def __init__(self, seed: int) -> None:
        self.received = 0
        self.bytes = 0
        self.url = ""
        self._random = random.Random(seed)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = next(
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                await reader.readexactly(size)
                self.received += 1
                self.bytes += size
                chance = self._random.random()
                if chance < 0.02:
                    return  # hangs up
                if chance < 0.03:
                    await reader.read()  # never answers
                    return
                status, body = (b"200 OK", ANSWER)
                if chance < 0.07:
                    status, body = (b"503 Busy", b"{}")
                elif chance < 0.08:
                    body = b"rubbish"
                writer.write(
                    b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                    % (status, len(body), body)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def scripted(seed: int) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer(seed)
    listening = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening:
        yield scripted


class Turns:
    """In turns: falls back, hedges early, and probes."""

    def __init__(self) -> None:
        self._frames = 0

    def decide(self, conditions: Conditions) -> Plan:
        self._frames += 1
        plan: dict[str, Any] = {"deadline_s": conditions.deadline_s, "reason": "test"}
        if self._frames % 5 == 0:
            plan |= {"hedge": DEVICE, "hedge_after_s": 0.002}
        elif self._frames % 7 == 0:
            plan |= {"hedge": DEVICE, "probe": True}
        else:
            plan |= {"fallbacks": (DEVICE,), "reserve_s": 0.1, "retries": 2}
        return Plan(backend=CLOUD, **plan)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("attempts", [800, pytest.param(10_000, marks=pytest.mark.hostile)])
async def test_so_many_attempts_cost_what_the_servers_counted(
    attempts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "EXCHANGE_S", 0.05)
    meter = CostMeter()
    path = tmp_path / "costs.db"
    async with scripted(1) as a, scripted(2) as b, scripted(3) as free:
        servers = {"a": a, "b": b, "free": free}
        protocol = JsonEndpoint(faces=FaceMapping())
        targets = [
            Target(url=server.url, name=name, protocol=protocol, price_per_frame=PRICES[name])
            for name, server in servers.items()
        ]
        counts = {"frames": 0, "answered": 0}
        async with HybridDetectionService(
            config=ServiceConfig(deadline_s=0.5, costs_path=path, session_id="ann"),
            backends=[CloudDetectionService(targets=targets), FakeBackend("device")],
            policy=Turns(),
            hooks=[meter],
        ) as service:
            await service.wait_ready()

            async def look() -> None:
                while sum(server.received for server in servers.values()) < attempts:
                    counts["frames"] += 1
                    try:
                        await service.process_image(IMAGE)
                        counts["answered"] += 1
                    except AllBackendsFailedError:
                        continue

            await asyncio.gather(*(look() for _ in range(AT_ONCE)))
        # What was sent last, and given up, may still be read.
        by_target = {each.labels[0]: each for each in meter.summary("target") if each.requests}
        told = {name: each.requests for name, each in by_target.items()}
        await until(
            lambda: told == {n: server.received for n, server in servers.items() if server.received}
        )
    for name, each in by_target.items():
        assert each.bytes_sent == servers[name].bytes
        assert each.nanos["USD"] == servers[name].received * Decimal(PRICES[name]) * 10**9
    (everything,) = meter.summary()
    assert everything.requests >= attempts
    assert set(by_target) == set(PRICES)
    in_vain = everything.requests - everything.answered
    assert 0.05 < in_vain / everything.requests < 0.95
    assert everything.frames == counts["frames"]
    assert everything.costs["USD"] == sum(
        server.received * Decimal(PRICES[name]) for name, server in servers.items()
    )
    with CostStore(path) as store:
        (kept,) = summarise(store.rows())
    assert kept == everything
