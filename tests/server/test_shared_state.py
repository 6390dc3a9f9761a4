"""What several servers share: one of them knows what another has seen and counted."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from hybrid_detect.errors import ReplayError, StaleRequestError
from hybrid_detect.exchange.key_files import write_key_file
from hybrid_detect.exchange.key_ring import KeyRing
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.exchange.sealer import Sealer
from hybrid_detect.exchange.wire import DetectRequest, encode_request
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.sealing import Sealing, SealRefusedError
from hybrid_detect.server.shared_state import (
    Limit,
    LocalState,
    ResultHistory,
    SharedState,
    StateUnavailableError,
)
from hybrid_detect.storage.history import DetectionHistory

from ..clock import FakeClock
from .loopback import OneFace, jpeg

START_S = 1_800_000_000.0


class LostState(LocalState):
    """A state whose owner has died."""

    async def admit(self, nonce: bytes, *, sealed_at_ms: int) -> None:
        raise StateUnavailableError


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, PrivateKey]:
    private = PrivateKey.generate(
        Suite.X25519_CHACHA20, datetime.fromtimestamp(START_S, UTC) + timedelta(days=90)
    )
    write_key_file(tmp_path / "keys.json", KeyRing((private,)))
    return tmp_path / "keys.json", private


def message() -> bytes:
    return encode_request(DetectRequest(request_id=1, image=jpeg()))


def test_a_replay_is_refused_by_a_server_that_has_not_seen_the_request(
    keys: tuple[Path, PrivateKey],
) -> None:
    path, private = keys
    clock = FakeClock(START_S)
    state = LocalState(ServerConfig(), clock=clock)
    first, second, alone = (Sealing(path, clock=clock, state=each) for each in (state, state, None))
    sealed = Sealer(private.public, clock=clock).seal(message()).data

    async def replies() -> list[str]:
        told = []
        for server in (first, second, alone, first):
            try:
                assert (await server.receive(sealed)).message == message()
                told.append("opened")
            except SealRefusedError as refused:
                told.append(refused.reply.code)
        return told

    # The third has a memory of its own: what the first two share is what stops the copy.
    assert asyncio.run(replies()) == ["opened", "replayed", "opened", "replayed"]


def test_what_may_have_come_before_is_not_opened(keys: tuple[Path, PrivateKey]) -> None:
    path, private = keys
    clock = FakeClock(START_S)
    sealing = Sealing(path, clock=clock, state=LostState(ServerConfig(), clock=clock))
    with pytest.raises(SealRefusedError) as caught:
        asyncio.run(sealing.receive(Sealer(private.public, clock=clock).seal(message()).data))
    reply = caught.value.reply
    assert (reply.status, reply.code, reply.retry_after_s) == (503, "unavailable", 1.0)


@pytest.mark.anyio
async def test_a_caller_has_one_rate_at_all_servers() -> None:
    config = ServerConfig(rate_per_s=0.01, burst=3)
    state = LocalState(config)
    apps = [create_app(config, OneFace(), state=state) for _ in range(2)]
    statuses = []
    for number in range(6):
        transport = httpx.ASGITransport(apps[number % 2])
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post("/v1/detect", content=message())
            statuses.append(answer.status_code == 429)
    assert statuses == [False, False, False, True, True, True]


@pytest.mark.anyio
async def test_each_limit_is_counted_apart() -> None:
    state: SharedState = LocalState(ServerConfig(rate_per_s=0.01, burst=1))
    for limit in Limit:
        assert await state.take(limit, "peer 192.0.2.1") == 0.0
    assert await state.take(Limit.PICTURES, "peer 192.0.2.1") > 0
    assert await state.take(Limit.PROBES, "peer 192.0.2.1") > 0
    assert await state.take(Limit.FAILURES, "peer 192.0.2.1") == 0.0  # many are answered


@pytest.mark.anyio
async def test_a_nonce_is_admitted_once_and_in_its_time() -> None:
    clock = FakeClock(START_S)
    state: SharedState = LocalState(ServerConfig(), clock=clock, steady_clock=clock)
    await state.admit(b"nonce", sealed_at_ms=int(START_S * 1000))
    with pytest.raises(ReplayError):
        await state.admit(b"nonce", sealed_at_ms=int(START_S * 1000))
    with pytest.raises(StaleRequestError):
        await state.admit(b"older", sealed_at_ms=int(START_S * 1000) - 1)


def test_the_history_is_where_the_configuration_says(tmp_path: Path) -> None:
    assert LocalState(ServerConfig()).open_history() is None
    history: ResultHistory | None = LocalState(
        ServerConfig(history_path=tmp_path / "history.db")
    ).open_history()
    assert isinstance(history, DetectionHistory)
    history.add({"faces": []}, session="s", owner="token")
    assert [kept.number for kept in history.results("s", owner="token")] == [1]
    history.close()
