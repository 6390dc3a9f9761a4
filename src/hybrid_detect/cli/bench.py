"""``hybrid-detect bench``: measure on this machine what the documentation claims."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageDraw import Draw, ImageDraw

from hybrid_detect.cli import bench_backends, bench_policy
from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.fetching import SERVER_MODEL, fetch_for_device, fetch_for_server
from hybrid_detect.cli.options import (
    add_service_options,
    can_write,
    described,
    service_config,
)
from hybrid_detect.cli.plain_text import one_line
from hybrid_detect.cli.plotting import BLUE, GRID, INK, ORANGE, ticks, write
from hybrid_detect.cli.progress import counter
from hybrid_detect.cli.table import table
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import AllBackendsFailedError
from hybrid_detect.extras import is_installed, require
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.system.memory_probe import child_pids, process_anonymous_bytes
from hybrid_detect.testing.memory_budget import DEFAULT_FRAMES, DEFAULT_WARM_UP, MemoryBudget
from hybrid_detect.testing.memory_report import MB, MemoryReport, megabytes, slope, text_curve
from hybrid_detect.types import DetectionMode

__all__ = ["add_parser"]

WIDTH, HEIGHT = 1280, 720
"""The mission's frame."""

SHIFT_PX = 7
"""How far the picture moves from frame to frame; prime to its size, so that all are distinct."""

DEADLINE_S = 10.0
"""A measurement of memory shall not lose frames to a busy machine."""

NO_LIMIT = 1 << 50
"""Bytes; the curve is drawn whatever it looks like."""

CHILDREN_POINTS = 100
"""How often the children are read: counting them page by page takes milliseconds."""

FIGURES = ("baseline", "peak", "growth", "slope per 1000")
"""What is said of each line of the picture and of the table."""

Curve = list[tuple[int, float]]
"""Frames, and what there was then."""


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser("bench", **described("measure on this machine"))
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    memory = actions.add_parser(
        "memory", **described("draw how much memory this process holds, over many distinct frames")
    )
    add_service_options(memory)
    for name, default, meaning in (
        ("--frames", DEFAULT_FRAMES, f"frames of {WIDTH}x{HEIGHT} to measure"),
        ("--warm-up", DEFAULT_WARM_UP, "frames before the baseline is taken"),
    ):
        told = f"{meaning} (default: %(default)s)"
        memory.add_argument(name, type=int, default=default, metavar="N", help=told)
    memory.add_argument("--out", type=Path, metavar="FILE", help="write the curve as a PNG")
    memory.set_defaults(run=run_memory)
    bench_policy.add_parser(actions)
    bench_backends.add_parser(actions)


def run_memory(arguments: argparse.Namespace) -> int:
    """Measure, tell and draw; 0 if every frame was answered."""
    config = service_config(arguments)
    if arguments.deadline_s is None:
        config = replace(config, deadline_s=DEADLINE_S)
    budget = MemoryBudget(NO_LIMIT, frames=arguments.frames, warm_up=arguments.warm_up)
    if arguments.out is not None and not can_write(arguments.out, option="--out"):
        return ExitCode.USAGE
    with _endpoint(config) as (config, server_pid):
        fetch_for_device(config)
        lines, title, unanswered = asyncio.run(_measure(config, budget, server_pid))
    _tell(lines, title)
    if arguments.out is not None:
        _plot(lines, title).save(arguments.out, format="PNG")
        print(f"\nThe curve: {arguments.out}")
    if unanswered:
        print(f"\n{unanswered} frames had no answer", file=sys.stderr)
    return ExitCode.FAILED if unanswered else ExitCode.DONE


