"""A soak: the real server at 80 % of its capacity among clients that behave badly.

The capacity is measured first. Then, all the time, pictures over HTTP and streams at 80 % of it;
clients that hang up amid a picture or its answer; streams that break and come back; each half
minute a detector's process is killed; each minute a flood of three times the capacity for five
seconds. Each two seconds the server's private memory, with and without its detectors, its open
files and the steady clients' times are sampled, the latter outside of floods and kills.

It fails if memory, open files or times grow: by the slope of Theil and Sen (the median of the
slopes between all pairs of samples, which outliers do not move) over the samples after a third of
the time, projected on that time, beyond what is told below. The curves are written as SVG.

    python benchmarks/bench_soak.py [--soak MINUTES] [--svg FILE] [--model full_range]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from hybrid_detect.exchange.wire import CONTENT_TYPE, DetectRequest, encode_request
from hybrid_detect.server.serving import ServerProcess

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).parent))
import stream_clients
from bench_streams import picture

TOKEN = "a-token-for-the-soak"  # noqa: S105 - of a server on this machine alone
LOAD = 0.8
DEADLINE_S = 1.0
SAMPLE_S = 2.0
KILL_EVERY_S = 30.0
FLOOD_EVERY_S, FLOOD_S, FLOOD_LOAD = 60.0, 5.0, 3.0
RECOVERY_S = 3.0
"""After a flood or a kill, seconds whose times do not count."""
ENOUGH = 50
"""Times that make a sample of them."""
SETTLED = 1 / 3
"""Of the time, after which memory is expected to be where it stays: pools and caches are full."""

GROWTH = {"server MiB": 0.10, "all MiB": 0.10, "files": 0.10, "p50 ms": 0.50, "p99 ms": 1.00}
"""Growth over the settled time that fails, as a share of the median. Memory comes in steps of an
arena, and times vary with what else the machine does."""

FLOORS = {"server MiB": 4.0, "all MiB": 12.0, "files": 8.0, "p50 ms": 10.0, "p99 ms": 100.0}
"""Growth below which nothing fails, in the curve's own unit."""


@dataclass
class Soak:
    """What is known of the run so far."""

    port: int
    capacity: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    times_s: list[float] = field(default_factory=list)
    """Of the steady pictures since the last sample."""
    disturbed_until_s: float = 0.0
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def disturb(self, seconds: float) -> None:
        self.disturbed_until_s = max(self.disturbed_until_s, time.monotonic() + seconds)


class Sources:
    """Addresses to come from, so that the limits of one caller are not what is measured."""

    def __init__(self) -> None:
        self._next = 0

    def take(self) -> tuple[str, int]:
        self._next = (self._next + 1) % 60
        return (f"127.0.1.{self._next + 1}" if sys.platform == "linux" else "127.0.0.1", 0)


SOURCES = Sources()


def request() -> bytes:
    body = encode_request(DetectRequest(request_id=0, image=picture(), deadline_s=DEADLINE_S))
    head = (
        "POST /v1/detect HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def post(soak: Soak, data: bytes, *, counted: bool = True) -> bool:
    """Send a picture over a connection of its own; returns whether there was a result."""
    began_s = time.monotonic()
    writer = None
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", soak.port, local_addr=SOURCES.take()
            )
            writer.write(data)
            line = await reader.readline()
            await reader.read()
    except (OSError, TimeoutError):
        soak.counts["http lost"] += 1
        return False
    finally:
        if writer is not None:
            writer.close()
    is_result = b" 200 " in line
    soak.counts["http results" if is_result else "http refused"] += 1
    if is_result and counted:
        soak.times_s.append(time.monotonic() - began_s)
    return is_result


async def capacity(soak: Soak) -> float:
    """Pictures a second that eight clients get answered without pause."""
    data = request()
    answered = 0
    for seconds in (2.0, 4.0):  # the first to warm up
        answered = 0
        ends_s = time.monotonic() + seconds

        async def client(ends_s: float = ends_s) -> None:
            nonlocal answered
            while time.monotonic() < ends_s:
                is_result = await post(soak, data, counted=False)
                answered += is_result  # read after the wait: others count, too

        await asyncio.gather(*(client() for _ in range(8)))
    return answered / 4.0


# -- who does what -------------------------------------------------------------------------------


