"""What the least refusal costs that a server in Python can give, beside a loop on the same core.

`Least` reads of a request's head how long the body is, has the kernel drop that, and writes an
answer that was made beforehand: no credential, no deadline, no limits, no log. A bare loop looks at
pictures on the same core; the clients have another one. What the loop loses is what no refusal of
this server's can go below, in the arrangement of `bench_detections`'s loads.

    python benchmarks/bench_refusals.py [SECONDS] [--rounds 3] [--photos FOLDER]

It needs two cores, and Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import psutil
import uvloop
from bare_loop import BareLoops, BareRate
from bench_detections import pictures
from links import Target
from photo_scores import FOLDER
from picture_load import at_random, requests

from hybrid_detect.server.unread_bytes import drop_unread

RATES = (0, 110, 490)
"""Refusals a second: none, and those of three and ten times the peak of a core (55 pictures)."""

HEAD_BYTES = 4096
ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 90\r\n\r\n" + b"x" * 90
)
LENGTH = b"Content-Length: "


class Least(asyncio.BufferedProtocol):
    """Refuses each request."""

    def __init__(self) -> None:
        self._read = memoryview(bytearray(HEAD_BYTES))
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._read

    def buffer_updated(self, nbytes: int) -> None:
        if self._left:
            self._drop(self._left - nbytes)
            return
        data = bytes(self._read[:nbytes])
        at = data.find(LENGTH) + len(LENGTH)
        body = data.find(b"\r\n\r\n", at) + 4
        self._drop(int(data[at : data.find(b"\r", at)]) - (nbytes - body))
        self._transport.write(ANSWER)

    def _drop(self, left: int) -> None:
        self._left = left - drop_unread(self._transport, left) if left > 0 else 0


def serve(ports: Connection) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Least, "127.0.0.1", 0)
        ports.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


def seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", nargs="?", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=Path, default=FOLDER, metavar="FOLDER")
    arguments = parser.parse_args()
    data = pictures(arguments.photos)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        parser.error("it needs Linux, and two cores to tie its processes to")
    server_core, client_core = cores[:2]
    os.sched_setaffinity(0, {server_core})  # which both processes inherit
    loops = BareLoops("fast", "litert", data, 1)
    here, there = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    target = Target(here.recv())
    os.sched_setaffinity(0, {client_core})
    asked, process = requests(target, data, "fast", 0.5), psutil.Process(server.pid)
    found: dict[int, list[BareRate]] = {rate: [] for rate in RATES}
    each_us: dict[int, list[float]] = {rate: [] for rate in RATES}
    for _ in range(arguments.rounds):
        for rate in RATES:
            before_s, count = seconds_of(process), 0
            loop = threading.Thread(
                target=lambda rate=rate: found[rate].append(loops.run(arguments.seconds))
            )
            loop.start()
            if rate:
                sent = at_random(target, asked, arguments.seconds, per_s=rate)
                count = len(sent.answers)
            loop.join()
            each_us[rate].append((seconds_of(process) - before_s) / max(count, 1) * 1e6)
    loops.end()
    server.terminate()
    usual = statistics.median(each.per_s for each in found[0])
    print("refusals/s  loop, pictures/s  of the loop alone  CPU us of a refusal")
    for rate in RATES:
        per_s = statistics.median(each.per_s for each in found[rate])
        us = f"{statistics.median(each_us[rate]):.0f}" if rate else "-"
        print(f"{rate:10} {per_s:17.1f} {per_s / usual:18.3f} {us:>20}")


if __name__ == "__main__":
    main()