@contextmanager
def _endpoint(config: ServiceConfig) -> Iterator[tuple[ServiceConfig, int | None]]:
    """The configuration with a server to talk to, and the server's process, if we started it."""
    if config.endpoint is not None or config.mode is DetectionMode.ON_DEVICE:
        yield config, None
        return
    for module in ("starlette", "httptools"):
        require(module, extra="server", purpose="'hybrid-detect bench memory' without --endpoint")
    from hybrid_detect.server.serving import ServerProcess

    fetch_for_server()
    token = secrets.token_urlsafe(16)
    with ServerProcess(auth_token=token, model=SERVER_MODEL) as server:
        print(f"No endpoint given: a server runs at {server.url}; its memory is not counted.")
        yield replace(config, endpoint=server.url, auth_token=token), server.pid


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the picture and of the table."""

    name: str
    sizes: tuple[float, ...]
    """The `FIGURES`, in bytes."""
    points: tuple[tuple[int, int], ...]
    """Frame, and bytes above the baseline."""

    @property
    def figures(self) -> tuple[str, ...]:
        """The `FIGURES` as text."""
        baseline, *above = self.sizes
        return megabytes(baseline), *(megabytes(size, sign=True) for size in above)


async def _measure(
    config: ServiceConfig, budget: MemoryBudget, server_pid: int | None
) -> tuple[list[_Line], str, int]:
    """The lines, what they are of, and how many frames had no answer."""
    frames = _frames()
    held: list[tuple[int, int]] = []
    every = max(budget.frames // CHILDREN_POINTS, 1)
    unanswered = 0
    backends: set[str] = set()
    async with HybridDetectionService(config=config) as service:
        await service.wait_ready()
        if not budget.warm_up:
            held.append((0, _held_by_children(server_pid)))
        started_s = time.monotonic()
        show = counter("frames", sys.stderr)
        with budget:
            for number in range(1 - budget.warm_up, budget.frames + 1):
                try:
                    result = await service.process_image(next(frames))
                except AllBackendsFailedError as error:
                    unanswered += 1
                    print(f"frame {number}: {one_line(error)}", file=sys.stderr)
                else:
                    backends.add(result.backend.value if result.backend else "no backend")
                    unanswered += not result.answered
                    del result  # a caller that keeps results keeps their memory
                budget.sample()
                show(number + budget.warm_up, budget.frames + budget.warm_up)
                if number >= 0 and number % every == 0:
                    held.append((number, _held_by_children(server_pid)))
        per_s = (budget.warm_up + budget.frames) / (time.monotonic() - started_s)
    title = (
        f"{config.mode} through {' and '.join(sorted(backends)) or 'no backend'}: "
        f"{budget.frames} frames of {WIDTH}x{HEIGHT} after {budget.warm_up} to warm up, "
        f"{per_s:.0f}/s"
    )
    lines = [_line_of(cast("MemoryReport", budget.report))]
    if any(size for _, size in held):
        lines.append(_line_of_children(held))
    return lines, title, unanswered


def _held_by_children(server_pid: int | None) -> int:
    pids = set(child_pids(os.getpid()))
    if server_pid is not None:
        # Looked at after ours: the server may start and end processes of its own meanwhile.
        pids -= {server_pid, *child_pids(server_pid)}
    return sum(process_anonymous_bytes(pid) or 0 for pid in pids)


def _line_of(report: MemoryReport) -> _Line:
    above = (report.peak_bytes, report.growth_bytes, report.slope_bytes_per_1000)
    return _Line("this process", (report.baseline_bytes, *above), report.curve)


def _line_of_children(held: list[tuple[int, int]]) -> _Line:
    first = held[0][1]
    points = tuple((number, size - first) for number, size in held)
    peak = max(size for _, size in points)
    return _Line("its children", (first, peak, points[-1][1], slope(points) * 1000), points)


def _frames() -> Iterator[NDArray[np.uint8]]:
    """Distinct frames, all in the same buffer: a camera's driver does so, too."""
    picture = _picture()
    buffer = np.empty_like(picture)
    old, new = picture.reshape(-1), buffer.reshape(-1)
    for number in count():
        # What leaves a row on the right comes back in the next one on the left. np.roll would make
        # a new array for each frame, and measure itself.
        shift = number * SHIFT_PX * 3 % old.size
        new[shift:] = old[: old.size - shift]
        new[:shift] = old[old.size - shift :]
        yield buffer


