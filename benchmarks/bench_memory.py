"""The mission test: what an app holds for detection elsewhere, over 1000 distinct frames.

Each row is a fresh process that looks at distinct frames of 1280x720, two under way as
`start_detection` has them, in buffers that are reused. Its peak is what it held at any moment
above the baseline after a warm-up, less what a control run of the same frames without a client
came to. The network is a proxy in this process: a free link, one of 5 Mbit/s, one that stalls for
good once the baseline is taken, and one that stalls for 3 s of every 4. Over all but the free one
frames come at a camera's 30 fps, and over a stalling one they have 0.1 s, so that they fail.
Whether something leaks is asked by runs six times as long.

    python benchmarks/bench_memory.py [PART ...] [--frames N]
"""

import argparse
import asyncio
import collections
import contextlib
import gc
import itertools
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import numpy as np
from PIL import Image

from hybrid_detect import CloudDetectionService, ImageCompressionService, StreamingService
from hybrid_detect.compression.codec import PillowCodec
from hybrid_detect.errors import BackendError
from hybrid_detect.extras import is_installed
from hybrid_detect.system.memory_probe import process_anonymous_bytes
from hybrid_detect.testing import MemoryBudget
from hybrid_detect.testing.memory_report import MB, MemoryReport, slope

WIDTH, HEIGHT = 1280, 720
SHIFT_PX = 7
"""Prime to the picture's size, so that all frames are distinct."""

WARM_UP = 50
IN_FLIGHT = 2
FPS = 30
ROWS_AT_ONCE = 4
"""Over a slow or stalled link a row mostly waits."""

FREE, SLOW, STALLED, HALTING = LINKS = ("free", "5 Mbit/s", "stalled", "stalls 3 of 4 s")
SLOW_BYTES_S = 5e6 / 8
DEADLINES_S = {FREE: 10.0, SLOW: 1.0, STALLED: 0.1, HALTING: 0.1}
STALL_S, FLOW_S = 3.0, 1.0

WAYS = {"cloud": CloudDetectionService, "streaming": StreamingService}
CODECS = ("simplejpeg", "Pillow")
GOALS = {"simplejpeg": 2 * MB, "Pillow": 3 * MB}
SLOPE_GOAL = MB // 10
SETTLED_RATIO = 6
"""The heap's free lists take some 1500 frames to settle; what rises after that is a leak."""

WORSE_RATIO, WORSE_BYTES = 1.2, MB // 2
"""A bad link may cost so much more than the free one, or so little more."""

UNBOUNDED = "1 GB"
"""The budget: rows are measured to their end."""


# -- the frames, in a process of their own ---------------------------------------------------------


class Frames:
    """Distinct pictures, each written into a buffer that is there already."""

    def __init__(self) -> None:
        from skimage import data

        square = Image.fromarray(data.astronaut()).resize((WIDTH, WIDTH))
        self.picture = np.array(square.crop((0, 0, WIDTH, HEIGHT)))
        self.buffers = [self.picture.copy() for _ in range(IN_FLIGHT)]

    def write(self, number: int, slot: int = 0) -> np.ndarray:
        # np.roll would make a new array for each frame, and measure itself.
        old, new = self.picture.reshape(-1), self.buffers[slot].reshape(-1)
        shift = number * SHIFT_PX * 3 % old.size
        new[shift:] = old[: old.size - shift]
        new[:shift] = old[old.size - shift :]
        return self.buffers[slot]


