import asyncio
import gc
import inspect
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import hybrid_detect
from hybrid_detect import sync
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import (
    AllBackendsFailedError,
    BackendUnavailableError,
    ClosedError,
    ConfigurationError,
    InvalidFrameError,
)
from hybrid_detect.extras import is_installed
from hybrid_detect.frames.frame import Frame
from hybrid_detect.service import loop_thread
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import DetectionMode, DetectionResult, DetectionStatus, Face, Plan

from .waiting import wait_until

LIMIT_S = 5
IMAGE = np.zeros((48, 64, 3), np.uint8)


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(LIMIT_S)
        assert not thread.is_alive(), thread.name


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def service(backend: FakeBackend) -> Iterator[sync.HybridDetectionService]:
    with sync.HybridDetectionService(backends=[backend], session_id="me") as opened:
        yield opened


def test_an_image_is_looked_at(service: sync.HybridDetectionService) -> None:
    result = service.process_image(IMAGE)
    assert (result.status, result.session_id) == (DetectionStatus.OK, "me")


def test_options_are_passed_on() -> None:
    seen = []

    def look(frame: Frame) -> list[Face]:
        seen.append(frame.rgb()[0, 0].tolist())
        return []

    with sync.HybridDetectionService(backends=[FakeBackend(faces=look)]) as service:
        service.process_image(np.full((8, 8, 3), (255, 0, 0), np.uint8), pixel_format="bgr")
    assert seen == [[0, 0, 255]]


def test_several_threads_may_call_at_once(service: sync.HybridDetectionService) -> None:
    together = threading.Barrier(6)

    def call(width: int) -> list[int]:
        together.wait(LIMIT_S)
        image = np.zeros((8, width, 3), np.uint8)
        return [service.process_image(image, deadline_s=LIMIT_S).width for _ in range(10)]

    with ThreadPoolExecutor(6) as threads:
        widths = list(threads.map(call, range(10, 16)))
    assert widths == [[width] * 10 for width in range(10, 16)]


def test_a_blocked_call_does_not_block_other_threads(backend: FakeBackend) -> None:
    release, started = threading.Event(), threading.Event()

    class Waits(FakeBackend):
        async def detect(self, frame: Frame, plan: Plan) -> DetectionResult:
            if frame.width == 10:
                started.set()
                await asyncio.to_thread(release.wait, LIMIT_S)
            return await super().detect(frame, plan)

    with (
        sync.HybridDetectionService(backends=[Waits()]) as service,
        ThreadPoolExecutor(1) as threads,
    ):
        slow = threads.submit(service.process_image, np.zeros((8, 10, 3), np.uint8))
        assert started.wait(LIMIT_S)
        assert service.process_image(IMAGE).answered
        assert not slow.done()
        release.set()
        assert slow.result(LIMIT_S).answered


def test_errors_cross(service: sync.HybridDetectionService, backend: FakeBackend) -> None:
    with pytest.raises(InvalidFrameError):
        service.process_image(b"garbage")
    backend.error = BackendUnavailableError("down")
    with pytest.raises(AllBackendsFailedError) as caught:
        service.process_image(IMAGE)
    assert str(caught.value.attempts[0]) == "down"
    backend.error = None
    assert service.process_image(IMAGE).answered


def test_a_stream_gives_each_frame_with_its_result(service: sync.HybridDetectionService) -> None:
    pairs = list(service.start_detection([IMAGE] * 3, max_fps=None).with_frames())
    assert [result.source_index for _, result in pairs] == [0, 1, 2]
    assert all(frame is not None and frame is result.frame for frame, result in pairs)


def test_a_bad_configuration_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError):
        sync.HybridDetectionService(mode="fastest")


def test_status(service: sync.HybridDetectionService) -> None:
    assert service.status().mode is DetectionMode.AUTO


def test_a_stream_is_an_iterator(service: sync.HybridDetectionService) -> None:
    results = list(service.start_detection([IMAGE] * 5, max_fps=None))
    assert [result.status for result in results] == [DetectionStatus.OK] * 5


