"""Strangers without a credential: what they are given, and what they cost in memory and log lines.

The long version, with the latencies of others beside it, is `benchmarks/bench_strangers.py`.
"""

import asyncio
import contextlib
import gc
import importlib.util
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from hybrid_detect.server import gate, http_connection, shared_state
from hybrid_detect.server.config import ServerConfig

from ..waiting import LIMIT_S
from .loopback import jpeg, served
from .test_connections import limits

pytestmark = pytest.mark.anyio

MAX_GROWTH_BYTES = 64 * 2**20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def load_strangers() -> dict[str, Callable[..., object]]:
    path = Path(__file__).parents[2] / "benchmarks" / "bench_strangers.py"
    spec = importlib.util.spec_from_file_location("bench_strangers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: act for name, act in module.STRANGERS.items() if act is not None}


STRANGERS = load_strangers()


async def strangers_for(names: list[str], seconds: float, caplog: pytest.LogCaptureFixture) -> None:
    """Let strangers of these kinds be at a server; check its memory, its log, and its work."""
    caplog.set_level(logging.INFO)
    config = ServerConfig(auth_token="the-token-of-the-others")
    good = (
        b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer the-token-of-the-others\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(jpeg()), jpeg())
    )
    async with served(config) as server:
        assert b" 200 OK" in await server.raw(good)
        gc.collect()
        process = psutil.Process(os.getpid())
        before, began_s = process.memory_full_info().uss, time.monotonic()

        async def stranger(act: Callable[..., object]) -> None:
            while True:
                writer: asyncio.StreamWriter | None = None
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                    await act(reader, writer)  # type: ignore[misc]
                except (OSError, asyncio.IncompleteReadError):
                    await asyncio.sleep(0.001)
                finally:
                    if writer is not None:
                        writer.transport.abort()

        acts = [STRANGERS[names[n % len(names)]] for n in range(max(20, 5 * len(names)))]
        tasks = [asyncio.create_task(stranger(act)) for act in acts]
        grown = 0
        while time.monotonic() - began_s < seconds:
            await asyncio.sleep(min(seconds / 5, 1.0))
            grown = max(grown, process.memory_full_info().uss - before)
            assert b" 200 OK" in await server.raw(good)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        lines = [r for r in caplog.records if r.name.startswith(("hybrid", "asyncio"))]
        assert grown <= MAX_GROWTH_BYTES
        assert len(lines) <= max(2, time.monotonic() - began_s)
        assert not [r for r in lines if r.levelno >= logging.ERROR]


@pytest.mark.parametrize("name", STRANGERS)
async def test_strangers_cost_little(name: str, caplog: pytest.LogCaptureFixture) -> None:
    await strangers_for([name], 0.5, caplog)


@pytest.mark.hostile
@pytest.mark.timeout(500)
async def test_strangers_of_all_kinds_cost_little_for_five_minutes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await strangers_for(list(STRANGERS), 300.0, caplog)


# -- what keeps them slow --------------------------------------------------------------------


async def test_a_client_that_goes_on_asking_for_what_is_refused_is_read_more_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its requests stay with it; the first ones are answered at once."""
    monkeypatch.setattr(http_connection, "REFUSAL_PAUSE_S", 3600.0)
    monkeypatch.setattr(http_connection, "MAX_REFUSAL_PAUSE_S", 3600.0)
    asked = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
    async with served(limits=limits(keep_alive_s=0.2)) as server:
        answer = await server.raw(asked * 100)
    assert answer.count(b"HTTP/1.1 404 ") == http_connection.REFUSALS_AT_ONCE + 1


async def test_a_good_request_ends_the_waiting() -> None:
    bad = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
    good = b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n"
    async with served(limits=limits(keep_alive_s=0.1)) as server:
        answer = await server.raw((bad * http_connection.REFUSALS_AT_ONCE + good) * 20)
    assert answer.count(b"HTTP/1.1 ") == 80


async def test_wrong_credentials_are_held_back_the_longer_the_more_come_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noting(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(shared_state, "FAILURES_AT_ONCE", 1)
    config = ServerConfig(auth_token="the-token-of-the-others")
    asked = b"GET /v1/keys HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with served(config) as server, asyncio.timeout(LIMIT_S):
        monkeypatch.setattr(gate.asyncio, "sleep", noting)
        with contextlib.suppress(AssertionError):
            await asyncio.gather(*(server.raw(asked) for _ in range(10)))
        monkeypatch.setattr(gate.asyncio, "sleep", sleep)
    assert waits
    assert all(0 < seconds <= 1.5 * 10 * gate.FAILURE_PAUSE_S for seconds in waits)
