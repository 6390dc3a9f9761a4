"""The owners of what replicas share, without a cluster: what they say, and what is done without
them.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid_detect.errors import ReplayError, StaleRequestError, StorageError
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.live import LiveSessions
from hybrid_detect.server.shared_state import Limit, StateUnavailableError

from ...clock import FakeClock

ray = pytest.importorskip("ray", reason="Ray is not installed: nox -s cluster")

from hybrid_detect.server.cluster import owners  # noqa: E402
from hybrid_detect.server.cluster.live_relay import LiveRelay  # noqa: E402
from hybrid_detect.server.cluster.owners import (  # noqa: E402
    LEASE_S,
    HistoryOwner,
    OwnedState,
    StateOwner,
)
from hybrid_detect.server.cluster.replica_place import ReplicaPlace  # noqa: E402

pytestmark = pytest.mark.anyio

CONFIG = ServerConfig(rate_per_s=0.01, burst=2)


class Called:
    """An actor's handle to an object of this process."""

    def __init__(self, owner: object, *, fails: bool = False, begins: bool = False) -> None:
        self._owner = owner
        self.fails = fails
        self.begins = begins  # at once, as an actor does, and not when it is waited for

    def __getattr__(self, name: str) -> Any:
        handle = self

        class Method:
            @staticmethod
            def remote(*arguments: object) -> Any:
                async def call() -> object:
                    if handle.fails:
                        raise ray.exceptions.RayActorError
                    return await getattr(handle._owner, name)(*arguments)

                return asyncio.ensure_future(call()) if handle.begins else call()

        return Method


async def test_two_replicas_have_one_memory_and_one_rate() -> None:
    owner = Called(StateOwner(CONFIG, "secret"))
    one, two = (OwnedState(CONFIG, owner, None) for _ in range(2))
    with pytest.raises(StaleRequestError):
        await one.admit(b"old", sealed_at_ms=0)
    fresh_ms = int(time.time() * 1000) + 1000
    await one.admit(b"nonce", sealed_at_ms=fresh_ms)
    for replica in (two, one):
        with pytest.raises(ReplayError):
            await replica.admit(b"nonce", sealed_at_ms=fresh_ms)
    waits = [await each.take(Limit.PICTURES, "key 1") for each in (one, two, one, two)]
    assert [wait > 0 for wait in waits] == [False, False, True, True]


async def test_without_the_owner_rates_go_on_alone_and_nothing_sealed_is_opened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    owner = Called(StateOwner(CONFIG, "secret"), fails=True)
    state = OwnedState(CONFIG, owner, None)
    waits = [await state.take(Limit.PICTURES, "key 1") for _ in range(4)]
    assert [wait > 0 for wait in waits] == [False, False, True, True]
    for _ in range(2):
        with pytest.raises(StateUnavailableError):
            await state.admit(b"nonce", sealed_at_ms=0)
    assert caplog.text.count("cannot be asked") == 1  # once, not for each picture
    owner.fails = False
    assert await state.take(Limit.PICTURES, "key 1") == 0.0  # the owner's bucket is full
    owner.fails = True
    await state.take(Limit.PICTURES, "key 1")
    assert caplog.text.count("cannot be asked") == 2


async def test_an_owner_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "ANSWER_LIMIT_S", 0.01)

    class Hangs:
        async def lease(self, *_: object) -> float:
            await asyncio.Event().wait()
            raise AssertionError

        admit = lease

    state = OwnedState(CONFIG, Called(Hangs()), None)
    assert await state.take(Limit.PICTURES, "key 1") == 0.0
    with pytest.raises(StateUnavailableError):
        await state.admit(b"nonce", sealed_at_ms=0)


async def test_no_rate_asks_nobody() -> None:
    state = OwnedState(ServerConfig(rate_per_s=0), Called(None, fails=True), None)
    assert await state.take(Limit.PICTURES, "key 1") == 0.0
    assert await state.take(Limit.PROBES, "peer 192.0.2.1") == 0.0
    assert state.open_history() is None


