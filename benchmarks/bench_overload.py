"""Overload: how many pictures are answered in time, and how many are looked at in vain.

A server in a process of its own with a stand-in detector of two places, whose looks take 60 to 140
ms; so its peak is 20 pictures a second. Clients send at 0.5, 1, 3 and 10 times that rate, at
random moments, each picture with a deadline of 1 s and without trying again. Goodput is what
arrived at its client within the deadline, while the load lasted: what waits at its end is looked at
beyond it, and would make the rate of a few seconds too high.

    python benchmarks/bench_overload.py [SECONDS]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import multiprocessing
import random
import socket
import time
from collections import Counter

import httpx
import numpy as np
from PIL import Image

from hybrid_detect.exchange.wire import CONTENT_TYPE, DetectRequest, encode_request
from hybrid_detect.server.admission import Admission
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.listening import Server

PLACES = 2
LOOK_S = (0.06, 0.14)
PEAK = PLACES / (sum(LOOK_S) / 2)
DEADLINE_S = 1.0
LOADS = (0.5, 1.0, 3.0, 10.0)


class StandIn:
    """A detector of two places; it says with each answer how many looks it has begun."""

    info = None

    def __init__(self) -> None:
        self._admission = Admission(max_waiting=ServerConfig().max_waiting)
        self._drawn = random.Random(5)
        self._looks = 0

    @property
    def model(self) -> str:
        return str(self._looks)

    async def start(self) -> None:
        self._admission.open(PLACES)

    async def detect(
        self, request: DetectRequest, *, is_abandoned: object = None, **_: object
    ) -> Detection:
        async with self._admission.place(request.deadline_s) as look:
            self._looks += 1
            look_s = self._drawn.uniform(*LOOK_S)
            await asyncio.sleep(look_s)
        return Detection(width=320, height=240, faces=(), queue_s=look.queue_s, detect_s=look_s)

    async def aclose(self) -> None: ...


def serve(port: int) -> None:
    config = ServerConfig(port=port, rate_per_s=0, max_per_caller=10_000)
    Server(create_app(config, StandIn()), config).run()


def message() -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (240, 320, 3), np.uint8)
    Image.fromarray(pixels).save(out, "JPEG", quality=80)
    return encode_request(DetectRequest(request_id=1, image=out.getvalue(), deadline_s=DEADLINE_S))


class Clients:
    """Connections that are kept, one for each picture under way: cheaper than the server is."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        body = message()
        head = f"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: {CONTENT_TYPE}\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def send(self) -> str:
        """Send a picture; says what became of it."""
        began_s = time.perf_counter()
        try:
            while True:
                if not self._free:
                    self._free.append(await asyncio.open_connection("127.0.0.1", self._port))
                reader, writer = self._free.pop()
                if not reader.at_eof():
                    break
                writer.close()
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
        except (OSError, asyncio.IncompleteReadError):
            return "lost"
        self._free.append((reader, writer))
        if b" 200 " not in head.partition(b"\r\n")[0]:
            return "refused"
        return "in time" if time.perf_counter() - began_s <= DEADLINE_S else "late"

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()


async def load(port: int, per_s: float, seconds: float) -> Counter[str]:
    """What became of the pictures that came at random moments."""
    counts: Counter[str] = Counter()
    drawn = random.Random(7)
    clients = Clients(port)

    async def send() -> None:
        became = await clients.send()
        counts[became] += 1
        counts["good"] += became == "in time" and time.perf_counter() < began_s + seconds

    before = looks(port)
    began_s = time.perf_counter()
    next_s = 0.0
    sending = []
    while next_s < seconds:
        await asyncio.sleep(max(began_s + next_s - time.perf_counter(), 0))
        sending.append(asyncio.create_task(send()))
        next_s += drawn.expovariate(per_s)
    await asyncio.gather(*sending)
    counts["looks"] = looks(port) - before
    clients.close()
    return counts


def looks(port: int) -> int:
    """Looks that the server has begun."""
    return int(httpx.get(f"http://127.0.0.1:{port}/v1/health").json()["model"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", nargs="?", type=float, default=8.0)
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    server.start()
    for _ in range(200):
        with contextlib.suppress(httpx.TransportError):
            looks(port)
            break
        time.sleep(0.05)
    asyncio.run(load(port, PEAK / 2, 2.0))
    print(f"peak {PEAK:.0f}/s, deadline {DEADLINE_S:g} s, {arguments.seconds:g} s of each load")
    print(f"{'load':>5} {'goodput/peak':>13} {'late':>6} {'refused':>8} {'looks in vain':>14}")
    for times in LOADS:
        counts = asyncio.run(load(port, times * PEAK, arguments.seconds))
        goodput = counts["good"] / arguments.seconds / PEAK
        in_vain = (counts["looks"] - counts["in time"]) / max(counts["looks"], 1)
        print(
            f"{times:4g}x {goodput:13.2f} {counts['late']:6d} {counts['refused']:8d}"
            f" {in_vain:13.1%}",
            flush=True,
        )
    server.terminate()
    server.join()


if __name__ == "__main__":
    main()
