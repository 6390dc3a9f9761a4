"""Many streams on one machine: what an idle one costs, and how many active ones are kept up with.

Idle: 5,000 streams from two processes; the server's private memory for each, before and after each
has had one picture, and whether any heartbeat was missed: the server pings each every 20 s, and
each pings the server every 5 s. The goal is 60 KB and none missed. It needs `ulimit -n` above
that number, and is done with as many streams as fit otherwise.

Active: 200 streams of 10 pictures a second (320x240, 6 KB), each with at most two under way and the
newest first, as a camera does; with a detector that finds a face at once, and with the full-range
model. Results a second, their times, and what was left out.

    python benchmarks/bench_streams.py [--idle 5000] [--seconds 45] [--active 200] [--no-model]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from hybrid_detect.errors import HybridDetectError
from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.listening import Server
from hybrid_detect.types import BoundingBox, Face

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).parent))
import stream_clients

CLIENT_PROCESSES = 2
FPS = 10
DEADLINE_S = 1.0
ACTIVE_S = 15.0
GOAL_BYTES = 60_000
FOUND = (Face(BoundingBox(1, 2, 30, 40), 0.9),)
SPARE_FILES = 200
"""Of a process, for other things than streams."""


class Instant:
    """Finds a face at once."""

    model, info = "instant", None

    async def start(self) -> None: ...

    async def detect(self, request: DetectRequest, **_: Any) -> Detection:
        return Detection(width=320, height=240, faces=FOUND, queue_s=0.0, detect_s=0.0)

    async def aclose(self) -> None: ...


def serve(ready: Connection, streams: int, model: str | None) -> None:
    config = ServerConfig(
        port=0,
        rate_per_s=0,
        max_streams=streams,
        max_per_caller=streams,
        max_connections=streams + 100,
        max_connections_per_peer=streams + 100,
        stream_idle_s=3600,
        quality="fast",
        model=model or "auto",
    )
    app = create_app(config, None if model else Instant())
    Server(app, config).run(lambda url: ready.send(int(url.rpartition(":")[2])))


@contextmanager
def served(streams: int, model: str | None = None) -> Iterator[tuple[int, psutil.Process]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, streams, model))
    process.start()
    there.close()
    try:
        if not here.poll(60):
            msg = "the server did not start"
            raise HybridDetectError(msg)
        yield here.recv(), psutil.Process(process.pid)
    except EOFError:
        msg = "the server did not start"
        raise HybridDetectError(msg) from None
    finally:
        process.terminate()
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


def picture() -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).resize((320, 240)).save(out, "JPEG", quality=60)
    return out.getvalue()


# -- idle ----------------------------------------------------------------------------------------


def hold(orders: Connection, port: int, count: int, source: str) -> None:
    """Open streams, and do with them as told: ``look``, ``count``, ``end``."""
    asyncio.run(_hold(orders, port, count, source))


async def _hold(orders: Connection, port: int, count: int, source: str) -> None:
    loop = asyncio.get_running_loop()
    streams: list[stream_clients.Stream] = []
    for begin in range(0, count, 100):
        for _ in range(min(100, count - begin)):
            _, stream = await loop.create_connection(
                stream_clients.Stream, "127.0.0.1", port, local_addr=(source, 0)
            )
            streams.append(stream)
        await asyncio.gather(*(stream.opened for stream in streams[begin:]))
    orders.send(len(streams))
    frame = stream_clients.message_of(picture(), deadline_s=None)
    late = 0
    turn = 0
    while True:
        # A fiftieth of them each tenth of a second: each pings every 5 s.
        for stream in streams[turn % 50 :: 50]:
            late += stream.is_ping_late
            stream.ping()
        turn += 1
        await asyncio.sleep(0.1)
        if not orders.poll():
            continue
        order = orders.recv()
        if order == "end":
            for stream in streams:
                stream.abort()
            return
        if order == "look":
            for begin in range(0, count, 100):
                for stream in streams[begin : begin + 100]:
                    stream.send(frame)
                await asyncio.sleep(0.05)
            while any(stream.in_flight and stream.is_open for stream in streams):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        pongs_s = sorted(each for stream in streams for each in stream.pongs_s)
        orders.send(
            {
                "open": sum(stream.is_open for stream in streams),
                "results": sum(len(stream.times_s) for stream in streams),
                "least pings": min(stream.pings for stream in streams),
                "late pongs": late,
                "pong p99 ms": 1000 * pongs_s[int(len(pongs_s) * 0.99)] if pongs_s else 0.0,
            }
        )


def private_bytes(process: psutil.Process) -> int:
    return int(process.memory_full_info().uss)


def idle(count: int, seconds: float) -> bool:
    """Print what idle streams cost; returns whether the goal was reached."""
    context = multiprocessing.get_context("spawn")
    with served(count) as (port, server):
        time.sleep(1)
        before = private_bytes(server)
        clients: list[tuple[Connection, Any]] = []
        share = count // CLIENT_PROCESSES
        for number in range(CLIENT_PROCESSES):
            here, there = context.Pipe()
            source = f"127.0.0.{number + 2}" if sys.platform == "linux" else "127.0.0.1"
            client = context.Process(target=hold, args=(there, port, share, source), daemon=True)
            client.start()
            clients.append((here, client))

        def ask(order: str) -> list[dict[str, float]]:
            for here, _ in clients:
                here.send(order)
            return [here.recv() for here, _ in clients]

        began_s = time.monotonic()
        opened = sum(here.recv() for here, _ in clients)
        took_s = time.monotonic() - began_s
        time.sleep(2)
        fresh = (private_bytes(server) - before) / opened
        processor_s = sum(server.cpu_times()[:2])
        time.sleep(seconds)
        ask("count")  # after it, the pictures
        share_of_core = (sum(server.cpu_times()[:2]) - processor_s) / seconds
        heartbeats = ask("look")
        time.sleep(2)
        used = (private_bytes(server) - before) / opened
        told = ask("count")
        for here, client in clients:
            here.send("end")
            client.join(10)
        time.sleep(2)
        left = (private_bytes(server) - before) / opened
    still_open = sum(int(each["open"]) for each in told)
    print(f"idle: {opened} streams, opened in {took_s:.1f} s, {still_open} open after all")
    print(
        f"  memory a stream: {fresh / 1000:.1f} KB fresh, {used / 1000:.1f} KB after a picture,"
        f" {left / 1000:.1f} KB left once they are gone (goal {GOAL_BYTES / 1000:.0f})"
    )
    late = sum(each["late pongs"] for each in told)
    print(
        f"  heartbeats: at least {min(each['least pings'] for each in heartbeats):.0f} pings of the"
        f" server to each stream, {late:.0f} of ours answered after more than a second, p99"
        f" {max(each['pong p99 ms'] for each in heartbeats):.0f} ms;"
        f" {share_of_core:.0%} of a core"
    )
    return still_open == opened and used <= GOAL_BYTES


# -- active --------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What the streams of one process saw."""

    sent: int = 0
    left_out: int = 0
    refused: int = 0
    times_s: list[float] | None = None


