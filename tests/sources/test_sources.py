import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.sources.sources import open_source

from ..waiting import LIMIT_S

pytestmark = pytest.mark.anyio


class SteppedCamera:
    """A camera that delivers a number when `step` is called; `end` ends it."""

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)
        self._ended = threading.Event()
        self.reads = 0
        self.reading = threading.Condition()

    def step(self, count: int = 1) -> None:
        self._steps.release(count)

    def end(self) -> None:
        self._ended.set()
        self._steps.release()

    def wait_for_read(self, number: int) -> None:
        """Wait until the camera is asked for the `number`th image: the earlier ones are out."""
        with self.reading:
            assert self.reading.wait_for(lambda: self.reads >= number, LIMIT_S)

    def read(self) -> tuple[bool, Any]:
        with self.reading:
            self.reads += 1
            self.reading.notify_all()
        assert self._steps.acquire(timeout=LIMIT_S)
        return not self._ended.is_set(), self.reads


class EagerCamera:
    """A camera that has `count` images ready at once."""

    def __init__(self, count: int, then: Callable[[], Any] | None = None) -> None:
        self._left = iter(range(count))
        self._then = then

    def read(self) -> tuple[bool, Any]:
        number = next(self._left, None)
        if number is None and self._then is not None:
            self._then()
        return number is not None, number


def source_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("hybrid-detect-source")]


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    for thread in source_threads():
        thread.join(LIMIT_S)
    assert source_threads() == []