def test_a_stream_of_a_camera_can_be_broken_off_early(
    service: sync.HybridDetectionService,
) -> None:
    class Camera:
        def read(self) -> tuple[bool, Any]:
            return True, IMAGE

    for result in service.start_detection(Camera(), max_fps=100):
        assert result.answered
        break
    assert [t for t in threading.enumerate() if t.name == "hybrid-detect-source"] == []
    assert service.process_image(IMAGE).answered


def test_a_stream_may_be_consumed_from_another_thread(
    service: sync.HybridDetectionService,
) -> None:
    results = service.start_detection([IMAGE] * 4, max_fps=None)
    first = next(results)
    with ThreadPoolExecutor(1) as threads:
        rest = threads.submit(list, results).result(LIMIT_S)
    assert [r.answered for r in (first, *rest)] == [True] * 4


def test_errors_of_a_camera_cross(service: sync.HybridDetectionService) -> None:
    def camera() -> Iterator[Any]:
        yield IMAGE
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        list(service.start_detection(camera(), max_fps=None))
    with pytest.raises(ConfigurationError):
        list(service.start_detection(7))


def test_use_before_opening_and_after_closing_is_refused(backend: FakeBackend) -> None:
    service = sync.HybridDetectionService(backends=[backend])

    def refused() -> None:
        with pytest.raises(ClosedError, match="with HybridDetectionService"):
            service.process_image(IMAGE)
        with pytest.raises(ClosedError, match="with HybridDetectionService"):
            next(service.start_detection([IMAGE]))
        with pytest.raises(ClosedError, match="with HybridDetectionService"):
            service.status()

    refused()
    with service:
        service.process_image(IMAGE)
    refused()


def test_a_stream_that_outlives_its_service_ends_with_an_error_and_leaves_nothing(
    backend: FakeBackend,
) -> None:
    class Camera:
        def read(self) -> tuple[bool, Any]:
            return True, IMAGE

    with sync.HybridDetectionService(backends=[backend]) as service:
        results = service.start_detection(Camera(), max_fps=100)
        assert next(results).answered
    with pytest.raises(ClosedError):
        next(results)


def test_dropping_a_stream_after_its_service_is_quiet(backend: FakeBackend) -> None:
    with sync.HybridDetectionService(backends=[backend]) as service:
        results = service.start_detection([IMAGE] * 3, max_fps=None)
        next(results)
    results.close()  # type: ignore[attr-defined]


def test_an_error_in_the_block_closes_and_comes_through(backend: FakeBackend) -> None:
    with pytest.raises(KeyError), sync.HybridDetectionService(backends=[backend]):
        raise KeyError


def test_a_service_that_cannot_start_leaves_no_thread() -> None:
    class NeverStarts(FakeBackend):
        async def start(self) -> None:
            raise ConfigurationError("it can never work")

    service = sync.HybridDetectionService(backends=[NeverStarts()])
    with pytest.raises(ConfigurationError, match="never work"), service:
        pass


def test_open_and_close_do_what_the_block_does(backend: FakeBackend) -> None:
    service = sync.HybridDetectionService(backends=[backend])
    assert service.open() is service
    assert service.open() is service
    service.wait_ready()
    assert service.process_image(IMAGE).answered
    service.close()
    service.close()
    with pytest.raises(ClosedError):
        service.process_image(IMAGE)


@pytest.fixture
def ctrl_c_is_heeded() -> Iterator[None]:
    """A shell has its background jobs, and so a test run among them, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_is_heeded")
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_in_a_camera_loop_comes_through_and_leaves_nothing(
    presses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FakeBackend(latency_s=60.0)

    def press_again(call: object, limit_s: float) -> None:
        raise KeyboardInterrupt  # before the first one has ended anything

    if presses == 2:
        monkeypatch.setattr(loop_thread._Call, "cancel", press_again)

    def frames() -> Iterator[Any]:
        while True:
            yield IMAGE

    def interrupt() -> None:
        while not backend.plans:
            time.sleep(0.005)
        ident = threading.main_thread().ident
        assert ident is not None
        signal.pthread_kill(ident, signal.SIGINT)

    def watch(service: sync.HybridDetectionService) -> None:
        for _ in service.start_detection(frames(), max_fps=None):
            pass

    config = ServiceConfig(deadline_s=60.0)
    with sync.HybridDetectionService(config=config, backends=[backend]) as service:
        presser = threading.Thread(target=interrupt)
        presser.start()
        with pytest.raises(KeyboardInterrupt):
            watch(service)
        presser.join()


def test_ctrl_c_before_a_call_has_reached_the_loop_leaves_nothing(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coroutine that is never awaited would be a warning, and so an error here."""

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    with sync.HybridDetectionService(backends=[backend]) as service:
        with monkeypatch.context() as patches:
            patches.setattr(asyncio.BaseEventLoop, "call_soon_threadsafe", press)
            with pytest.raises(KeyboardInterrupt):
                service.process_image(IMAGE)
        gc.collect()
        assert service.process_image(IMAGE).answered