def film(results: Connection, port: int, count: int, seconds: float, source: str) -> None:
    """Have so many cameras stream."""
    results.send(asyncio.run(_film(port, count, seconds, source)))


async def _film(port: int, count: int, seconds: float, source: str) -> Seen:
    loop = asyncio.get_running_loop()
    frame = stream_clients.message_of(picture(), deadline_s=DEADLINE_S)
    seen = Seen()
    streams = []
    for _ in range(count):
        _, stream = await loop.create_connection(
            stream_clients.Stream, "127.0.0.1", port, local_addr=(source, 0)
        )
        streams.append(stream)
    await asyncio.gather(*(stream.opened for stream in streams))

    async def camera(stream: stream_clients.Stream, offset_s: float) -> None:
        due_s = loop.time() + offset_s
        ends_s = loop.time() + seconds
        while due_s < ends_s:
            await asyncio.sleep(due_s - loop.time())
            due_s += 1 / FPS
            if stream.in_flight < 2:
                stream.send(frame)
                seen.sent += 1
            else:
                seen.left_out += 1

    async with asyncio.TaskGroup() as cameras:
        for number, stream in enumerate(streams):
            cameras.create_task(camera(stream, number / count / FPS))
    await asyncio.sleep(DEADLINE_S)
    seen.refused = sum(stream.refused for stream in streams)
    seen.times_s = [each for stream in streams for each in stream.times_s]
    for stream in streams:
        stream.abort()
    return seen


def active(count: int, model: str | None) -> None:
    """Print how many results active streams got."""
    context = multiprocessing.get_context("spawn")
    with served(count, model) as (port, server):
        clients = []
        for number in range(CLIENT_PROCESSES):
            here, there = context.Pipe(duplex=False)
            source = f"127.0.0.{number + 2}" if sys.platform == "linux" else "127.0.0.1"
            arguments = (there, port, count // CLIENT_PROCESSES, ACTIVE_S, source)
            client = context.Process(target=film, args=arguments, daemon=True)
            client.start()
            clients.append((here, client))
        processor_s = sum(server.cpu_times()[:2])
        seen: list[Seen] = [here.recv() for here, _ in clients]
        processor_s = sum(server.cpu_times()[:2]) - processor_s
        for _, client in clients:
            client.join(10)
    times_s = sorted(each for one in seen for each in one.times_s or ())
    offered = sum(one.sent + one.left_out for one in seen)
    if not times_s:
        print(f"active, {model or 'instant'}: no results of {offered}")
        return
    print(
        f"active, {model or 'instant'}: {count} streams at {FPS} fps:"
        f" {len(times_s) / ACTIVE_S:.0f} results a second of {offered / ACTIVE_S:.0f} offered"
        f" ({len(times_s) / offered:.0%}), p50 {statistics.median(times_s) * 1000:.0f} ms,"
        f" p99 {times_s[int(len(times_s) * 0.99)] * 1000:.0f} ms;"
        f" {sum(one.refused for one in seen)} refused,"
        f" {sum(one.left_out for one in seen)} left out by the camera;"
        f" server {processor_s / len(times_s) * 1e6:.0f} us a result"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--idle", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=45.0, help="how long they are idle")
    parser.add_argument("--active", type=int, default=200)
    parser.add_argument("--no-model", action="store_true", help="leave the real detector out")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    count = min(arguments.idle, most - SPARE_FILES)
    if count < arguments.idle:
        print(f"ulimit -n is {most}: {count} idle streams instead of {arguments.idle}")
    is_reached = idle(count, arguments.seconds) if count else True
    if arguments.active:
        active(arguments.active, None)
        if not arguments.no_model:
            active(arguments.active, "full_range")
    return 0 if is_reached else 1


if __name__ == "__main__":
    sys.exit(main())
