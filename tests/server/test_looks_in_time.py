"""Which pictures are let in, on a clock of its own: nothing here depends on the machine."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybrid_detect.server.admission import (
    PRESSED_S,
    Admission,
    OverloadedError,
    StoppingError,
    TooLateError,
)
from hybrid_detect.server.fair_turns import MAX_CALLERS, FairTurns
from hybrid_detect.server.looks import EXPECTED_S, MAX_MISSED, Expected
from hybrid_detect.server.service_time import ServiceTime
from hybrid_detect.types import QualityLevel

from ..clock import FakeClock
from ..waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def opened(
    clock: FakeClock, *, places: int = 1, look_s: float = 0.0, waiting: int = 16
) -> Admission:
    """An admission that has seen looks of `look_s`."""
    admission = Admission(max_waiting=waiting, clock=clock)
    admission.open(places)
    for _ in range(100 if look_s else 0):
        admission.times[QualityLevel.FAST].observe(look_s)
    return admission


class Looks:
    """Pictures at an admission, each looked at until `end` is called."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._ends: dict[str, asyncio.Event] = {}
        self.order: list[str] = []
        self.results: dict[str, str] = {}
        self.waits_s: dict[str, float] = {}
        """Of those that were refused, what they were asked to wait."""
        self._tasks: list[asyncio.Task[None]] = []

    async def add(
        self,
        name: str,
        deadline_s: float | None,
        *,
        caller: str = "",
        is_gone: Callable[[], bool] = lambda: False,
    ) -> None:
        """Let a picture come, and do what follows at once."""
        self._ends[name] = asyncio.Event()
        self._tasks.append(asyncio.create_task(self._look(name, deadline_s, caller, is_gone)))
        await self.settle()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self.settle()

    async def cancel(self, number: int) -> None:
        self._tasks[number].cancel()
        await self.settle()

    @staticmethod
    async def settle() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def _look(
        self, name: str, deadline_s: float | None, caller: str, is_gone: Callable[[], bool]
    ) -> None:
        async def is_abandoned() -> bool:
            return is_gone()

        try:
            place = self._admission.place(deadline_s, caller=caller, is_abandoned=is_abandoned)
            async with place:
                self.order.append(name)
                await self._ends[name].wait()
            self.results[name] = "looked at"
        except asyncio.CancelledError:
            self.results[name] = "cancelled"
            raise
        except (OverloadedError, TooLateError, StoppingError) as refusal:
            self.results[name] = type(refusal).__name__
            if isinstance(refusal, OverloadedError):
                self.waits_s[name] = refusal.retry_after_s


@asynccontextmanager
async def looks_at(admission: Admission) -> AsyncIterator[Looks]:
    looks = Looks(admission)
    try:
        yield looks
    finally:
        for task in looks._tasks:
            task.cancel()
        await asyncio.gather(*looks._tasks, return_exceptions=True)


async def test_what_cannot_end_in_time_is_refused_at_once(clock: FakeClock) -> None:
    async with looks_at(opened(clock, look_s=0.4)) as looks:
        for name in "abcd":
            await looks.add(name, 1.0)
        # One is looked at, one ends at 0.8 s; the others would end at 1.2 s.
        assert looks.order == ["a"]
        assert looks.results == {"c": "OverloadedError", "d": "OverloadedError"}


