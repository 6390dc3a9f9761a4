"""Files and name look-ups that hang stall neither other frames nor closing."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.errors import AllBackendsFailedError
from hybrid_detect.frames import frame as frame_module
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.sources.daemon_threads import in_daemon_thread
from hybrid_detect.testing import FakeBackend

from ..waiting import LIMIT_S

pytestmark = pytest.mark.anyio

IMAGE = np.zeros((48, 64, 3), np.uint8)


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """Set at the end, so that no thread of a test hangs for ever."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
async def service(anyio_backend: str) -> AsyncIterator[HybridDetectionService]:
    async with HybridDetectionService(backends=[FakeBackend("device")]) as opened:
        yield opened


async def test_reading_a_file_is_inside_the_deadline(
    service: HybridDetectionService, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(path: Any) -> bytes:
        go.wait(LIMIT_S)
        return b""

    monkeypatch.setattr(frame_module, "read_file", hang)
    began_s = time.monotonic()
    with pytest.raises(AllBackendsFailedError, match="could not be read within its deadline"):
        await service.process_image("on-a-dead-network-drive.jpg", deadline_s=0.1)
    assert time.monotonic() - began_s < LIMIT_S
    assert (await service.process_image(IMAGE)).answered


async def test_a_stream_goes_on_after_a_file_that_cannot_be_read_in_time(
    service: HybridDetectionService, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(path: Any) -> bytes:
        go.wait(LIMIT_S)
        return b""

    monkeypatch.setattr(frame_module, "read_file", hang)
    stream = service.start_detection(["missing.jpg", IMAGE], max_fps=None)
    results = [result async for result in stream]
    assert [result.status for result in results] == ["failed", "ok"]
    assert "could not be read" in results[0].reason


async def test_hung_look_ups_hold_up_neither_files_nor_closing(
    go: threading.Event, tmp_path: Path
) -> None:
    """With every thread of asyncio's own executor taken, as by silent name servers."""
    Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    loop = asyncio.get_running_loop()
    hung = [loop.run_in_executor(None, go.wait, LIMIT_S) for _ in range(40)]
    async with asyncio.timeout(LIMIT_S / 2):
        async with HybridDetectionService(backends=[FakeBackend("device")]) as service:
            assert (await service.process_image(tmp_path / "photo.png")).answered
            stream = service.start_detection([IMAGE] * 3, max_fps=None)
            await anext(stream)
            await stream.aclose()
    assert not any(call.done() for call in hung)
    go.set()
    await asyncio.wait(hung)


async def test_a_call_in_a_daemon_thread_is_left_when_it_is_given_up(go: threading.Event) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await in_daemon_thread(go.wait, LIMIT_S)
    threads = [t for t in threading.enumerate() if t.name.startswith("hybrid-detect-call")]
    assert threads
    assert all(thread.daemon for thread in threads)


async def test_what_a_call_raises_comes_through() -> None:
    def fail(kind: type[Exception]) -> None:
        raise kind("told")

    with pytest.raises(ValueError, match="told"):
        await in_daemon_thread(fail, ValueError)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await in_daemon_thread(fail, StopIteration)
