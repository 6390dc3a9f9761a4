"""The network goes away in the middle of a stream, and comes back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hybrid_detect.config import ServiceConfig
from hybrid_detect.server.serving import ServerProcess
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.types import BackendKind, DetectionResult, DetectionStatus

pytestmark = [pytest.mark.anyio, pytest.mark.server, pytest.mark.device]

TOKEN = "test-token"
FPS = 10
DEADLINE_S = 1.0
MAX_FRAMES = 200
FRAME_INTERVAL_S = 1 / FPS
MARGIN_S = 0.15
"""For a busy machine with two cores."""


@pytest.fixture
def own_server(server: ServerProcess) -> Iterator[ServerProcess]:
    """A server to ill-treat; `server` has found out that one can be had."""
    with ServerProcess(auth_token=TOKEN) as process:
        yield process


async def watched(
    process: ServerProcess,
    image: np.ndarray,
    cut: Callable[[], Any],
    mend: Callable[[], Any],
) -> tuple[list[DetectionResult], int]:
    """Stream until the server has answered again after `cut` (frame 10) and `mend` (frame 25)."""
    results: list[DetectionResult] = []
    asked = 0

    def is_back() -> bool:
        last = [result.backend for result in results[-3:]]
        return len(results) > 28 and last == [BackendKind.STREAMING] * 3

    async def camera() -> AsyncIterator[np.ndarray]:
        nonlocal asked
        mending: asyncio.Task[Any] | None = None
        for number in range(MAX_FRAMES):
            if number == 10:
                cut()
            if number == 25:
                mending = asyncio.create_task(asyncio.to_thread(mend))
            if is_back():
                break
            asked += 1
            yield np.roll(image, number, axis=1)
        assert mending is not None
        await mending

    config = ServiceConfig(endpoint=process.url, auth_token=TOKEN, deadline_s=DEADLINE_S)
    async with asyncio.timeout(45), HybridDetectionService(config=config) as service:
        await service.wait_ready()
        async for result in service.start_detection(camera(), max_fps=FPS):
            results.append(result)  # noqa: PERF401 - the camera watches the list grow
    assert is_back(), "the way back was not taken"
    return results, asked


def check(results: list[DetectionResult], asked: int) -> None:
    assert len(results) == asked
    assert [result.reason for result in results if not result.answered] == []
    assert all(result.backend is BackendKind.STREAMING for result in results[2:9])
    assert results[24].backend is BackendKind.DEVICE
    assert max(result.timings.total_s for result in results[2:]) < DEADLINE_S + MARGIN_S


async def test_a_killed_server_costs_no_frame_and_the_way_back_is_taken(
    own_server: ServerProcess, astronaut: np.ndarray
) -> None:
    results, asked = await watched(own_server, astronaut, own_server.kill, own_server.start)
    check(results, asked)
    # A killed server is noticed at once: whatever frame noticed it was answered at once, too.
    first = next(result for result in results[9:] if result.backend is BackendKind.DEVICE)
    assert first.timings.total_s < FRAME_INTERVAL_S + MARGIN_S
    for degraded in (r for r in results if r.status is DetectionStatus.DEGRADED):
        assert degraded.attempts
        assert degraded.timings.total_s < FRAME_INTERVAL_S + MARGIN_S


async def test_a_hanging_server_costs_no_frame_and_the_way_back_is_taken(
    own_server: ServerProcess, astronaut: np.ndarray
) -> None:
    pid = own_server.pid
    assert pid is not None
    try:
        results, asked = await watched(
            own_server,
            astronaut,
            lambda: os.kill(pid, signal.SIGSTOP),
            lambda: os.kill(pid, signal.SIGCONT),
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    check(results, asked)
    assert any(result.status is DetectionStatus.DEGRADED for result in results)
