"""The policy live beside the policy simulated: a real client, a real server, an emulated link.

Client and server run in network namespaces of their own; a user-space emulator between them
follows a recorded trace (`emulated_link.py`). The service, both remote ways, the wire format and
the server are the real ones; standing in are the detectors (which take the simulator's times) and
the JPEG encoder (whose pictures weigh what the simulator's do), so that figures compare. Printed
is the share of frames answered inside 200 ms, beside the simulator's for the same trace and seed.

    python benchmarks/bench_live.py [--traces DIR] [--seconds 60] [--device pi5] [--at-once 2]
"""

import argparse
import asyncio
import json
import math
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_detect import HybridDetectionService
from hybrid_detect.backends.base import Backend
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.compression.compressor import CompressedImage
from hybrid_detect.compression.size_law import size_share
from hybrid_detect.config import ServiceConfig
from hybrid_detect.selection.auto import AutoPolicy
from hybrid_detect.simulation.environment import DEVICES, Environment
from hybrid_detect.simulation.simulator import simulate
from hybrid_detect.simulation.traces import read_traces
from hybrid_detect.types import BackendKind, BoundingBox, Face, Timings

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).parent))
import emulated_link

TRACES = (
    "3g_ucc_driv20191216_114959",
    "4g_belgium_bus_0002",
    "4g_mm_ATT-LTE-driving_0s",
    "5g_ucc_stat20191216_134004",
    "broadband_fcc_30637",
    "mixed_puffer_1",
    "starlink_autobahn_0",
    "wifi_zhuge_rest-wifi_12",
)
PORT, TOKEN = 8077, "a-token-for-the-bench"
FPS = 10
ON_TIME_S = 0.2
FACE = Face(BoundingBox(10, 10, 50, 50), 0.9)
LEAD_S = 12.0
"""For server and client to start in before the first frame."""


class Weights:
    """Stands in for the encoder: pictures as heavy as the simulator's, of no content."""

    def __init__(self, environment: Environment) -> None:
        self._raw = (environment.raw_bits / 8).tolist()
        self._first_id: int | None = None

    def compress(
        self, frame: Any, *, target_bytes: int, quality: int, max_side_px: int | None, **_: Any
    ) -> CompressedImage:
        if self._first_id is None:
            self._first_id = frame.frame_id
        raw = self._raw[(frame.frame_id - self._first_id) % len(self._raw)]
        scale = min(1.0, (max_side_px or frame.width) / frame.width)
        return CompressedImage(
            data=b"\xff\xd8" + bytes(int(min(raw * size_share(quality, scale), target_bytes))),
            width=round(frame.width * scale),
            height=round(frame.height * scale),
            original_width=frame.width,
            original_height=frame.height,
            quality=quality,
            encodes=1,
        )


class StandIn(Backend):
    """A device that takes the simulator's times, one frame after the other."""

    kind = BackendKind.DEVICE

    def __init__(self, environment: Environment) -> None:
        self._times = iter(np.tile(environment.device_s, 10).tolist())
        self._lock = asyncio.Lock()

    async def detect(self, frame: Any, plan: Any) -> Any:
        async with asyncio.timeout(plan.deadline_s), self._lock:
            took_s = next(self._times)
            await asyncio.sleep(took_s)
        return self.answer(frame, plan, [FACE], model="stand-in", timings=Timings(detect_s=took_s))


class Camera:
    """Ten pictures a second from `starts_s` on."""

    def __init__(self, starts_s: float, frames: int) -> None:
        self._due = (starts_s + k / FPS for k in range(frames))
        self._image = np.zeros((720, 1280, 3), np.uint8)

    def read(self) -> tuple[bool, Any]:
        due_s = next(self._due, None)
        if due_s is None:
            return False, None
        time.sleep(max(0.0, due_s - time.monotonic()))
        return True, self._image


async def client(environment: Environment, starts_s: float) -> dict[str, Any]:
    url = f"http://{emulated_link.SERVER}:{PORT}"
    options: dict[str, Any] = {
        "endpoint": url,
        "auth_token": TOKEN,
        "allow_insecure_http": True,
        "compressor": Weights(environment),
    }
    backends = [StreamingService(**options), CloudDetectionService(**options), StandIn(environment)]
    config = ServiceConfig(
        endpoint=url,
        allow_insecure_http=True,
        device_cost=environment.profile.cost,
        device_accuracy=environment.device_accuracy,
    )
    on_time = answered = 0
    ages, kinds = [], []
    async with HybridDetectionService(config=config, backends=backends) as service:
        await service.wait_ready()
        async for result in service.start_detection(
            Camera(starts_s, environment.frames), max_fps=None
        ):
            if result.answered:
                answered += 1
                on_time += result.age_s <= ON_TIME_S
                ages.append(result.age_s)
                kinds.append(result.backend)
        status = service.status()
    flips = sum((a is BackendKind.DEVICE) != (b is BackendKind.DEVICE) for a, b in pairwise(kinds))
    return {
        "on_time": on_time / environment.frames,
        "answered": answered / environment.frames,
        "p95_ms": float(np.quantile(ages, 0.95) * 1000) if ages else math.nan,
        "device": sum(kind is BackendKind.DEVICE for kind in kinds) / environment.frames,
        "flips_min": flips / environment.minutes,
        "mb_min": status.traffic.sent_bytes / 1e6 / environment.minutes,
        "wasted": status.traffic.wasted_bytes / max(status.traffic.sent_bytes, 1),
        "hedges": status.hedges.started,
    }


