"""What the library adds to a bare httpx POST, and to a bare websockets round trip.

The same bytes go to the same server by both roads, in turns, one at a time. The server runs
in a process of its own, once with an instant detector, so that nothing hides the overhead,
and once with the real one, which is what a user waits for.

    python benchmarks/bench_overhead.py [ROUNDS]
"""

import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
from skimage import data
from websockets.asyncio.client import connect

from hybrid_detect import CloudDetectionService, Frame, Plan, StreamingService
from hybrid_detect.backends.remote.protocol import DetectParams
from hybrid_detect.backends.remote.providers.custom import CustomProtocol
from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.exchange.wire import CONTENT_TYPE, DetectRequest
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.listening import Server
from hybrid_detect.server.serving import ServerProcess
from hybrid_detect.types import BackendKind

ROUNDS = 400
WARM_UP = 30


class InstantDetector:
    """Sees nothing, at once."""

    model = "instant"
    info = None

    async def start(self) -> None: ...

    async def detect(
        self, request: DetectRequest, *, is_abandoned: object = None, **_: object
    ) -> Detection:
        return Detection(width=1280, height=720, faces=(), queue_s=0.0, detect_s=0.0)

    async def aclose(self) -> None: ...


def serve_instant(port: int) -> None:
    config = ServerConfig(rate_per_s=0, port=port)
    Server(create_app(config, InstantDetector()), config).run()


async def until_healthy(url: str) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(200):
            try:
                await client.get(f"{url}/v1/health")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return
    raise SystemExit("the server did not start")


async def race(
    ours: Callable[[], Awaitable[float]], bare: Callable[[], Awaitable[float]], rounds: int
) -> tuple[float, float]:
    """Median seconds of both, taken in turns, with the order changing each round."""
    times: dict[Callable[[], Awaitable[float]], list[float]] = {ours: [], bare: []}
    for number in range(WARM_UP + rounds):
        for call in (ours, bare) if number % 2 else (bare, ours):
            took_s = await call()
            if number >= WARM_UP:
                times[call].append(took_s)
    return statistics.median(times[ours]), statistics.median(times[bare])


async def measure(url: str, rounds: int) -> dict[str, float]:
    frame = Frame.of(data.astronaut())
    plan = Plan(backend=BackendKind.CLOUD, reason="benchmark", deadline_s=10.0, retries=0)
    picture = ImageCompressionService().compress(frame)
    request = CustomProtocol().encode((picture,), DetectParams()).body
    figures = {}
    async with (
        CloudDetectionService(endpoint=url) as cloud,
        StreamingService(endpoint=url) as streaming,
        httpx.AsyncClient(headers={"Content-Type": CONTENT_TYPE, "Accept": CONTENT_TYPE}) as client,
        connect(
            url.replace("http", "ws", 1) + "/v1/stream", compression=None, ping_interval=None
        ) as link,
    ):
        # Compressing is what the caller of the bare client has to do as well: both do it before
        # each call, so that server and connection have been idle for as long, and it counts for
        # neither. Decoding and checking the reply counts for us.
        loop, encoder = asyncio.get_running_loop(), ThreadPoolExecutor(1)
        compressor = ImageCompressionService()

        async def compress() -> None:
            await loop.run_in_executor(encoder, compressor.compress, frame)

        async def cloud_call() -> float:
            return (await cloud.detect(frame, plan)).timings.exchange_s or 0.0

        async def streaming_call() -> float:
            return (await streaming.detect(frame, plan)).timings.exchange_s or 0.0

        async def bare_post() -> float:
            await compress()
            started_s = time.monotonic()
            response = await client.post(f"{url}/v1/detect", content=request)
            response.raise_for_status()
            return time.monotonic() - started_s

        async def bare_round_trip() -> float:
            await compress()
            started_s = time.monotonic()
            await link.send(request)
            await link.recv()
            return time.monotonic() - started_s

        for name, ours, bare in (
            ("cloud", cloud_call, bare_post),
            ("streaming", streaming_call, bare_round_trip),
        ):
            ours_s, bare_s = await race(ours, bare, rounds)
            figures[f"{name}_ratio"] = round(ours_s / bare_s, 3)
            figures[f"{name}_ms"] = round(ours_s * 1000, 3)
            figures[f"{name}_bare_ms"] = round(bare_s * 1000, 3)
    return figures


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    port = 8765
    server = multiprocessing.get_context("spawn").Process(target=serve_instant, args=(port,))
    server.start()
    try:
        url = f"http://127.0.0.1:{port}"
        asyncio.run(until_healthy(url))
        print("instant detector:", json.dumps(asyncio.run(measure(url, rounds))))
    finally:
        server.terminate()
        server.join()
    with ServerProcess(model="full_range") as real:
        print("real detector:   ", json.dumps(asyncio.run(measure(real.url, rounds))))


if __name__ == "__main__":
    main()