async def generate(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def taken(source: Any, **options: Any) -> list[Any]:
    async with asyncio.timeout(LIMIT_S), open_source(source, **options) as images:
        seen = []
        while (captured := await images.take()) is not None:
            seen.append(captured.image)
        return seen


@pytest.mark.parametrize(
    "make",
    [
        lambda: [0, 1, 2],
        lambda: (0, 1, 2),
        lambda: iter([0, 1, 2]),
        lambda: (number for number in range(3)),
        lambda: generate(3),
    ],
    ids=["list", "tuple", "iterator", "generator", "async generator"],
)
async def test_an_iterable_gives_every_image_in_order(make: Callable[[], Any]) -> None:
    assert await taken(make()) == [0, 1, 2]


async def test_a_camera_with_every_frame_gives_every_image() -> None:
    assert await taken(EagerCamera(20), every_frame=True) == list(range(20))


async def test_an_iterable_is_not_read_ahead() -> None:
    asked = []

    def images() -> Iterator[int]:
        for number in range(10):
            asked.append(number)
            yield number

    async with asyncio.timeout(LIMIT_S), open_source(images()) as source:
        await source.take()
        await source.take()
        assert asked == [0, 1]
        assert source.dropped == 0


@pytest.mark.parametrize("max_fps", [None, 1000.0])
async def test_the_newest_image_of_a_camera_wins_and_the_others_are_counted(
    max_fps: float | None,
) -> None:
    camera = SteppedCamera()
    async with asyncio.timeout(LIMIT_S), open_source(camera, max_fps=max_fps) as source:
        camera.step(5)
        await asyncio.to_thread(camera.wait_for_read, 6)
        captured = await source.take()
        assert captured is not None
        assert captured.image == 5
        assert source.dropped == 4
        camera.end()
        assert await source.take() is None


async def test_the_last_image_of_a_camera_is_not_lost_when_it_ends() -> None:
    camera = SteppedCamera()
    async with asyncio.timeout(LIMIT_S), open_source(camera) as source:
        camera.step()
        await asyncio.to_thread(camera.wait_for_read, 2)
        camera.end()
        captured = await source.take()
        assert captured is not None
        assert captured.image == 1
        assert await source.take() is None
        assert await source.take() is None


async def test_taking_waits_for_the_camera() -> None:
    camera = SteppedCamera()
    async with asyncio.timeout(LIMIT_S), open_source(camera) as source:
        taking = asyncio.create_task(source.take())
        await asyncio.to_thread(camera.wait_for_read, 1)
        assert not taking.done()
        camera.step()
        captured = await taking
        assert captured is not None
        assert captured.image == 1
        camera.end()


async def test_an_image_knows_when_it_came() -> None:
    camera = SteppedCamera()
    async with asyncio.timeout(LIMIT_S), open_source(camera) as source:
        before_s = time.monotonic()
        camera.step()
        await asyncio.to_thread(camera.wait_for_read, 2)
        after_s = time.monotonic()
        captured = await source.take()
        assert captured is not None
        assert before_s <= captured.captured_at_s <= after_s
        camera.end()


def unplug() -> None:
    raise OSError("the camera was unplugged")


@pytest.mark.parametrize("every_frame", [True, False, None])
async def test_an_error_of_the_camera_reaches_whoever_takes(every_frame: bool | None) -> None:
    async with asyncio.timeout(LIMIT_S):
        async with open_source(EagerCamera(0, then=unplug), every_frame=every_frame) as source:
            with pytest.raises(OSError, match="unplugged"):
                await source.take()


async def test_the_image_before_the_error_is_given_out_first() -> None:
    async with asyncio.timeout(LIMIT_S):
        async with open_source(EagerCamera(1, then=unplug)) as source:
            captured = await source.take()
            assert captured is not None
            assert captured.image == 0
            with pytest.raises(OSError, match="unplugged"):
                await source.take()


async def test_an_error_of_a_generator_reaches_whoever_takes() -> None:
    def images() -> Iterator[int]:
        yield 1
        unplug()

    async def async_images() -> AsyncIterator[int]:
        yield 1
        unplug()

    for source in (images(), async_images()):
        with pytest.raises(OSError, match="unplugged"):
            await taken(source)


async def test_a_camera_that_returns_no_pair_is_an_error_not_a_hang() -> None:
    class Odd:
        def read(self) -> bytes:
            return b""

    with pytest.raises(ValueError, match="unpack"):
        await taken(Odd())


@pytest.mark.parametrize("every_frame", [True, False])
async def test_closing_waits_for_a_camera_that_blocks_and_leaves_no_thread(
    every_frame: bool,
) -> None:
    camera = SteppedCamera()
    is_closed = asyncio.Event()

    async def use() -> None:
        async with open_source(camera, every_frame=every_frame) as source:
            taking = asyncio.create_task(source.take())
            await asyncio.to_thread(camera.wait_for_read, 1)
            taking.cancel()
            await asyncio.wait([taking])
        is_closed.set()

    async with asyncio.timeout(LIMIT_S):
        using = asyncio.create_task(use())
        await asyncio.to_thread(camera.wait_for_read, 1)
        assert not is_closed.is_set()
        camera.end()
        await using
    assert is_closed.is_set()
    assert source_threads() == []


async def test_an_error_inside_the_block_still_closes() -> None:
    camera = SteppedCamera()
    camera.end()
    with pytest.raises(KeyError):
        async with open_source(camera):
            raise KeyError
    assert source_threads() == []


async def test_an_async_generator_is_closed_with_its_source() -> None:
    closed = asyncio.Event()

    async def images() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    async with asyncio.timeout(LIMIT_S), open_source(images()) as source:
        await source.take()
    assert closed.is_set()


@pytest.mark.parametrize("count", [2, 4, 7])
async def test_images_come_no_faster_than_max_fps(count: int) -> None:
    fps = 50.0
    started_s = time.monotonic()
    await taken(range(count), max_fps=fps)
    assert time.monotonic() - started_s >= (count - 1) / fps - 0.005


async def test_a_pause_is_not_caught_up_in_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of its own: after a pause of 1 s, images are a period apart again."""
    now_s = 100.0
    given_out = []

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    async with open_source(generate(9), max_fps=10) as source:
        monkeypatch.setattr(time, "monotonic", lambda: now_s)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        for number in range(8):
            if number == 4:
                now_s += 1.0
            await source.take()
            given_out.append(now_s - 100.0)
        monkeypatch.undo()
    assert given_out == pytest.approx([0.0, 0.1, 0.2, 0.3, 1.3, 1.4, 1.5, 1.6])


async def test_waking_up_late_does_not_lower_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds + 0.02

    async with open_source(generate(11), max_fps=10) as source:
        monkeypatch.setattr(time, "monotonic", lambda: now_s)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        for _ in range(11):
            await source.take()
        monkeypatch.undo()
    assert now_s - 100.0 == pytest.approx(1.02)


@pytest.mark.parametrize(
    "source",
    [
        None,
        7,
        1.5,
        "0",
        "movie.mp4",
        b"jpeg",
        bytearray(b"jpeg"),
        memoryview(b"x"),
        object(),
        Path(),
    ],
    ids=lambda source: type(source).__name__,
)
async def test_what_is_no_source_is_refused(source: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"camera: expected a camera with read\(\)"):
        async with open_source(source):
            pass


@pytest.mark.parametrize("max_fps", [0, -1, float("nan")])
async def test_a_rate_that_is_none_is_refused(max_fps: float) -> None:
    with pytest.raises(ConfigurationError, match="max_fps"):
        async with open_source([], max_fps=max_fps):
            pass


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_camera_that_is_not_open_is_refused(is_open: bool) -> None:
    class VideoCapture(EagerCamera):
        def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
            return is_open

    if is_open:
        assert await taken(VideoCapture(2), every_frame=True) == [0, 1]
        return
    with pytest.raises(ConfigurationError, match="the camera is not open"):
        await taken(VideoCapture(0))


async def test_an_empty_source_ends_at_once() -> None:
    assert await taken([]) == []
    assert await taken(generate(0)) == []
    assert await taken(EagerCamera(0)) == []


async def test_a_file_is_no_camera() -> None:
    with pytest.raises((ConfigurationError, ValueError, TypeError)):
        await taken(io.BytesIO(b"jpeg"))
