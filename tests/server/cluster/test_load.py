"""What a replica says it is doing is what its detector was asked for."""

from __future__ import annotations

import asyncio

import pytest

from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.server.admission import OverloadedError
from hybrid_detect.server.cluster.load import WINDOW_S, LoadMeter
from hybrid_detect.server.detectors import Detection

from ...clock import FakeClock
from ..loopback import FACE, OneFace, jpeg

pytestmark = pytest.mark.anyio

REQUEST = DetectRequest(request_id=1, image=jpeg())


class Scripted(OneFace):
    """Takes so many seconds of the clock, of which some are spent waiting; or refuses."""

    def __init__(self, clock: FakeClock, *, takes_s: float, waits_s: float = 0.0) -> None:
        super().__init__()
        self.clock = clock
        self.takes_s, self.waits_s = takes_s, waits_s
        self.is_full = False

    async def detect(self, request: DetectRequest, **_: object) -> Detection:
        await asyncio.sleep(0)
        if self.is_full:
            raise OverloadedError(1.0)
        self.clock.now_s += self.takes_s
        return Detection(
            width=1, height=1, faces=(FACE,), queue_s=self.waits_s, detect_s=self.takes_s
        )


async def test_work_latency_and_waits_are_measured() -> None:
    clock = FakeClock(100.0)
    meter = LoadMeter(clock=clock)
    detector = meter.watch(Scripted(clock, takes_s=0.5, waits_s=0.2))
    for _ in range(2):
        assert (await detector.detect(REQUEST)).faces == (FACE,)
    clock.now_s += 1.0
    load = meter.load()
    assert load.work == pytest.approx(0.5)  # one picture for 1 s of 2 s
    assert (load.latency_s, load.wait_s, load.refused) == (pytest.approx(0.5), 0.2, 0.0)
    clock.now_s += 1.0
    assert meter.load().work == 0.0  # since the last look
    assert meter.load().latency_s == pytest.approx(0.5)
    clock.now_s += WINDOW_S
    assert meter.load().latency_s == 0.0


async def test_what_waits_is_work_before_it_is_answered() -> None:
    clock = FakeClock(100.0)
    meter = LoadMeter(clock=clock)
    go = asyncio.Event()

    class Blocked(OneFace):
        async def detect(self, request: DetectRequest, **_: object) -> Detection:
            await go.wait()
            return await super().detect(request)

    detector = meter.watch(Blocked())
    async with asyncio.TaskGroup() as pictures:
        for _ in range(3):
            pictures.create_task(detector.detect(REQUEST))
        await asyncio.sleep(0)
        clock.now_s += 1.0
        assert meter.load().work == pytest.approx(3.0)
        go.set()
    clock.now_s += 1.0
    assert meter.load().work == 0.0


async def test_refusals_are_a_rate_and_no_latency() -> None:
    clock = FakeClock(100.0)
    meter = LoadMeter(clock=clock)
    scripted = Scripted(clock, takes_s=0.1)
    scripted.is_full = True
    detector = meter.watch(scripted)
    for _ in range(20):
        with pytest.raises(OverloadedError):
            await detector.detect(REQUEST)
    assert (meter.load().refused, meter.load().latency_s) == (20 / WINDOW_S, 0.0)
    clock.now_s += WINDOW_S + 1
    assert meter.load().refused == 0.0


async def test_streams_are_counted_and_the_model_is_the_detector_s() -> None:
    meter = LoadMeter()
    detector = meter.watch(OneFace())
    await detector.start()
    assert detector.model == "fake"
    for by in (1, 1, -1):
        meter.count_streams(by)
    assert meter.load().streams == 1.0
    await detector.aclose()
