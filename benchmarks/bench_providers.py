"""What a provider adds to a cloud frame beside the custom protocol, in CPU time of the client.

A camera's 1280x720 frames are compressed to 80 KB and sent to a server in a process of its own that
answers at once with three faces, in each provider's own words. The protocols take turns on every
frame, in changing order; CPU time is that of the whole process, its encoding thread included. The
base64 that a provider's JSON asks for is measured alone and taken off, because no implementation is
without it; AWS's signature needs a SHA-256 of the request as well, which is printed. Besides,
encoding, signing and decoding alone, as a share of the custom protocol's frame: the difference of
two large figures is noisier than the small figure itself.

    python benchmarks/bench_providers.py [FRAMES]
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from skimage import data, transform

from hybrid_detect import (
    ApiKeyHeader,
    AwsCredentials,
    AwsKeys,
    BackendKind,
    BearerToken,
    BoundingBox,
    CloudDetectionService,
    Face,
    Frame,
    HttpResponse,
    ImageCompressionService,
    Plan,
    ResultReply,
    Target,
)
from hybrid_detect.backends.remote.protocol import DetectParams
from hybrid_detect.backends.remote.providers import protocol_of
from hybrid_detect.exchange.wire import CONTENT_TYPE, encode_reply
from hybrid_detect.types import DEFAULT_TARGET_BYTES

FRAMES = 150
WARM_UP = 10
PORT = 8767
URL = f"http://127.0.0.1:{PORT}"
BOXES = [(100, 100, 200, 200), (300, 120, 380, 220), (640, 300, 720, 420)]


def answers() -> dict[str, tuple[str, bytes]]:
    """The three faces as each provider says them, by the first path segment of its requests."""
    found = tuple(Face(BoundingBox(*box), 0.9) for box in BOXES)
    reply = encode_reply(ResultReply(request_id=0, width=1280, height=720, faces=found))
    details = [
        {
            "BoundingBox": {
                "Left": x / 1280,
                "Top": y / 720,
                "Width": (right - x) / 1280,
                "Height": (bottom - y) / 720,
            },
            "Confidence": 90.0,
        }
        for x, y, right, bottom in BOXES
    ]
    annotations = [
        {
            "fdBoundingPoly": {"vertices": [{"x": x, "y": y}, {"x": right, "y": bottom}]},
            "detectionConfidence": 0.9,
        }
        for x, y, right, bottom in BOXES
    ]
    kind = "application/json"
    return {
        "/v1/detect": (CONTENT_TYPE, reply),
        "/v1/images:annotate": (
            kind,
            json.dumps({"responses": [{"faceAnnotations": annotations}]}).encode(),
        ),
        "/": (kind, json.dumps({"FaceDetails": details}).encode()),
    }


def serve() -> None:
    by_path = answers()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = int(head.lower().partition("content-length: ")[2].partition("\r")[0])
                await reader.readexactly(length)
                kind, body = by_path[head.split(" ")[1].partition("?")[0]]
                lines = f"Content-Type: {kind}\r\nContent-Length: {len(body)}"
                writer.write(f"HTTP/1.1 200 OK\r\n{lines}\r\n\r\n".encode() + body)
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(one, "127.0.0.1", PORT, limit=1 << 20) as server:
            await server.serve_forever()

    asyncio.run(run())


def targets() -> dict[str, Target]:
    keys = AwsKeys(access_key_id="AKIDEXAMPLE", secret_access_key="secret")  # noqa: S106
    region = {"region": "eu-west-1"}
    return {
        "custom_backend": Target(url=URL, credentials=BearerToken("token")),
        "google": Target(
            url=URL,
            protocol=protocol_of("google"),
            credentials=ApiKeyHeader("key", header="X-Goog-Api-Key"),
        ),
        "aws": Target(
            url=URL,
            protocol=protocol_of("aws", region),
            credentials=AwsCredentials(keys, region="eu-west-1"),
        ),
    }


def camera(count: int) -> Iterator[np.ndarray]:
    """A photo, held in a shaking hand, with a sensor's noise."""
    scene = (transform.resize(data.astronaut(), (784, 1344)) * 255).astype(np.int16)
    rng = np.random.default_rng(1)
    for _ in range(count):
        x, y = rng.integers(0, 64, 2)
        noise = rng.integers(-3, 4, (720, 1280, 1), dtype=np.int16)
        yield (scene[y : y + 720, x : x + 1280] + noise).clip(0, 255).astype(np.uint8)