async def test_a_picture_with_more_time_is_let_in_where_another_is_not(clock: FakeClock) -> None:
    async with looks_at(opened(clock, look_s=0.4)) as looks:
        for name, deadline_s in (("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 3.0)):
            await looks.add(name, deadline_s)
        assert looks.results == {"c": "OverloadedError"}


async def test_one_with_much_time_that_would_be_first_is_refused_where_another_would_be_late(
    clock: FakeClock,
) -> None:
    async with looks_at(opened(clock, look_s=0.4)) as looks:
        await looks.add("running", None, caller="a")
        await looks.add("tight", 1.0, caller="a")
        await looks.add("first", None, caller="b")
        assert looks.results == {"first": "OverloadedError"}


async def test_a_bound_that_none_of_them_keeps_is_not_held_against_them(clock: FakeClock) -> None:
    """After one slow look the detector would be idle else, and no look would lower the bound."""
    async with looks_at(opened(clock, look_s=0.1)) as looks:
        await looks.add("slow", None)
        await looks.add("waits", 0.7)
        clock.advance(0.5)
        await looks.end("slow")
        assert looks.order == ["slow", "waits"]


async def test_the_one_with_the_least_time_left_is_next(clock: FakeClock) -> None:
    async with looks_at(opened(clock, look_s=0.1)) as looks:
        for name, deadline_s in (("a", 1.0), ("b", 9.0), ("c", 3.0), ("d", None), ("e", 1.0)):
            await looks.add(name, deadline_s)
        for name in "aecbd":
            await looks.end(name)
        assert looks.order == list("aecbd")


async def test_no_admitted_picture_is_made_late_by_a_later_one(clock: FakeClock) -> None:
    async with looks_at(opened(clock, look_s=0.4)) as looks:
        await looks.add("a", 2.0)
        await looks.add("b", 1.0)  # ends at 0.8 s
        await looks.add("c", 0.9)  # would be next, and b would end at 1.2 s
        assert looks.results == {"c": "OverloadedError"}


async def test_what_has_become_late_while_it_waited_is_not_looked_at(clock: FakeClock) -> None:
    async with looks_at(opened(clock, look_s=0.4)) as looks:
        await looks.add("a", 1.0)
        await looks.add("b", 1.0)
        clock.advance(0.7)  # the look at a takes longer than expected
        await looks.end("a")
        assert looks.order == ["a"]
        assert looks.results == {"a": "looked at", "b": "TooLateError"}


async def test_a_free_detector_is_used_whatever_the_estimate_says(clock: FakeClock) -> None:
    """Else one slow look would close the server to short deadlines for ever."""
    admission = opened(clock, look_s=5.0)
    async with looks_at(admission) as looks:
        await looks.add("a", 0.5)
        assert looks.order == ["a"]
        clock.advance(0.1)
        await looks.end("a")
        assert admission.times[QualityLevel.FAST].mean_s < 5.0


async def test_one_slow_look_does_not_cost_those_that_waited_for_it(clock: FakeClock) -> None:
    admission = opened(clock, look_s=0.02)
    async with looks_at(admission) as looks:
        await looks.add("slow", None, caller="slow")
        for name in "abc":
            await looks.add(name, 1.0, caller=name)
        clock.advance(0.6)
        await looks.end("slow")
        for name in "abc":
            clock.advance(0.02)
            await looks.end(name)
        assert looks.results == dict.fromkeys(("slow", *"abc"), "looked at")


async def test_a_deadline_that_has_passed_is_too_late(clock: FakeClock) -> None:
    async with looks_at(opened(clock)) as looks:
        await looks.add("a", 0.0)
        await looks.add("b", -1.0)
        assert looks.results == {"a": "TooLateError", "b": "TooLateError"}


async def test_so_many_wait_and_no_more(clock: FakeClock) -> None:
    async with looks_at(opened(clock, waiting=2)) as looks:
        for name in "abcd":
            await looks.add(name, None)
        assert looks.results == {"d": "OverloadedError"}


async def test_a_gone_client_s_picture_is_dropped_and_the_next_is_looked_at(
    clock: FakeClock,
) -> None:
    async with looks_at(opened(clock)) as looks:
        await looks.add("a", 5.0)
        await looks.add("b", 5.0, is_gone=lambda: True)
        await looks.add("c", 5.0)
        await looks.end("a")
        assert looks.order == ["a", "c"]
        assert looks.results["b"] == "TooLateError"


async def test_a_cancelled_picture_gives_its_place_back(clock: FakeClock) -> None:
    admission = opened(clock)
    async with looks_at(admission) as looks:
        for name in "abc":
            await looks.add(name, 5.0)
        await looks.cancel(1)  # waits
        await looks.cancel(0)  # is looked at
        assert looks.order == ["a", "c"]
        await looks.end("c")
        await looks.add("d", 5.0)
        assert looks.order == ["a", "c", "d"]
        assert admission.waiting == 0


async def test_closing_refuses_what_waits_and_what_comes_and_lets_looks_end(
    clock: FakeClock,
) -> None:
    admission = opened(clock)
    async with looks_at(admission) as looks:
        for name in "ab":
            await looks.add(name, 5.0)
        admission.close()
        await looks.add("c", 5.0)
        await looks.end("a")
        assert looks.results == {
            "a": "looked at",
            "b": "StoppingError",
            "c": "StoppingError",
        }


async def test_failed_looks_say_nothing_about_a_look_s_time(clock: FakeClock) -> None:
    admission = opened(clock, look_s=0.4)
    before_s = admission.times[QualityLevel.FAST].mean_s
    with contextlib.suppress(ValueError):
        async with admission.place(1.0):
            clock.advance(0.001)
            raise ValueError
    assert admission.times[QualityLevel.FAST].mean_s == before_s


def test_the_estimate_follows_and_its_bound_covers_most() -> None:
    service = ServiceTime()
    drawn = random.Random(7)
    times = [drawn.gauss(0.1, 0.01) for _ in range(1000)]
    beyond = 0
    for seconds in times:
        beyond += seconds > service.safe_s
        service.observe(seconds)
    assert service.mean_s == pytest.approx(0.1, abs=0.02)
    assert beyond < 0.05 * len(times)
    for _ in range(60):
        service.observe(0.5)
    assert service.mean_s == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("load", [1.0, 3.0, 10.0])
async def test_under_overload_the_detectors_are_busy_and_no_look_ends_late(
    clock: FakeClock, load: float
) -> None:
    """Arrivals and looks drawn at random, two detectors, a deadline of 1 s; a minute of it."""
    drawn = random.Random(3)
    admission = opened(clock, places=2)
    mean_s, lasts_s, deadline_s = 0.2, 60.0, 1.0
    peak = 2 / mean_s
    counts: Counter[str] = Counter()
    pending: list[tuple[float, asyncio.Event]] = []

    async def picture(came_s: float) -> None:
        try:
            async with admission.place(deadline_s):
                done = asyncio.Event()
                pending.append((clock() + drawn.uniform(0.15, 0.25), done))
                await done.wait()
            counts["in time" if clock() - came_s <= deadline_s else "late"] += 1
        except (OverloadedError, TooLateError) as refusal:
            counts[type(refusal).__name__] += 1

    tasks = []
    next_s = 0.0
    begin_s = clock()
    while clock() - begin_s < lasts_s:
        ends_s = min((end for end, _ in pending), default=float("inf"))
        if ends_s - begin_s <= next_s:
            clock.advance(max(ends_s - clock(), 0.0))
            entry = min(pending, key=lambda each: each[0])
            pending.remove(entry)
            entry[1].set()
        else:
            clock.advance(max(next_s - (clock() - begin_s), 0.0))
            tasks.append(asyncio.create_task(picture(clock())))
            next_s += drawn.expovariate(load * peak)
        await Looks.settle()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert counts["late"] == 0
    expected = 0.95 if load > 1 else 0.8  # at their own rate, random arrivals leave gaps
    assert counts["in time"] >= expected * peak * lasts_s


async def test_what_waits_for_the_detectors_to_start_is_let_in_when_they_have() -> None:
    admission = Admission(max_waiting=2)
    looked = []

    async def look() -> None:
        async with admission.place():
            looked.append(1)

    task = asyncio.create_task(look())
    await until(lambda: admission.waiting == 1)
    admission.open(1)
    await task
    assert looked


# -- when to come again ----------------------------------------------------------------------


async def test_what_is_refused_is_told_when_it_can_be_let_in(clock: FakeClock) -> None:
    async with looks_at(opened(clock, look_s=0.4)) as looks:
        for name in "abc":
            await looks.add(name, 1.0)
        # Of 0.95 s, a and b take 0.8; c, behind them, would end at 1.2 s.
        assert looks.waits_s == {"c": pytest.approx(0.4)}
        clock.advance(0.25)
        await looks.add("d", 1.0)
        assert looks.results["d"] == "OverloadedError"
        clock.advance(0.15)
        await looks.end("a")
        await looks.add("e", 1.0)
        assert "e" not in looks.results, "after what c was told, one like it is let in"


async def test_behind_a_full_queue_it_is_the_time_until_a_place_in_it_is_free(
    clock: FakeClock,
) -> None:
    async with looks_at(opened(clock, look_s=2.0, waiting=2)) as looks:
        for name in "abcd":
            await looks.add(name, None)
        assert looks.waits_s == {"d": pytest.approx(2.0)}
        clock.advance(0.5)
        await looks.add("e", None)
        assert looks.waits_s["e"] == pytest.approx(2.0), "at least what a look takes"


async def test_nothing_is_told_to_wait_for_longer_than_until_a_place_is_free(
    clock: FakeClock,
) -> None:
    """Who comes to a free place is looked at, even if a look is expected to take too long."""
    async with looks_at(opened(clock, look_s=5.0)) as looks:
        await looks.add("a", 0.5)
        clock.advance(1.0)
        await looks.add("b", 0.5)
        assert looks.waits_s == {"b": pytest.approx(5.0)}, "a look at least"
        clock.advance(3.0)
        await looks.end("a")
        await looks.add("c", 20.0)
        await looks.add("d", 1.0)
        (mean_s,) = (time.mean_s for time in looks._admission.times.values())
        assert looks.waits_s["d"] == pytest.approx(mean_s)


async def test_before_the_detectors_are_ready_it_is_a_second(clock: FakeClock) -> None:
    async with looks_at(Admission(max_waiting=1, clock=clock)) as looks:
        await looks.add("a", None)
        await looks.add("b", None)
        assert looks.waits_s == {"b": 1.0}


# -- callers take turns ----------------------------------------------------------------------


async def test_a_flood_delays_another_caller_by_the_look_that_has_begun(clock: FakeClock) -> None:
    async with looks_at(opened(clock, look_s=0.1)) as looks:
        for number in range(8):
            await looks.add(f"flood {number}", 5.0, caller="flood")
        await looks.add("one", 9.0, caller="other")
        await looks.add("two", 9.0, caller="other")
        for name in ("flood 0", "one", "flood 1", "two", "flood 2"):
            clock.advance(0.1)
            await looks.end(name)
        assert looks.order[:5] == ["flood 0", "one", "flood 1", "two", "flood 2"]


async def test_a_flood_is_not_made_faster_by_short_deadlines(clock: FakeClock) -> None:
    async with looks_at(opened(clock, look_s=0.1)) as looks:
        await looks.add("first", 9.0, caller="flood")
        for name in ("one", "two", "three"):
            await looks.add(name, 9.0, caller="other")
        expected = ["first"]
        for number, name in enumerate(("one", "two", "three")):
            await looks.add(f"flood {number}", 0.6, caller="flood")
            expected += [name, f"flood {number}"]
            for ended in expected[-3:-1]:
                clock.advance(0.1)
                await looks.end(ended)
        assert looks.order == expected


async def test_a_flood_s_own_pictures_go_when_another_caller_s_comes(clock: FakeClock) -> None:
    """Those that were let in are refused after all: else whoever fills the queue first has it."""
    async with looks_at(opened(clock, look_s=0.1, waiting=4)) as looks:
        for number in range(7):
            await looks.add(f"flood {number}", 5.0, caller="flood")
        assert sorted(looks.results) == ["flood 5", "flood 6"]
        await looks.add("one", 5.0, caller="other")
        await looks.add("two", 5.0, caller="other")
        assert "one" not in looks.results
        assert "two" not in looks.results
        assert looks.results["flood 4"] == looks.results["flood 3"] == "OverloadedError"
        await looks.add("three", 5.0, caller="other")
        assert looks.results["three"] == "OverloadedError", "it has as many as the flood now"


async def test_a_flood_that_fills_the_time_makes_room_as_well(clock: FakeClock) -> None:
    async with looks_at(opened(clock, look_s=0.2)) as looks:
        for number in range(6):
            await looks.add(f"flood {number}", 1.0, caller="flood")
        assert sorted(looks.results) == ["flood 4", "flood 5"]
        await looks.add("one", 1.0, caller="other")
        assert looks.results["flood 3"] == "OverloadedError"
        for name in ("flood 0", "one", "flood 1", "flood 2"):
            clock.advance(0.2)
            await looks.end(name)
        assert looks.results["one"] == looks.results["flood 2"] == "looked at"


async def test_callers_with_one_picture_each_have_their_turns_by_their_deadlines(
    clock: FakeClock,
) -> None:
    async with looks_at(opened(clock, look_s=0.1)) as looks:
        for caller, deadline_s in (("a", 1.0), ("b", 9.0), ("c", 3.0), ("d", None), ("e", 1.0)):
            await looks.add(caller, deadline_s, caller=caller)
        for name in "aecbd":
            await looks.end(name)
        assert looks.order == list("aecbd")


async def test_a_caller_of_long_looks_has_fewer_of_them(clock: FakeClock) -> None:
    """What counts is the detectors' time: `slow` takes three times as long for each."""
    async with looks_at(opened(clock, look_s=0.1)) as looks:
        for number in range(6):
            await looks.add(f"slow {number}", None, caller="slow")
            await looks.add(f"quick {number}", None, caller="quick")
        for _ in range(8):
            clock.advance(0.3 if looks.order[-1].startswith("slow") else 0.1)
            await looks.end(looks.order[-1])
        assert Counter(name.split()[0] for name in looks.order[:8]) == {"quick": 6, "slow": 2}


async def test_a_caller_s_slow_look_does_not_have_the_others_refused(clock: FakeClock) -> None:
    """They have less time than it took, so that it alone would be let in again."""
    async with looks_at(opened(clock, look_s=0.02)) as looks:
        for number in range(10):
            await looks.add(f"slow {number}", None, caller="slow")
            clock.advance(0.9)
            await looks.end(f"slow {number}")
            for camera in range(40):
                await looks.add(f"{number} {camera}", 1.0, caller=str(camera % 4))
                if camera % 4 == 3:  # one is looked at, and three wait
                    for each in range(camera - 3, camera + 1):
                        clock.advance(0.02)
                        await looks.end(f"{number} {each}")
        assert set(looks.results.values()) == {"looked at"}


@pytest.mark.parametrize("before_s", [0.0, 0.02])
def test_that_all_looks_have_become_slow_is_learnt_from_a_few(before_s: float) -> None:
    time = ServiceTime()
    for _ in range(100):
        time.observe(before_s)
    for _ in range(12):
        time.observe(0.9)
    assert time.safe_s > 0.9


async def test_what_a_caller_was_given_before_an_idle_time_counts_no_longer(
    clock: FakeClock,
) -> None:
    async with looks_at(opened(clock, look_s=0.1)) as looks:
        await looks.add("slow", None, caller="slow")
        clock.advance(4.0)
        await looks.end("slow")
        await looks.add("first", None, caller="other")
        for number in range(3):
            await looks.add(f"other {number}", None, caller="other")
        await looks.add("again", None, caller="slow")
        await looks.end("first")
        assert looks.order[2] == "again"


def test_however_many_callers_come_once_few_are_remembered() -> None:
    turns = FairTurns()
    turns.begin("much", 5.0)
    for number in range(10 * MAX_CALLERS):
        counted_s = turns.begin(str(number), 0.1)
        turns.end(str(number), counted_s=counted_s, took_s=0.1)
    assert len(turns._ahead_s) <= MAX_CALLERS
    assert turns._ahead_s["much"] == 5.0, "those who were given most are known for longest"


class Waits(NamedTuple):
    caller: str
    ends_s: float


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.001, 1.0)), max_size=6),
    st.lists(
        st.builds(Waits, st.sampled_from("abcd"), st.sampled_from([1.0, 2.0, 3.0])), min_size=1
    ),
)
def test_the_first_is_the_first_in_the_order_of_turns(
    given_s: list[tuple[str, float]], waiting: list[Waits]
) -> None:
    turns = FairTurns()
    for caller, look_s in given_s:
        turns.begin(caller, look_s)
    assert turns.first(waiting) is turns.ordered(waiting, look_s=0.1)[0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.none() | st.floats(0.05, 3.0),
            st.floats(0.0, 0.3),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_each_picture_has_one_answer_and_no_place_is_lost(
    steps: list[tuple[str, float | None, float, bool]],
) -> None:
    async def run() -> None:
        clock = FakeClock()
        admission = opened(clock, places=2, look_s=0.1, waiting=4)
        async with looks_at(admission) as looks:
            for number, (caller, deadline_s, pause_s, cancels) in enumerate(steps):
                await looks.add(str(number), deadline_s, caller=caller)
                clock.advance(pause_s)
                under_way = [name for name in looks.order if name not in looks.results]
                assert len(under_way) <= 2
                assert admission.waiting <= 4
                if cancels:
                    await looks.cancel(number // 2)
                elif under_way:
                    await looks.end(under_way[0])
            for _ in steps:
                for name in [name for name in looks.order if name not in looks.results]:
                    await looks.end(name)
            assert admission.waiting == 0
            await looks.add("last", 1.0)
            assert looks.order[-1] == "last", "a place is free"

    asyncio.run(run())


# -- what a picture would be told that came now -------------------------------------------------

DEADLINES_S = st.one_of(st.none(), st.floats(0.01, 3.0))
CALLERS = st.sampled_from("abc")


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("add"), DEADLINES_S, CALLERS),
            st.tuples(st.just("end"), st.integers(0, 20), CALLERS),
            st.tuples(st.just("ask"), DEADLINES_S, CALLERS),
            st.tuples(st.just("pass"), st.floats(0.01, 0.5), CALLERS),
        ),
        max_size=25,
    ),
    last=st.tuples(DEADLINES_S, CALLERS),
    waiting=st.integers(1, 6),
)
@example([("add", None, "a"), ("add", None, "a"), ("ask", None, "a")], (1.0, "a"), 1)  # it is full
@example(  # the look under way goes on for longer than looks do
    [
        *[("add", None, "a")] * 3,
        *[("end", 0, "a")] * 2,
        ("add", None, "b"),
        ("ask", None, "b"),
        ("end", 0, "a"),
    ],
    (0.25, "b"),
    2,
)
def test_what_a_picture_would_be_told_is_what_it_is_told(
    steps: list[tuple[str, float | int | None, str]],
    last: tuple[float | None, str],
    waiting: int,
) -> None:
    """Whatever was asked before: what is remembered for a caller is what would be found anew."""

    async def run() -> None:
        clock = FakeClock()
        admission = opened(clock, look_s=0.2, waiting=waiting)
        async with looks_at(admission) as looks:
            for number, (what, value, caller) in enumerate(steps):
                if what == "add":
                    await looks.add(str(number), value, caller=caller)
                elif what == "pass":
                    clock.advance(float(value or 0))
                elif what == "ask":
                    admission.refusal(value, caller=caller)
                elif looks.order:
                    clock.advance(0.2)
                    await looks.end(looks.order[int(value or 0) % len(looks.order)])
            deadline_s, caller = last
            told_s = admission.refusal(deadline_s, caller=caller)
            await looks.add("last", deadline_s, caller=caller)
            if told_s is None:
                assert looks.results.get("last") != "OverloadedError"
            else:
                assert looks.waits_s["last"] == pytest.approx(told_s)

    asyncio.run(run())


