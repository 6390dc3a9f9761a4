import asyncio
import io
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.backends.device import supervised_worker
from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.worker_messages import DroppedError
from hybrid_detect.errors import (
    BackendUnavailableError,
    InvalidFrameError,
    MissingExtraError,
)
from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.server import detectors, levels
from hybrid_detect.server.admission import TooLateError
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection, DetectorPool
from hybrid_detect.server.serving import serve
from hybrid_detect.system.memory_probe import DEVICE_DETECTOR_BYTES, MemoryReading

from ..backends.device import stand_in
from ..waiting import LIMIT_S, until

pytestmark = pytest.mark.anyio


def jpeg(width: int = 64) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((48, width, 3), np.uint8)).save(out, "JPEG")
    return out.getvalue()


PICTURE = DetectRequest(request_id=1, image=jpeg())
DIED = BackendUnavailableError("the detector's process died (signal 9)", retryable=True)
BACKS_OFF = BackendUnavailableError("the detector's process died 3 times; next try in 5.0 s")


class Worker:
    """A worker that hangs, dies or fails to start when told so."""

    has_process = True

    def __init__(self) -> None:
        self.starting = False
        self.hangs = False
        self.error: Exception | None = None
        self.start_error: Exception | None = None
        self.looked = 0
        self.confidences: list[float] = []
        self.kills = 0
        self.may_be_dropped = False
        self.drops_when = threading.Event()
        self.drops_when.set()
        self.dropped = threading.Event()
        self.is_closed = False
        self.hanging = threading.Event()
        self._killed = threading.Event()

    @property
    def asked_since_s(self) -> float | None:
        return 0.0 if self.hangs and self.hanging.is_set() and not self.starting else None

    def start(self) -> None:
        if self.start_error is not None:
            raise self.start_error

    def detect_encoded(
        self, data: bytes, *, max_pixels: int, min_confidence: float, **_: Any
    ) -> PictureFaces:
        self.looked += 1
        self.confidences.append(min_confidence)
        if self.may_be_dropped:
            self.hanging.set()
            assert self.dropped.wait(LIMIT_S)
            assert self.drops_when.wait(LIMIT_S)
            self.may_be_dropped = False
            raise DroppedError
        if self.hangs:
            self._killed.clear()
            self.hanging.set()
            assert self._killed.wait(LIMIT_S)
            self.hangs = False
            raise DIED
        if self.error is not None:
            raise self.error
        return PictureFaces(64, 48, ())

    def begin_encoded(self, *_: object, **__: object) -> None:
        """It has to be waited for."""

    def kill(self) -> None:
        self.kills += 1
        self._killed.set()

    def drop(self) -> None:
        self.dropped.set()

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """The workers that the next pools get, in this order."""
    made = [Worker() for _ in range(4)]
    waiting = iter(made)
    monkeypatch.setattr(levels, "EventLoopWorker", lambda *_, **__: next(waiting))
    monkeypatch.setattr(levels, "load_model", lambda *_, **__: b"model")
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", "mediapipe".__eq__)
    leave(monkeypatch, None)
    return made


