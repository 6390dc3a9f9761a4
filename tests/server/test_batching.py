"""Batches: what comes while the engine is busy, and no picture that pays for another's fault."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Sequence

import pytest

from hybrid_detect.errors import BackendUnavailableError, ClosedError, InvalidFrameError
from hybrid_detect.server.batching import Batcher

from ..waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Engine:
    """Doubles numbers; refuses negative ones, and dies of zero."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def look(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        await self.go.wait()
        if 0 in numbers:
            msg = "the engine died"
            raise BackendUnavailableError(msg)
        refusal = InvalidFrameError(expected="a picture", actual="none")
        return [2 * number if number > 0 else refusal for number in numbers]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_comes_while_the_engine_is_busy_is_its_next_batch() -> None:
    engine = Engine()
    batcher = Batcher(engine.look, most=3)
    engine.go.clear()
    tasks = [asyncio.create_task(batcher.submit(1))]
    await settle()
    tasks += [asyncio.create_task(batcher.submit(number)) for number in range(2, 7)]
    await settle()
    engine.go.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10, 12]
    assert engine.batches == [[1], [2, 3, 4], [5, 6]]
    assert await batcher.submit(9) == 18, "it goes on after a pause"


async def test_a_refused_picture_costs_no_other_its_answer() -> None:
    engine = Engine()
    batcher = Batcher(engine.look, most=4)
    results = await asyncio.gather(*map(batcher.submit, (1, -1, 2)), return_exceptions=True)
    assert results[0::2] == [2, 4]
    assert isinstance(results[1], InvalidFrameError)


async def test_a_picture_that_the_engine_dies_of_costs_its_own_answer_alone() -> None:
    engine = Engine()
    batcher = Batcher(engine.look, most=4)
    results = await asyncio.gather(*map(batcher.submit, (1, 0, 2)), return_exceptions=True)
    assert results[0::2] == [2, 4]
    assert isinstance(results[1], BackendUnavailableError)
    assert engine.batches == [[1, 0, 2], [1], [0], [2]]


async def test_a_picture_that_fails_alone_is_not_looked_at_again() -> None:
    engine = Engine()
    with pytest.raises(BackendUnavailableError):
        await Batcher(engine.look, most=4).submit(0)
    assert engine.batches == [[0]]


async def test_a_picture_whose_caller_has_gone_is_left_out() -> None:
    engine = Engine()
    batcher = Batcher(engine.look, most=2)
    engine.go.clear()
    first, gone, last = (asyncio.create_task(batcher.submit(number)) for number in (1, 2, 3))
    await settle()
    gone.cancel()
    await settle()
    engine.go.set()
    assert await asyncio.gather(first, last) == [2, 6]
    assert 2 not in engine.batches[-1]


async def test_too_few_answers_are_nobody_s_answer() -> None:
    async def look(numbers: Sequence[int]) -> list[int | Exception]:
        return []

    with pytest.raises(BackendUnavailableError, match="1 pictures were given 0 answers"):
        await Batcher(look, most=2).submit(1)


async def test_closing_fails_what_waits_and_what_comes() -> None:
    engine = Engine()
    batcher = Batcher(engine.look, most=1)
    engine.go.clear()
    under_way, waiting = (asyncio.create_task(batcher.submit(number)) for number in (1, 2))
    await settle()
    closing = asyncio.create_task(batcher.aclose())
    await settle()
    engine.go.set()
    await closing
    assert await under_way == 2
    with pytest.raises(ClosedError):
        await waiting
    with pytest.raises(ClosedError):
        await batcher.submit(3)


class Held:
    """Lives as long as the frame of who waits."""


async def refused(batcher: Batcher[int, int]) -> weakref.ref[Held]:
    held = Held()
    with contextlib.suppress(InvalidFrameError):
        await batcher.submit(-1)
    return weakref.ref(held)


async def test_a_refused_picture_is_let_go() -> None:
    """Its error would hold the frames of who waits, and so the picture, by a traceback."""
    gc.disable()
    try:
        held = await refused(Batcher(Engine().look, most=1))
        await until(lambda: held() is None)
    finally:
        gc.enable()
