"""Live sources: silence, loss, coming back, old frames, and the causes of what was dropped."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hybrid_detect.errors import ConfigurationError, SourceError
from hybrid_detect.frames.timed_image import TimedImage
from hybrid_detect.sources import live
from hybrid_detect.sources.captured import CapturedFrame, DropCause
from hybrid_detect.sources.frame_feed import FrameFeed
from hybrid_detect.sources.live import LiveSource, Pauses
from hybrid_detect.sources.sources import open_source

from ..waiting import LIMIT_S, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(live, "MAX_PAUSE_S", 0.002)
    monkeypatch.setattr("hybrid_detect.sources.thread_reader.LEAVE_S", 0.01)
    monkeypatch.setattr("hybrid_detect.sources.camera_reads.MISS_PAUSE_S", 0.0)


class Connection:
    """A reader whose reads do, one after the other, what the script says; then it blocks.

    A number is given as an image, an error is raised, and `None` is a miss.
    """

    def __init__(self, script: list[Any]) -> None:
        self._script = iter(script)
        self._go = threading.Event()
        self.is_closed = False

    def read(self) -> Any:
        for step in self._script:
            if isinstance(step, BaseException):
                raise step
            if callable(step):
                return step()
            return None if step is None else TimedImage(str(step).encode())
        self._go.wait(LIMIT_S)
        raise EOFError

    def interrupt(self) -> None:
        self._go.set()

    def close(self) -> None:
        self.is_closed = True


class Stuck(Connection):
    """One whose reads cannot be interrupted."""

    def interrupt(self) -> None:
        pass

    def let_go(self) -> None:
        self._go.set()


class Scripted:
    """A source that opens one connection after the other, or raises instead."""

    def __init__(self, *connections: Any) -> None:
        self._left = iter(connections)
        self.opened: list[Any] = []

    def open(self) -> Any:
        connection = next(self._left)
        if isinstance(connection, BaseException):
            raise connection
        self.opened.append(connection)
        return connection


def number(captured: CapturedFrame | None) -> int:
    assert captured is not None
    return int(bytes(captured.image))


async def test_a_lost_source_is_opened_again_and_its_frames_are_counted_on() -> None:
    lost = Connection([0, 1, SourceError("unplugged")])
    source = Scripted(lost, OSError("busy"), ConfigurationError("not there"), Connection([2, 3]))
    async with (
        asyncio.timeout(LIMIT_S),
        open_source(source, intent="every_frame") as opened,
    ):
        taken = [await opened.take() for _ in range(2)]
        told = []
        for _ in range(3):
            with pytest.raises(SourceError) as caught:
                await opened.take()
            assert caught.value.goes_on
            told.append(str(caught.value))
        taken += [await opened.take() for _ in range(2)]
    assert told == [
        "unplugged; it is being opened again",
        "the source could not be opened again: busy",
        "the source could not be opened again: not there",
    ]
    assert [number(captured) for captured in taken] == [0, 1, 2, 3]
    assert [captured.index for captured in taken if captured] == [0, 1, 2, 3]
    assert all(connection.is_closed for connection in source.opened)


async def test_a_loop_over_frames_waits_for_a_lost_source(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Scripted(Connection([0, OSError("gone")]), Connection([1, EOFError()]))
    async with (
        asyncio.timeout(LIMIT_S),
        open_source(source, intent="every_frame") as opened,
    ):
        assert [number(captured) async for captured in opened] == [0, 1]
    assert "gone; it is being opened again" in caplog.text


async def test_a_source_that_misses_too_often_is_lost_and_misses_are_counted() -> None:
    source = Scripted(Connection([0, *[None] * 10]), Connection([1, EOFError()]))
    async with (
        asyncio.timeout(LIMIT_S),
        open_source(source, intent="every_frame") as opened,
    ):
        assert [number(captured) async for captured in opened] == [0, 1]
        assert opened.drop_counts == {DropCause.MISSED: 10}
        assert opened.dropped == 0


async def test_a_silent_source_is_opened_again_and_its_thread_left() -> None:
    stuck = Stuck([0])
    source = Scripted(stuck, Connection([1]))
    async with (
        asyncio.timeout(LIMIT_S),
        open_source(source, intent="every_frame", silence_s=None) as opened,
    ):
        assert isinstance(opened, LiveSource)
        assert number(await opened.take()) == 0
        opened._silence_s = 0.02  # not before: a slow machine would be silent at once
        with pytest.raises(SourceError, match=r"no frame for 0\.02 s; it is being opened again"):
            await opened.take()
        opened._silence_s = None
        assert number(await opened.take()) == 1
        assert not stuck.is_closed
    stuck.let_go()
    await until(lambda: stuck.is_closed)


async def test_a_source_that_blocks_again_and_again_is_not_opened_for_ever() -> None:
    stuck = [Stuck([]) for _ in range(5)]
    async with (
        asyncio.timeout(LIMIT_S),
        open_source(Scripted(*stuck), silence_s=0.005) as opened,
    ):
        told = []
        for _ in range(8):
            with pytest.raises(SourceError) as caught:
                await opened.take()
            told.append(str(caught.value))
        assert sum(connection.is_closed for connection in stuck) == 0
        assert "3 reads of it have not returned yet" in told[-1]
        assert isinstance(opened, LiveSource)
        stuck[0].let_go()
        await until(lambda: opened._left[0].has_ended)
        assert stuck[0].is_closed
        with pytest.raises(SourceError, match="no frame"):
            await opened.take()
        for connection in stuck:
            connection.let_go()


async def test_a_source_that_is_not_to_be_opened_again_ends() -> None:
    source = Scripted(Connection([0, SourceError("unplugged")]))
    async with (
        asyncio.timeout(LIMIT_S),
        open_source(source, intent="every_frame", reconnect=False) as opened,
    ):
        assert number(await opened.take()) == 0
        with pytest.raises(SourceError, match=r"^unplugged$") as caught:
            await opened.take()
        assert not caught.value.goes_on
    await until(lambda: source.opened[0].is_closed)


async def test_a_source_that_never_opened_is_a_matter_of_configuration() -> None:
    for error in (OSError("no route"), SourceError("no route"), ConfigurationError("no route")):
        with pytest.raises(ConfigurationError, match="no route"):
            async with open_source(Scripted(error)):
                pass


async def test_an_error_that_is_a_mistake_of_the_source_is_raised() -> None:
    async with asyncio.timeout(LIMIT_S), open_source(Scripted(Connection([KeyError()]))) as opened:
        with pytest.raises(KeyError):
            await opened.take()


async def test_leaving_while_a_source_is_opened_again_closes_what_comes_of_it() -> None:
    go, late = threading.Event(), Connection([])

    def opened_late() -> Connection:
        go.wait(LIMIT_S)
        return late

    class Slow(Scripted):
        def open(self) -> Any:
            made = super().open()
            return made() if callable(made) else made

    source = Slow(Connection([SourceError("gone")]), opened_late)
    async with asyncio.timeout(LIMIT_S), open_source(source) as opened:
        with pytest.raises(SourceError):
            await opened.take()
        taking = asyncio.create_task(opened.take())
        await until(lambda: len(source.opened) == 2)
        taking.cancel()
        await asyncio.wait([taking])
    go.set()
    await until(lambda: late.is_closed)


async def test_a_source_that_opens_as_it_is_left_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread has opened it, and whoever waited is cancelled before it hears of that."""
    has_opened = threading.Event()
    connection = Connection([])

    async def opened_and_cancelled(function: Callable[[], Any]) -> Any:
        thread = threading.Thread(target=lambda: (function(), has_opened.set()))
        thread.start()
        thread.join(LIMIT_S)
        raise asyncio.CancelledError

    monkeypatch.setattr(live, "in_daemon_thread", opened_and_cancelled)
    with pytest.raises(asyncio.CancelledError):
        await live.reader_of(Scripted(connection))
    assert has_opened.is_set()
    await until(lambda: connection.is_closed)


