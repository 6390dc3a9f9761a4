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
DEADLINE_S = 10.0
"""No frame needs so long: a server that is killed or hangs is noticed well before."""
FRAMES_CUT = 15
MAX_FRAMES = 400


@pytest.fixture
def own_server(server: ServerProcess) -> Iterator[ServerProcess]:
    """A server to ill-treat; `server` has found out that one can be had."""
    with ServerProcess(auth_token=TOKEN, model="full_range") as process:
        yield process


async def watched(
    process: ServerProcess,
    image: np.ndarray,
    cut: Callable[[], Any],
    mend: Callable[[], Any],
) -> list[DetectionResult]:
    """Stream until the server has answered again, `FRAMES_CUT` frames after it was cut off.

    Returns:
        The results of the frames from the cut on.
    """
    results: list[DetectionResult] = []
    asked = cut_at = 0

    def answers(since: int) -> bool:
        """Whether the server has answered the last three frames."""
        last = [result.backend for result in results[since:][-3:]]
        return last == [BackendKind.STREAMING] * 3

    async def camera() -> AsyncIterator[np.ndarray]:
        nonlocal asked, cut_at
        mending: asyncio.Task[Any] | None = None
        for number in range(MAX_FRAMES):
            if not cut_at and answers(0):
                cut()
                cut_at = number
            if cut_at and number == cut_at + FRAMES_CUT:
                mending = asyncio.create_task(asyncio.to_thread(mend))
            if mending is not None and mending.done() and answers(cut_at + FRAMES_CUT):
                break
            asked += 1
            yield np.roll(image, number, axis=1)
        assert mending is not None
        await mending

    # A close-up, of which the device finds as much: only its cost speaks for the server.
    config = ServiceConfig(
        endpoint=process.url, auth_token=TOKEN, deadline_s=DEADLINE_S, device_cost=0.9
    )
    async with HybridDetectionService(config=config) as service:
        await service.wait_ready()
        async for result in service.start_detection(camera(), max_fps=FPS):
            results.append(result)  # noqa: PERF401 - the camera watches the list grow
    assert answers(cut_at + FRAMES_CUT), "the way back was not taken"
    assert len(results) == asked
    assert [result.reason for result in results if not result.answered] == []
    return results[cut_at:]


async def test_a_killed_server_costs_no_frame_and_the_way_back_is_taken(
    own_server: ServerProcess, astronaut: np.ndarray
) -> None:
    results = await watched(own_server, astronaut, own_server.kill, own_server.start)
    assert results[FRAMES_CUT - 1].backend is BackendKind.DEVICE
    # A killed server is noticed at once: no frame waits for an answer until its time is over.
    degraded = [result for result in results if result.status is DetectionStatus.DEGRADED]
    attempts = [attempt for result in degraded for attempt in result.attempts]
    assert "BackendTimeoutError" not in {attempt.error for attempt in attempts}
    assert all(result.attempts for result in degraded)


async def test_a_hanging_server_costs_no_frame_and_the_way_back_is_taken(
    own_server: ServerProcess, astronaut: np.ndarray
) -> None:
    pid = own_server.pid
    assert pid is not None
    try:
        results = await watched(
            own_server,
            astronaut,
            lambda: os.kill(pid, signal.SIGSTOP),
            lambda: os.kill(pid, signal.SIGCONT),
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    assert results[FRAMES_CUT - 1].backend is BackendKind.DEVICE
