"""A detector's process that is asked without a thread."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hybrid_detect.backends.device.event_loop_worker import BegunLook, EventLoopWorker
from hybrid_detect.backends.device.shared_slot import CAPACITY
from hybrid_detect.backends.device.worker_messages import PING, DroppedError
from hybrid_detect.errors import BackendUnavailableError, InvalidFrameError
from hybrid_detect.types import QualityLevel

from ...waiting import LIMIT_S, wait_until
from .stand_in import BREAK, EXIT, FINE, FLOOD, HANG, SEGFAULT, install
from .worker_support import ONE_FACE, TINY_SITE, pid_of, repeat

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pipe can be waited for there")


def file_of(how: int = FINE, width: int = 40, height: int = 30) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (how, 0, 51)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def worker(stand_in: None) -> Iterator[EventLoopWorker]:
    worker = EventLoopWorker(lambda: b"model", decodes=True)
    worker.start()
    yield worker
    worker.close()


def begun(worker: EventLoopWorker, data: bytes, **options: Any) -> BegunLook:
    look = worker.begin_encoded(data, max_pixels=10**6, **options)
    assert look is not None
    return look


def read_all(look: BegunLook) -> BegunLook:
    """As an event loop does."""
    while True:
        assert select.select([look.reply_fd], [], [], LIMIT_S)[0]
        if look.read_on():
            return look


def is_free(worker: EventLoopWorker) -> bool:
    return read_all(begun(worker, file_of())).faces().width == 40


def test_it_finds_what_the_call_that_waits_finds(worker: EventLoopWorker) -> None:
    for width in (40, 60, 50):
        data = file_of(width=width)
        look = read_all(begun(worker, data))
        assert look.is_answered
        found, waited = look.faces(), worker.detect_encoded(data, max_pixels=10**6)
        assert (found.width, found.height, found.faces) == (width, 30, waited.faces)
        assert found.faces
    assert worker.restarts == 0


def test_it_never_waits(stand_in: None) -> None:
    """Where it would have to, it says so and changes nothing."""
    worker = EventLoopWorker(lambda: b"model", decodes=True)
    options = {"max_pixels": 10**6}
    assert worker.begin_encoded(file_of(), **options) is None  # there is no process
    worker.start()
    assert worker.begin_encoded(bytes(CAPACITY + 1), **options) is None
    look = begun(worker, file_of())
    assert worker.begin_encoded(file_of(), **options) is None  # it is busy
    assert read_all(look).faces().faces
    assert is_free(worker)
    worker.close()
    assert worker.begin_encoded(file_of(), **options) is None


def test_a_process_without_decoders_is_left_to_the_call_that_gives_it_some(
    stand_in: None,
) -> None:
    worker = EventLoopWorker(lambda: b"model")
    worker.start()
    assert worker.begin_encoded(file_of(), max_pixels=10**6) is None
    assert worker.detect_encoded(file_of(), max_pixels=10**6).faces
    assert is_free(worker)
    worker.close()


def test_a_call_that_waits_has_its_turn_after_a_look(worker: EventLoopWorker) -> None:
    look = begun(worker, file_of(width=60))
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(worker.detect_encoded, file_of(), max_pixels=10**6)
        read_all(look)
        assert not waiting.done()
        assert look.faces().width == 60
        assert waiting.result(LIMIT_S).width == 40


def test_a_refused_picture_costs_no_process(worker: EventLoopWorker) -> None:
    pid = worker.pid
    for data, says in ((b"no picture", "no known format"), (file_of()[:-40], "damaged")):
        look = read_all(begun(worker, data))
        assert look.is_answered
        with pytest.raises(InvalidFrameError, match=says):
            look.faces()
    with pytest.raises(InvalidFrameError, match="at most 9 pixels"):
        read_all(worker.begin_encoded(file_of(), max_pixels=9) or pytest.fail("busy")).faces()
    assert is_free(worker)
    assert (worker.pid, worker.restarts) == (pid, 0)


@pytest.mark.parametrize(
    ("how", "says"),
    [(SEGFAULT, "signal 11"), (EXIT, "status 7"), (BREAK, "status 1")],
    ids=["segfault", "exit", "bug"],
)
def test_a_death_is_an_error_and_the_next_picture_gets_a_new_process(
    worker: EventLoopWorker, how: int, says: str
) -> None:
    look = read_all(begun(worker, file_of(how)))
    assert not look.is_answered  # ending it may take a moment
    with pytest.raises(BackendUnavailableError, match=says) as caught:
        look.faces()
    assert caught.value.retryable
    assert worker.begin_encoded(file_of(), max_pixels=10**6) is None
    worker.start()
    assert is_free(worker)
    assert worker.restarts == 1


def test_a_reply_without_an_end_is_read_no_further(
    worker: EventLoopWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that a picture has taken over may write for ever."""
    monkeypatch.setattr("hybrid_detect.backends.device.worker_process.MAX_REPLY_BYTES", 100_000)
    look = begun(worker, file_of(FLOOD))
    while not look.read_on():
        assert len(look.running._buffer) < 200_000
    assert not look.is_answered
    with pytest.raises(BackendUnavailableError, match="signal 9"):
        look.faces()
    assert worker.pid is None
    worker.start()
    assert is_free(worker)