def aged(age_s: float) -> Callable[[], TimedImage]:
    return lambda: TimedImage(b"0", captured_at_s=time.monotonic() - age_s)


async def test_frames_that_are_too_old_are_dropped_and_counted() -> None:
    script = [aged(2.0), aged(3.0), aged(0.0), aged(2.0), aged(0.0)]
    async with (
        asyncio.timeout(LIMIT_S),
        open_source(Scripted(Connection(script)), intent="every_frame", max_age_s=1.0) as opened,
    ):
        taken = [await opened.take() for _ in range(2)]
        assert [captured.dropped_before for captured in taken if captured] == [2, 1]
        assert opened.drop_counts == {DropCause.STALE: 3}
        assert opened.dropped == 3


async def test_a_source_that_is_always_late_is_told() -> None:
    class Late:
        def open(self) -> Connection:
            return Connection([aged(2.0)] * 3)

    async with (
        asyncio.timeout(LIMIT_S),
        open_source(Late(), intent="every_frame", max_age_s=1.0, silence_s=0.02) as opened,
    ):
        told = ""
        while "no frame that was fresh enough" not in told:  # or none came in time at all
            with pytest.raises(SourceError) as caught:
                await opened.take()
            told = str(caught.value)


@pytest.mark.parametrize(
    ("age_s", "is_taken"), [(0.5, True), (0.0, True), (-5.0, False), (3600.0, False)]
)
async def test_a_camera_s_time_counts_where_it_can_be_of_our_clock(
    age_s: float, is_taken: bool
) -> None:
    told_s = time.monotonic() - age_s
    source = Scripted(Connection([lambda: TimedImage(b"0", told_s, 17.25)]))
    async with asyncio.timeout(LIMIT_S), open_source(source) as opened:
        captured = await opened.take()
    assert captured is not None
    assert (captured.captured_at_s == told_s) is is_taken
    assert captured.source_time_s == 17.25