async def test_what_was_refused_is_let_in_after_the_time_that_it_was_told(clock: FakeClock) -> None:
    admission = opened(clock, look_s=0.4)
    async with looks_at(admission) as looks:
        for name in "ab":
            await looks.add(name, 1.0)
        told_s = admission.refusal(1.0)
        assert told_s is not None
        clock.advance(told_s / 2)
        assert admission.refusal(1.0) == pytest.approx(max(told_s / 2, 0.4))
        assert admission.refusal(0.9) is not None
        clock.advance(told_s / 2)
        assert admission.refusal(1.0) is None


async def test_only_a_server_that_refuses_looks_closer(clock: FakeClock) -> None:
    """No picture pays for early refusals while there are none, even where pictures wait."""
    admission = opened(clock, look_s=0.4)
    async with looks_at(admission) as looks:
        for name in "ab":
            await looks.add(name, 1.0)
        assert (admission.waiting, admission.is_pressed) == (1, False)
        await looks.add("c", 1.0)
        assert looks.results["c"] == "OverloadedError"
        assert admission.is_pressed
        clock.advance(PRESSED_S / 2)
        assert admission.refusal(0.1) is not None
        clock.advance(PRESSED_S * 0.75)
        assert admission.is_pressed, "another was refused meanwhile"
        clock.advance(PRESSED_S)
        assert not admission.is_pressed


