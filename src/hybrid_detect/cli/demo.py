"""``hybrid-detect demo``: one photo through three backends, and a network that goes away."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import secrets
import shutil
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.fetching import SERVER_MODEL, fetch_for_device, fetch_for_server
from hybrid_detect.cli.options import can_write, described
from hybrid_detect.cli.plain_text import one_line
from hybrid_detect.cli.table import table
from hybrid_detect.config import ServiceConfig
from hybrid_detect.extras import is_installed, require
from hybrid_detect.frames.drawing import draw
from hybrid_detect.frames.frame import Frame
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.types import BackendKind, DetectionMode, DetectionResult

__all__ = ["add_parser"]

PHOTO_DEADLINE_S = 10.0
"""A photo has the time that the server's default level takes, also on a busy machine."""
FPS = 10
CUT_AT = 15
"""The frame before which the server is killed."""
RESTART_AT = 35
"""The frame before which it is started again."""
PATIENCE_FRAMES = 150
"""Frames after the server is ready at which the stream ends if the server is not used again.

Counted from when it is ready: how long a start takes depends on the machine's load, and
`ServerProcess` bounds it.
"""
FRAMES_AFTER_RETURN = 10
"""Frames that the server answers, after it has come back, that end the stream."""
PAN_PX = 2
"""How far the picture moves from frame to frame, so that no two are the same."""
PAN_FRAMES = 20
"""Frames after which it moves back again, so that its edge never cuts the face."""
DEVICE_COST = 0.9
"""What a look on the device costs in the stream, in perfect answers, as on an empty battery.

With the default `auto` keeps a close-up on the device, which finds it as well, and there would
be no way back to the server to see.
"""
MIN_IOU = 0.5
"""Overlap at which two backends are said to have found the same face."""

NO_PHOTO = """\
Give a photo with a face:    hybrid-detect demo photo.jpg
or install the sample photo: pip install scikit-image"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "demo", **described("look at one photo with three backends and survive a server that dies")
    )
    parser.add_argument(
        "image",
        nargs="?",
        metavar="IMAGE",
        help="a photo with a face (default: scikit-image's astronaut)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("hybrid-detect-demo.png"),
        metavar="FILE",
        help="write the photo with its faces marked as a PNG (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration; 0 if it showed what it promises."""
    if arguments.image is None and not is_installed("skimage"):
        print(NO_PHOTO, file=sys.stderr)
        return ExitCode.USAGE
    for module in ("starlette", "httptools"):
        require(module, extra="server", purpose="'hybrid-detect demo'")
    photo = _photo(arguments.image)
    if not can_write(arguments.out, option="--out"):
        return ExitCode.USAGE
    fetch_for_server()
    fetch_for_device(ServiceConfig())
    return asyncio.run(_demo(photo, arguments.out))


def _photo(name: str | None) -> NDArray[np.uint8]:
    if name is not None:
        return Frame.of(name).rgb()
    from skimage import data

    return Frame.of(data.astronaut()).rgb()


async def _demo(photo: NDArray[np.uint8], out: Path) -> int:
    from hybrid_detect.server.serving import ServerProcess

    token = secrets.token_urlsafe(16)
    print("Starting the server on this machine ...", flush=True)
    with ServerProcess(auth_token=token, model=SERVER_MODEL) as server:
        config = ServiceConfig(endpoint=server.url, auth_token=token)
        print(f"It listens on {server.url}.\n\n1. One photo, three backends", flush=True)
        results = await _three_backends(photo, config)
        _save(photo, results, out)
        agree = _compare(results)
        print("\n2. A stream of frames while the server is killed and started again", flush=True)
        survived = await _cut(photo, config, server)
    return ExitCode.DONE if agree and survived else ExitCode.FAILED


def _best_score(result: DetectionResult) -> str:
    score = result.faces[0].score if result.faces else None
    return "-" if score is None else f"{score:.2f}"


async def _three_backends(photo: NDArray[np.uint8], config: ServiceConfig) -> list[DetectionResult]:
    results = []
    for mode in (DetectionMode.CLOUD, DetectionMode.STREAMING, DetectionMode.ON_DEVICE):
        async with HybridDetectionService(mode=mode, config=config) as service:
            # A backend's first frame warms it up.
            await service.process_image(photo, deadline_s=PHOTO_DEADLINE_S)
            results.append(await service.process_image(photo, deadline_s=PHOTO_DEADLINE_S))
    rows = [
        (
            result.backend.value if result.backend else "-",
            len(result.faces),
            _best_score(result),
            f"{result.timings.total_s * 1000:.0f}",
            result.bytes_sent,
            result.model,
            result.reason,
        )
        for result in results
    ]
    print(table(("backend", "faces", "score", "ms", "bytes", "model", "reason"), rows))
    return results


