"""Which level a picture is looked at, with numbers; and the same under load, on a clock of its own.

The times are those of the levels' models on one core: 6, 52 and 189 ms.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from hybrid_detect.server.admission import Admission, OverloadedError, TooLateError
from hybrid_detect.server.level_choice import level_for, ranked
from hybrid_detect.server.level_times import FORGET_S
from hybrid_detect.types import QualityLevel

from ..clock import FakeClock

FAST, HIGH, MAX = QualityLevel
TIMES_S = {FAST: 0.006, HIGH: 0.052, MAX: 0.189}

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def chosen(asked: QualityLevel = HIGH, levels: Any = tuple(QualityLevel), **load: Any) -> str:
    load = {"safe_s": TIMES_S, "left_s": 10.0, "queue_share": 0.0, **load}
    load.setdefault("leaves_time", lambda _: True)
    return level_for(asked, levels, **load).value


@pytest.mark.parametrize(
    ("asked", "left_s", "level"),
    [
        (MAX, 1.0, "max"),
        (MAX, 0.189, "max"),
        (MAX, 0.188, "high"),
        (MAX, 0.05, "fast"),
        (HIGH, 1.0, "high"),
        (HIGH, 0.052, "high"),
        (HIGH, 0.051, "fast"),
        (HIGH, 0.001, "fast"),
        (FAST, 1.0, "fast"),
    ],
)
def test_a_deadline_lowers_the_level(asked: QualityLevel, left_s: float, level: str) -> None:
    assert chosen(asked, left_s=left_s) == level


@pytest.mark.parametrize(
    ("asked", "queue_share", "level"),
    [
        (MAX, 0.25, "max"),
        (MAX, 0.26, "high"),
        (MAX, 0.51, "fast"),
        (HIGH, 0.5, "high"),
        (HIGH, 0.51, "fast"),
        (FAST, 1.0, "fast"),
    ],
)
def test_a_long_queue_lowers_the_level(asked: QualityLevel, queue_share: float, level: str) -> None:
    assert chosen(asked, queue_share=queue_share) == level


def test_a_look_leaves_the_others_their_time() -> None:
    assert chosen(MAX, leaves_time=lambda level: level is not MAX) == "high"
    assert chosen(MAX, leaves_time=lambda _: False) == "fast"


def test_only_levels_that_are_to_be_had_are_used() -> None:
    assert chosen(MAX, (FAST,)) == "fast"
    assert chosen(MAX, (FAST, HIGH)) == "high"
    assert chosen(FAST, (HIGH, MAX)) == "high", "the quickest there is"
    assert ranked((MAX, FAST, HIGH)) == (FAST, HIGH, MAX)


def opened(clock: FakeClock, *, places: int = 1, waiting: int = 32) -> Admission:
    admission = Admission(max_waiting=waiting, clock=clock)
    admission.offer(TIMES_S)
    admission.open(places)
    return admission


def test_until_a_level_was_used_its_time_is_the_guess() -> None:
    admission = opened(FakeClock())
    assert {level: time.mean_s for level, time in admission.times.items()} == TIMES_S
    admission.times[HIGH].observe(0.3)
    admission.offer(TIMES_S)
    assert admission.times[HIGH].mean_s == 0.3, "what was measured is kept"


async def look(
    admission: Admission, clock: FakeClock, takes_s: float | None = None, **options: Any
) -> QualityLevel:
    async with admission.place(**options) as place:
        clock.advance(TIMES_S[place.level] if takes_s is None else takes_s)
    return place.level


async def test_a_level_that_has_become_slow_is_left_alone_and_tried_again_later() -> None:
    clock = FakeClock()
    admission = opened(clock)
    wanted: dict[str, Any] = {"deadline_s": 0.2, "asked": HIGH}
    assert await look(admission, clock, **wanted) is HIGH
    for _ in range(20):
        await look(admission, clock, takes_s=0.3, asked=HIGH)  # without a deadline
    assert await look(admission, clock, **wanted) is FAST
    clock.advance(FORGET_S)
    assert await look(admission, clock, **wanted) is HIGH


async def test_the_level_is_chosen_when_the_turn_comes() -> None:
    """A picture that has waited for most of its time is looked at quickly, not refused."""
    clock = FakeClock()
    admission = opened(clock)
    levels: list[QualityLevel] = []
    first = admission.place(asked=HIGH)
    assert (await first.__aenter__()).level is HIGH

    async def second() -> None:
        async with admission.place(0.1, asked=HIGH) as place:
            levels.append(place.level)

    task = asyncio.create_task(second())
    await asyncio.sleep(0)
    clock.advance(0.07)
    await first.__aexit__(None, None, None)
    await task
    assert levels == [FAST]


async def test_turned_looks_leave_the_others_their_time() -> None:
    """A picture that may be looked at four times must not break the promise to one that waits."""
    clock = FakeClock()
    admission = opened(clock)
    async with admission.place(asked=HIGH) as blocking:
        # Four looks take 0.208 s, and the nine others 0.054 s at the quickest level.
        turned = admission.place(0.3, asked=HIGH)
        entering = asyncio.create_task(turned.__aenter__())
        await settle()
        others = [
            asyncio.create_task(look(admission, clock, deadline_s=0.3, asked=FAST))
            for _ in range(9)
        ]
        await settle()
        clock.advance(TIMES_S[HIGH])
        assert (admission.waiting, blocking.looks) == (10, 1)
    first = await entering
    assert not admission.may_look_again(first, 4), "the last one would be late"
    assert admission.may_look_again(first, 2)
    assert not admission.may_look_again(first, 40), "it would be late itself"
    await turned.__aexit__(None, None, None)
    assert await asyncio.gather(*others) == [FAST] * 9


async def test_one_that_comes_during_turned_looks_is_refused_if_they_make_it_late() -> None:
    clock = FakeClock()
    admission = opened(clock)
    async with admission.place(asked=HIGH) as place:
        assert admission.may_look_again(place, 4)
        with pytest.raises(OverloadedError):
            await look(admission, clock, deadline_s=0.15)


@pytest.mark.parametrize(("took_s", "mean_s"), [(0.2, 0.052), (0.052, 0.052), (0.8, 0.2)])
async def test_turned_looks_do_not_make_a_level_look_slow(took_s: float, mean_s: float) -> None:
    clock = FakeClock()
    admission = opened(clock)
    for _ in range(30):
        async with admission.place(asked=HIGH) as place:
            admission.may_look_again(place, 4)
            clock.advance(took_s)
    assert admission.times[HIGH].mean_s == pytest.approx(mean_s)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("load", "deadline_s", "high_share"),
    # Of what two places could look at with ``high``, how much comes; and with ``high`` at least:
    [(0.5, 0.5, 0.95), (2.0, 0.5, 0.3), (4.0, 0.5, 0.1), (2.0, None, 0.3)],
)
async def test_under_load_all_are_answered_in_time_at_a_lower_level(
    load: float, deadline_s: float | None, high_share: float
) -> None:
    drawn = random.Random(5)
    clock = FakeClock()
    admission = opened(clock, places=2)
    peak, lasts_s = 2 / TIMES_S[HIGH], 30.0
    counts: Counter[str] = Counter()
    pending: list[tuple[float, asyncio.Event]] = []

    async def picture(came_s: float) -> None:
        try:
            async with admission.place(deadline_s, asked=HIGH) as place:
                done = asyncio.Event()
                takes_s = TIMES_S[place.level] * drawn.uniform(0.9, 1.1)
                pending.append((clock() + takes_s, done))
                await done.wait()
            is_late = deadline_s is not None and clock() - came_s > deadline_s
            counts["late" if is_late else place.level.value] += 1
        except (OverloadedError, TooLateError) as refusal:
            counts[type(refusal).__name__] += 1

    tasks = []
    next_s = begin_s = clock()
    while clock() - begin_s < lasts_s:
        ends_s = min((end for end, _ in pending), default=float("inf"))
        if ends_s <= next_s:
            clock.advance(max(ends_s - clock(), 0.0))
            entry = min(pending, key=lambda each: each[0])
            pending.remove(entry)
            entry[1].set()
        else:
            clock.advance(max(next_s - clock(), 0.0))
            tasks.append(asyncio.create_task(picture(clock())))
            next_s += drawn.expovariate(load * peak)
        await settle()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    answered = counts["fast"] + counts["high"]
    assert counts["late"] == 0
    assert counts.total() - answered <= 0.01 * counts.total(), "a burst may fill the queue"
    assert answered >= 0.9 * load * peak * lasts_s
    assert counts["high"] >= high_share * answered, counts
