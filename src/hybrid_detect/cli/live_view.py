"""The live screens of ``stream`` and ``watch``, drawn with rich."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from hybrid_detect.cli.live_figures import LiveFigures
from hybrid_detect.cli.plain_text import one_line
from hybrid_detect.service.status import ServiceStatus

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["CURVE", "PLAIN", "Cut", "Row", "ages", "curve", "rows_of_stream", "screen"]

Row = tuple[str, str, str]
"""A name, what is told of it, and a style of rich; empty for none."""

Cut: TypeAlias = Literal["ellipsis", "crop"]

SHOWN = 30
"""Bars of a curve: they fit beside the figures in a terminal of 80 columns."""

CURVE = "▁▂▃▄▅▆▇█"

PLAIN = str.maketrans(CURVE, "_.-:=+*#")
"""For terminals and files whose encoding has no bars: each would be spelled out in six letters."""


def rows_of_stream(
    figures: LiveFigures,
    status: ServiceStatus,
    *,
    memory: Mapping[str, int],
    max_fps: float | None,
    now_s: float,
) -> list[Row]:
    """What a stream's screen tells."""
    fps = f"{figures.rate.per_s(now_s):.1f}" + (f" of {max_fps:g}" if max_fps else "")
    rows: list[Row] = [("fps", fps, "bold green"), ("age", ages(list(figures.ages_s)), "")]
    rows.append(("faces", _faces(figures), ""))
    rows.append(("backend", f"{figures.backend or '-'}  {figures.reason}", "cyan"))
    rows.append(("shares", _counted(figures.shares(), percent=True), ""))
    link = status.link
    if link is not None:
        rows.append(
            (
                "link",
                f"{link.bits_per_s / 1e6:.1f} Mbit/s, round trip {link.rtt_s * 1000:.0f} ms, "
                f"{link.network.value}, {link.in_flight} in flight",
                "",
            )
        )
    rows.append(("results", _counted(figures.statuses), ""))
    drops = {cause.value: count for cause, count in status.drops.items()}
    rows.append(("dropped", _counted(drops), ""))
    rows.append(("sent", _size(figures.bytes_sent), ""))
    rows.append(("memory", ", ".join(f"{name} {_size(n)}" for name, n in memory.items()), ""))
    for backend in status.backends:
        state = "ready" if backend.usable else f"out: {backend.unavailable_reason}"
        told = "" if backend.latency_s is None else f"{backend.latency_s * 1000:.0f} ms, "
        told += f"{backend.answered} answered, {backend.failed} failed"
        rows.append((backend.kind.value, f"{state}, {told}", "" if backend.usable else "yellow"))
    if figures.trouble:
        rows.append(("trouble", figures.trouble, "bold red"))
    return rows


def screen(title: str, rows: Sequence[Row], keys: str, *, cut: Cut) -> RenderableType:
    """`rows` as a screen under `title`, with what the keys do below.

    Args:
        title: The first line.
        rows: What is told.
        keys: The last line.
        cut: How rich cuts what is too long; an ``ellipsis`` is a letter that not each encoding has.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    # In a narrow terminal what is told is cut, not the name of it.
    widest = max((len(name) for name, _, _ in rows), default=1)
    grid.add_column(style="dim", no_wrap=True, min_width=widest)
    grid.add_column(no_wrap=True, overflow=cut)
    for name, told, style in rows:
        grid.add_row(name, Text(one_line(told), style=style))
    head = Text(one_line(title), style="bold reverse", no_wrap=True, overflow=cut)
    return Group(head, grid, Text(keys, style="dim"))


def ages(values_s: Sequence[float]) -> str:
    """The median and the greatest of `values_s`, and how the last of them went."""
    if not values_s:
        return "-"
    middle_s, most_s = statistics.median(values_s), max(values_s)
    told = f"{middle_s * 1000:.0f} ms, at most {most_s * 1000:.0f}"
    return f"{told}  {curve(values_s[-SHOWN:])}"


def curve(values: Sequence[float]) -> str:
    """`values` as a row of bars, from none to the greatest."""
    most = max(values, default=0.0)
    if most <= 0:
        return CURVE[0] * len(values)
    return "".join(CURVE[round(value / most * (len(CURVE) - 1))] for value in values)


def _faces(figures: LiveFigures) -> str:
    score = "" if figures.best_score is None else f", best {figures.best_score:.2f}"
    return f"{figures.faces}{score}"


def _counted(counts: Mapping[str, float], *, percent: bool = False) -> str:
    told: Iterable[str] = (
        f"{name} {count:.0%}" if percent else f"{name} {count}" for name, count in counts.items()
    )
    return ", ".join(told) or "-"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