def _save(photo: NDArray[np.uint8], results: list[DetectionResult], out: Path) -> None:
    draw(photo, results[0]).save(out, format="PNG")
    print(f"The photo with the faces that the cloud backend found: {out}")


def _compare(results: list[DetectionResult]) -> bool:
    """Whether every backend's best face is the same one; prints the overlap."""
    if not all(result.faces for result in results):
        print("Not every backend found a face: the device's model misses small ones.")
        return not any(result.faces for result in results)
    boxes = [result.faces[0].box for result in results]
    overlap = min(a.iou(b) for a in boxes for b in boxes)
    print(
        f"The backends agree on the best face: their boxes overlap by {overlap:.2f} (IoU) or more."
    )
    return overlap >= MIN_IOU


async def _cut(photo: NDArray[np.uint8], config: ServiceConfig, server: Any) -> bool:
    """Stream, kill the server, start it again; whether every frame was answered."""
    results: list[DetectionResult] = []
    asked = 0
    ready_at: int | None = None

    async def camera() -> AsyncIterator[NDArray[np.uint8]]:
        nonlocal asked, ready_at
        starting: asyncio.Task[None] | None = None
        while not (_returned(results) or (ready_at and asked >= ready_at + PATIENCE_FRAMES)):
            if asked == CUT_AT:
                server.kill()
            if asked == RESTART_AT:
                starting = asyncio.create_task(asyncio.to_thread(server.start))
            if starting is not None and ready_at is None and starting.done():
                starting.result()  # raises what kept the server from starting
                ready_at = asked
            shift = abs((asked + PAN_FRAMES) % (2 * PAN_FRAMES) - PAN_FRAMES)
            asked += 1
            yield np.roll(photo, shift * PAN_PX, axis=1)

    config = dataclasses.replace(config, device_cost=DEVICE_COST)
    async with HybridDetectionService(config=config) as service:
        await service.wait_ready()
        started_s = time.monotonic()
        async for result in service.start_detection(camera(), max_fps=FPS):
            results.append(result)  # noqa: PERF401 - the camera watches the list grow
        took_s = time.monotonic() - started_s
    _print_timeline(results, ready_at)
    answered = sum(result.answered for result in results)
    slowest_s = max(result.timings.total_s for result in results)
    back = "the server was used again" if _returned(results) else "the server was not used again"
    print()
    _tell(
        f"{answered} of {asked} frames answered in {took_s:.1f} s, the slowest after "
        f"{slowest_s * 1000:.0f} ms; {back}."
    )
    return answered == asked and _returned(results)


def _returned(results: list[DetectionResult]) -> bool:
    """Whether the server has answered enough frames since it was started again."""
    by_server = {BackendKind.CLOUD, BackendKind.STREAMING}
    since = results[RESTART_AT:]
    return sum(result.backend in by_server for result in since) >= FRAMES_AFTER_RETURN


def _print_timeline(results: list[DetectionResult], ready_at: int | None) -> None:
    rows, reasons = [], ["why the first of them"]
    numbered = list(enumerate(results))

    def same(item: tuple[int, DetectionResult]) -> tuple[object, ...]:
        return item[1].backend, item[1].status

    for (backend, status), run_of in groupby(numbered, key=same):
        frames = list(run_of)
        first, last = frames[0][0], frames[-1][0]
        times = sorted(result.timings.total_s for _, result in frames)
        rows.append(
            (
                f"{first}-{last}" if last > first else f"{first}",
                getattr(backend, "value", "none"),
                getattr(status, "value", status),
                f"{times[len(times) // 2] * 1000:.0f}",
                f"{times[-1] * 1000:.0f}",
            )
        )
        reasons.append(one_line(frames[0][1].reason))
    ready = "" if ready_at is None else f", ready at frame {ready_at}"
    print(f"(frame {CUT_AT}: server killed; frame {RESTART_AT}: started again{ready})")
    lines = table(("frames", "backend", "status", "median ms", "slowest ms"), rows).splitlines()
    for line, reason in zip(lines, reasons, strict=True):
        print(line)
        _tell(reason, indent="  ")  # in the table it would not fit the terminal


def _tell(text: str, *, indent: str = "") -> None:
    """Print `text` in lines that the terminal does not break, 80 columns wide if there is none."""
    columns = shutil.get_terminal_size().columns
    print(textwrap.fill(text, columns, initial_indent=indent, subsequent_indent=indent))
