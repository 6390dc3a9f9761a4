"""Detections a second over HTTP and a WebSocket, beside loops without a server, in one run.

The bare loop (`bare_loop`) decodes and detects in as many processes as there are cores. The server
is given the same pictures over eight connections. They take turns. Server, detectors and clients
share the cores there, so the table tells where the processor's time goes: in the detectors, in the
server's own process, in the clients. "Of bare" is detections a second over the bare loop's; "with
clients elsewhere" is what the same processor time would give if the clients had cores of their own.

Then come the times of answers at a half and at nine tenths of what the server reaches, and what it
does with three and ten times as much, each picture with a deadline. There the clients have a core
of their own (`picture_load.apart`), the server and its detectors the others, and the peak is
measured in the same arrangement: else the clients of ten times the load would take from the server
what they measure. What the server's own process spends on a refusal is the processor time that it
takes beyond that of as many answers at the peak. In vain waited those that were let in and told at
their turn that it is too late.

    python benchmarks/bench_detections.py [SECONDS] [--rounds 3] [--levels fast high]
        [--no-peak] [--no-loads] [--photos FOLDER]
"""

from __future__ import annotations

import argparse
import io
import os
import secrets
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from bare_loop import BareLoops, BareRate
from links import Target
from photo_scores import FOLDER, photos
from picture_load import Load, apart, at_random, requests, served, without_pause
from PIL import Image, ImageOps

from hybrid_detect.extras import is_installed

CONNECTIONS = 8
PICTURE_BYTES = 80_000
TOKEN = secrets.token_urlsafe(16)
DEADLINE_S = {"fast": 0.5, "high": 1.0, "max": 2.0}
"""Of a picture under overload: many looks of its level, and no more than a person waits."""

RUNTIMES = {"fast": ("litert", "mediapipe"), "high": ("onnxruntime",), "max": ("onnxruntime",)}
"""What the bare loops run the model with; the first is the server's."""

MODULES = {"litert": "ai_edge_litert", "mediapipe": "mediapipe", "onnxruntime": "onnxruntime"}


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


@dataclass(frozen=True)
class Served:
    """One round of the server."""

    per_s: float
    server_ms: float
    """Processor time of a picture in the server's own process."""
    detectors_ms: float
    client_ms: float
    load: Load


class CpuClock:
    """Processor seconds of a server: its own process, and its detectors."""

    def __init__(self, pid: int) -> None:
        self._server = psutil.Process(pid)

    def read(self) -> tuple[float, float]:
        children = self._server.children(recursive=True)
        return _seconds(self._server), sum(_seconds(child) for child in children)


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def saturated(clock: CpuClock, target: Target, asked: Sequence[bytes], seconds: float) -> Served:
    """The server with as much as it can take."""
    before = clock.read()
    load = Load.of(without_pause(target, asked, seconds, connections=CONNECTIONS), seconds)
    own_s, theirs_s = (b - a for a, b in zip(before, clock.read(), strict=True))
    done = max(len(load.answered_s), 1)
    return Served(
        load.per_s,
        own_s / done * 1000,
        theirs_s / done * 1000,
        load.client_s / done * 1000,
        load,
    )


def measure(level: str, data: list[bytes], arguments: argparse.Namespace) -> None:
    cores = len(os.sched_getaffinity(0))
    loops = {
        runtime: BareLoops(level, runtime, data, cores)
        for runtime in RUNTIMES[level]
        if is_installed(MODULES[runtime])
    }
    bare: dict[str, list[BareRate]] = {runtime: [] for runtime in loops}
    found: dict[str, list[Served]] = {"HTTP": [], "WebSocket": []}
    with served(auth_token=TOKEN, quality=level) as (port, pid):
        targets = _targets(port)
        asked = {name: requests(target, data, level) for name, target in targets.items()}
        clock = CpuClock(pid)
        for name, target in targets.items():
            saturated(clock, target, asked[name], 1.0)
        for _ in range(arguments.rounds):
            for runtime, loop in loops.items():
                bare[runtime].append(loop.run(arguments.seconds))
            for name, target in targets.items():
                found[name].append(saturated(clock, target, asked[name], arguments.seconds))
        print(f"\n## {level}: {len(data)} pictures of 1280x720, {cores} cores")
        told(bare, found, cores)
        parent = psutil.Process(pid)
        held = [each.memory_full_info().uss / 1e6 for each in parent.children(recursive=True)]
        own = parent.memory_full_info().uss / 1e6
        print(f"private MB: server {own:.0f}, detectors", *(f"{mb:.0f}" for mb in held))
        for loop in loops.values():
            loop.end()


def _targets(port: int) -> dict[str, Target]:
    return {name: Target(port, TOKEN, name == "WebSocket") for name in ("HTTP", "WebSocket")}


