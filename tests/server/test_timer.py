"""A limit of time that is started, changed and stopped: what is called, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from hybrid_detect.server.connections import Outflow, Timer

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class Calls:
    def __init__(self) -> None:
        self._began_s = asyncio.get_running_loop().time()
        self.seen: list[tuple[str, float]] = []

    def note(self, name: str) -> None:
        after_s = asyncio.get_running_loop().time() - self._began_s
        self.seen.append((name, round(after_s, 3)))


async def test_the_limit_that_was_started_last_counts() -> None:
    calls, timer = Calls(), Timer()
    timer.start(5.0, lambda: calls.note("later"))
    timer.start(20.0, lambda: calls.note("much later"))
    await asyncio.sleep(10.0)
    timer.start(2.0, lambda: calls.note("sooner"))
    assert timer.is_running
    await asyncio.sleep(60.0)
    assert calls.seen == [("sooner", 12.0)]
    assert not timer.is_running


async def test_a_limit_that_is_put_off_ends_when_it_should() -> None:
    calls, timer = Calls(), Timer()
    for _ in range(7):
        timer.start(5.0, lambda: calls.note("idle"))
        await asyncio.sleep(3.0)
    await asyncio.sleep(60.0)
    assert calls.seen == [("idle", 6 * 3.0 + 5.0)]


@pytest.mark.parametrize("stop", [Timer.stop, Timer.end])
async def test_what_is_stopped_is_not_called_and_may_be_started_again(stop: object) -> None:
    assert callable(stop)
    calls, timer = Calls(), Timer()
    timer.start(5.0, lambda: calls.note("stopped"))
    stop(timer)
    assert not timer.is_running
    await asyncio.sleep(6.0)
    timer.start(5.0, lambda: calls.note("again"))
    await asyncio.sleep(6.0)
    assert calls.seen == [("again", 11.0)]


async def test_what_is_called_may_start_the_next_limit() -> None:
    calls, timer = Calls(), Timer()

    def beat() -> None:
        calls.note("beat")
        if len(calls.seen) < 3:
            timer.start(20.0, beat)

    timer.start(20.0, beat)
    await asyncio.sleep(100.0)
    assert calls.seen == [("beat", 20.0), ("beat", 40.0), ("beat", 60.0)]


async def test_a_loop_that_wakes_a_little_early_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It counts in milliseconds: asked for what is left of one, it would come back at once."""
    asked: list[Callable[[], None]] = []

    def call_at(_: float, act: Callable[[], None]) -> None:
        asked.append(act)

    calls, timer = Calls(), Timer()
    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "call_at", call_at)
        timer.start(5.0, lambda: calls.note("idle"))
        asked[0]()
    assert [name for name, _ in calls.seen] == ["idle"]
    assert len(asked) == 1


async def test_a_peer_that_takes_most_of_the_last_bytes_has_no_more_time_for_the_rest() -> None:
    calls = Calls()
    outflow = Outflow(10.0, lambda: calls.note("aborted"))
    outflow.block()
    outflow.unblock()
    await asyncio.sleep(20.0)
    assert not calls.seen
    outflow.block()
    outflow.limit()
    await asyncio.sleep(5.0)
    outflow.unblock()
    await asyncio.sleep(60.0)
    assert calls.seen == [("aborted", 30.0)]
