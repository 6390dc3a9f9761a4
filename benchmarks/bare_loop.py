"""Decode and detect, in as many processes as there are cores, with no server around it.

What a server can reach at most: its own detector, the pictures in memory, decoded by simplejpeg at
the scale that the model needs, one thread in each process.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from hybrid_detect.server.levels import LEVELS, Level

WIDTH, HEIGHT = 1280, 720


@dataclass(frozen=True)
class BareRate:
    """What the loops reached together."""

    per_s: float
    cpu_ms: float
    """Processor time of one picture."""


def level_of(quality: str) -> Level:
    """The server's level of that name."""
    return next(level for level in LEVELS if level.quality == quality)


def _loop(level: Level, runtime: str, data: Sequence[bytes], orders: Connection) -> None:
    """Detect without pause for the seconds that are sent; answer with count and CPU seconds."""
    import simplejpeg

    from hybrid_detect.backends.device.model_registry import model_spec
    from hybrid_detect.backends.device.models import load_model
    from hybrid_detect.backends.device.runtimes import make_detector
    from hybrid_detect.frames.turbo import factor_for

    # What runtimes print is not for the table.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    size = model_spec(level.model).input(level.side_px)
    detector = make_detector(
        runtime,
        load_model(level.model),
        min_confidence=size.threshold,
        side_px=size.side_px,
        slim=True,
    )
    enough_px = min(size.enough_px, WIDTH)
    factor = factor_for((WIDTH, HEIGHT), (enough_px, enough_px * HEIGHT // WIDTH))

    def look(picture: bytes) -> None:
        detector.detect(
            simplejpeg.decode_jpeg(
                picture,
                min_width=WIDTH // factor,
                min_height=HEIGHT // factor,
                min_factor=factor,
            )
        )

    look(data[0])
    orders.send(0)
    while (seconds := orders.recv()) > 0:
        ends_s, done, before_s = time.perf_counter() + seconds, 0, time.process_time()
        while True:
            look(data[done % len(data)])
            if time.perf_counter() >= ends_s:
                break  # the last one ended after the time, and does not count, as in `picture_load`
            done += 1
        orders.send((done, time.process_time() - before_s))


class BareLoops:
    """The loops in their processes.

    Args:
        quality: The server's level whose model looks.
        runtime: What runs it, a name in `RUNTIMES`.
        data: JPEGs of `WIDTH` by `HEIGHT`.
        count: Processes.
    """

    def __init__(self, quality: str, runtime: str, data: Sequence[bytes], count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            given = (level_of(quality), runtime, data, theirs)
            process = context.Process(target=_loop, args=given, daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def run(self, seconds: float) -> BareRate:
        """Let all of them work at the same time."""
        for pipe in self._pipes:
            pipe.send(seconds)
        results = [pipe.recv() for pipe in self._pipes]
        done, cpu_s = (sum(each) for each in zip(*results, strict=True))
        return BareRate(done / seconds, cpu_s / max(done, 1) * 1000)

    def end(self) -> None:
        for pipe in self._pipes:
            pipe.send(0.0)
        for process in self._processes:
            process.join()
