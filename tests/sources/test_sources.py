import asyncio
import errno
import io
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid_detect.errors import ConfigurationError, MissingExtraError, SourceError
from hybrid_detect.sources.names import image_files
from hybrid_detect.sources.sources import open_source

from ..waiting import LIMIT_S, until

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

    def get(self, number: int) -> float:
        """OpenCV's properties 1 and 7, as of a file that is at its end."""
        return float(self.reads) if self._ended.is_set() and number in {1, 7} else 0.0

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
    """A camera that has `count` images ready at once, and is a file that ends after them."""

    def __init__(self, count: int, then: Callable[[], Any] | None = None) -> None:
        self._left = iter(range(count))
        self._then = then
        self._given = 0
        self._has_ended = False

    def get(self, number: int) -> float:
        return float(self._given + 1) if self._has_ended and number in {1, 7} else 0.0

    def read(self) -> tuple[bool, Any]:
        number = next(self._left, None)
        if number is None and self._then is not None:
            self._then()
        self._has_ended = number is None
        self._given += number is not None
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
    assert await taken(EagerCamera(20), intent="every_frame") == list(range(20))


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


@pytest.mark.parametrize("intent", ["every_frame", "freshest", "auto"])
async def test_an_error_of_the_camera_reaches_whoever_takes(intent: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        async with open_source(EagerCamera(0, then=unplug), intent=intent) as source:
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


async def test_a_camera_that_blocks_does_not_hold_up_leaving(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hybrid_detect.sources.thread_reader.LEAVE_S", 0.01)
    for intent in ("every_frame", "freshest"):
        camera = SteppedCamera()
        async with asyncio.timeout(LIMIT_S), open_source(camera, intent=intent) as source:
            taking = asyncio.create_task(source.take())
            await asyncio.to_thread(camera.wait_for_read, 1)
            taking.cancel()
            await asyncio.wait([taking])
        assert len(source_threads()) == 1  # left behind, and a daemon
        assert source_threads()[0].daemon
        camera.end()
        await until(lambda: not source_threads())
    assert caplog.text.count("left behind") == 2


async def test_a_thread_that_is_left_behind_outlives_its_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hybrid_detect.sources.thread_reader.LEAVE_S", 0.01)
    camera = SteppedCamera()

    async def leave() -> None:
        async with open_source(camera):
            await asyncio.to_thread(camera.wait_for_read, 1)

    await asyncio.to_thread(asyncio.run, leave())
    camera.step()
    camera.end()
    await until(lambda: not source_threads())


async def test_an_error_inside_the_block_still_closes() -> None:
    camera = SteppedCamera()
    camera.end()
    with pytest.raises(KeyError):
        async with open_source(camera):
            raise KeyError
    await until(lambda: not source_threads())


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
    ("source", "named"),
    [
        (None, "NoneType"),
        (1.5, "float"),
        (True, "bool"),
        (object(), "object"),
        ("", "str"),
        (b"jpeg", r"one image \(bytes\)"),
        (bytearray(b"jpeg"), r"one image \(bytearray\)"),
        (memoryview(b"x"), r"one image \(memoryview\)"),
        (np.zeros((4, 4, 3), np.uint8), r"one image \(ndarray\)"),
        (io.BytesIO(b"jpeg"), r"an open file \(BytesIO\)"),
        (io.StringIO("text"), r"an open file \(StringIO\)"),
    ],
    ids=lambda source: type(source).__name__,
)
async def test_what_is_no_source_is_refused_by_a_name(source: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"camera: expected a camera with read.*{named}"):
        async with open_source(source):
            pass


@pytest.mark.parametrize("max_fps", [0, -1, float("nan"), "10"])
async def test_a_rate_that_is_none_is_refused(max_fps: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_fps"):
        async with open_source([], max_fps=max_fps):
            pass


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_camera_that_is_not_open_is_refused(is_open: bool) -> None:
    class VideoCapture(EagerCamera):
        def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
            return is_open

    if is_open:
        assert await taken(VideoCapture(2), intent="every_frame") == [0, 1]
        return
    with pytest.raises(ConfigurationError, match="the camera is not open"):
        await taken(VideoCapture(0))


async def test_one_block_at_a_time() -> None:
    source = open_source([b"x"])
    for _ in range(2):  # one after the other
        async with source as opened:
            assert await opened.take() is not None
            with pytest.raises(ConfigurationError, match="open already"):
                async with source:
                    pass
    unopened = open_source("nowhere.mp4")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="there is no file"):
            async with unopened:
                pass


async def test_an_empty_source_ends_at_once() -> None:
    assert await taken([]) == []
    assert await taken(generate(0)) == []
    assert await taken(EagerCamera(0)) == []


# -- what is handed over is what is looked at ----------------------------------------------------


def reused(count: int) -> Iterator[np.ndarray]:
    """A source that writes each image into the same memory."""
    memory = np.zeros((2, 2, 3), np.uint8)
    for number in range(count):
        memory[:] = number
        yield memory


async def reused_async(count: int) -> AsyncIterator[np.ndarray]:
    for image in reused(count):
        yield image


class ReusingCamera:
    """A camera that returns the same array each time, written anew."""

    def __init__(self) -> None:
        self._images = reused(6)

    def read(self) -> tuple[bool, Any]:
        image = next(self._images, None)
        return image is not None, image

    def get(self, number: int) -> float:
        return 6.0 if number in {1, 7} else 0.0


@pytest.mark.parametrize("make", [lambda: reused(6), lambda: reused_async(6), ReusingCamera])
async def test_images_are_what_they_were_when_they_were_given(make: Callable[[], Any]) -> None:
    assert [int(image[0, 0, 0]) for image in await taken(make(), intent="every_frame")] == [
        *range(6)
    ]


async def test_an_array_that_only_the_camera_s_caller_has_is_not_copied() -> None:
    addresses = []

    class Fresh:
        def read(self) -> tuple[bool, Any]:
            image = np.zeros((2, 2, 3), np.uint8)
            addresses.append(image.ctypes.data)
            return True, image

    async with asyncio.timeout(LIMIT_S), open_source(Fresh(), intent="every_frame") as source:
        for number in range(3):
            captured = await source.take()
            assert captured is not None
            assert captured.image.ctypes.data == addresses[number]


async def test_frames_count_where_they_lie_in_their_source_and_what_was_dropped() -> None:
    camera = SteppedCamera()
    seen = []
    async with asyncio.timeout(LIMIT_S), open_source(camera) as source:
        for steps in (1, 4, 2):
            camera.step(steps)
            await asyncio.to_thread(camera.wait_for_read, camera.reads + steps)
            captured = await source.take()
            assert captured is not None
            seen.append((captured.index, captured.dropped_before))
        assert source.dropped == 4
        camera.end()
    assert seen == [(0, 0), (4, 3), (6, 1)]


# -- misses, loss and the end --------------------------------------------------------------------


class Scripted:
    """A camera whose reads give what the script says: a number is an image, `None` a miss."""

    def __init__(self, *script: int | None, frames: int = 0) -> None:
        self._script = iter(script)
        self._frames = frames
        self._position = 0

    def read(self) -> tuple[bool, Any]:
        value = next(self._script, None)
        if value is not None:
            self._position += 1
        return value is not None, value

    def get(self, number: int) -> float:
        return float({1: self._position, 7: self._frames}.get(number, 0))


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_detect.sources.camera_reads.MISS_PAUSE_S", 0.0)


@pytest.mark.usefixtures("no_pauses")
async def test_a_camera_that_misses_a_few_goes_on() -> None:
    camera = Scripted(1, 2, None, 3, None, None, None, 4)
    async with asyncio.timeout(LIMIT_S), open_source(camera, intent="every_frame") as source:
        for expected in (1, 2, 3, 4):
            captured = await source.take()
            assert captured is not None
            assert captured.image == expected
        with pytest.raises(SourceError, match="the camera was lost: it gave no frame 10 times"):
            await source.take()


@pytest.mark.usefixtures("no_pauses")
async def test_a_file_ends_where_it_says_and_every_frame_of_it_is_taken() -> None:
    assert await taken(Scripted(*range(8), frames=8)) == list(range(8))
    assert await taken(Scripted(*range(99), frames=100)) == list(range(99))


@pytest.mark.usefixtures("no_pauses")
async def test_a_file_that_breaks_off_says_where() -> None:
    with pytest.raises(SourceError, match="breaks off after frame 3 of 100"):
        await taken(Scripted(1, 2, 3, frames=100))


@pytest.mark.parametrize("intent", ["every_frame", "auto"])
async def test_a_read_may_give_the_image_alone(intent: str) -> None:
    image = np.zeros((2, 2, 3), np.uint8)

    class Bare:
        def read(self) -> Any:
            return image

    async with asyncio.timeout(LIMIT_S), open_source(Bare(), intent=intent) as source:
        captured = await source.take()
        assert captured is not None
        assert captured.image.shape == image.shape


@pytest.mark.parametrize("value", [b"", 7, "text", (1, 2, 3), [1, 2], {"ok": True}, object()])
async def test_a_read_that_gives_something_else_is_refused_by_a_name(value: Any) -> None:
    class Odd:
        def read(self) -> Any:
            return value

    with pytest.raises(ConfigurationError, match=r"expected read\(\) to return \(ok, image\)"):
        await taken(Odd())


# -- sources by their names ----------------------------------------------------------------------


def test_a_folder_gives_its_images_by_name(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    found = image_files(tmp_path)
    assert found is not None
    assert [path.name for path in found] == ["a.png", "b.JPG"]
    found = image_files(str(tmp_path / "a.png"))
    assert found is not None
    assert [path.name for path in found] == ["a.png"]
    assert image_files(tmp_path / "notes.txt") is None


async def test_a_name_that_opens_nothing_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected images in the folder"):
        await taken(tmp_path)
    with pytest.raises(ConfigurationError, match=r"there is no file 'clip.mp4'"):
        await taken(tmp_path / "clip.mp4")
    with pytest.raises(ConfigurationError, match="there is no file 'photos'"):
        await taken(f"{tmp_path}/photos/")
    with pytest.raises(ConfigurationError, match="one of 'gopher'"):
        await taken("gopher://192.0.2.1/camera")
    for name in ("x" * 300 + ".jpg", "x" * 300 + "/clip.mp4"):
        with pytest.raises(ConfigurationError, match=r"' cannot be read: File name too long"):
            await taken(name)
    with pytest.raises(ConfigurationError, match="an address cannot be read") as raised:
        await taken("u:secret@" + "x" * 300)
    assert "secret" not in str(raised.value)


async def test_a_folder_that_may_not_be_looked_at_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_path: Path) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", forbidden)  # tests may run as root, who may do anything
    with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
        await taken(tmp_path)


async def test_without_a_library_the_pip_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("av", "cv2", "picamera2"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in ("rtsp://user:secret@192.0.2.1/stream", 0, "1", "picamera2"):
        with pytest.raises(MissingExtraError, match=r"pip install 'hybrid-detect\[camera\]'"):
            await taken(name)