async def look(way_name: str, codec: str, link: str, url: str, frame_count: int) -> dict[str, Any]:
    compressor = ImageCompressionService(codec=PillowCodec() if codec == "Pillow" else None)
    frames = Frames()
    budget = MemoryBudget(UNBOUNDED, frames=frame_count, warm_up=WARM_UP, control=frames.write)
    numbers = iter(range(WARM_UP + frame_count))
    outcomes: collections.Counter[str] = collections.Counter()
    next_s = time.monotonic()

    async def slot(index: int) -> None:
        nonlocal next_s
        for number in numbers:
            is_warm = number >= WARM_UP
            if link != FREE:
                next_s = max(next_s + 1 / FPS, time.monotonic())
                await asyncio.sleep(next_s - time.monotonic())
            image = frames.write(number, index)
            try:
                await backend.process_image(
                    image, deadline_s=DEADLINES_S[link] if is_warm else DEADLINES_S[FREE]
                )
                outcome = "answered"
            except BackendError as error:
                outcome = type(error).__name__.removeprefix("Backend").removesuffix("Error")
                await asyncio.sleep(0)
            if is_warm or outcome == "answered":
                outcomes[outcome] += 1
            budget.sample()
            if number + 1 == WARM_UP:
                assert outcomes["answered"] > WARM_UP / 2
                outcomes.clear()
                say("warm")

    backend = WAYS[way_name](endpoint=url, compressor=compressor)
    async with backend:
        await backend.check(deadline_s=5.0)
        with budget:
            gc.collect()
            ready = held()
            await asyncio.gather(*(slot(index) for index in range(IN_FLIGHT)))
            assert "mediapipe" not in sys.modules
    report = budget.report
    assert report is not None
    assert link not in (FREE, SLOW) or outcomes["answered"] > frame_count / 2, outcomes
    assert report.control is not None
    whole = report.baseline_bytes - ready + report.peak_bytes + max(report.control.peak_bytes, 0)
    return {
        "backend": way_name,
        "codec": codec,
        "link": link,
        "peak": report.peak_bytes,
        "growth": report.growth_bytes,
        "slope": settled_slope(report) - settled_slope(report.control),
        "control": report.control.peak_bytes,
        "whole": whole,
        "outcomes": dict(outcomes),
    }


def settled_slope(report: MemoryReport) -> float:
    """Bytes per 1000 frames over the second half."""
    half = report.calls / 2
    return slope([point for point in report.levels if point[0] > half]) * 1000


def held() -> int:
    return process_anonymous_bytes(os.getpid()) or 0


def say(word: str) -> None:
    print(word, flush=True)


# -- the links -------------------------------------------------------------------------------------


class Link:
    """A TCP proxy in front of `upstream`, of limited rate if asked for, that can stall."""

    def __init__(self, upstream: str, *, upload_bytes_s: float | None) -> None:
        host, port = upstream.removeprefix("http://").split(":")
        self._upstream = host, int(port)
        self._upload_bytes_s = upload_bytes_s
        self._upload_free_s = 0.0
        self._connections: set[asyncio.Task[None]] = set()
        self.flowing = asyncio.Event()
        self.flowing.set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        listening = socket.create_server(("127.0.0.1", 0))
        # Else the kernel takes megabytes off the client before it notices the link.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        server = await asyncio.start_server(self._accept, sock=listening, limit=32 * 1024)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # Cancelled in the end, which asyncio's server would report as an error.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self.flowing.wait()  # or the server would come to hold all that was given up
            far_reader, far = await asyncio.open_connection(*self._upstream)
            await asyncio.gather(
                self._pump(reader, far, self._upload_bytes_s), self._pump(far_reader, writer, None)
            )

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float | None
    ) -> None:
        try:
            while data := await reader.read(16 * 1024):
                await self.flowing.wait()
                if rate is not None:  # shared by all connections
                    start_s = max(self._upload_free_s, time.monotonic())
                    self._upload_free_s = start_s + len(data) / rate
                    await asyncio.sleep(self._upload_free_s - time.monotonic())
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def halt(self) -> None:
        for is_flowing in itertools.cycle((False, True)):
            (self.flowing.set if is_flowing else self.flowing.clear)()
            await asyncio.sleep(FLOW_S if is_flowing else STALL_S)


