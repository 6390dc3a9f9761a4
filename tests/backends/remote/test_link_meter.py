"""What the remote backends tell the link estimator of their uploads, with a real server's app."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.remote import frames_in_flight
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.errors import BackendError
from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.frames.frame import Frame
from hybrid_detect.selection.conditions import LinkConditions
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.types import DetectionResult, Plan

from ...server.loopback import OneFace, served
from ...waiting import until

pytestmark = pytest.mark.anyio

IMAGE = np.zeros((48, 64, 3), np.uint8)
BACKENDS: dict[str, type[RemoteBackend]] = {
    "cloud": CloudDetectionService,
    "streaming": StreamingService,
}


class Gated(OneFace):
    """Looks when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.go.set()
        self.begun = 0

    async def detect(self, request: DetectRequest, **options: Any) -> Detection:
        self.begun += 1
        await self.go.wait()
        return await super().detect(request, **options)


@asynccontextmanager
async def connected(kind: str) -> AsyncIterator[tuple[Any, Gated]]:
    detector = Gated()
    async with served(ServerConfig(), detector=detector) as server:
        backend = BACKENDS[kind](endpoint=f"http://127.0.0.1:{server.port}")
        try:
            await backend.start()
            await backend.check(deadline_s=5.0)
            yield backend, detector
        finally:
            detector.go.set()
            await backend.aclose()


def look(backend: RemoteBackend, **options: Any) -> asyncio.Task[DetectionResult]:
    known: dict[str, Any] = {"reason": "test", "deadline_s": 5.0, "retries": 0}
    return asyncio.create_task(
        backend.detect(Frame.of(IMAGE), Plan(backend=backend.kind, **(known | options)))
    )


def believed(backend: RemoteBackend) -> LinkConditions:
    return backend.meter.link.conditions(now_s=backend.meter.clock())


@pytest.mark.parametrize("kind", BACKENDS)
async def test_an_upload_is_under_way_from_its_sending_to_its_answer(kind: str) -> None:
    async with connected(kind) as (backend, detector):
        detector.go.clear()
        looking = look(backend)
        await until(lambda: detector.begun == 1)
        assert believed(backend).in_flight == 1
        detector.go.set()
        result = await looking
        assert believed(backend).in_flight == 0
        # All that was sent, and a few headers at most besides.
        assert 0 < backend.meter.link.bytes_sent <= result.bytes_sent + 100
        assert backend.meter.wasted_bytes == 0
        assert backend.meter.link.bytes_probing == 0


@pytest.mark.parametrize("kind", BACKENDS)
async def test_a_probe_is_counted_as_one(kind: str) -> None:
    async with connected(kind) as (backend, _):
        await look(backend, probe=True)
        assert backend.meter.link.bytes_probing == backend.meter.link.bytes_sent > 0


@pytest.mark.parametrize("kind", BACKENDS)
async def test_who_is_not_waited_for_wastes_its_bytes(kind: str) -> None:
    async with connected(kind) as (backend, detector):
        detector.go.clear()
        looking = look(backend)
        await until(lambda: detector.begun == 1)
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        assert backend.meter.wasted_bytes == backend.meter.link.bytes_sent > 0
        # On the stream it goes on, and so does the queue; a request is taken back at once.
        assert believed(backend).in_flight == (1 if kind == "streaming" else 0)
        detector.go.set()
        await until(lambda: believed(backend).in_flight == 0)


@pytest.mark.parametrize("kind", BACKENDS)
async def test_a_refused_upload_says_nothing_of_the_link(kind: str) -> None:
    async with connected(kind) as (backend, detector):
        rate = believed(backend).bits_per_s

        async def broken(*_args: Any, **_options: Any) -> Detection:
            raise RuntimeError("a bug")

        detector.detect = broken  # type: ignore[method-assign]
        with pytest.raises(BackendError):
            await look(backend)
        assert believed(backend).in_flight == 0
        assert believed(backend).bits_per_s == pytest.approx(rate, rel=0.01)
        assert backend.meter.wasted_bytes == 0


@pytest.mark.parametrize(
    "cancel_soon",
    [
        pytest.param(lambda task: task.cancel(), id="just before its answer is there"),
        pytest.param(
            lambda task: asyncio.get_running_loop().call_soon(task.cancel),
            id="just after its answer is there",
        ),
    ],
)
async def test_an_answer_in_the_moment_of_the_cancellation_ends_the_upload(
    cancel_soon: Callable[[asyncio.Task[Any]], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would be held against the link for 3 s, in which no probe is sent."""
    async with connected("streaming") as (backend, detector):
        detector.go.clear()
        looking = look(backend)
        await until(lambda: detector.begun == 1)
        peek = frames_in_flight.peek_request_id

        def cancelling(message: bytes) -> int:
            cancel_soon(looking)
            return peek(message)

        monkeypatch.setattr(frames_in_flight, "peek_request_id", cancelling)
        detector.go.set()
        with pytest.raises(asyncio.CancelledError):
            await looking
        assert believed(backend).in_flight == 0


async def test_late_answers_end_their_own_uploads() -> None:
    """The first of two is late and the second is not: which bytes are still under way is known."""
    async with connected("streaming") as (backend, detector):
        detector.go.clear()
        first, second = look(backend), look(backend)
        await until(lambda: detector.begun == 2)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert believed(backend).in_flight == 2
        detector.go.set()
        await second
        await until(lambda: believed(backend).in_flight == 0)
