"""What encryption adds to sending a frame, in CPU time of the client.

A camera's 1280x720 frames are compressed to 80 KB and sent over HTTP and over the stream to a
server that detects nothing, in a process of its own: plain, and sealed with each suite. All take
turns on every frame, in changing order; CPU time is that of the whole process, its encoding
thread included. Besides, sealing a request and opening its reply alone, as a share of the plain
frame: the difference of two large figures is noisier than the small figure itself.

    python benchmarks/bench_sealing.py [FRAMES]
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
from PIL import Image, ImageOps

from hybrid_detect import CloudDetectionService, Frame, Plan, StreamingService, TrustedKey
from hybrid_detect.exchange.key_files import write_key_file
from hybrid_detect.exchange.key_ring import KeyRing
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.exchange.sealer import Sealer
from hybrid_detect.exchange.sealing import open_request, seal_reply
from hybrid_detect.exchange.wire import DetectRequest, ResultReply, encode_reply
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.listening import Server
from hybrid_detect.types import DEFAULT_TARGET_BYTES, BackendKind, BoundingBox, Face

FACES = Path(__file__).parents[2] / "shared" / "faces"
FRAMES = 150
WARM_UP = 10
PORT = 8766
TARGET_BYTES = DEFAULT_TARGET_BYTES
FOUND = (Face(BoundingBox(100, 100, 200, 200), 0.9),) * 3


class InstantDetector:
    """Sees three faces, at once."""

    model = "instant"
    info = None

    async def start(self) -> None: ...

    async def detect(
        self, request: DetectRequest, *, is_abandoned: object = None, **_: object
    ) -> Detection:
        return Detection(width=1280, height=720, faces=FOUND, queue_s=0.0, detect_s=0.0)

    async def aclose(self) -> None: ...


def serve(keys_path: Path) -> None:
    config = ServerConfig(keys_path=keys_path, rate_per_s=0, port=PORT)
    Server(create_app(config, InstantDetector()), config).run()


async def until_healthy(url: str) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(200):
            with contextlib.suppress(httpx.TransportError):
                await client.get(f"{url}/v1/health")
                return
            await asyncio.sleep(0.05)
    raise SystemExit("the server did not start")


def camera(count: int) -> Iterator[np.ndarray]:
    """A photo, held in a shaking hand, with a sensor's noise."""
    if FACES.is_dir():
        photo = Image.open(sorted(FACES.glob("*.jpg"))[0])
    else:
        from skimage import data

        photo = Image.fromarray(data.astronaut())
    scene = np.asarray(ImageOps.fit(photo.convert("RGB"), (1280 + 64, 720 + 64)))
    rng = np.random.default_rng(1)
    for _ in range(count):
        x, y = rng.integers(0, 64, 2)
        noise = rng.integers(-3, 4, (720, 1280, 1), dtype=np.int16)
        yield (scene[y : y + 720, x : x + 1280] + noise).clip(0, 255).astype(np.uint8)


async def race(url: str, keys: dict[Suite, PrivateKey], count: int) -> None:
    plan = Plan(
        backend=BackendKind.CLOUD,
        reason="benchmark",
        deadline_s=10.0,
        retries=0,
        target_bytes=TARGET_BYTES,
        max_side_px=1280,
        quality=92,
    )
    # Making the frames keeps the event loop from answering pings.
    for made, options in ((CloudDetectionService, {}), (StreamingService, {"heartbeat_s": 30.0})):
        async with contextlib.AsyncExitStack() as stack:
            backends = {"plain": await stack.enter_async_context(made(endpoint=url, **options))}
            for suite, key in keys.items():
                backend = made(endpoint=url, encryption=TrustedKey(key.public), **options)
                backends[suite.value] = await stack.enter_async_context(backend)
            spent: dict[str, list[float]] = {name: [] for name in backends}
            sent = 0
            for number, pixels in enumerate(camera(WARM_UP + count)):
                order = list(backends)
                random.shuffle(order)
                for name in order:
                    started_s = time.process_time()
                    result = await backends[name].detect(Frame.of(pixels), plan)
                    took_s = time.process_time() - started_s
                    assert len(result.faces) == 3
                    if number >= WARM_UP:
                        spent[name].append(took_s)
                        sent = result.bytes_sent
            plain_s = statistics.median(spent["plain"])
            way_name = made.kind.value
            print(f"{way_name}: plain {plain_s * 1000:.2f} ms of CPU a frame, {sent} bytes sent")
            for suite, key in keys.items():
                # Frame by frame, because frames differ by more than sealing costs.
                pairs = zip(spent[suite.value], spent["plain"], strict=True)
                more_s = statistics.median(sealed - plain for sealed, plain in pairs)
                alone_s = sealing_alone(key)
                print(
                    f"  {suite.value:16}  whole frame {1 + more_s / plain_s:.3f} of plain,"
                    f"  sealing alone {alone_s * 1000:.3f} ms = {alone_s / plain_s:.2%}"
                )


def sealing_alone(key: PrivateKey, rounds: int = 200) -> float:
    """Median CPU seconds of sealing an 80 KB request and opening its reply."""
    sealer = Sealer(key.public)
    message = bytes(TARGET_BYTES)
    answer = encode_reply(
        ResultReply(request_id=0, width=1280, height=720, faces=FOUND, model="instant")
    )
    spent = []
    for _ in range(rounds):
        started_s = time.process_time()
        sealed = sealer.seal(message)
        took_s = time.process_time() - started_s
        reply = seal_reply(answer, open_request(sealed.data, {key.public.id: key}))
        started_s = time.process_time()
        sealer.open(reply, sealed)
        spent.append(took_s + time.process_time() - started_s)
    return statistics.median(spent)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else FRAMES
    ends = datetime.now(UTC) + timedelta(days=1)
    keys = {suite: PrivateKey.generate(suite, ends) for suite in Suite}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.json"
        write_key_file(path, KeyRing(tuple(keys.values())))
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(path,))
        server.start()
        try:
            url = f"http://127.0.0.1:{PORT}"
            asyncio.run(until_healthy(url))
            asyncio.run(race(url, keys, count))
        finally:
            server.terminate()
            server.join()


if __name__ == "__main__":
    main()
