"""The charts of a report: inline SVG, drawn by pygal (extra ``report``).

pygal is pure Python and small, and what it draws takes its colours from the page's style sheet, so
that one chart serves light and dark. What it adds for scripts is taken out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from hybrid_detect.extras import require

__all__ = ["report_charts"]

WIDTH, HEIGHT = 480, 270
"""In units of the drawing. Narrow, so that text is readable on a phone: 3/4 of its size there."""

FONT_PX = 13
LEGEND_PX = 14

MOST_LABELS = 7
"""Of the time axis."""

BACKENDS = ("cloud", "streaming", "device")

SCORE_STEP = 0.05

Formatter = Callable[[Any], str]


def report_charts(
    told: Mapping[str, Any],
    *,
    seconds: Formatter,
    percent: Formatter,
    size: Formatter,
    count: Formatter,
) -> dict[str, str]:
    """The charts by name, each an ``<svg>``; those with nothing to show are left out.

    Args:
        told: The values of `report_json`.
        seconds: Writes a time.
        percent: Writes a share.
        size: Writes bytes.
        count: Writes a number.

    Raises:
        MissingExtraError: If pygal is not installed.
    """
    steps = told["steps"]
    if not steps:
        return {}
    count, size = _whole(count), _whole(size)
    labels = [_label(step["start"], told["step"]) for step in steps]
    pen = _Pen(labels)
    used = [name for name in BACKENDS if any(name in step["answers"] for step in steps)]
    charts = {
        "frames": pen.bars(
            "Frames over time",
            {
                "answered": ("good", [step["answered"] for step in steps]),
                "not answered": ("bad", [step["failed"] for step in steps]),
                "left out": ("quiet", [step["left_out"] for step in steps]),
            },
            count,
        ),
        "latency": pen.lines(
            "Time to an answer over time",
            {
                name: (name, [step["latency"][f"{name}_s"] for step in steps])
                for name in ("p50", "p90", "p99")
            },
            seconds,
        ),
        "success": pen.lines(
            "Success rate over time",
            {"answered": ("good", [step["success_rate"] for step in steps])},
            percent,
            most=1.0,
        ),
        "backends": pen.bars(
            "Answers by backend over time",
            {name: (name, [step["answers"].get(name, 0) for step in steps]) for name in used},
            count,
        ),
    }
    if told["spending"]["bytes_sent"]:
        sent = [step["spending"]["bytes_sent"] for step in steps]
        charts["bytes"] = pen.bars("Bytes sent over time", {"sent": ("cloud", sent)}, size)
    for number, cost in enumerate(told["spending"]["costs"]):
        if float(cost["amount"]):
            currency = cost["currency"]
            spent = [_cost(step["spending"], currency) for step in steps]
            charts[f"cost-{number}"] = pen.bars(
                f"Cost over time in {currency}", {currency: ("device", spent)}, _money(max(spent))
            )
    scored = [each for each in told["backends"] if each["backend"] in BACKENDS]
    if any(any(each["scores"]) for each in scored):
        charts["confidence"] = _confidence(scored, count)
    return charts


def _confidence(backends: Sequence[Mapping[str, Any]], count: Formatter) -> str:
    """How sure answers were, from the lowest score there is."""
    first = min(
        next(place for place, number in enumerate(each["scores"]) if number)
        for each in backends
        if any(each["scores"])
    )
    labels = [f"{place * SCORE_STEP:.2f}" for place in range(first, len(backends[0]["scores"]))]
    ordered = sorted(backends, key=lambda each: str(each["backend"]))
    series = {
        each["backend"]: (each["backend"], each["scores"][first:])
        for each in ordered
        if any(each["scores"])
    }
    return _Pen(labels).bars("Answers by the best face's score", series, count)


def _cost(spending: Mapping[str, Any], currency: str) -> float:
    return sum(float(each["amount"]) for each in spending["costs"] if each["currency"] == currency)


def _whole(form: Formatter) -> Formatter:
    """Writes whole numbers as `form` does; a mark of the axis between two of them gets no text."""
    return lambda value: form(value) if value == round(value) else ""


def _money(most: float) -> Formatter:
    """Writes amounts up to `most`, all with as many decimals as its first two digits need."""
    decimals = min(max(1 - math.floor(math.log10(most)), 2), 6) if most > 0 else 2
    return lambda value: f"{value:,.{decimals}f}"


def _label(start: str, step: str) -> str:
    moment = datetime.fromisoformat(start)
    return {
        "hour": f"{moment:%H}:00",
        "day": f"{moment.day} {moment:%b}",
        "month": f"{moment:%b %Y}",
    }[step]


def _pygal() -> Any:
    pygal = require("pygal", extra="report", purpose="the report's charts")
    # It looks for plug-ins in each import of the process from then on, in a way of Python 2 that
    # warns at each module that is not found. None of them is needed here.
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if type(finder).__name__ != "PluginImportFixer"
    ]
    return pygal


class _Pen:
    """Draws charts that share a horizontal axis.

    Args:
        labels: What stands below each place of the axis.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._pygal = _pygal()
        self._labels = list(labels)

    def bars(
        self, title: str, series: Mapping[str, tuple[str, Sequence[float]]], form: Formatter
    ) -> str:
        """Stacked bars.

        Args:
            title: What is shown, for readers that do not see it.
            series: By name: the name of its colour in the style sheet, and its values.
            form: Writes a value.
        """
        return self._drawn(self._pygal.StackedBar, title, series, form, range=None)

    def lines(
        self,
        title: str,
        series: Mapping[str, tuple[str, Sequence[float | None]]],
        form: Formatter,
        *,
        most: float | None = None,
    ) -> str:
        """Lines, broken where there is no value; from 0 to `most` if that is given."""
        bounds = (0.0, most) if most is not None else None
        return self._drawn(
            self._pygal.Line,
            title,
            series,
            form,
            range=bounds,
            allow_interruptions=True,
            dots_size=3,
        )

    def _drawn(
        self,
        kind: Any,
        title: str,
        series: Mapping[str, tuple[str, Sequence[float | None]]],
        form: Formatter,
        **options: Any,
    ) -> str:
        style = self._pygal.style.Style(
            background="transparent",
            plot_background="transparent",
            foreground="var(--muted)",
            foreground_strong="var(--ink)",
            foreground_subtle="var(--line)",
            guide_stroke_color="var(--line)",
            major_guide_stroke_color="var(--line)",
            guide_stroke_dasharray="none",
            major_guide_stroke_dasharray="none",
            colors=tuple(f"var(--{colour})" for colour, _ in series.values()),
            opacity="1",
            stroke_opacity="1",
            stroke_width="2",
            font_family="inherit",
            label_font_size=FONT_PX,
            major_label_font_size=FONT_PX,
            legend_font_size=LEGEND_PX,
        )
        every = -(-len(self._labels) // MOST_LABELS)
        chart = kind(
            width=WIDTH,
            height=HEIGHT,
            style=style,
            js=(),
            disable_xml_declaration=True,
            show_legend=len(series) > 1,
            legend_at_bottom=True,
            legend_at_bottom_columns=3,
            legend_box_size=11,
            margin=6,
            margin_right=24,
            spacing=8,
            include_x_axis=True,
            x_labels=self._labels,
            x_labels_major=self._labels[::every],
            show_minor_x_labels=every == 1,
            y_labels_major=[],
            max_scale=6,
            truncate_legend=-1,
            truncate_label=-1,
            value_formatter=form,
            no_data_text="",
            **options,
        )
        chart.uuid = title.lower().replace(" ", "-").replace("'", "")
        for name, (_, values) in series.items():
            chart.add(name, list(values))
        chart.add_xml_filter(lambda root: _tidied(root, title))
        text: str = chart.render(is_unicode=True)
        return text


def _tidied(root: Any, title: str) -> Any:
    """`root` without scripts, comments and texts for them, and with a title of its own."""
    for parent in list(root.iter()):
        for child in list(parent):
            is_script = not isinstance(child.tag, str) or child.tag.endswith("script")
            if is_script or child.get("class") == "tooltip":
                parent.remove(child)
            child.attrib.pop("id", None)  # of series, for scripts; each chart has the same
    for child in root:
        if child.tag.endswith("title"):
            child.text = title
    root.set("role", "img")
    root.set("aria-label", title)
    return root
