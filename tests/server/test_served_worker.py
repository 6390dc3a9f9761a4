"""A detector of the server: asked by the event loop, and by a thread where that would wait."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hybrid_detect.backends.device.event_loop_worker import EventLoopWorker
from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.errors import (
    BackendUnavailableError,
    ClosedError,
    HybridDetectError,
    InvalidFrameError,
)
from hybrid_detect.server.served_worker import ServedWorker
from hybrid_detect.types import QualityLevel

from ..backends.device.stand_in import EXIT, HANG, install
from ..backends.device.test_event_loop_worker import file_of
from ..backends.device.worker_support import pid_of
from ..waiting import LIMIT_S, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="no pipe can be waited for there"),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def served(grace_s: float = LIMIT_S) -> AsyncIterator[ServedWorker]:
    detector = EventLoopWorker(lambda: b"model", lowest_confidence=0.1, decodes=True)
    worker = ServedWorker(detector, thread_name="detector-test", grace_s=lambda: grace_s)
    await worker.run(detector.start)
    yield worker
    await worker.aclose(timeout_s=LIMIT_S)


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)


def look(
    worker: ServedWorker, data: bytes | None = None, *, due_in_s: float = LIMIT_S
) -> asyncio.Future[PictureFaces]:
    return worker.look(
        file_of() if data is None else data,
        due_s=time.monotonic() + due_in_s,
        max_pixels=10**6,
        min_confidence=0.1,
        level=QualityLevel.FAST,
    )


async def test_the_loop_asks_an_idle_process_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as worker:
        monkeypatch.setattr(EventLoopWorker, "detect_encoded", lambda *_, **__: pytest.fail("it"))
        for _ in range(3):
            assert (await look(worker)).faces
        with pytest.raises(InvalidFrameError, match="no known format"):
            await look(worker, b"no picture")
        assert (await look(worker)).faces


async def test_a_thread_asks_where_there_is_no_process() -> None:
    async with served() as worker:
        await worker.run(worker.detector.stop)
        assert (await look(worker)).faces
        assert (await look(worker)).faces


async def test_a_death_is_an_error_and_does_not_keep_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process is ended, and reaped, in the thread."""
    ended_in = []
    end = EventLoopWorker._end_look

    def watched(self: EventLoopWorker, running: object) -> PictureFaces:
        ended_in.append(threading.current_thread().name)
        return end(self, running)  # type: ignore[arg-type]

    monkeypatch.setattr(EventLoopWorker, "_end_look", watched)
    async with served() as worker:
        assert (await look(worker)).faces
        with pytest.raises(BackendUnavailableError, match="status 7"):
            await look(worker, file_of(EXIT))
        assert ended_in == [threading.current_thread().name, "detector-test"]
        assert (await look(worker)).faces
        assert worker.detector.restarts == 1


async def test_a_hang_is_ended_well_after_it_was_due() -> None:
    async with served(grace_s=0.05) as worker:
        pid = pid_of(worker.detector)
        with pytest.raises(BackendUnavailableError, match="signal 9"):
            await look(worker, file_of(HANG), due_in_s=0.0)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_process_that_dies_between_two_looks_costs_one_of_them() -> None:
    async with served() as worker:
        os.kill(pid_of(worker.detector), signal.SIGKILL)

        async def until_it_is_found_out() -> None:
            for _ in range(1000):
                await look(worker)

        with pytest.raises(BackendUnavailableError):
            await until_it_is_found_out()
        assert (await look(worker)).faces


async def test_closing_lets_a_look_end() -> None:
    async with served() as worker:
        job = look(worker)
        await worker.aclose(timeout_s=LIMIT_S)
        assert job.done()
        assert job.result().faces
        assert worker.detector.pid is None
        with pytest.raises(ClosedError):
            look(worker)


async def test_closing_kills_what_does_not_end() -> None:
    async with served() as worker:
        job = look(worker, file_of(HANG))
        await worker.aclose(timeout_s=0.0)
        assert job.done()
        assert isinstance(job.exception(), BackendUnavailableError)
        assert worker.detector.pid is None


async def test_a_process_that_has_grown_is_replaced_by_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = []

    def grown(_: int) -> int:
        threads.append(threading.current_thread().name)
        return 1 << 40

    monkeypatch.setattr("hybrid_detect.backends.device.worker.process_private_bytes", grown)
    async with served() as worker:
        pid = pid_of(worker.detector)
        for _ in range(40):
            assert (await look(worker)).faces
        assert worker.detector.pid != pid
        assert set(threads) == {"detector-test"}
        assert worker.detector.restarts == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_each_process_is_waited_for_at_a_descriptor_that_is_given_back() -> None:
    async with served() as worker:
        counts = set()
        for _ in range(3):
            await worker.run(worker.detector.stop)
            await worker.run(worker.detector.start)
            for _ in range(3):
                assert (await look(worker)).faces
            counts.add(len(os.listdir("/proc/self/fd")))
        assert len(counts) == 1
    assert len(os.listdir("/proc/self/fd")) < min(counts)


