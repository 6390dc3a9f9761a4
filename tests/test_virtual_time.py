"""The event loop whose clock jumps over every wait, and what keeps it honest."""

import asyncio
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from hybrid_detect.server.rate_limit import RateLimiter
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.sources.daemon_threads import in_daemon_thread
from hybrid_detect.sources.sources import open_source
from hybrid_detect.testing import FakeBackend

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_waiting_takes_exactly_its_time_on_the_clock() -> None:
    began_s = time.monotonic()
    async with asyncio.timeout(3601):
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(60))
    assert time.monotonic() - began_s == pytest.approx(3600)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 10)
    assert time.monotonic() - began_s == pytest.approx(3610)


async def test_a_source_that_is_asked_for_its_next_image_takes_no_time() -> None:
    def slow_pictures() -> Iterator[np.ndarray]:
        for _ in range(2):
            may_go_on = threading.Event()
            threading.Timer(0.05, may_go_on.set).start()
            assert may_go_on.wait(30)
            yield np.zeros((8, 8, 3), np.uint8)

    began_s = time.monotonic()
    async with open_source(slow_pictures(), max_fps=None, intent="every_frame") as source:
        async with asyncio.timeout(0.001):
            assert await source.take() is not None
            assert await source.take() is not None
            assert await source.take() is None
    assert time.monotonic() - began_s < 0.001


async def test_the_work_of_threads_and_sockets_takes_no_time() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1_000_000))
        await writer.drain()
        writer.close()

    began_s = time.monotonic()
    may_end = threading.Event()
    may_also_end = threading.Event()
    timers = [threading.Timer(0.1, may_end.set), threading.Timer(0.2, may_also_end.set)]
    for timer in timers:
        timer.start()
    async with asyncio.timeout(1):
        assert await asyncio.to_thread(may_end.wait, 30)
        assert await in_daemon_thread(may_also_end.wait, 30)
    async with await asyncio.start_server(echo, "127.0.0.1") as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        async with asyncio.timeout(1):
            writer.write(bytes(1_000_000))
            assert len(await reader.readexactly(1_000_000)) == 1_000_000
        writer.close()
        await writer.wait_closed()
    for timer in timers:
        timer.join()
    assert time.monotonic() == began_s


async def test_all_of_the_library_reads_the_same_clock() -> None:
    limiter = RateLimiter(rate_per_s=1.0, burst=1)
    assert (limiter.take("a"), limiter.take("a")) == (0.0, 1.0)
    slow = FakeBackend("device", latency_s=5.0)
    async with HybridDetectionService(backends=[slow]) as service:
        result = await service.process_image(np.zeros((8, 8, 3), np.uint8), deadline_s=10)
    assert result.age_s == pytest.approx(5.0)
    assert limiter.take("a") == 0.0