async def test_drops_tell_whether_the_rate_or_the_reader_was_the_reason() -> None:
    steps: queue.Queue[Any] = queue.Queue()
    seen: list[int] = []

    class Stepped:
        def read(self) -> Any:
            return TimedImage(steps.get(timeout=LIMIT_S))

    async with (
        asyncio.timeout(LIMIT_S),
        open_source(
            Stepped(), max_fps=20, on_frame=lambda captured: seen.append(captured.index)
        ) as opened,
    ):
        steps.put(b"0")
        assert number(await opened.take()) == 0
        for name in (b"1", b"2"):  # nobody takes: busy
            steps.put(name)
        await until(lambda: len(seen) == 3)
        assert opened.drop_counts == {DropCause.BUSY: 1}
        assert number(await opened.take()) == 2
        taking = asyncio.create_task(opened.take())
        await asyncio.sleep(0)  # it waits for its time now
        for name in (b"3", b"4", b"5"):
            steps.put(name)
        await until(lambda: len(seen) == 6)
        last = number(await taking)
        assert opened.drop_counts[DropCause.MAX_FPS] == last - 3
        assert seen == list(range(6))
        steps.put(b"9")


async def test_an_error_of_on_frame_hurts_no_frame(caplog: pytest.LogCaptureFixture) -> None:
    def raise_it(_captured: CapturedFrame) -> None:
        raise KeyError

    async with asyncio.timeout(LIMIT_S), open_source([b"0", b"1"], on_frame=raise_it) as opened:
        assert [number(captured) async for captured in opened] == [0, 1]
    assert caplog.text.count("on_frame raised an error") == 2


def test_pauses_grow_to_a_limit_and_start_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    drawn: list[tuple[float, float]] = []

    def draw(least: float, most: float) -> float:
        drawn.append((least, most))
        return most

    pauses = Pauses(draw)
    assert [pauses.next_s() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert all(least == most / 2 for least, most in drawn)
    pauses.succeeded()
    assert pauses.next_s() == 0.5


# -- frames that an app pushes -------------------------------------------------------------------


@pytest.fixture
def feed() -> Iterator[FrameFeed]:
    feed = FrameFeed(pixel_format="bgr")
    yield feed
    feed.end()


async def test_what_an_app_pushes_is_taken_as_it_was(feed: FrameFeed) -> None:
    memory = bytearray(b"1")
    async with asyncio.timeout(LIMIT_S), open_source(feed) as opened:
        assert opened.is_live
        taking = asyncio.create_task(opened.take())
        feed.push(bytes(memory), source_time_s=3.5)
        captured = await taking
        assert captured is not None
        assert (number(captured), captured.source_time_s) == (1, 3.5)
        assert captured.pixel_format == "bgr"
        feed.push(b"2")
        assert number(await opened.take()) == 2
        feed.end()
        assert await opened.take() is None
    assert feed.has_ended


async def test_a_feed_that_stops_is_silent_and_left_without_a_thread(
    feed: FrameFeed, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(LIMIT_S), open_source(feed, silence_s=0.02) as opened:
        with pytest.raises(SourceError, match=r"no frame for 0\.02 s") as caught:
            await opened.take()
        assert caught.value.goes_on
        feed.push(b"3")
        while True:
            try:
                assert number(await opened.take()) == 3
            except SourceError:
                continue
            break
    assert "left behind" not in caplog.text
