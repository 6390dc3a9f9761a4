"""A picture of what was spent over time: stacked bars by provider, as SVG or PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from xml.sax.saxutils import escape

from PIL import Image
from PIL.ImageDraw import Draw

from hybrid_detect.charges import CostRow
from hybrid_detect.cli.plotting import BLUE, GREY, GRID, INK, ORANGE, write
from hybrid_detect.monitoring.costs import summarise
from hybrid_detect.monitoring.periods import Period
from hybrid_detect.storage.private_files import replace_file

__all__ = ["save_plot"]

WIDTH, HEIGHT = 960, 480
LEFT, RIGHT, TOP, BOTTOM = 90, 940, 70, 400

COLOURS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00")
"""Told apart by everyone. Source of the last three: Okabe and Ito, "Color Universal Design"."""

OTHERS = GREY
"""For the providers beyond those."""

MOST_BARS = 62
"""Days that are drawn one by one: two months; more are drawn by month, two and fewer by hour."""

SCALE = 2
"""A PNG has twice as many pixels per side, because Pillow's lines are jagged."""


class Pen(Protocol):
    """What a picture is drawn with, in units of 1/960 of its width."""

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        """A filled box."""

    def text(self, x: float, y: float, text: str, *, size: int, anchor: str = "la") -> None:
        """A line of text; `anchor` is Pillow's."""


class _Svg:
    """Draws SVG."""

    def __init__(self) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" role="img">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        ]

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        size = f'width="{right - left:.2f}" height="{bottom - top:.2f}"'
        self._parts.append(f'<rect x="{left:.2f}" y="{top:.2f}" {size} fill="{colour}"/>')

    def text(self, x: float, y: float, text: str, *, size: int, anchor: str = "la") -> None:
        side = {"l": "start", "m": "middle", "r": "end"}[anchor[0]]
        base = y + {"a": 0.8, "m": 0.35}[anchor[1]] * size
        self._parts.append(
            f'<text x="{x:.1f}" y="{base:.1f}" font-size="{size}" text-anchor="{side}" '
            f'fill="{INK}">{escape(text)}</text>'
        )

    def data(self) -> bytes:
        return "\n".join((*self._parts, "</svg>\n")).encode()


class _Png:
    """Draws with Pillow."""

    def __init__(self) -> None:
        self.picture = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
        self._pen = Draw(self.picture)

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        x, y = round(left * SCALE), round(top * SCALE)
        # Pillow draws the last pixel, too.
        corner = max(round(right * SCALE) - 1, x), max(round(bottom * SCALE) - 1, y)
        self._pen.rectangle([(x, y), corner], fill=colour)

    def text(self, x: float, y: float, text: str, *, size: int, anchor: str = "la") -> None:
        write(self._pen, (x * SCALE, y * SCALE), text, size=size * SCALE, anchor=anchor)


def save_plot(rows: Sequence[CostRow], path: Path) -> None:
    """Draw what `rows` cost to `path`, whose suffix says how.

    Raises:
        StorageError: If an SVG cannot be written.
        OSError: If a PNG cannot be.
    """
    if path.suffix.lower() == ".svg":
        svg = _Svg()
        draw(svg, rows)
        replace_file(path, (svg.data(),))
    else:
        png = _Png()
        draw(png, rows)
        png.picture.save(path, format="PNG")


