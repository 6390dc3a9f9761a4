"""The streaming backend and the server, each as it is, over loopback."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from hybrid_detect.backends.remote.protocol import HttpRequest
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.errors import BackendError, BackendResponseError, SupersededError
from hybrid_detect.exchange.wire import (
    DETECT_PATH,
    DetectRequest,
    ResultReply,
    decode_reply,
    encode_request,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.types import BackendKind, DetectionResult, Plan

from ..server.loopback import OneFace, Served, jpeg, served
from ..waiting import LIMIT_S, until

pytestmark = pytest.mark.anyio


class Held(OneFace):
    """Looks that do not end before they are let go; counts how many go on at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.at_once = 0
        self.most_at_once = 0

    async def detect(self, request: DetectRequest, **_: object) -> Detection:
        found = await super().detect(request)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await self.go.wait()
        self.at_once -= 1
        return found


def url_of(server: Served) -> str:
    return f"http://127.0.0.1:{server.port}"


@asynccontextmanager
async def connected(url: str, **options: object) -> AsyncIterator[StreamingService]:
    async with asyncio.timeout(LIMIT_S), StreamingService(endpoint=url, **options) as service:  # type: ignore[arg-type]
        await service.check(deadline_s=LIMIT_S)
        yield service


async def look(service: StreamingService, *, retries: int = 0) -> DetectionResult:
    frame = Frame.of(np.full((48, 64, 3), 128, dtype=np.uint8))
    plan = Plan(backend=BackendKind.STREAMING, reason="test", deadline_s=LIMIT_S, retries=retries)
    return await service.detect(frame, plan)


async def exchanged(service: StreamingService) -> ResultReply:
    body = encode_request(DetectRequest(request_id=0, image=jpeg(), deadline_s=LIMIT_S))
    request = HttpRequest(url=DETECT_PATH, body=body)
    reply = decode_reply((await service.exchange(request, deadline_s=LIMIT_S)).body)
    assert isinstance(reply, ResultReply)
    return reply


@pytest.mark.parametrize(
    ("server_s", "client_s", "at_once"), [(1, 8, 1), (3, 8, 3), (5, 2, 2)], ids=str
)
async def test_no_more_frames_are_under_way_than_the_server_looks_at(
    server_s: int, client_s: int, at_once: int
) -> None:
    detector = Held()
    config = ServerConfig(rate_per_s=0, stream_in_flight=server_s)
    async with (
        served(config, detector=detector) as server,
        connected(url_of(server), max_in_flight=client_s) as service,
    ):
        frames = [asyncio.create_task(exchanged(service)) for _ in range(9)]
        await until(lambda: detector.at_once == at_once)
        # Of the others the newest waits on the client's side; those before it are superseded.
        await until(lambda: sum(frame.done() for frame in frames) == len(frames) - at_once - 1)
        assert len(service._in_flight) == at_once
        detector.go.set()
        answers = await asyncio.gather(*frames, return_exceptions=True)
        assert sum(isinstance(answer, ResultReply) for answer in answers) == at_once + 1
        assert sum(isinstance(answer, SupersededError) for answer in answers) == 8 - at_once
        assert detector.most_at_once == at_once


async def test_heartbeats_are_answered_while_as_many_frames_are_looked_at_as_may_be() -> None:
    detector = Held()
    config = ServerConfig(rate_per_s=0, stream_in_flight=2)
    async with (
        served(config, detector=detector) as server,
        connected(url_of(server), max_in_flight=8) as service,
    ):
        frames = [asyncio.create_task(exchanged(service)) for _ in range(2)]
        await until(lambda: detector.at_once == 2)
        assert service._link is not None
        for _ in range(3):
            await (await service._link.ping())
        detector.go.set()
        assert all(isinstance(reply, ResultReply) for reply in await asyncio.gather(*frames))


async def test_a_stream_that_is_too_fast_has_its_frames_refused_one_by_one() -> None:
    config = ServerConfig(rate_per_s=0, stream_rate_per_s=0.001)  # one at once
    async with served(config) as server, connected(url_of(server)) as service:
        assert (await look(service)).faces
        link = service._link
        for _ in range(2):
            with pytest.raises(BackendResponseError) as caught:
                await look(service)
            assert (caught.value.status_code, caught.value.code) == (429, "too_fast")
            assert 0 < (caught.value.retry_after_s or 0) <= 1000
        assert service._link is link is not None
        assert server.detector.looks == 1
        async with connected(url_of(server)) as other:  # a stream's rate is its own
            assert (await look(other)).faces


async def test_a_refused_frame_is_sent_again_once_the_time_told_is_over() -> None:
    config = ServerConfig(rate_per_s=0, stream_rate_per_s=5.0)  # ten at once
    async with served(config) as server, connected(url_of(server)) as service:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for _ in range(12):
            assert (await look(service, retries=1)).faces
        assert loop.time() - began_s >= 0.2  # two more than the ten had to wait for their turn
        assert server.detector.looks == 12


# -- a server that stops -----------------------------------------------------------------------


async def test_a_process_that_is_told_to_end_answers_what_it_has_taken() -> None:
    script = Path(__file__).with_name("slow_server.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        async with connected(url) as service:
            frames = [asyncio.create_task(exchanged(service)) for _ in range(2)]
            assert service._link is not None
            await until(lambda: len(service._in_flight) == 2)
            await (await service._link.ping())  # answered behind the frames: they have arrived
            link = service._link
            process.send_signal(signal.SIGTERM)
            for reply in await asyncio.gather(*frames):
                assert (reply.width, reply.height) == (64, 48)
            await link.wait_closed()
            assert link.close_code == 1012
            with pytest.raises(BackendError):
                await exchanged(service)
        assert await process.wait() == -signal.SIGTERM
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
