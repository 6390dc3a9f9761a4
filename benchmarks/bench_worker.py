"""What the detector's own process costs, and what it gives back.

Each part runs in a fresh interpreter, so that none sees what another left behind.

    python benchmarks/bench_worker.py [PART ...] [--rounds N] [--kills N] [--frames N]
"""

import argparse
import asyncio
import gc
import io
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image
from skimage import data

from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector
from hybrid_detect.backends.device.model_registry import model_spec
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.backends.device.runtimes import LITERT, MEDIAPIPE
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.errors import BackendUnavailableError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.system.memory_probe import process_anonymous_bytes

WARM_UP = 30
STARTS = 15
FRESH = 8
LOOKS = 40
MIB = 2**20
ROOT = Path(__file__).parents[1]
SHM = "/dev/shm"  # noqa: S108 - only looked at

PLAIN = """
import sys
import mediapipe as mp
import numpy as np
from hybrid_detect.backends.device.models import load_model
options = mp.tasks.vision.FaceDetectorOptions(
    base_options=mp.tasks.BaseOptions(model_asset_buffer=load_model("short_range"))
)
detector = mp.tasks.vision.FaceDetector.create_from_options(options)
picture = np.zeros((720, 1280, 3), np.uint8)
for _ in range(int(sys.argv[1])):
    detector.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=picture))
print("looked", flush=True)
sys.stdin.read()
import os
os._exit(0)
"""


def picture() -> np.ndarray:
    return np.ascontiguousarray(Image.fromarray(data.astronaut()).resize((1280, 720)))


def new_worker() -> DetectorWorker:
    return DetectorWorker(lambda: load_model("short_range"))


def line(name: str, value: str, goal: str = "") -> None:
    print(f"{name:46} {value:>24}   {goal}", flush=True)


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def uss(pid: int) -> int:
    return int(psutil.Process(pid).memory_full_info().uss)


def latency(arguments: argparse.Namespace) -> None:
    image = picture()
    worker = new_worker()
    in_process = MediaPipeFaceDetector(load_model("short_range"))
    calls: dict[str, Callable[[np.ndarray], object]] = {
        "in process": in_process.detect,
        "worker": worker.detect,
    }
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(WARM_UP + arguments.rounds):
        for name in sorted(calls, reverse=bool(number % 2)):
            started_s = time.perf_counter()
            calls[name](image)
            if number >= WARM_UP:
                times_ms[name].append((time.perf_counter() - started_s) * 1000)
    worker.close()
    for name, seen in times_ms.items():
        line(f"1280x720, {name}", f"p50 {statistics.median(seen):.2f} p95 {p95(seen):.2f} ms")
    bare, ours = (statistics.median(times_ms[name]) for name in ("in process", "worker"))
    extra = [b - a for a, b in zip(times_ms["in process"], times_ms["worker"], strict=True)]
    line("worker / in process", f"{ours / bare:.2f}")
    line("added, difference of the medians", f"{ours - bare:.2f} ms", "goal <= 0.5 ms")
    line("added, median of the differences", f"{statistics.median(extra):.2f} ms")


