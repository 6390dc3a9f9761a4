"""Batches: what comes while the engine is busy, and no picture that pays for another's fault."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from hybrid_detect.errors import BackendUnavailableError, ClosedError, InvalidFrameError
from hybrid_detect.server.batch_detector import BatchDetector, _Picture
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


class Dying:
    """An engine that dies of each batch, as often as it may."""

    def __init__(self, *, times: int) -> None:
        self.times = asyncio.Semaphore(times)
        self.is_waiting = False

    async def look(self, pictures: Sequence[Held]) -> list[int | Exception]:
        self.is_waiting = self.times.locked()
        await self.times.acquire()
        msg = f"the engine died of {len(pictures)} pictures"
        raise BackendUnavailableError(msg)


async def submitted(
    batcher: Batcher[Held, int], held: list[weakref.ref[Held]], count: int
) -> list[bool]:
    """Submit `count` pictures and forget them; whether each was told that the engine died."""

    async def submit() -> bool:
        picture = Held()
        held.append(weakref.ref(picture))
        try:
            await batcher.submit(picture)
        except BackendUnavailableError:
            return True
        return False

    return await asyncio.gather(*(submit() for _ in range(count)))


@pytest.mark.parametrize("count", [1, 3])
async def test_the_pictures_of_a_batch_that_the_engine_dies_of_are_let_go(count: int) -> None:
    """The error's traceback would hold the batch, and the batch's futures the error."""
    held: list[weakref.ref[Held]] = []
    gc.disable()
    try:
        assert (
            await submitted(Batcher(Dying(times=4).look, most=count), held, count) == [True] * count
        )
        assert [picture() for picture in held] == [None] * count
    finally:
        gc.enable()


async def test_they_are_let_go_while_the_next_batch_is_looked_at() -> None:
    held: list[weakref.ref[Held]] = []
    engine = Dying(times=0)
    batcher: Batcher[Held, int] = Batcher(engine.look, most=2)
    gc.disable()
    try:
        first = asyncio.create_task(submitted(batcher, held, 2))
        await until(lambda: engine.is_waiting)
        last = asyncio.create_task(submitted(batcher, [], 2))
        await settle()
        for _ in range(3):  # of the first two together, and of each alone
            engine.times.release()
        await first
        await until(lambda: engine.is_waiting)
        assert [picture() for picture in held] == [None] * 2
        assert not last.done()
        for _ in range(3):
            engine.times.release()
        await last
    finally:
        gc.enable()


class DyingWorker:
    """A process that dies of each batch."""

    has_process = True
    asked_since_s = None

    def detect_batch(self, pictures: Sequence[object], **_: object) -> list[object]:
        msg = f"the process died of {len(pictures)} pictures"
        raise BackendUnavailableError(msg)

    def kill(self) -> None: ...

    def close(self) -> None: ...


async def test_a_process_that_dies_under_a_batch_leaves_no_picture() -> None:
    """Nor do the thread that asks it and what watches that."""
    worker: Any = DyingWorker()
    detector = BatchDetector(worker, most=4, max_pixels=10**6, grace_s=lambda: 1.0)

    def pictures() -> int:
        return sum(type(each) is _Picture for each in gc.get_objects())

    async def detect() -> None:
        with contextlib.suppress(BackendUnavailableError):
            await detector.detect(b"x" * 80_000, min_confidence=0.5, due_s=time.monotonic() + 5)

    gc.collect()
    before = pictures()
    gc.disable()
    try:
        await asyncio.gather(*(detect() for _ in range(4)))
        await until(lambda: pictures() == before)
    finally:
        gc.enable()
    await detector.aclose(timeout_s=1.0)