def test_a_service_can_be_entered_once_and_says_so_by_its_own_name(backend: FakeBackend) -> None:
    service = sync.HybridDetectionService(backends=[backend])
    with service:
        pass
    with pytest.raises(ClosedError, match="this HybridDetectionService is closed: make a new one"):
        service.open()


def test_a_call_out_of_a_hook_is_refused_instead_of_waiting_for_itself() -> None:
    errors = []

    class Calls:
        def on_frame(self, event: object) -> None:
            try:
                service.process_image(IMAGE)
            except ClosedError as error:
                errors.append(str(error))

    with sync.HybridDetectionService(backends=[FakeBackend()], hooks=[Calls()]) as service:
        service.process_image(IMAGE)
    assert ["own hooks" in error for error in errors] == [True]


def test_a_service_that_is_dropped_ends(backend: FakeBackend) -> None:
    service = sync.HybridDetectionService(backends=[backend])
    service.open()
    service.process_image(IMAGE)
    del service
    gc.collect()
    wait_until(lambda: not any(t.name == "hybrid-detect-loop" for t in threading.enumerate()))
    assert backend._closed


def test_closing_ends_the_calls_of_other_threads(backend: FakeBackend) -> None:
    backend.latency_s = math.inf
    service = sync.HybridDetectionService(backends=[backend])
    service.open()
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(service.process_image, IMAGE, deadline_s=60) for _ in range(2)]
        wait_until(lambda: len(backend.plans) == 2)
        service.close()
        for call in calls:
            with pytest.raises((ClosedError, AllBackendsFailedError)):
                call.result(LIMIT_S)


def test_closing_ends_a_call_whose_backend_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread would wait for an answer that nothing gives any more."""
    looks = threading.Event()

    class Stubborn(FakeBackend):
        async def detect(self, *args: Any, **options: Any) -> DetectionResult:
            looks.set()
            while True:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(math.inf)

    monkeypatch.setattr(loop_thread, "EXIT_LIMIT_S", 0.05)
    service = sync.HybridDetectionService(backends=[Stubborn()])
    service.open()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(service.process_image, IMAGE, deadline_s=60)
        assert looks.wait(LIMIT_S)
        service.close()
        with pytest.raises(ClosedError):
            call.result(LIMIT_S)


@pytest.mark.skipif(not is_installed("gevent"), reason="gevent is not installed")
def test_a_second_service_under_gevent_says_why_it_cannot_be() -> None:
    program = """
from gevent import monkey
monkey.patch_all()
import numpy as np
from hybrid_detect import ConfigurationError, sync
from hybrid_detect.testing import FakeBackend
first = sync.HybridDetectionService(backends=[FakeBackend()])
second = sync.HybridDetectionService(backends=[FakeBackend()])
first.open()
try:
    second.open()
except ConfigurationError as error:
    print("gevent" in str(error))
assert first.process_image(np.zeros((8, 8, 3), np.uint8)).answered
first.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_the_constructors_take_the_same_arguments() -> None:
    """So that editors complete them, and a misspelt one is refused."""
    blocking = inspect.signature(hybrid_detect.sync.HybridDetectionService)
    assert blocking == inspect.signature(hybrid_detect.HybridDetectionService)
    with pytest.raises(TypeError, match="modee"):
        hybrid_detect.sync.HybridDetectionService(modee="auto")  # type: ignore[call-arg]