def _picture() -> NDArray[np.uint8]:
    """A face where scikit-image brings one, else waves: JPEG finds either worth its bytes."""
    if is_installed("skimage"):
        from skimage import data

        square = Image.fromarray(data.astronaut()).resize((WIDTH, WIDTH))
        return np.array(square.crop((0, 0, WIDTH, HEIGHT)))
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    waves = [np.sin(x / (9 + 7 * c)) * np.cos(y / (13 + 5 * c)) for c in range(3)]
    return (np.stack(waves, axis=2) * 90 + 128).astype(np.uint8)


# -- telling and drawing -------------------------------------------------------------------------


def _tell(lines: list[_Line], title: str) -> None:
    print(f"\n{title}\n")
    header = ("anonymous memory", *FIGURES)
    print(table(header, [(line.name, *line.figures) for line in lines]))
    for line in lines:
        print(f"\n{line.name}, above its baseline (1 MB = 1,000,000 bytes)")
        print(text_curve(line.points, unit="frames"))


SIZE = (2400, 1600)
"""Pixels to draw on; the file has half as many per side, because Pillow's lines are jagged."""
COLOURS = (BLUE, ORANGE)


def _plot(lines: list[_Line], title: str) -> Image.Image:
    """Two panels: what is held, from zero; and the same above the baseline, enlarged."""
    picture = Image.new("RGB", SIZE, "white")
    pen = Draw(picture)
    write(pen, (120, 40), title, size=36)
    for row, (line, colour) in enumerate(zip(lines, COLOURS, strict=False)):
        y = 124 + 48 * row
        pen.line([(124, y), (184, y)], colour, width=8)
        figures = zip(FIGURES, line.figures, strict=True)
        told = ", ".join(f"{name} {figure}" for name, figure in figures)
        write(pen, (204, y - 20), f"{line.name}: {told}", size=32)
    above = [[(x, y / MB) for x, y in line.points] for line in lines]
    held = [[(x, (y + line.sizes[0]) / MB) for x, y in line.points] for line in lines]
    _panel(pen, 300, "MB of private anonymous memory", held, least=0)
    _panel(pen, 940, "MB above the baseline", above)
    write(pen, (1160, 1530), "frames", size=30)
    return picture.reduce(2)


def _panel(
    pen: ImageDraw, top: int, title: str, curves: list[Curve], *, least: float | None = None
) -> None:
    """Axes and curves below `top`, from `least` or the lowest."""
    left, right, bottom = 180, 2320, top + 520
    values = [value for curve in curves for _, value in curve]
    marks = ticks(min(values) if least is None else least, max(values))
    low, high = marks[0], marks[-1]
    last = max(curve[-1][0] for curve in curves)

    def place(frame: float, value: float) -> tuple[float, float]:
        right_part, up_part = frame / last, (value - low) / (high - low)
        return left + right_part * (right - left), bottom - up_part * (bottom - top)

    write(pen, (left - 60, top - 52), title, size=30)
    for tick in marks:
        pen.line([place(0, tick), place(last, tick)], INK if tick == 0 else GRID, width=2)
        write(pen, (left - 16, place(0, tick)[1]), f"{tick:g}", anchor="rm")
    for tick in ticks(0, last):
        if tick <= last and tick.is_integer():
            x, _ = place(tick, low)
            pen.line([(x, bottom), (x, bottom + 10)], INK, width=2)
            write(pen, (x, bottom + 18), f"{tick:g}", anchor="ma")
    for curve, colour in zip(curves, COLOURS, strict=False):
        pen.line([place(*point) for point in curve], colour, width=4, joint="curve")