def serve(environment: Environment) -> None:
    from hybrid_detect.server.app import create_app
    from hybrid_detect.server.config import ServerConfig
    from hybrid_detect.server.detectors import Detection
    from hybrid_detect.server.listening import Server

    times = iter(np.tile(environment.server_s, 10).tolist())

    class Detector:
        model = "stand-in"
        info = None

        async def start(self) -> None: ...

        async def aclose(self) -> None: ...

        async def detect(self, request: Any, **_: Any) -> Detection:
            took_s = next(times)
            await asyncio.sleep(took_s)
            return Detection(width=1280, height=720, faces=(FACE,), queue_s=0.0, detect_s=took_s)

    config = ServerConfig(host=emulated_link.SERVER, port=PORT, auth_token=TOKEN, rate_per_s=0)
    Server(create_app(config, Detector()), config).run()


def world(arguments: argparse.Namespace, name: str) -> Environment:
    trace = next(each for each in read_traces(arguments.traces) if each.name == name)
    return Environment(trace, arguments.device, max_s=arguments.seconds + 1)


def run(arguments: argparse.Namespace, number: int, name: str) -> dict[str, Any]:
    environment = world(arguments, name)
    own = [sys.executable, __file__, "--traces", str(arguments.traces), "--seconds",
           str(arguments.seconds), "--device", arguments.device, "--trace", name]  # fmt: skip
    with emulated_link.namespaces(str(number)) as names:
        starts_s = time.monotonic() + LEAD_S
        own += ["--starts", str(starts_s), "--namespaces", ",".join(names)]
        enter = [["ip", "netns", "exec", each] for each in names]
        started = [subprocess.Popen([*own, "--role", "link"], stdout=subprocess.PIPE, text=True)]
        try:
            assert started[0].stdout is not None
            started[0].stdout.readline()
            started.append(subprocess.Popen([*enter[1], *own, "--role", "server"]))
            done = subprocess.run(
                [*enter[0], *own, "--role", "client"],
                stdout=subprocess.PIPE, text=True, timeout=arguments.seconds + 60, check=True,
            )  # fmt: skip
        finally:
            for process in started:
                process.kill()
                process.wait()
    live: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    outcome = simulate(environment, AutoPolicy(), receive_times=True)
    return {"trace": name, **live, "simulated": outcome.on_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--device", default="pi5", choices=list(DEVICES))
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=TRACES)
    for hidden in ("--trace", "--role", "--starts", "--namespaces"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        environment = world(arguments, arguments.trace)
        names = tuple(arguments.namespaces.split(","))
        starts_s = float(arguments.starts)
        if arguments.role == "link":
            # The emulator's clock runs from the first frame; before it, the first step holds.
            emulated_link.carry(
                names, bits_per_s=environment.capacity, rtt_s=environment.rtt_s, starts_s=starts_s
            )
        elif arguments.role == "server":
            serve(environment)
        else:
            print(json.dumps(asyncio.run(client(environment, starts_s))))
        return
    if why := emulated_link.unavailable_reason():
        print(f"skipped: {why}")
        return
    if not arguments.traces.is_dir():
        print(f"skipped: no traces in {arguments.traces}")
        return
    print(f"{arguments.device}, {arguments.seconds:.0f} s of each trace at {FPS} fps")
    names = (
        "on time",
        "simulated",
        "differ",
        "answered",
        "p95 ms",
        "device",
        "flips/min",
        "MB/min",
    )
    print(f"{'trace':30s}" + "".join(f"{name:>10s}" for name in (*names, "wasted")))
    places = threading.Semaphore(arguments.at_once)

    def one(number: int, name: str) -> None:
        with places:
            row = run(arguments, number, name)
        differ = row["on_time"] - row["simulated"]
        shares = (
            f"{row['on_time']:10.1%}{row['simulated']:10.1%}{differ:+10.1%}{row['answered']:10.1%}"
        )
        rest = f"{row['p95_ms']:10.0f}{row['device']:10.1%}{row['flips_min']:10.1f}"
        print(f"{name:30s}{shares}{rest}{row['mb_min']:10.1f}{row['wasted']:10.1%}", flush=True)

    threads = [threading.Thread(target=one, args=each) for each in enumerate(arguments.only)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