def pictures(arguments: argparse.Namespace) -> None:
    """Encoded pictures: decoded whole in the app, against decoded in the process as needed."""
    spec = model_spec("short_range")
    worker = DetectorWorker(lambda: load_model(spec.name), enough_px=spec.input().enough_px)
    photo = Image.fromarray(data.astronaut())
    for size in ((1280, 720), (4000, 3000), (8000, 6000)):
        out = io.BytesIO()
        photo.resize(size).save(out, "JPEG", quality=90)
        encoded = out.getvalue()
        routes: dict[str, Callable[[], object]] = {
            "in the app": lambda encoded=encoded: worker.detect(Frame.of(encoded).rgb()),
            "in the process": lambda encoded=encoded: worker.detect_frame(Frame.of(encoded)),
        }
        times_ms: dict[str, list[float]] = {name: [] for name in routes}
        rounds = max(5, arguments.rounds // 4 * 1280 * 720 // (size[0] * size[1]))
        for number in range(2 + rounds):
            for name, call in routes.items():
                started_s = time.perf_counter()
                call()
                if number >= 2:
                    times_ms[name].append((time.perf_counter() - started_s) * 1000)
        whole, needed = (statistics.median(seen) for seen in times_ms.values())
        line(f"JPEG of {size[0]}x{size[1]}, decoded in the app", f"p50 {whole:.1f} ms")
        line(
            "decoded in the process, as needed",
            f"p50 {needed:.1f} ms",
            f"ratio {needed / whole:.2f}",
        )
    worker.close()


def start(arguments: argparse.Namespace) -> None:
    image = picture()
    ours, plain = [], []
    for _ in range(STARTS):
        worker = new_worker()
        started_s = time.perf_counter()
        worker.detect(image)
        ours.append(time.perf_counter() - started_s)
        worker.close()
        started_s = time.perf_counter()
        with PlainProcess(looks=1):
            plain.append(time.perf_counter() - started_s)
    line("start to first result", f"p50 {statistics.median(ours):.3f} s", "goal <= 0.3 s")
    line("", f"min {min(ours):.3f} max {max(ours):.3f} s")
    line("the same, plain `import mediapipe`", f"p50 {statistics.median(plain):.3f} s")
    line("ratio", f"{statistics.median(ours) / statistics.median(plain):.2f}")


class PlainProcess:
    """A process that imports the whole of MediaPipe and has looked so often."""

    def __init__(self, *, looks: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PLAIN, str(looks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"looked\n"

    def __enter__(self) -> int:
        return self.process.pid

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def memory(arguments: argparse.Namespace) -> None:
    image = picture()
    worker = new_worker()
    for _ in range(arguments.rounds):
        worker.detect(image)
    assert worker.pid is not None
    # The picture's memory is shared with the app, so it is counted on neither side here.
    ours = uss(worker.pid), process_anonymous_bytes(worker.pid) or 0
    worker.close()
    with PlainProcess(looks=arguments.rounds) as pid:
        plain = uss(pid), process_anonymous_bytes(pid) or 0
    for name, mine, other in zip(("USS", "anonymous"), ours, plain, strict=True):
        line(f"{name}: worker, plain process", f"{mine / MIB:.1f}, {other / MIB:.1f} MiB")
        line(f"{name}: ratio", f"{mine / other:.2f}", "goal <= 0.6")


def runtimes(arguments: argparse.Namespace) -> None:
    """Fresh processes of MediaPipe and of LiteRT, in turn: what each takes, and their ratios."""
    image = picture()
    kinds = (MEDIAPIPE, LITERT)
    for model in ("short_range", "full_range"):
        load = partial(load_model, model)
        seen: dict[str, list[Looks]] = {kind: [] for kind in kinds}
        for number in range(FRESH):
            for kind in kinds if number % 2 else reversed(kinds):
                seen[kind].append(looks(DetectorWorker(load, runtime=kind), image))
        print(f"{model}: {FRESH} fresh processes each, MediaPipe and LiteRT in turn")
        for name, value, unit, goal in (
            ("private memory (USS)", "uss_mib", "MiB", "goal <= 0.33"),
            ("anonymous memory", "anonymous_mib", "MiB", ""),
            ("start to first result", "first_ms", "ms", "goal <= 0.5"),
            ("a frame of 1280x720, best", "best_ms", "ms", "goal <= 0.75"),
            ("a frame of 1280x720, median", "median_ms", "ms", ""),
            ("CPU time of a frame, app included", "cpu_ms", "ms", ""),
            ("threads", "threads", "", ""),
        ):
            theirs, ours = (
                statistics.median(getattr(run, value) for run in seen[kind]) for kind in kinds
            )
            line(name, f"{theirs:.1f}, {ours:.1f} {unit}", f"ratio {ours / theirs:.2f}   {goal}")


class Looks(NamedTuple):
    """What one fresh process did."""

    uss_mib: float
    anonymous_mib: float
    first_ms: float
    best_ms: float
    median_ms: float
    cpu_ms: float
    threads: float


def looks(worker: DetectorWorker, image: np.ndarray) -> Looks:
    started_s = time.perf_counter()
    worker.detect(image)
    first_s = time.perf_counter() - started_s
    times_s = []
    cpu_s = -cpu(worker)
    for _ in range(LOOKS):
        started_s = time.perf_counter()
        worker.detect(image)
        times_s.append(time.perf_counter() - started_s)
    cpu_s += cpu(worker)
    assert worker.pid is not None
    found = Looks(
        uss(worker.pid) / MIB,
        (process_anonymous_bytes(worker.pid) or 0) / MIB,
        first_s * 1000,
        min(times_s) * 1000,
        statistics.median(times_s) * 1000,
        cpu_s / LOOKS * 1000,
        psutil.Process(worker.pid).num_threads(),
    )
    worker.close()
    return found


def cpu(worker: DetectorWorker) -> float:
    """CPU seconds of the app and the process so far."""
    used = psutil.Process(worker.pid).cpu_times()
    return time.process_time() + used.user + used.system


def install(arguments: argparse.Namespace) -> None:
    """What pip puts on the disk for each extra, beside the client alone."""
    sizes = {}
    for extra in ("", "[device]", "[device-lite]"):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, f"{ROOT}{extra}"], check=True)
            files = (path for path in Path(folder).rglob("*") if path.is_file())
            sizes[extra] = sum(path.lstat().st_size for path in files) - sizes.get("", 0)
    theirs, ours = sizes["[device]"], sizes["[device-lite]"]
    line("the client alone, with pip", f"{sizes[''] / 1e6:.0f} MB")
    line("more with device, device-lite", f"{theirs / 1e6:.0f}, {ours / 1e6:.0f} MB")
    line("ratio", f"{ours / theirs:.3f}", "goal <= 0.167")


def parent(arguments: argparse.Namespace) -> None:
    image = picture()
    own = os.getpid()

    async def run() -> None:
        for name in ("first", "second"):
            async with OnDeviceDetectionService(model="short_range") as service:
                gc.collect()
                before = uss(own)
                for _ in range(arguments.rounds):
                    await service.process_image(image, deadline_s=10.0)
                during = uss(own)
                await service.unload()
                gc.collect()
                after = uss(own)
            figures = f"{before / MIB:.1f}, {during / MIB:.1f}, {after / MIB:.1f} MiB"
            line(f"app's USS before, with, after ({name} time)", figures)
            line("difference", f"{(after - before) / MIB:+.2f} MiB", "goal <= 2 MB")
        line("MediaPipe in the app's process", str("mediapipe" in sys.modules), "goal False")

    asyncio.run(run())


def kills(arguments: argparse.Namespace) -> None:
    image = picture()
    worker = new_worker()
    worker.detect(image)
    worker.stop()
    gc.collect()
    before = left_behind()
    noticed_ms = []
    for number in range(arguments.kills):
        worker.detect(image)
        assert worker.pid is not None
        os.kill(worker.pid, (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)[number % 3])
        started_s = time.perf_counter()
        try:
            worker.detect(image)
        except BackendUnavailableError:
            noticed_ms.append((time.perf_counter() - started_s) * 1000)
    worker.stop()
    gc.collect()
    line(
        f"{arguments.kills} kills: noticed",
        f"{len(noticed_ms)}, p50 {statistics.median(noticed_ms):.1f} ms",
    )
    for name, count in left_behind().items():
        line(f"left behind: {name}", f"{count - before[name]:+d}", "goal 0")
    worker.close()


def left_behind() -> dict[str, int]:
    me = psutil.Process()
    return {
        "processes": len(me.children()),
        "file descriptors": me.num_fds(),
        "shared-memory segments": len(os.listdir(SHM)) if os.path.isdir(SHM) else 0,
        "threads": me.num_threads(),
    }


def frames(arguments: argparse.Namespace) -> None:
    source = picture()
    marks = [100 + (arguments.frames - 100) * part // 8 for part in range(9)]

    async def run() -> None:
        async with OnDeviceDetectionService(model="short_range") as service:
            started_s = time.perf_counter()
            for number in range(1, arguments.frames + 1):
                image = source.copy()  # as a camera would give it
                image[0, 0] = number % 256
                result = await service.process_image(image, deadline_s=10.0)
                assert len(result.faces) == 1
                if number in marks:
                    worker = service._engine._worker.detector
                    assert worker.pid is not None
                    app = process_anonymous_bytes(os.getpid()) or 0
                    child = process_anonymous_bytes(worker.pid) or 0
                    seen = f"{app / MIB:.1f}, {child / MIB:.1f} MiB"
                    line(f"frame {number}: app, worker (anonymous)", seen, f"pid {worker.pid}")
            took_s = time.perf_counter() - started_s
            line("frames per second", f"{arguments.frames / took_s:.0f}")

    asyncio.run(run())


DEFAULT = (latency, pictures, start, memory, runtimes, parent, kills, frames)

PARTS = {part.__name__: part for part in (*DEFAULT, install)}
"""`install` downloads half a gigabyte, and runs if it is named."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        PARTS[arguments.parts[0]](arguments)
        return
    options = [f"--{name}={getattr(arguments, name)}" for name in ("rounds", "kills", "frames")]
    for part in arguments.parts or [part.__name__ for part in DEFAULT]:
        print(f"-- {part}", flush=True)
        command = [sys.executable, __file__, part, *options, "--here"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