async def test_a_refusal_is_found_once_for_all_with_as_much_time(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though time goes on while it is found."""

    def ticking() -> float:
        clock.advance(1e-6)
        return clock()

    admission = opened(clock, look_s=0.4)
    async with looks_at(admission) as looks:
        for name in "ab":
            await looks.add(name, 1.0)
        monkeypatch.setattr(admission, "_clock", ticking)
        found: list[float | None] = []
        place = admission.place
        monkeypatch.setattr(
            admission, "place", lambda *a, **kw: found.append(a[0]) or place(*a, **kw)
        )
        assert all(admission.refusal(1.0) is not None for _ in range(5))
        assert found == [1.0]


@pytest.mark.parametrize(("waiting", "look_s"), [(16, 0.4), (1, 0.001)], ids=["late", "full"])
async def test_a_refusal_that_no_time_ends_is_found_once(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, waiting: int, look_s: float
) -> None:
    """Where one that waits is late by itself, or as many wait as may, only a change lets one in."""
    admission = opened(clock, look_s=look_s, waiting=waiting)
    async with looks_at(admission) as looks:
        for name in "ab":
            await looks.add(name, 1.0)
        clock.advance(0.6)
        found: list[float | None] = []
        place = admission.place
        monkeypatch.setattr(
            admission, "place", lambda *a, **kw: found.append(a[0]) or place(*a, **kw)
        )
        assert all(admission.refusal(5.0 + more_s) == look_s for more_s in range(3))
        assert found == [5.0]
        await looks.end("a")
        assert admission.refusal(5.0) is None


async def test_a_refusal_that_no_time_ends_is_one_caller_s(clock: FakeClock) -> None:
    """Another's picture makes one of this caller's go."""
    admission = opened(clock, look_s=0.001, waiting=2)
    async with looks_at(admission) as looks:
        for name in "abc":
            await looks.add(name, 1.0, caller="a")
        assert admission.refusal(1.0, caller="a") is not None
        assert admission.refusal(1.0, caller="b") is None


async def test_what_is_on_its_way_has_its_place(clock: FakeClock) -> None:
    """Else all that come before it were let in for the place that it will have."""
    admission = opened(clock, look_s=0.4)
    async with looks_at(admission) as looks:
        await looks.add("a", 1.0)
        assert admission.refusal(1.0, caller="b", expects=True) is None
        assert admission.refusal(1.0, caller="b") == pytest.approx(0.4)
        await looks.add("b", 1.0, caller="b")
        await looks.add("c", 2.0, caller="b")  # as of one that has come, nothing more is expected
        assert (admission.waiting, looks.results) == (2, {})


async def test_a_free_place_is_given_once(clock: FakeClock) -> None:
    admission = opened(clock, look_s=0.4)
    for caller in "ab":
        assert admission.refusal(0.5, caller=caller, expects=True) is None
        assert admission.refusal(0.5, caller=caller) is not None
        clock.advance(EXPECTED_S * 1.01)  # it does not come


async def test_who_begins_pictures_and_ends_none_keeps_no_place(clock: FakeClock) -> None:
    admission = opened(clock, look_s=0.4)
    assert admission.refusal(0.5, caller="a", expects=True) is None
    assert admission.refusal(0.5, caller="b") is not None
    clock.advance(EXPECTED_S * 1.01)
    assert admission.refusal(0.5, caller="a", expects=True) is None
    assert admission.refusal(0.5, caller="b") is None
    async with looks_at(admission) as looks:
        await looks.add("whole", 1.0, caller="a")
        clock.advance(0.4)
        await looks.end("whole")
    assert admission.refusal(0.5, caller="a", expects=True) is None
    assert admission.refusal(0.5, caller="b") is not None, "as one has come, one is expected"


async def test_callers_that_end_no_picture_do_not_pile_up(clock: FakeClock) -> None:
    expected = Expected()
    admission = opened(clock, look_s=0.4)
    for number in range(3 * MAX_MISSED):
        expected.add(admission.place(0.5, caller=f"{number}"), [])
    clock.advance(EXPECTED_S * 1.01)
    assert expected.forget_before(clock())
    assert len(expected.missed) <= MAX_MISSED


async def test_what_is_expected_keeps_out_nothing_that_has_come(clock: FakeClock) -> None:
    admission = opened(clock, look_s=0.4)
    async with looks_at(admission) as looks:
        await looks.add("a", 2.0)
        expected = 0
        while admission.refusal(2.0, caller="flood", expects=True) is None:
            expected += 1
        assert expected > 1
        assert admission.refusal(2.0, caller="other") is None, "callers take turns"
        for name in "bcd"[:expected]:
            await looks.add(name, 2.0, caller=name)
        assert (admission.waiting, looks.results) == (min(expected, 3), {})


async def test_what_has_no_time_left_is_not_expected(clock: FakeClock) -> None:
    """It would be late, and all others with it: a caller could shut them out with such pictures."""
    admission = opened(clock, look_s=0.4)
    async with looks_at(admission) as looks:
        await looks.add("a", 1.0)
        for _ in range(5):
            assert admission.refusal(0.0, caller="flood", expects=True) is None
        assert admission.refusal(2.0, caller="other") is None


async def test_what_a_server_that_is_not_ready_lets_in_is_not_expected(clock: FakeClock) -> None:
    admission = opened(clock, places=0, look_s=0.4)
    for _ in range(5):
        assert admission.refusal(0.5, caller="flood", expects=True) is None
    admission.open(1)
    assert admission.refusal(0.5, caller="other") is None


@pytest.mark.parametrize("deadline_s", [0.0, 0.001, 0.41])
async def test_what_has_no_time_to_come_keeps_none_out(clock: FakeClock, deadline_s: float) -> None:
    admission = opened(clock, look_s=0.4)
    assert admission.refusal(deadline_s, caller="a", expects=True) is None, "a detector is free"
    clock.advance(EXPECTED_S / 2)
    assert admission.refusal(2.0, caller="b") is None


async def test_each_expected_picture_makes_another_one_go(clock: FakeClock) -> None:
    """Else those of a flood that do not come would leave room for three of all the others."""
    admission = opened(clock, look_s=0.001, waiting=8)
    async with looks_at(admission) as looks:
        await looks.add("first", 5.0)
        while admission.refusal(5.0, caller="flood", expects=True) is None:
            pass
        for name in "abcdefg":
            assert admission.refusal(5.0, caller=name, expects=True) is None, name
        assert admission.refusal(5.0, caller="h") is not None, "each has one"
        for name in "abcdefg":
            await looks.add(name, 5.0, caller=name)
        assert (admission.waiting, looks.results) == (7, {})


async def test_a_flood_makes_room_for_all_that_are_expected(clock: FakeClock) -> None:
    admission = opened(clock, look_s=0.001, waiting=8)
    async with looks_at(admission) as looks:
        for number in range(9):
            await looks.add(f"flood {number}", 5.0, caller="flood")
        for name in "abcdef":
            assert admission.refusal(5.0, caller=name, expects=True) is None, name
        clock.advance(EXPECTED_S * 1.01)  # they do not come
        assert admission.refusal(5.0, caller="flood") is not None
        assert (admission.waiting, looks.results) == (8, {})


async def test_a_full_server_looks_closer(clock: FakeClock) -> None:
    admission = opened(clock, look_s=0.001, waiting=1)
    async with looks_at(admission) as looks:
        await looks.add("a", 1.0)
        assert not admission.is_pressed
        await looks.add("b", 1.0)
        assert admission.is_pressed


async def test_a_change_is_seen_at_once(clock: FakeClock) -> None:
    admission = opened(clock, look_s=0.4)
    async with looks_at(admission) as looks:
        for name in "ab":
            await looks.add(name, 1.0)
        assert admission.refusal(1.0) is not None
        clock.advance(0.4)
        await looks.end("a")
        assert admission.refusal(1.0) is None


async def test_one_that_stops_leaves_the_answer_to_those_who_are_let_in(clock: FakeClock) -> None:
    admission = opened(clock, look_s=0.4)
    async with looks_at(admission) as looks:
        for name in "ab":
            await looks.add(name, 1.0)
        admission.close()
        assert admission.refusal(1.0) is None