async def steadily(soak: Soak, per_s: float, act: Callable[[], Awaitable[object]]) -> None:
    """Do `act` at random moments, so many times a second."""
    acts: set[asyncio.Task[object]] = set()
    due_s = time.monotonic()
    try:
        while True:
            due_s = max(due_s + random.expovariate(per_s), time.monotonic() - 1)
            await asyncio.sleep(max(due_s - time.monotonic(), 0))
            if len(acts) < 500:
                task = asyncio.ensure_future(act())
                acts.add(task)
                task.add_done_callback(acts.discard)
            else:
                soak.counts["not sent"] += 1
    finally:
        for task in acts:
            task.cancel()


async def hang_up(soak: Soak, data: bytes) -> None:
    """Leave amid the picture, or before its answer."""
    soak.counts["hang-ups"] += 1
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", soak.port, local_addr=SOURCES.take())
        writer.write(data[: random.randint(1, len(data))])
        await asyncio.sleep(random.uniform(0, 0.05))
        writer.transport.abort()


async def stream(soak: Soak, per_s: float) -> None:
    """Stream for ever, over links that last a few seconds each."""
    frame = stream_clients.message_of(picture(), deadline_s=DEADLINE_S, session="soak")
    loop = asyncio.get_running_loop()
    while True:
        link = None
        try:
            _, link = await loop.create_connection(
                lambda: stream_clients.Stream(TOKEN),
                "127.0.0.1",
                soak.port,
                local_addr=SOURCES.take(),
            )
            await asyncio.wait_for(link.opened, 10)
            soak.counts["links"] += 1
            ends_s = time.monotonic() + random.uniform(2, 10)
            while time.monotonic() < ends_s and link.is_open:
                await asyncio.sleep(random.expovariate(per_s))
                if link.is_open and link.in_flight < 2:
                    link.send(frame)
        except (OSError, TimeoutError):
            soak.counts["links refused"] += 1
            await asyncio.sleep(0.2)
        finally:
            if link is not None:
                soak.counts["stream results"] += len(link.times_s)
                soak.counts["stream refused"] += link.refused
                soak.times_s += link.times_s
                link.abort()  # without a word, and with pictures under way


async def kill(soak: Soak, server: psutil.Process) -> None:
    """Kill a detector's process now and then."""
    while True:
        await asyncio.sleep(KILL_EVERY_S)
        if children := server.children():
            soak.disturb(RECOVERY_S)
            soak.counts["kills"] += 1
            with contextlib.suppress(psutil.NoSuchProcess):
                random.choice(children).kill()


async def flood(soak: Soak, data: bytes) -> None:
    """Ask for far too much now and then."""
    while True:
        await asyncio.sleep(FLOOD_EVERY_S)
        soak.disturb(FLOOD_S + RECOVERY_S)
        soak.counts["floods"] += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLOOD_S):
                per_s = FLOOD_LOAD * soak.capacity
                await steadily(soak, per_s, lambda: post(soak, data, counted=False))


# -- what is seen --------------------------------------------------------------------------------


def sample(soak: Soak, server: psutil.Process, now_s: float) -> None:
    """Add a point to each curve."""
    own = server.memory_full_info().uss
    everything = own
    for child in server.children():
        with contextlib.suppress(psutil.Error):  # it was killed a moment ago
            everything += child.memory_full_info().uss
    points = {
        "server MiB": own / 2**20,
        "all MiB": everything / 2**20,
        "files": float(server.num_fds()),
    }
    if time.monotonic() < soak.disturbed_until_s:
        points.pop("all MiB")  # a process is missing, or about to be
        soak.times_s.clear()
    elif len(soak.times_s) >= ENOUGH:
        times_s, soak.times_s = sorted(soak.times_s), []
        points["p50 ms"] = 1000 * statistics.median(times_s)
        points["p99 ms"] = 1000 * times_s[int(len(times_s) * 0.99)]
    for name, value in points.items():
        soak.curves.setdefault(name, []).append((now_s, value))


