"""A report as one page of HTML that fetches nothing: for browsers, phones and mail.

Each figure on it is an element ``<data data-figure="PATH" value="...">``: the value at that path of
`report_json`, written for people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import partial
from importlib.resources import files
from typing import Any

from hybrid_detect.extras import require
from hybrid_detect.monitoring.reasons import error_words
from hybrid_detect.monitoring.report_charts import report_charts
from hybrid_detect.usage import ON_TIME_S

__all__ = ["report_page"]

TEMPLATE = "report_page.html"

NONE = "\N{EN DASH}"
"""Stands where there is no figure, which is not the same as 0."""

TAG_CHARS = 8
"""Digits of what stands for a user that the page shows, as `hybrid-detect costs` does."""

THIN = "\u202f"
"""A narrow space that does not break, before a unit."""


def report_page(told: Mapping[str, Any], *, title: str = "Face detection") -> str:
    """The page of a report.

    Args:
        told: The values of `report_json`.
        title: Its heading: the app's name, say.

    Raises:
        MissingExtraError: If Jinja or pygal is not installed.
    """
    jinja2 = require("jinja2", extra="report", purpose="the report's page")
    markup = require("markupsafe", extra="report", purpose="the report's page").Markup
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        count=_count, percent=_percent, seconds=_seconds, size=_size, short=_short, day=_day
    )
    environment.filters.update(words=error_words, moment=_moment, step_name=_step_name)
    environment.globals.update(
        title=title,
        r=told,
        fig=partial(_figure, told, markup),
        busiest=_busiest(told["by_weekday"]),
        most_in_an_hour=max(map(max, told["by_weekday"])),
        weekdays=("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
        tag_chars=TAG_CHARS,
        on_time=_seconds(ON_TIME_S),
    )
    charts = report_charts(told, seconds=_seconds, percent=_percent, size=_size, count=_count)
    source = (files("hybrid_detect.monitoring") / TEMPLATE).read_text(encoding="utf-8")
    page: str = environment.from_string(source).render(
        charts={name: markup(svg) for name, svg in charts.items()}
    )
    return page


def _figure(told: Mapping[str, Any], markup: Any, path: str, form: str) -> Any:
    """The element of the figure at `path`, written as `form` says."""
    value: Any = told
    for part in path.split("."):
        value = value[int(part) if isinstance(value, list) else part]
    text = NONE if value is None else _FORMS[form](value)
    element = markup('<data data-figure="{}" value="{}">{}</data>')
    return element.format(path, "" if value is None else value, text)


# -- writing for people --------------------------------------------------------------------------


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _short(value: int) -> str:
    if value < 1000:
        return str(value)
    unit, scale = ("k", 1e3) if value < 1e6 else ("M", 1e6)
    return f"{value / scale:.1f}{unit}" if value / scale < 10 else f"{value / scale:.0f}{unit}"


def _percent(share: float) -> str:
    """A share; one that is not quite all never reads as 100 %, nor a little as 0 %."""
    percent = 100 * share
    text = f"{percent:.1f}"
    if text == "100.0" and share < 1:
        text = ">99.9"
    elif text == "0.0" and share > 0:
        text = "<0.1"
    return f"{text.removesuffix('.0')}{THIN}%"


def _seconds(value: float) -> str:
    if value < 0.9995:
        digits = 0 if value >= 0.01 or value == 0 else 1
        return f"{value * 1000:.{digits}f}{THIN}ms"
    return f"{value:.2f}{THIN}s" if value < 10 else f"{value:.1f}{THIN}s"


def _size(value: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.1f}{THIN}{unit}"
    return f"{value:.0f}{THIN}B"


def _amount(value: float | str) -> str:
    """An amount with two decimals, or as many as its first two digits need."""
    number = float(value)
    decimals = 2
    while decimals < 6 and 0 < abs(number) < 10 ** (1 - decimals):
        decimals += 1
    return f"{number:,.{decimals}f}"


_FORMS: dict[str, Callable[[Any], str]] = {
    "count": _count,
    "percent": _percent,
    "seconds": _seconds,
    "size": _size,
    "amount": _amount,
    "decimal": lambda value: f"{value:.1f}",
}


def _day(text: str) -> str:
    day = date.fromisoformat(text)
    return f"{day:%a} {day.day} {day:%b %Y}"


def _moment(text: str) -> str:
    moment = datetime.fromisoformat(text)
    return f"{_day(moment.date().isoformat())}, {moment:%H:%M}"


def _step_name(start: str, step: str) -> str:
    moment = datetime.fromisoformat(start)
    if step == "month":
        return f"{moment:%B %Y}"
    day = f"{moment:%a} {moment.day} {moment:%b}"
    return f"{day}, {moment:%H:%M}" if step == "hour" else day


def _busiest(by_weekday: list[list[int]]) -> dict[str, Any] | None:
    """The hour of the week with most frames; `None` if there are none."""
    most, weekday, hour = max(
        (count, -weekday, -hour)
        for weekday, hours in enumerate(by_weekday)
        for hour, count in enumerate(hours)
    )
    if not most:
        return None
    return {"weekday": -weekday, "hour": -hour, "path": f"by_weekday.{-weekday}.{-hour}"}