async def race(count: int) -> dict[str, list[float]]:
    """Seconds of CPU time for each frame, by provider."""
    plan = Plan(
        backend=BackendKind.CLOUD,
        reason="benchmark",
        deadline_s=10.0,
        retries=0,
        target_bytes=DEFAULT_TARGET_BYTES,
        max_side_px=1280,
        quality=92,
    )
    spent: dict[str, list[float]] = {}
    async with contextlib.AsyncExitStack() as stack:
        clouds = {
            name: await stack.enter_async_context(CloudDetectionService(targets=[target]))
            for name, target in targets().items()
        }
        for number, pixels in enumerate(camera(WARM_UP + count)):
            for name in random.sample(list(clouds), len(clouds)):
                began_s = time.process_time()
                result = await clouds[name].detect(Frame.of(pixels), plan)
                if number >= WARM_UP:
                    spent.setdefault(name, []).append(time.process_time() - began_s)
                assert len(result.faces) == len(BOXES), name
    return spent


async def alone(name: str, target: Target, picture: object, rounds: int = 300) -> float:
    """Seconds of CPU time to encode, sign and decode one picture."""
    path = {"custom_backend": "/v1/detect", "google": "/v1/images:annotate", "aws": "/"}[name]
    kind, body = answers()[path]
    response = HttpResponse(status=200, headers={"content-type": kind}, body=body)
    took = []
    for _ in range(rounds):
        began_s = time.thread_time()
        request = target.encoded((picture,), DetectParams())
        await target.addressed(request, now_s=time.time())
        target.protocol.decode(response, (picture,))
        took.append(time.thread_time() - began_s)
    return statistics.median(took)


def cpu_s(work: Callable[[], object], rounds: int = 300) -> float:
    """Seconds of CPU time that `work` takes, in the median."""
    took = []
    for _ in range(rounds):
        began_s = time.thread_time()
        work()
        took.append(time.thread_time() - began_s)
    return statistics.median(took)


async def main(count: int) -> None:
    picture = ImageCompressionService().compress(next(camera(1)), quality=92)
    text = base64.b64encode(picture.data)
    base64_s = cpu_s(lambda: base64.b64encode(picture.data))
    hash_s = cpu_s(lambda: hashlib.sha256(text).digest())
    spent = await race(count)
    usual_s = statistics.median(spent["custom_backend"])
    print(f"a picture of {len(picture.data)} bytes; its base64 takes {base64_s * 1e6:.0f} us,")
    print(f"the SHA-256 of that {hash_s * 1e6:.0f} us")
    print(f"a cloud frame by the custom protocol: {usual_s * 1e3:.2f} ms\n")
    print(f"{'provider':<16}{'alone, us':>10}{'less base64':>13}{'of a frame':>12}{'frame':>8}")
    for name, target in targets().items():
        work_s = await alone(name, target, picture)
        off_s = 0.0 if name == "custom_backend" else base64_s
        own_s = await alone("custom_backend", targets()["custom_backend"], picture)
        added = (work_s - off_s - own_s) / usual_s
        pairs = zip(spent[name], spent["custom_backend"], strict=True)
        frame = statistics.median((theirs - off_s) / ours for theirs, ours in pairs)
        print(
            f"{name:<16}{work_s * 1e6:>10.0f}{(work_s - off_s) * 1e6:>13.0f}"
            f"{1 + added:>12.3f}{frame:>8.3f}"
        )


if __name__ == "__main__":
    server = multiprocessing.get_context("spawn").Process(target=serve, daemon=True)
    server.start()
    time.sleep(3)
    try:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else FRAMES))
    finally:
        server.terminate()
