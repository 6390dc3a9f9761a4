"""Which frame goes next, under every order of taking, leaving and giving up."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.newest_wins import NewestWinsSlots
from hybrid_detect.errors import ClosedError, SupersededError
from hybrid_detect.types import BackendKind

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


def turns_of(places: int) -> NewestWinsSlots:
    return NewestWinsSlots(BackendKind.DEVICE, places=places)


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_newest_waits_and_the_one_before_is_superseded() -> None:
    turns = turns_of(1)
    await turns.take(1)
    second = asyncio.create_task(turns.take(2))
    await settle()
    third = asyncio.create_task(turns.take(3))
    with pytest.raises(SupersededError) as caught:
        await second
    assert caught.value.backend == "device"
    with pytest.raises(SupersededError):
        await turns.take(2)
    assert not third.done()
    turns.leave()
    await third


async def test_waiting_frame_that_was_refused_supersedes_no_other() -> None:
    turns = turns_of(1)
    await turns.take(1)
    waiting = asyncio.create_task(turns.take(9))
    await settle()
    turns.refuse_waiting(ClosedError("closed"))
    older = asyncio.create_task(turns.take(2))  # the refused one has not noticed yet
    with pytest.raises(ClosedError):
        await waiting
    turns.leave()
    await older


async def test_cancelled_in_the_moment_of_its_turn_passes_it_on() -> None:
    turns = turns_of(1)
    await turns.take(1)
    waiting = asyncio.create_task(turns.take(2))
    await settle()
    turns.leave()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(turns.take(3), 1)


STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "leave", "cancel", "settle"]), st.integers(0, 20)),
    max_size=40,
)


@given(places=st.integers(1, 3), steps=STEPS)
def test_no_place_is_lost_or_given_twice(places: int, steps: list[tuple[str, int]]) -> None:
    asyncio.run(play(places, steps))


async def play(places: int, steps: list[tuple[str, int]]) -> None:
    turns = turns_of(places)
    held: list[int] = []
    tasks: list[asyncio.Task[None]] = []

    async def take(order: int) -> None:
        await turns.take(order)
        held.append(order)
        assert len(held) <= places

    for step, number in steps:
        if step == "take":
            tasks.append(asyncio.create_task(take(number)))
        elif step == "leave" and held:
            held.pop()
            turns.leave()
        elif step == "cancel" and tasks:
            tasks[number % len(tasks)].cancel()
        else:
            await settle()
            assert sum(not task.done() for task in tasks) <= 1, "at most one waits"
    await settle()
    while held:
        held.pop()
        turns.leave()
        await settle()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert outcome is None or isinstance(outcome, SupersededError | asyncio.CancelledError)
    while held:
        held.pop()
        turns.leave()
    async with asyncio.timeout(1):
        for order in range(places):
            await turns.take(order)
