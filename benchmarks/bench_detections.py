"""Detections a second over HTTP, beside a loop that has no server around it, in one run.

The bare loop decodes each picture and runs the same model in ONNX Runtime, in as many processes as
there are cores, each with one thread. The server is given the same pictures over eight connections.
They take turns. Below the table stands the private memory of each of the server's processes.

    python benchmarks/bench_detections.py [SECONDS] [--rounds 4] [--level high] [--photos FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import multiprocessing
import os
import secrets
import statistics
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import numpy as np
import psutil
from photo_scores import FOLDER, photos
from PIL import Image, ImageOps

from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DetectRequest,
    ResultReply,
    decode_reply,
    encode_request,
)
from hybrid_detect.server.serving import ServerProcess
from hybrid_detect.types import QualityLevel

CONNECTIONS = 8
PICTURE_BYTES = 80_000
TOKEN = secrets.token_urlsafe(16)


def pictures(folder: Path) -> list[bytes]:
    """JPEGs of 1280x720 and at most `PICTURE_BYTES`: of photos with faces, or of noise."""
    images = []
    for photo in photos(folder):
        if photo.boxes:
            with Image.open(photo.path) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
                images.append(ImageOps.fit(upright, (1280, 720)))
    if not images:
        noise = np.random.default_rng(1).integers(0, 255, (90, 160, 3), np.uint8)
        images.append(Image.fromarray(noise).resize((1280, 720), Image.Resampling.BICUBIC))
    return [jpeg(image) for image in images[:12]]


def jpeg(image: Image.Image) -> bytes:
    for quality in range(90, 5, -5):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        if out.tell() <= PICTURE_BYTES:
            break
    return out.getvalue()


# -- the bare loop ---------------------------------------------------------------------------


def bare(level: str, data: list[bytes], orders: Connection) -> None:
    """Detect without pause for the seconds that are sent; answer with the number of pictures."""
    import onnxruntime
    import simplejpeg

    from hybrid_detect.backends.device.models import load_model
    from hybrid_detect.backends.device.onnx_shapes import with_free_sizes
    from hybrid_detect.server.levels import LEVELS

    (side_px,) = (each.side_px for each in LEVELS if each.quality == level)
    assert side_px, "a level of CenterFace"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        with_free_sizes(load_model("centerface")), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    scale = 1280 // side_px

    def look(picture: bytes) -> None:
        pixels = simplejpeg.decode_jpeg(
            picture, min_width=1280 // scale, min_height=720 // scale, min_factor=scale
        )
        rows = -(-pixels.shape[0] // 32) * 32
        padded = np.zeros((1, 3, rows, pixels.shape[1]), np.float32)
        padded[0, :, : pixels.shape[0]] = pixels.transpose(2, 0, 1)
        session.run(None, {name: padded})

    look(data[0])
    orders.send(0)
    while (seconds := orders.recv()) > 0:
        ends_s, done = time.perf_counter() + seconds, 0
        while time.perf_counter() < ends_s:
            look(data[done % len(data)])
            done += 1
        orders.send(done)


class BareLoops:
    """The loops in their processes."""

    def __init__(self, level: str, data: list[bytes], count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=bare, args=(level, data, theirs), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def per_s(self, seconds: float) -> float:
        for pipe in self._pipes:
            pipe.send(seconds)
        return sum(pipe.recv() for pipe in self._pipes) / seconds

    def end(self) -> None:
        for pipe in self._pipes:
            pipe.send(0.0)
        for process in self._processes:
            process.join()


# -- the server ------------------------------------------------------------------------------


async def served_per_s(
    url: str,
    level: str,
    data: list[bytes],
    seconds: float,
    levels: Counter[str],
    connections: int = CONNECTIONS,
) -> tuple[float, list[float]]:
    """Detections a second, and the time of each; `levels` counts what was used."""
    times: list[float] = []
    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": CONTENT_TYPE,
        "Accept": CONTENT_TYPE,
    }
    asked = QualityLevel(level)
    bodies = [
        encode_request(DetectRequest(request_id=0, image=picture, quality=asked))
        for picture in data
    ]
    ends_s = time.perf_counter() + seconds

    async def repeat(client: httpx.AsyncClient, number: int) -> None:
        while time.perf_counter() < ends_s:
            began_s = time.perf_counter()
            answer = await client.post("/v1/detect", content=bodies[number % len(bodies)])
            reply = decode_reply(answer.content)
            assert isinstance(reply, ResultReply), reply
            levels[reply.quality] += 1
            times.append(time.perf_counter() - began_s)
            number += 1

    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        await asyncio.gather(*(repeat(client, number) for number in range(connections)))
    return len(times) / seconds, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", nargs="?", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--level", choices=["high", "max"], default="high")
    parser.add_argument("--photos", type=Path, default=FOLDER, metavar="FOLDER")
    arguments = parser.parse_args()
    level, seconds = arguments.level, arguments.seconds
    data = pictures(arguments.photos)
    cores = len(os.sched_getaffinity(0))
    levels: Counter[str] = Counter()
    found: dict[str, list[float]] = {"bare": [], "server": []}
    times: list[float] = []
    loops = BareLoops(level, data, cores)
    with ServerProcess(auth_token=TOKEN, options=["--quality", level]) as server:
        asyncio.run(served_per_s(server.url, level, data, 1.0, Counter()))
        for _ in range(arguments.rounds):
            found["bare"].append(loops.per_s(seconds))
            per_s, some = asyncio.run(served_per_s(server.url, level, data, seconds, levels))
            found["server"].append(per_s)
            times += some
        held = [
            (child.memory_full_info().uss / 1e6, child.pid)
            for child in psutil.Process(server.pid).children(recursive=True)
        ]
        parent = psutil.Process(server.pid).memory_full_info().uss / 1e6
    loops.end()
    bare_s, server_s = (statistics.median(found[name]) for name in ("bare", "server"))
    ratios = [s / b for b, s in zip(found["bare"], found["server"], strict=True)]
    print(f"{level}, {len(data)} pictures of 1280x720, {cores} cores, {arguments.rounds} rounds")
    print(f"bare loop   {bare_s:7.1f} detections/s")
    print(f"over HTTP   {server_s:7.1f} detections/s, {CONNECTIONS} connections, {dict(levels)}")
    print(f"ratio       {statistics.median(ratios):7.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")
    cuts = statistics.quantiles(times, n=100)
    print(f"latency     p50 {cuts[49] * 1000:.0f} ms, p99 {cuts[98] * 1000:.0f} ms")
    print(f"private MB  server {parent:.0f}, its detectors", *(f"{mb:.0f}" for mb, _ in held))


if __name__ == "__main__":
    main()