def draw(pen: Pen, rows: Sequence[CostRow]) -> None:
    """Draw the costs of `rows`, in the currency that most was spent in."""
    (total,) = summarise(rows)
    currency = max(total.nanos, key=lambda each: total.nanos[each], default="")
    paid = [row for row in rows if row.requests and row.key.currency == currency]
    if not paid:
        pen.text(WIDTH / 2, HEIGHT / 2, "Nothing was sent.", size=20, anchor="mm")
        return
    period, labels = _bars(paid)
    providers = _by_cost(paid)
    costs: dict[tuple[str, str], int] = {}
    for summary in summarise(paid, by=(period.value, "provider")):
        label, provider = summary.labels
        name = provider if provider in providers else "others"
        if not summary.nanos[currency]:
            continue
        costs[label, name] = costs.get((label, name), 0) + summary.nanos[currency]
    shown = [*providers, *(["others"] if any(p == "others" for _, p in costs) else [])]
    highest = max(sum(costs.get((label, p), 0) for p in shown) for label in labels) / 1e9
    left_out = ", other currencies left out" if len(total.nanos) > 1 else ""
    whole = total.nanos[currency] / 1e9
    pen.text(20, 14, f"{whole:,.2f} {currency} by {period}{left_out}", size=18)
    _legend(pen, shown)
    marks = _marks(highest)
    for mark in marks:
        y = BOTTOM - (BOTTOM - TOP) * mark / marks[-1]
        pen.box(LEFT, y, RIGHT, y + 1, INK if mark == 0 else GRID)
        pen.text(LEFT - 8, y, f"{mark:,.10g}", size=13, anchor="rm")
    step = (RIGHT - LEFT) / len(labels)
    every = math.ceil(len(labels) / 10)
    for place, label in enumerate(labels):
        x, below = LEFT + place * step, float(BOTTOM)
        for provider in shown:
            height = (BOTTOM - TOP) * costs.get((label, provider), 0) / 1e9 / marks[-1]
            if height:
                colour = _colour(shown, provider)
                pen.box(x + 0.15 * step, below - height, x + 0.85 * step, below, colour)
                below -= height
        if place % every == 0:
            pen.text(x + step / 2, BOTTOM + 8, _short(label, period), size=13, anchor="ma")
    pen.text(
        (LEFT + RIGHT) / 2, BOTTOM + 40, f"{labels[0]} to {labels[-1]}, UTC", size=14, anchor="ma"
    )


def _bars(rows: Sequence[CostRow]) -> tuple[Period, list[str]]:
    """What a bar is of, and the label of each, those without costs included."""
    first, last = min(row.key.hour for row in rows), max(row.key.hour for row in rows)
    days = (Period.DAY.start(last) - Period.DAY.start(first)) // 24 + 1
    period = Period.HOUR if days <= 2 else Period.DAY if days <= MOST_BARS else Period.MONTH
    labels, hour = [], period.start(first)
    while hour <= last:
        labels.append(period.label(hour))
        hour = period.end(hour)
    return period, labels


def _by_cost(rows: Sequence[CostRow]) -> list[str]:
    """The providers that have a colour of their own, those that cost most first."""
    sums = {each.labels[0]: sum(each.nanos.values()) for each in summarise(rows, by=("provider",))}
    ordered = sorted(sums, key=lambda provider: -sums[provider])
    # What cost nothing has no part in a bar, and needs no colour.
    return [name for name in ordered[: len(COLOURS)] if sums[name]] or ordered[:1]


def _colour(shown: Sequence[str], provider: str) -> str:
    place = shown.index(provider)
    return COLOURS[place] if place < len(COLOURS) else OTHERS


def _legend(pen: Pen, shown: Sequence[str]) -> None:
    x = 20.0
    for provider in shown:
        name = provider or "own backend"
        pen.box(x, 44, x + 12, 56, _colour(shown, provider))
        pen.text(x + 18, 50, name, size=13, anchor="lm")
        x += 40 + 8 * len(name)


def _marks(highest: float) -> list[float]:
    """Three to six round numbers from 0 to at least `highest`."""
    highest = highest or 1.0
    step = 10.0 ** math.floor(math.log10(highest / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if highest / (step * factor) <= 5)
    return [number * step for number in range(math.ceil(highest / step - 1e-9) + 1)]


def _short(label: str, period: Period) -> str:
    """The part of a label that changes from bar to bar."""
    return {Period.HOUR: f"{label[-2:]}:00", Period.DAY: label[5:], Period.MONTH: label}[period]
