"""A picture of one simulated run: what the link carried, what was chosen, what came of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageDraw import Draw, ImageDraw

from hybrid_detect.cli.plotting import BLUE, GREY, GRID, INK, ORANGE, ticks, write
from hybrid_detect.selection.rungs import Rung
from hybrid_detect.simulation.environment import DEADLINE_S, GRID_PER_S, STALE_S
from hybrid_detect.simulation.simulated_run import SimulatedResult

__all__ = ["timeline"]

SIZE = (2400, 1680)
"""Pixels to draw on; the file has half as many per side, because Pillow's lines are jagged."""

LEFT, RIGHT = 240, 2340
PANEL, GAP = 260, 104
"""Height of a panel, and between two."""

TOP = 170

SMOOTH_S = 1.0
"""Utility is averaged over so long."""


class _Panel:
    """One of the four, from `low` at the bottom to `high` at the top."""

    def __init__(
        self,
        pen: ImageDraw,
        number: int,
        title: str,
        marks: Sequence[tuple[float, str]],
        seconds: float,
    ) -> None:
        self._pen, self._seconds = pen, seconds
        self.top = TOP + number * (PANEL + GAP)
        values = [value for value, _ in marks]
        self.low, self.high = min(values), max(values)
        write(pen, (LEFT - 200, self.top - 52), title, size=30)
        for value, label in marks:
            colour = INK if value == self.low else GRID
            pen.line([self.at(0, value), self.at(seconds, value)], colour, width=2)
            write(pen, (LEFT - 16, self.at(0, value)[1]), label, size=24, anchor="rm")

    def at(self, time_s: float, value: float) -> tuple[float, float]:
        """Where a value is drawn."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        x = LEFT + time_s / self._seconds * (RIGHT - LEFT)
        return x, self.top + PANEL * (1 - share)

    def line(self, times_s: Sequence[float], values: Sequence[float], colour: str) -> None:
        """A curve."""
        points = [self.at(*point) for point in zip(times_s, values, strict=True)]
        self._pen.line(points, colour, width=3, joint="curve")

    def dots(self, times_s: Sequence[float], values: Sequence[float], colour: str) -> None:
        """A mark at each value."""
        for point in zip(times_s, values, strict=True):
            x, y = self.at(*point)
            self._pen.rectangle([x - 2, y - 5, x + 2, y + 5], fill=colour)


def timeline(outcome: SimulatedResult, policy: str) -> Image.Image:
    """Four panels over one time: capacity, choices, ages of the answers, utility."""
    world = outcome.environment
    seconds = world.frames * world.interval_s
    frames_s = np.arange(world.frames) * world.interval_s
    picture = Image.new("RGB", SIZE, "white")
    pen = Draw(picture)
    title = f"{policy} on {world.trace.name}, {world.device}: utility {outcome.utility:.3f}, "
    title += f"{outcome.on_time:.0%} in {DEADLINE_S * 1000:.0f} ms"
    write(pen, (40, 30), title, size=36)

    mbit = _averages(world.capacity[: int(seconds * GRID_PER_S)] / 1e6, int(GRID_PER_S / 5))
    marks = [(mark, f"{mark:g}") for mark in ticks(0, float(np.percentile(mbit, 99)))]
    capacity = _Panel(pen, 0, "uplink, Mbit/s", marks, seconds)
    capacity.line((np.arange(len(mbit)) / 5).tolist(), mbit.tolist(), BLUE)

    rungs = world.pictures.ladder.rungs
    labels = [f"q{rung.quality} {rung.max_side_px} px" for rung in rungs]
    marks = [(0, "device"), *((len(rungs) - index, label) for index, label in enumerate(labels))]
    choices = _Panel(pen, 1, "chosen", marks, seconds)
    was_sent = outcome.sent_bits > 0
    rows = [len(rungs) - _nearest_rung(accuracy, rungs) for accuracy in outcome.accuracy[was_sent]]
    choices.dots(frames_s[was_sent].tolist(), rows, BLUE)
    by_device = np.isfinite(outcome.device_s)
    choices.dots(frames_s[by_device].tolist(), [0.0] * int(by_device.sum()), ORANGE)

    ages = [(0.0, "0"), (DEADLINE_S * 1000, "200"), (500.0, "500"), (STALE_S * 1000, "1000")]
    latency = _Panel(pen, 2, "age of the answer, ms (top: none)", ages, seconds)
    from_server = outcome.upload_worth >= outcome.device_worth
    answered = np.isfinite(outcome.latencies_s)
    shown_ms = np.where(answered, outcome.latencies_s, STALE_S) * 1000
    for mask, colour in (
        (~answered, GREY),
        (answered & from_server, BLUE),
        (answered & ~from_server, ORANGE),
    ):
        latency.dots(frames_s[mask].tolist(), shown_ms[mask].tolist(), colour)

    marks = [(mark, f"{mark:g}") for mark in (0.0, 0.25, 0.5, 0.75, 1.0)]
    utility = _Panel(pen, 3, "utility of a frame, averaged over 1 s", marks, seconds)
    width = max(round(SMOOTH_S / world.interval_s), 1)
    means = _averages(outcome.utilities, width)
    utility.line((np.arange(len(means)) * SMOOTH_S).tolist(), means.tolist(), BLUE)
    for tick in ticks(0, seconds):
        if tick <= seconds:
            x, y = utility.at(tick, 0)
            write(pen, (x, y + 14), f"{tick:g} s", size=24, anchor="ma")
    write(pen, (RIGHT, TOP - 52), "blue: server, orange: device, grey: no answer", anchor="ra")
    return picture.reduce(2)


def _averages(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Means of `width` values each; what is left over at the end goes with the last."""
    starts = np.arange(0, max(len(values) - width + 1, 1), width)
    ends = [*starts[1:], len(values)]
    sums: NDArray[np.float64] = np.add.reduceat(values, starts)
    return sums / (np.array(ends) - starts)


def _nearest_rung(accuracy: float, rungs: Sequence[Rung]) -> int:
    gaps = [abs(rung.accuracy - accuracy) for rung in rungs]
    return gaps.index(min(gaps))