def leave(monkeypatch: pytest.MonkeyPatch, available_bytes: int | None) -> None:
    class Probe:
        def __init__(self, **_: Any) -> None:
            self.read: Callable[[], MemoryReading] = lambda: MemoryReading(
                available_bytes=available_bytes
            )

    monkeypatch.setattr(detectors, "MemoryProbe", Probe)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is not done at once counts as hung."""
    for name in ("DETECT_LIMIT_S", "HANG_GRACE_S", "CLOSE_TIMEOUT_S"):
        monkeypatch.setattr(detectors, name, 0.0)
    monkeypatch.setattr(supervised_worker, "KILL_EVERY_S", 0.001)


@asynccontextmanager
async def pool_of(count: int, **config: Any) -> AsyncIterator[DetectorPool]:
    pool = DetectorPool(ServerConfig(**{"detectors": count, "model": "full_range", **config}))
    async with asyncio.timeout(LIMIT_S):
        await pool.start()
        try:
            yield pool
        finally:
            await pool.aclose()


def detectors_of(pool: DetectorPool) -> list[Any]:
    return [worker.detector for place in pool._places for worker in place.workers.values()]


def looks(workers: Sequence[Worker]) -> list[int]:
    return [worker.looked for worker in workers]


# -- a detector that hangs -------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
async def test_a_hung_detector_is_killed_and_costs_one_picture(workers: list[Worker]) -> None:
    async with pool_of(1) as pool:
        workers[0].hangs = True
        with pytest.raises(BackendUnavailableError, match="died"):
            await pool.detect(PICTURE)
        assert isinstance(await pool.detect(PICTURE), Detection)
    assert looks(workers[:1]) == [2], "there was no time for a second try"


@pytest.mark.usefixtures("impatient")
async def test_a_hung_detector_is_killed_though_its_caller_has_gone(
    workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detectors, "HANG_GRACE_S", 0.2)
    async with pool_of(1) as pool:
        workers[0].hangs = True
        gone = asyncio.create_task(pool.detect(PICTURE))
        await asyncio.to_thread(workers[0].hanging.wait, LIMIT_S)
        gone.cancel()
        assert isinstance(await pool.detect(PICTURE), Detection)
        await asyncio.wait([gone])
        assert gone.cancelled() or gone.exception() is DIED


@pytest.mark.usefixtures("impatient")
async def test_a_detector_is_not_killed_while_it_starts(workers: list[Worker]) -> None:
    async with pool_of(1) as pool:
        workers[0].hangs = workers[0].starting = True
        look = asyncio.create_task(pool.detect(PICTURE))
        await asyncio.to_thread(workers[0].hanging.wait, LIMIT_S)
        await asyncio.wait([look], timeout=0.02)
        assert workers[0].kills == 0
        workers[0].starting = False
        with pytest.raises(BackendUnavailableError):
            await look


async def test_a_picture_s_deadline_ends_a_hung_look_earlier(
    workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detectors, "DETECT_LIMIT_S", 1000.0)
    monkeypatch.setattr(detectors, "HANG_GRACE_S", 0.0)
    async with pool_of(1) as pool:
        workers[0].hangs = True
        with pytest.raises(BackendUnavailableError):
            await pool.detect(DetectRequest(request_id=1, image=jpeg(), deadline_s=0.01))


async def test_closing_kills_what_hangs_and_tries_nothing_again(
    workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detectors, "CLOSE_TIMEOUT_S", 0.0)
    async with pool_of(2) as pool:
        workers[0].hangs = True
        look = asyncio.create_task(pool.detect(PICTURE))
        await asyncio.to_thread(workers[0].hanging.wait, LIMIT_S)
    with pytest.raises(BackendUnavailableError):
        await look
    assert looks(workers[:2]) == [1, 0]
    assert all(worker.is_closed for worker in workers[:2])


# -- a detector that fails -------------------------------------------------------------------


async def test_detectors_take_turns(workers: list[Worker]) -> None:
    async with pool_of(3) as pool:
        for _ in range(6):
            await pool.detect(PICTURE)
    assert looks(workers[:3]) == [2, 2, 2]


@pytest.mark.parametrize("error", [DIED, BACKS_OFF], ids=str)
async def test_a_failing_detector_costs_no_picture(workers: list[Worker], error: Exception) -> None:
    async with pool_of(2) as pool:
        workers[0].error = error
        for _ in range(4):
            assert isinstance(await pool.detect(PICTURE), Detection)
    assert workers[1].looked == 4


async def test_only_one_other_detector_is_tried(workers: list[Worker]) -> None:
    async with pool_of(3) as pool:
        for worker in workers:
            worker.error = DIED
        with pytest.raises(BackendUnavailableError):
            await pool.detect(PICTURE)
    assert looks(workers[:3]) == [1, 1, 0]


async def test_there_is_no_second_try_without_time(
    workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detectors, "DETECT_LIMIT_S", 0.0)
    async with pool_of(2) as pool:
        workers[0].error = DIED
        with pytest.raises(BackendUnavailableError):
            await pool.detect(PICTURE)
    assert looks(workers[:2]) == [1, 0]


# -- starting --------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [0, 1])
async def test_a_failed_start_leaves_nothing_behind(workers: list[Worker], failing: int) -> None:
    workers[failing].start_error = BackendUnavailableError("no process to be had")
    app = create_app(ServerConfig(detectors=2, model="full_range"))
    with pytest.raises(BackendUnavailableError, match="no process"):
        async with app.router.lifespan_context(app):
            pytest.fail("it came up")
    assert all(worker.is_closed for worker in workers[:2])
    assert not [thread for thread in threading.enumerate() if "detector" in thread.name]


@pytest.mark.parametrize(
    ("available_bytes", "count"),
    [
        (None, 3),
        (100 * DEVICE_DETECTOR_BYTES, 3),
        (3 * DEVICE_DETECTOR_BYTES - 1, 2),
        (0, 1),
    ],
)
async def test_no_more_detectors_are_started_than_memory_allows(
    workers: list[Worker],
    monkeypatch: pytest.MonkeyPatch,
    available_bytes: int | None,
    count: int,
) -> None:
    leave(monkeypatch, available_bytes)
    async with pool_of(3) as pool:
        await asyncio.gather(*(pool.detect(PICTURE) for _ in range(6)))
    assert [worker.is_closed for worker in workers].count(True) == count
    assert sum(looks(workers[:count])) == 6


async def test_without_a_runtime_no_model_is_fetched(
    workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", lambda _: False)
    monkeypatch.setattr(levels, "load_model", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(MissingExtraError, match=r"hybrid-detect\[device-lite\]") as caught:
        await asyncio.to_thread(serve, ServerConfig(port=0, detectors=1, model="full_range"))
    assert caught.value.extra == "device-lite"


# -- the lowest score ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "lowest", "applied"),
    [
        (0.0, 0.1, 0.1),
        (0.1, 0.1, 0.1),
        (0.3, 0.1, 0.3),
        (0.5, 0.1, 0.5),
        (0.9, 0.1, 0.9),
        (0.1, 0.7, 0.7),
        (0.8, 0.7, 0.8),
        (None, 0.1, 0.5),  # MediaPipe's own
        (None, 0.7, 0.7),
    ],
)
async def test_the_score_that_a_client_asks_for_is_applied_and_told(
    workers: list[Worker], asked: float | None, lowest: float, applied: float
) -> None:
    async with pool_of(1, min_confidence=lowest) as pool:
        request = DetectRequest(request_id=1, image=jpeg(), min_confidence=asked)
        assert (await pool.detect(request)).min_confidence == applied
    assert workers[0].confidences == [applied]


# -- clients that go while their picture is looked at ----------------------------------------


async def test_a_look_is_dropped_when_its_client_has_gone(workers: list[Worker]) -> None:
    has_gone = False

    async def is_abandoned() -> bool:
        return has_gone

    async with pool_of(1) as pool:
        workers[0].may_be_dropped = True
        look = asyncio.create_task(pool.detect(PICTURE, is_abandoned=is_abandoned))
        await until(workers[0].hanging.is_set)
        assert not workers[0].dropped.is_set()
        has_gone = True
        with pytest.raises(TooLateError):
            await look
        assert isinstance(await pool.detect(PICTURE), Detection)
    assert looks(workers[:1]) == [2], "a dropped picture is given to no other detector"


async def test_a_look_is_dropped_when_its_stream_has_ended(workers: list[Worker]) -> None:
    async with pool_of(1) as pool:
        workers[0].may_be_dropped = True
        look = asyncio.create_task(pool.detect(PICTURE))
        await until(workers[0].hanging.is_set)
        look.cancel()
        with pytest.raises(asyncio.CancelledError):
            await look
        assert workers[0].dropped.is_set()
        assert isinstance(await pool.detect(PICTURE), Detection)


async def test_a_look_that_is_cancelled_twice_keeps_its_place_until_it_ends(
    workers: list[Worker],
) -> None:
    """As by a client that hangs up while the server is being stopped."""
    async with pool_of(1) as pool:
        workers[0].may_be_dropped = True
        workers[0].drops_when.clear()
        look = asyncio.create_task(pool.detect(PICTURE))
        await until(workers[0].hanging.is_set)
        for _ in range(3):
            look.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert not look.done(), "its thread is not free yet"
        workers[0].drops_when.set()
        with pytest.raises(asyncio.CancelledError):
            await look
        assert isinstance(await pool.detect(PICTURE), Detection)


async def test_a_look_that_begins_late_hears_again_that_it_is_not_wanted(
    workers: list[Worker],
) -> None:
    """Each look begins as wanted, and a thread may begin one after its caller has gone."""
    async with pool_of(1) as pool:
        workers[0].may_be_dropped = True
        workers[0].drops_when.clear()
        look = asyncio.create_task(pool.detect(PICTURE))
        await until(workers[0].hanging.is_set)
        look.cancel()
        await until(workers[0].dropped.is_set)
        workers[0].dropped.clear()
        await until(workers[0].dropped.is_set)
        workers[0].drops_when.set()
        with pytest.raises(asyncio.CancelledError):
            await look


# -- pictures that are dear to decode --------------------------------------------------------


async def test_a_picture_with_too_many_pixels_takes_no_place(workers: list[Worker]) -> None:
    async with pool_of(1, max_pixels=48 * 64) as pool:
        with pytest.raises(InvalidFrameError, match="at most 3072 pixels"):
            await pool.detect(DetectRequest(request_id=1, image=jpeg(65)))
        assert looks(workers[:1]) == [0]
        await pool.detect(PICTURE)
        assert looks(workers[:1]) == [1]


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is for POSIX")
@pytest.mark.parametrize("ended_by", ["its limit", "closing"])
async def test_pictures_that_are_dear_to_decode_hold_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    """Two of them used to hold both detectors for as long as their decoding took."""
    stand_in.install(tmp_path, monkeypatch)
    monkeypatch.setattr(levels, "load_model", lambda *_, **__: b"dear pictures")
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", "mediapipe".__eq__)
    monkeypatch.setattr(detectors, "HANG_GRACE_S", 0.0)
    monkeypatch.setattr(detectors, "CLOSE_TIMEOUT_S", 0.0)
    deadline_s = 0.1 if ended_by == "its limit" else None
    dear = DetectRequest(request_id=1, image=jpeg(stand_in.DEAR_SIDE_PX), deadline_s=deadline_s)
    pool = DetectorPool(ServerConfig(detectors=2, model="full_range"))
    async with asyncio.timeout(LIMIT_S):  # Half of what one of them would take.
        try:
            await pool.start()
            dear_ones = [asyncio.create_task(pool.detect(dear)) for _ in range(2)]
            if ended_by == "its limit":
                fine = await pool.detect(DetectRequest(request_id=2, image=jpeg()))
                assert (fine.width, fine.height) == (64, 48)
            else:
                await until(lambda: all(each.asked_since_s for each in detectors_of(pool)))
        finally:
            await pool.aclose()
        for error in await asyncio.gather(*dear_ones, return_exceptions=True):
            assert isinstance(error, BackendUnavailableError)
            assert "signal 9" in str(error)