async def measure(
    backend: str, codec: str, link_name: str, server: str, frames: int
) -> dict[str, Any]:
    link = Link(server, upload_bytes_s=SLOW_BYTES_S if link_name == SLOW else None)
    async with link.open() as url:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "--frames", str(frames)),
            *("--here", backend, codec, link_name, url),
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        halting: asyncio.Task[None] | None = None
        try:
            assert await child.stdout.readline() == b"warm\n", (backend, codec, link_name)
            if link_name == HALTING:
                halting = asyncio.create_task(link.halt())
            if link_name == STALLED:
                link.flowing.clear()
            row = json.loads(await child.stdout.readline())
            assert await child.wait() == 0, (backend, codec, link_name)
        finally:
            if halting is not None:
                halting.cancel()
            if child.returncode is None:
                child.kill()
    return dict(row)


# -- the parts -------------------------------------------------------------------------------------


def ways_and_codecs() -> list[tuple[str, str]]:
    codecs = [codec for codec in CODECS if codec == "Pillow" or is_installed(codec)]
    if len(codecs) < len(CODECS):
        print("simplejpeg is not installed: its rows are left out")
    return list(itertools.product(WAYS, codecs))


async def mission(arguments: argparse.Namespace) -> None:
    from hybrid_detect.server.serving import ServerProcess

    places = asyncio.Semaphore(ROWS_AT_ONCE)

    async def in_turn(*row: str) -> dict[str, Any]:
        async with places:
            return await measure(*row, server.url, arguments.frames)

    combinations = ways_and_codecs()
    with ServerProcess(model="short_range") as server:
        # One at a time on the free link, so that none slows another down.
        rows = [
            await measure(*combination, FREE, server.url, arguments.frames)
            for combination in combinations
        ]
        others = await asyncio.gather(
            *(in_turn(*each, link) for link in LINKS[1:] for each in combinations),
            return_exceptions=True,  # else one that fails would leave the others in mid-air
        )
    if failures := [each for each in others if isinstance(each, BaseException)]:
        raise failures[0]
    rows += [each for each in others if not isinstance(each, BaseException)]
    print(f"{arguments.frames} distinct frames of {WIDTH}x{HEIGHT}, MB of 1,000,000 bytes")
    head = ("backend", "encoder", "link", "peak", "goal", "", "growth", "slope per 1000")
    lines = [(*head, "from ready", "control", "outcomes")]
    free_peaks = {
        (row["backend"], row["codec"]): row["peak"] for row in rows if row["link"] == FREE
    }
    for row in sorted(rows, key=lambda row: (row["backend"], row["codec"] == "Pillow")):
        goal = GOALS[row["codec"]]
        if row["link"] != FREE:
            free = free_peaks[row["backend"], row["codec"]]
            goal = max(WORSE_RATIO * free, free + WORSE_BYTES)
        lines.append(
            (
                *(row["backend"], row["codec"], row["link"]),
                *(mb(row["peak"]), f"<= {goal / MB:.2f}", verdict(row["peak"] <= goal)),
                *(mb(row["growth"]), mb(row["slope"]), mb(row["whole"]), mb(row["control"])),
                ", ".join(f"{count} {name}" for name, count in row["outcomes"].items()),
            )
        )
    show(lines)


async def settled(arguments: argparse.Namespace) -> None:
    from hybrid_detect.server.serving import ServerProcess

    frames = SETTLED_RATIO * arguments.frames
    lines = [("backend", "encoder", f"peak of {frames}", "slope per 1000", "goal", "")]
    with ServerProcess(model="short_range") as server:
        for backend, codec in ways_and_codecs():
            row = await measure(backend, codec, FREE, server.url, frames)
            goal = (f"<= {mb(SLOPE_GOAL)}", verdict(row["slope"] <= SLOPE_GOAL))
            lines.append((backend, codec, mb(row["peak"]), mb(row["slope"]), *goal))
    show(lines)