async def test_a_replica_that_says_nothing_is_left_out() -> None:
    clock = FakeClock(100.0)
    owner = StateOwner(CONFIG, "secret", clock=clock)
    places = [ReplicaPlace(name=name, host="127.0.0.1", port=1) for name in ("a", "b")]
    for place in places:
        await owner.renew(place)
    clock.now_s += LEASE_S / 2
    await owner.renew(places[1])
    # It may be young because another died: those that it has not heard of are not gone.
    assert await owner.replicas() == (places, False)
    clock.now_s += LEASE_S / 2 + 0.1
    assert await owner.replicas() == ([places[1]], True)
    await owner.leave("b")
    await owner.leave("b")
    assert await owner.replicas() == ([], True)
    assert await owner.secret() == "secret"


async def test_results_are_handed_to_the_replicas_where_they_are_watched() -> None:
    owner = StateOwner(CONFIG, "secret")
    a, b, c = (ReplicaPlace(name=name, host="127.0.0.1", port=1) for name in "abc")
    await owner.renew(b, [("token", "ann")])
    await owner.renew(c, [("token", "bob")])
    assert await owner.renew(a, []) == [("token", "ann"), ("token", "bob")]
    assert await owner.renew(b, [("token", "ann")]) == [("token", "bob")]
    asked = asyncio.create_task(owner.shown("b"))
    await asyncio.sleep(0)
    await owner.show("a", "token", "ann", b"result")
    await owner.show("a", "key 1", "ann", b"of another owner")
    assert await asked == [("token", "ann", b"result")]
    await owner.leave("b")
    assert await owner.renew(a, []) == [("token", "bob")]


async def test_nothing_is_kept_of_a_replica_that_leaves_while_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owners, "SHOWN_WAIT_S", 0.01)
    owner = StateOwner(CONFIG, "secret")
    await owner.renew(ReplicaPlace(name="a", host="127.0.0.1", port=1))
    asked = asyncio.create_task(owner.shown("a"))
    await asyncio.sleep(0)
    await owner.leave("a")
    assert await asked == []
    assert not any((owner._replicas, owner._watched, owner._shown, owner._news))


async def test_a_relay_hands_on_what_is_wanted_and_shows_what_comes() -> None:
    owner = StateOwner(CONFIG, "secret")
    reply = ResultReply(request_id=7, width=1, height=1, faces=(), model="fake")
    sides = {}
    for name in "ab":
        live = LiveSessions(max_watchers=4, max_per_session=4)
        sides[name] = live, LiveRelay(live, Called(owner, begins=True), name)
    (live_a, relay_a), (live_b, relay_b) = sides["a"], sides["b"]
    watcher = live_b.watch("token", "ann")
    place = ReplicaPlace(name="b", host="127.0.0.1", port=1)
    await owner.renew(place, relay_b.watched())
    running = asyncio.create_task(relay_b.run())
    live_a.publish("token", "ann", reply)  # not wanted yet
    relay_a.want(await owner.renew(replace(place, name="a"), relay_a.watched()))
    live_a.publish("token", "bob", reply)
    live_a.publish("token", "ann", reply)
    shown = await watcher.next()
    assert shown is not None
    assert (shown.request_id, shown.number) == (7, 1)
    running.cancel()


def test_the_history_is_opened_where_one_is_kept(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="keeps no history"):
        HistoryOwner(CONFIG).erase("s", "token", "token")
    owner = HistoryOwner(ServerConfig(history_path=tmp_path / "history.db"))
    owner.add({"faces": []}, "s", None, "token")
    assert len(list(owner.results("s", "token", False))) == 1
    assert b"".join(owner.export_pieces("s", "token", "token"))[:2] == b"PK"
    assert owner.erase("s", "token", "token").results == 1
    owner.close()