@pytest.mark.parametrize(
    "reply",
    [
        ONE_FACE,
        'pack("<IIIId", 7, 16 + 2, 40, 30, 0.001) + b"{}"',
        'pack("<IIIId", 7, 16 + 14, 40, 30, 0.001) + b\'[],"model":"x"\'',
        'pack("<II", 7, 2) + b"[]"',
    ],
    ids=["doubles", "no faces", "more than faces", "no size"],
)
def test_what_is_no_answer_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: str
) -> None:
    install(tmp_path, monkeypatch, site=TINY_SITE.replace("{reply}", reply))
    worker = EventLoopWorker(lambda: b"model", decodes=True)
    worker.start()
    with pytest.raises(BackendUnavailableError, match="failed") as caught:
        read_all(begun(worker, b"picture")).faces()
    assert caught.value.retryable
    assert worker.pid is None
    worker.close()


def test_a_process_that_died_between_two_pictures_is_found_out(worker: EventLoopWorker) -> None:
    os.kill(pid_of(worker), signal.SIGKILL)

    def asked() -> bool:
        look = worker.begin_encoded(file_of(), max_pixels=10**6)
        read_all(look or pytest.fail("busy")).faces()
        return False

    with pytest.raises(BackendUnavailableError, match="signal 9"):
        wait_until(asked)
    worker.start()
    assert is_free(worker)


def test_a_hang_is_owed_and_can_be_killed(worker: EventLoopWorker) -> None:
    look = begun(worker, file_of(HANG))
    assert worker.asked_since_s is not None
    worker.kill()
    read_all(look)
    with pytest.raises(BackendUnavailableError, match="signal 9"):
        look.faces()
    assert worker.asked_since_s is None


def test_a_picture_that_is_not_wanted_any_more_is_dropped(stand_in: None) -> None:
    worker = EventLoopWorker(lambda: b"slow", decodes=True)
    worker.start()
    strip = file_of(width=4000, height=4)  # has more than a thousand tiles
    look = begun(worker, strip, level=QualityLevel.MAX)
    worker.drop()
    read_all(look)
    assert look.is_answered
    with pytest.raises(DroppedError):
        look.faces()
    assert is_free(worker)
    worker.kill()


def test_memory_is_looked_at_now_and_then(
    worker: EventLoopWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "hybrid_detect.backends.device.worker"
    grown: Callable[[int], int] = lambda _: 1 << 40  # noqa: E731
    monkeypatch.setattr(f"{module}.process_private_bytes", grown)
    pid, looks = worker.pid, 0
    while not worker.is_check_due:
        assert is_free(worker)
        looks += 1
        assert looks < 100
    assert worker.pid == pid  # left to a thread, which must have its turn before the next look
    assert worker.begin_encoded(file_of(), max_pixels=10**6) is None
    worker.recycle_if_due()
    assert worker.pid is None
    worker.start()
    worker.recycle_if_due()
    assert worker.pid is not None
    assert looks > 1


def test_a_process_that_reads_no_commands_keeps_nobody(worker: EventLoopWorker) -> None:
    """One that a picture has taken over may answer without reading: its input fills up."""
    os.kill(pid_of(worker), signal.SIGSTOP)
    running = worker._process.running
    assert running is not None
    with pytest.raises(EOFError):
        repeat(10_000, lambda: running.send(PING))
    worker.kill()


@pytest.mark.parametrize("more", ["b'x'", 'pack("<IIIId", 7, 16 + 2, 40, 30, 0.001) + b"[]"'])
@pytest.mark.parametrize("waits", [False, True])
def test_an_answer_to_what_was_not_asked_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, waits: bool
) -> None:
    """It would be the next picture's, or fill the memory."""
    reply = f'pack("<IIIId", 7, 16 + 2, 40, 30, 0.001) + b"[]" + {more}'
    install(tmp_path, monkeypatch, site=TINY_SITE.replace("{reply}", reply))
    worker = EventLoopWorker(lambda: b"model", decodes=True)
    worker.start()
    faces: Callable[[], object] = partial(worker.detect_encoded, b"picture", max_pixels=10**6)
    if not waits:
        look = read_all(begun(worker, b"picture"))
        assert not look.is_answered  # ending it may take a moment
        faces = look.faces
    with pytest.raises(BackendUnavailableError, match="died"):
        faces()
    assert worker.pid is None
    worker.close()