PROBE = """
import gc, json
import psutil
def held():
    gc.collect()
    with open("/proc/self/smaps_rollup") as rollup:
        anonymous = next(int(line.split()[1]) for line in rollup if line.startswith("Anonymous"))
    return psutil.Process().memory_full_info().uss, anonymous * 1024
before = held()
{statement}
after = held()
print(json.dumps([b - a for a, b in zip(before, after)]))
"""
IMPORTS = {
    "httpx": "import httpx",
    "numpy": "import numpy",
    "Pillow": "from PIL import Image, JpegImagePlugin",
    "all three": "import httpx, numpy\nfrom PIL import Image, JpegImagePlugin",
    "all three, a client": (
        "import asyncio, httpx, numpy\nfrom PIL import Image, JpegImagePlugin\n"
        "client = httpx.AsyncClient()"
    ),
    "import hybrid_detect": "import hybrid_detect",
    "a ready cloud service": """
import asyncio
import hybrid_detect
service = hybrid_detect.CloudDetectionService(endpoint="{url}")
loop = asyncio.new_event_loop()
loop.run_until_complete(service.start())
loop.run_until_complete(service.check(deadline_s=5.0))
""",
}
IMPORT_ROUNDS = 5
IMPORT_GOAL = 12 * MB


async def imports(arguments: argparse.Namespace) -> None:
    from hybrid_detect.server.serving import ServerProcess

    figures: dict[str, tuple[float, ...]] = {}
    with ServerProcess(model="short_range") as server:
        for name, statement in IMPORTS.items():
            script = PROBE.format(statement=statement.replace("{url}", server.url))
            seen = [json.loads(await output("-c", script)) for _ in range(IMPORT_ROUNDS)]
            figures[name] = tuple(statistics.median(each) for each in zip(*seen, strict=True))
    parts = [figures[name] for name in ("httpx", "numpy", "Pillow")]
    figures["sum of the three"] = tuple(map(sum, zip(*parts, strict=True)))
    lines = [("private memory taken", "USS", "anonymous", "")]
    lines += [(name, *map(mb, figures[name]), "") for name in figures]
    for base in ("sum of the three", "all three", "all three, a client"):
        pairs = zip(figures["a ready cloud service"], figures[base], strict=True)
        over = [ours - theirs for ours, theirs in pairs]
        held_to = f"<= {IMPORT_GOAL // MB}: {verdict(max(over) <= IMPORT_GOAL)}"
        lines.append((f"cloud service over {base}", *map(mb, over), held_to))
    show(lines)


MODES = """
import asyncio, sys
import numpy as np
from hybrid_detect import HybridDetectionService
async def run():
    endpoint = None if sys.argv[1] == "on_device" else sys.argv[2]
    async with HybridDetectionService(endpoint, mode=sys.argv[1]) as service:
        image = np.zeros((720, 1280, 3), np.uint8)
        result = await service.process_image(image, deadline_s=10.0)
        print(result.backend, "mediapipe" in sys.modules)
asyncio.run(run())
"""


async def modes(arguments: argparse.Namespace) -> None:
    from hybrid_detect.server.serving import ServerProcess
    from hybrid_detect.types import DetectionMode

    lines = [("mode", "answered by", "MediaPipe in the app", "")]
    with ServerProcess(model="short_range") as server:
        for mode in DetectionMode:
            backend, is_there = (await output("-c", MODES, mode, server.url)).split()
            lines.append((mode.value, backend, is_there, verdict(is_there == "False")))
    show(lines)


async def output(*arguments: str) -> str:
    child = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await child.communicate()
    assert child.returncode == 0, arguments
    return said.decode()


def mb(size: float) -> str:
    return f"{size / MB:.2f}"


def verdict(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def show(lines: Iterable[tuple[str, ...]]) -> None:
    table = list(lines)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip(), flush=True)
    print(flush=True)


PARTS = {part.__name__: part for part in (mission, settled, imports, modes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--here", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        say(json.dumps(asyncio.run(look(*arguments.here, arguments.frames))))
        return
    for part in arguments.parts or PARTS:
        asyncio.run(PARTS[part](arguments))


if __name__ == "__main__":
    main()