def slope_of(points: list[tuple[float, float]]) -> float:
    """The slope of Theil and Sen, of at most 300 points evenly taken."""
    points = points[:: max(1, len(points) // 300)]
    slopes = [
        (y2 - y1) / (x2 - x1)
        for index, (x1, y1) in enumerate(points)
        for x2, y2 in points[index + 1 :]
    ]
    return statistics.median(slopes) if slopes else 0.0


def judged(soak: Soak, seconds: float) -> bool:
    """Print each curve's growth; returns whether none grew beyond its limit."""
    is_flat = True
    print(f"{'curve':12} {'median':>8} {'least':>8} {'most':>8} {'growth':>8} {'limit':>8}")
    for name, points in soak.curves.items():
        settled = [point for point in points if point[0] >= SETTLED * seconds]
        if len(settled) < 5:
            print(f"{name:12} too few samples")
            is_flat = False
            continue
        values = [value for _, value in settled]
        median = statistics.median(values)
        growth = slope_of(settled) * (settled[-1][0] - settled[0][0])
        limit = max(GROWTH[name] * median, FLOORS[name])
        mark = "" if growth <= limit else "  GROWS"
        is_flat = is_flat and not mark
        print(
            f"{name:12} {median:8.1f} {min(values):8.1f} {max(values):8.1f}"
            f" {growth:+8.1f} {limit:8.1f}{mark}"
        )
    return is_flat


def svg_of(soak: Soak, seconds: float) -> str:
    """The curves, one below the other."""
    width, height, left, gap = 900, 110, 90, 34
    parts = []
    for row, (name, points) in enumerate(soak.curves.items()):
        top = gap + row * (height + gap)
        most = max(value for _, value in points) * 1.1 or 1.0
        line = " ".join(
            f"{left + x / seconds * (width - left - 10):.1f},{top + height - y / most * height:.1f}"
            for x, y in points
        )
        parts.append(
            f'<text x="{left}" y="{top - 8}">{name}</text>'
            f'<text x="{left - 8}" y="{top + 10}" text-anchor="end">{most:.0f}</text>'
            f'<text x="{left - 8}" y="{top + height}" text-anchor="end">0</text>'
            f'<rect x="{left}" y="{top}" width="{width - left - 10}" height="{height}"'
            ' fill="none" stroke="#999"/>'
            f'<polyline points="{line}" fill="none" stroke="#2563eb" stroke-width="1.5"/>'
        )
    bottom = gap + len(soak.curves) * (height + gap)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom}"'
        f' font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )


async def run(soak: Soak, server: psutil.Process, seconds: float) -> None:
    data = request()
    soak.capacity = await capacity(soak)
    soak.counts.clear()
    if soak.capacity < 1:
        msg = "the server answered next to nothing"
        raise RuntimeError(msg)
    print(f"capacity {soak.capacity:.0f} pictures a second; {seconds / 60:g} minutes at {LOAD:.0%}")
    steady = LOAD * soak.capacity
    streams = 6
    works = [
        steadily(soak, steady / 2, lambda: post(soak, data)),
        steadily(soak, max(steady / 20, 1.0), lambda: hang_up(soak, data)),
        *(stream(soak, steady / 2 / streams) for _ in range(streams)),
        kill(soak, server),
        flood(soak, data),
    ]
    began_s = told_s = time.monotonic()
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        while (now_s := time.monotonic() - began_s) < seconds:
            sample(soak, server, now_s)
            for task in tasks:
                if task.done():
                    task.result()  # raises: a client must not end by itself
            if time.monotonic() - told_s > 60:
                told_s = time.monotonic()
                last = ", ".join(f"{n} {points[-1][1]:.0f}" for n, points in soak.curves.items())
                print(f"  minute {now_s / 60:.0f}: {last}", flush=True)
            await asyncio.sleep(SAMPLE_S)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--soak", type=float, default=2.0, metavar="MINUTES")
    parser.add_argument("--svg", type=Path, help="where the curves go")
    parser.add_argument("--model", default="full_range")
    arguments = parser.parse_args()
    seconds = arguments.soak * 60
    options = ["--quality", "fast", "--connections-per-peer", "512"]
    with ServerProcess(auth_token=TOKEN, model=arguments.model, options=options) as process:
        soak = Soak(port=int(process.url.rpartition(":")[2]))
        assert process.pid is not None
        server = psutil.Process(process.pid)

        async def limited() -> None:
            async with asyncio.timeout(seconds + 60):  # it ends, whatever happens
                await run(soak, server, seconds)

        trouble = ""
        try:
            asyncio.run(limited())
        except (TimeoutError, RuntimeError, psutil.Error) as error:
            trouble = f"{type(error).__name__}: {error}"
        is_alive = server.is_running() and server.status() != psutil.STATUS_ZOMBIE
    print(", ".join(f"{count} {name}" for name, count in sorted(soak.counts.items())))
    is_flat = judged(soak, seconds)
    if arguments.svg is not None and soak.curves:
        arguments.svg.write_text(svg_of(soak, seconds), encoding="utf-8")
        print(f"curves in {arguments.svg}")
    if not is_alive:
        trouble = "the server died"
    print(f"FAILED: {trouble or 'something grows'}" if trouble or not is_flat else "passed")
    return 1 if trouble or not is_flat else 0


if __name__ == "__main__":
    sys.exit(main())