async def test_an_answer_to_a_thread_is_left_to_it() -> None:
    """The loop is told of it as well."""
    async with served() as worker:
        assert (await look(worker)).faces
        for _ in range(20):
            found = worker.run(lambda: worker.detector.detect_encoded(file_of(), max_pixels=10**6))
            assert (await found).width == 40
            assert (await look(worker)).faces


async def test_without_a_descriptor_to_be_had_a_thread_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    async with served() as worker:
        with monkeypatch.context() as patched:
            patched.setattr("hybrid_detect.server.served_worker.os.dup", none_left)
            assert (await look(worker)).faces
            assert (await look(worker)).faces


async def test_a_loop_that_cannot_wait_for_a_process_leaves_each_look_to_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no more can be waited for")

    async with served() as worker, asyncio.timeout(LIMIT_S):
        with monkeypatch.context() as patched:
            patched.setattr(asyncio.get_running_loop(), "add_reader", refused)
            assert (await look(worker)).faces
            assert (await look(worker)).faces
        assert (await look(worker)).faces


class Held:
    """Lives as long as the frame of who has asked."""


async def refused(worker: ServedWorker, data: bytes) -> weakref.ref[Held]:
    held = Held()
    with contextlib.suppress(HybridDetectError):
        await look(worker, data)
        pytest.fail("it was found well")
    return weakref.ref(held)


@pytest.mark.parametrize("by", ["the loop", "the thread"])
@pytest.mark.parametrize("fails", ["as a picture", "by a death"])
async def test_a_look_that_fails_keeps_no_picture(fails: str, by: str) -> None:
    """Its error would hold the frames of who has asked, and so the picture, by a traceback."""
    data = b"no picture" if fails == "as a picture" else file_of(EXIT)
    async with served() as worker:
        assert (await look(worker)).faces
        if by == "the thread":
            await worker.run(worker.detector.stop)
        gc.disable()
        try:
            held = await refused(worker, data)
            await until(lambda: held() is None)
        finally:
            gc.enable()


async def failed(worker: ServedWorker) -> weakref.ref[Held]:
    held = Held()

    def work() -> None:
        raise InvalidFrameError("no picture")

    with contextlib.suppress(InvalidFrameError):
        await worker.run(work)
    return weakref.ref(held)


async def test_work_of_the_thread_that_fails_keeps_nothing_of_who_asked() -> None:
    async with served() as worker:
        gc.disable()
        try:
            held = await failed(worker)
            await until(lambda: held() is None)
        finally:
            gc.enable()


async def test_what_the_thread_is_asked_meanwhile_waits_for_a_look_that_hangs() -> None:
    """As when a level is withdrawn. The thread is needed to end the look's process first."""
    async with served(grace_s=0.05) as worker:
        job = look(worker, file_of(HANG), due_in_s=0.0)
        stop = asyncio.create_task(worker.run(worker.detector.stop))
        async with asyncio.timeout(LIMIT_S):
            await asyncio.wait([job])
            await stop
        assert isinstance(job.exception(), BackendUnavailableError)
        assert worker.detector.pid is None
        assert (await look(worker)).faces


async def test_what_the_thread_is_asked_meanwhile_waits_for_a_look_that_dies() -> None:
    async with served() as worker:
        job = look(worker, file_of(EXIT))
        stop = asyncio.create_task(worker.run(worker.detector.stop))
        async with asyncio.timeout(LIMIT_S):
            await asyncio.wait([job])
            await stop
        assert isinstance(job.exception(), BackendUnavailableError)
        assert (await look(worker)).faces


async def test_a_look_does_not_pass_what_the_thread_has_to_do_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would hold that up, and be held up by it if its process had to be ended."""
    begun = threading.Event()
    async with served() as worker:
        first = asyncio.create_task(worker.run(begun.wait, LIMIT_S))
        await asyncio.sleep(0)
        with monkeypatch.context() as patched:
            patched.setattr(
                EventLoopWorker, "begin_encoded", lambda *_, **__: pytest.fail("it has passed")
            )
            job = look(worker)
        begun.set()
        assert await first
        assert (await job).faces
        assert (await look(worker)).faces