def told(bare: dict[str, list[BareRate]], found: dict[str, list[Served]], cores: int) -> None:
    print(f"{'':22} {'per s':>7} {'of bare':>16} {'elsewhere':>10}   CPU ms of a picture")
    usual = next(iter(bare.values()))
    usual_ms = statistics.median(each.cpu_ms for each in usual)
    for runtime, rates in bare.items():
        per_s = statistics.median(each.per_s for each in rates)
        cpu_ms = statistics.median(each.cpu_ms for each in rates)
        print(f"{'bare, ' + runtime:22} {per_s:7.1f} {'':16} {'':10}   {cpu_ms:.2f}")
    for name, rounds in found.items():
        per_s = statistics.median(each.per_s for each in rounds)
        ratios = [each.per_s / rate.per_s for each, rate in zip(rounds, usual, strict=True)]
        own, theirs, client = (
            statistics.median(values)
            for values in zip(
                *((each.server_ms, each.detectors_ms, each.client_ms) for each in rounds),
                strict=True,
            )
        )
        span = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(
            f"{name:22} {per_s:7.1f} {span:>16} {usual_ms / (own + theirs):10.2f}   "
            f"detectors {theirs:.2f}, server {own:.2f}, clients {client:.2f}"
        )
        others = [r for r in bare if bare[r] is not usual]
        for other in others:
            also = [e.per_s / rate.per_s for e, rate in zip(rounds, bare[other], strict=True)]
            print(f"{'':22} {'':7} {statistics.median(also):.2f} of {other}'s loop")
        answered = [seconds for each in rounds for seconds in each.load.answered_s]
        print(
            f"{'':22} p50 {_ms(answered, 50)} ms, p99 {_ms(answered, 99)} ms, {CONNECTIONS} links"
        )


def measure_loads(level: str, data: list[bytes], arguments: argparse.Namespace) -> None:
    """The server at rates of which it can take some, all, or few."""
    with (
        apart() as cores,
        served(cores, auth_token=TOKEN, quality=level) as (port, pid),
    ):
        where = "server and clients share the cores"
        if cores:
            own = ", ".join(map(str, sorted(cores)))
            where = f"server and detectors on core {own}, clients on one of their own"
        print(f"\n## {level}, random arrivals: {where}")
        clock = CpuClock(pid)
        for name, target in _targets(port).items():
            asked = requests(target, data, level)
            saturated(clock, target, asked, 1.0)
            rounds = [
                saturated(clock, target, asked, arguments.seconds) for _ in range(arguments.rounds)
            ]
            loaded(name, target, data, level, rounds, clock, arguments.seconds)


def loaded(
    name: str,
    target: Target,
    data: list[bytes],
    level: str,
    rounds: Sequence[Served],
    clock: CpuClock,
    seconds: float,
) -> None:
    """One way to the server at several multiples of the peak that `rounds` measured."""
    deadline_s = DEADLINE_S[level]
    peak = statistics.median(each.per_s for each in rounds)
    answer_ms = statistics.median(each.server_ms for each in rounds)
    print(
        f"\n{name}, peak {peak:.1f} per s, of which the server's process takes {answer_ms:.2f} ms"
        f" each; beyond the peak each picture has {deadline_s:g} s to be answered"
    )
    print(
        f"{'load':>6} {'goodput/peak':>13} {'p50 ms':>8} {'p99 ms':>8} {'late':>6} {'in vain':>8}"
        f" {'refused':>8} {'p50 ms':>8} {'p99 ms':>8} {'us each':>8} {'lost':>5}"
        "  client's share of a core"
    )
    for times in (0.5, 0.9, 3.0, 10.0):
        is_beyond = times > 1
        asked = requests(target, data, level, deadline_s if is_beyond else None)
        links = int(min(2 * times * CONNECTIONS, 48)) if target.is_stream else 0
        before_s, _ = clock.read()
        sent = at_random(target, asked, seconds, per_s=times * peak, links=links)
        load = Load.of(sent, seconds, deadline_s if is_beyond else None)
        beyond_s = clock.read()[0] - before_s - len(load.answered_s) * answer_ms / 1000
        each_us = f"{beyond_s / len(load.refused_s) * 1e6:.0f}" if load.refused_s else "-"
        print(
            f"{times:5g}x {load.per_s / peak:13.2f} {_ms(load.answered_s, 50):>8}"
            f" {_ms(load.answered_s, 99):>8} {load.late:6d} {load.in_vain:8d}"
            f" {len(load.refused_s):8d} {_ms(load.refused_s, 50):>8}"
            f" {_ms(load.refused_s, 99):>8} {each_us:>8} {load.lost:5d}"
            f"  {load.client_s / seconds:.2f}  {load.codes or ''}",
            flush=True,
        )


def _ms(seconds: Sequence[float], percent: int) -> str:
    if len(seconds) < 2:
        return "-"
    return f"{statistics.quantiles(seconds, n=100)[percent - 1] * 1000:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", nargs="?", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levels", nargs="+", choices=list(RUNTIMES), default=["fast", "high"])
    parser.add_argument("--peak", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--loads", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--photos", type=Path, default=FOLDER, metavar="FOLDER")
    arguments = parser.parse_args()
    data = pictures(arguments.photos)
    for level in arguments.levels:
        if arguments.peak:
            measure(level, data, arguments)
        if arguments.loads:
            measure_loads(level, data, arguments)


if __name__ == "__main__":
    main()
