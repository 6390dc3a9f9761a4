"""``hybrid-detect costs``: what was spent, on what, and what the month will cost."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_detect.charges import CostRow, in_full, money
from hybrid_detect.cli.cost_file import opened
from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.options import can_write, described
from hybrid_detect.cli.table import table
from hybrid_detect.environment import ENV_PREFIX
from hybrid_detect.errors import ConfigurationError

if TYPE_CHECKING:
    from hybrid_detect.monitoring.costs import CostSummary
    from hybrid_detect.monitoring.projection import Projection
    from hybrid_detect.storage.cost_store import CostStore

__all__ = ["add_parser"]

BY = ("day", "provider")
"""What is told apart if nothing else is asked for."""

TAG_CHARS = 8
"""Digits of what stands for a session that a table shows; CSV and JSON show all 32."""

HOUR_S = 3600

FIGURES = ("frames", "requests", "answered", "images", "bytes_sent")


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "costs", **described("show what was spent, on what, and what the month will cost")
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help=f"the file of costs, in use or not (default: {ENV_PREFIX}COSTS_PATH)",
    )
    parser.add_argument(
        "--by",
        type=lambda text: tuple(text.split(",")),
        default=BY,
        metavar="LIST",
        help="what to tell apart, with commas: hour, day, month, session, user, backend, target, "
        f"provider, region (default: {','.join(BY)})",
    )
    parser.add_argument(
        "--day", type=_day, metavar="DATE", help="that day alone, of UTC (default: all)"
    )
    parser.add_argument(
        "--since", type=_day, metavar="DATE", help="from that day on (default: the first)"
    )
    parser.add_argument(
        "--until", type=_day, metavar="DATE", help="up to that day (default: the last)"
    )
    parser.add_argument("--session", metavar="NAME", help="that session alone (default: all)")
    parser.add_argument("--user", metavar="NAME", help="that user alone (default: all)")
    parser.add_argument("--provider", metavar="NAME", help="that provider alone (default: all)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="comma-separated values, with a header")
    form.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw it over time, as .svg or .png"
    )
    parser.add_argument(
        "--project", action="store_true", help="tell what this month will cost, with a range"
    )
    parser.add_argument(
        "--scales",
        action="store_true",
        help="tell what 100, 1,000 and 10,000 users would cost, by stated assumptions; no FILE",
    )
    parser.epilog = (
        "Names are not in the file: sessions and users are shown as what stands for them there, "
        "and after a day they are forgotten."
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.scales:
        _tell_scales()
        return ExitCode.DONE
    plot = arguments.plot
    if plot is not None:
        if plot.suffix.lower() not in {".svg", ".png"}:
            print(f"--plot: expected a file that ends in .svg or .png, got {plot}", file=sys.stderr)
            return ExitCode.USAGE
        if not can_write(plot, option="--plot"):
            return ExitCode.USAGE
    store = opened(arguments.file, "costs")
    if store is None:
        return ExitCode.USAGE
    from hybrid_detect.monitoring.costs import summarise

    with store:
        every = store.rows()
        rows = _filtered(every, store, arguments)
    try:
        summaries = summarise(rows, by=arguments.by)
    except ConfigurationError as error:
        print(f"--{error}", file=sys.stderr)
        return ExitCode.USAGE
    if plot is not None:
        from hybrid_detect.cli.cost_plot import save_plot

        save_plot(rows, plot)
        print(f"The picture: {plot}", file=sys.stderr)
    projections = _projections(every) if arguments.project else []
    if arguments.csv:
        _tell_csv(summaries, arguments.by)
    elif arguments.json:
        _tell_json(summaries, arguments.by, projections)
    else:
        _tell_table(summaries, summarise(rows)[0], arguments.by)
    if not arguments.json:
        _tell_projections(projections, sys.stderr if arguments.csv else sys.stdout)
    return ExitCode.DONE


def _filtered(
    rows: Sequence[CostRow], store: CostStore, arguments: argparse.Namespace
) -> list[CostRow]:
    """The rows that were asked for."""
    since, until = arguments.day or arguments.since, arguments.day or arguments.until
    first = 0 if since is None else _hour_of(since)
    end = None if until is None else _hour_of(until) + 24
    session = None if arguments.session is None else store.tag("session", arguments.session)
    user = None if arguments.user is None else store.tag("user", arguments.user)
    return [
        row
        for row in rows
        if row.key.hour >= first
        and (end is None or row.key.hour < end)
        and session in {None, row.key.session}
        and user in {None, row.key.user}
        and arguments.provider in {None, row.key.provider}
    ]


def _projections(rows: Sequence[CostRow]) -> list[Projection]:
    from hybrid_detect.monitoring.projection import project_month

    currencies = sorted({row.key.currency for row in rows if row.requests})
    return [project_month(rows, now_s=time.time(), currency=currency) for currency in currencies]


# -- telling -------------------------------------------------------------------------------------


def _tell_table(summaries: Sequence[CostSummary], total: CostSummary, by: Sequence[str]) -> None:
    header = (*by, "frames", "requests", "in vain", "MB", "cost", "per 1,000 frames")
    rows = [_cells(each, _labels(each, by)) for each in summaries]
    if by:
        rows.append(_cells(total, ("total", *[""] * (len(by) - 1))))
    print(table(header, rows))


def _labels(summary: CostSummary, by: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        (label[:TAG_CHARS] if name in {"session", "user"} else label) or "-"
        for name, label in zip(by, summary.labels, strict=True)
    )


def _cells(summary: CostSummary, labels: tuple[str, ...]) -> tuple[str, ...]:
    costs = [money(nanos, currency) for currency, nanos in summary.nanos.items()]
    shares = [
        money(round(nanos * 1000 / summary.frames / 1e5) * 100_000, currency)
        for currency, nanos in summary.nanos.items()
        if summary.frames
    ]
    return (
        *labels,
        f"{summary.frames:,}",
        f"{summary.requests:,}",
        f"{summary.requests - summary.answered:,}",
        f"{summary.bytes_sent / 1e6:.1f}",
        " + ".join(costs) or "0",
        " + ".join(shares) or "-",
    )


def _tell_csv(summaries: Sequence[CostSummary], by: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((*by, *FIGURES, "cost", "currency"))
    for each in summaries:
        figures, costs = [getattr(each, name) for name in FIGURES], list(each.costs.items())
        # A line for each currency; the figures stand in the first, so that a column's sum is right.
        for number, (currency, cost) in enumerate(costs or [("", Decimal(0))]):
            values = figures if number == 0 else [0] * len(FIGURES)
            writer.writerow((*each.labels, *values, in_full(cost), currency))


def _tell_json(
    summaries: Sequence[CostSummary], by: Sequence[str], projections: Sequence[Projection]
) -> None:
    told: dict[str, Any] = {
        "rows": [
            dict(zip(by, each.labels, strict=True))
            | {name: getattr(each, name) for name in FIGURES}
            | {"costs": {currency: in_full(cost) for currency, cost in each.costs.items()}}
            for each in summaries
        ]
    }
    if projections:
        told["projections"] = [
            {"month": each.month, "currency": each.currency, "days_seen": each.days_seen}
            | {name: in_full(getattr(each, name)) for name in ("spent", "low", "likely", "high")}
            for each in projections
        ]
    print(json.dumps(told))


def _tell_projections(projections: Sequence[Projection], stream: Any) -> None:
    for each in projections:
        print(
            f"\n{each.month}: {each.spent:,.2f} {each.currency} spent, {each.likely:,.2f} likely "
            f"at the month's end ({each.low:,.2f} to {each.high:,.2f}), "
            f"from {each.days_seen} whole days",
            file=stream,
        )


def _tell_scales() -> None:
    from hybrid_detect.monitoring.prices import PRICE_TABLES
    from hybrid_detect.monitoring.projection import SCALES, Assumptions, monthly_cost

    known = Assumptions()
    rows = []
    for users in SCALES:
        low, likely, high = known.images_per_month(users)
        for provider, prices in PRICE_TABLES.items():
            cheap, usual, dear = monthly_cost(users, prices)
            rows.append(
                (
                    f"{users:,}",
                    provider,
                    f"{likely:,} ({low:,} to {high:,})",
                    f"{usual:,.0f} ({cheap:,.0f} to {dear:,.0f}) {prices.currency}",
                )
            )
    print(table(("users", "provider", "pictures in 30 days", "cost"), rows))
    frames, share, extra = (
        known.frames_per_user_per_day,
        known.share_sent,
        known.extra_attempts,
    )
    print(
        f"\nAssumed: {frames.likely:,.0f} frames a user and day "
        f"({frames.low:,.0f} to {frames.high:,.0f}), {share.likely:.0%} of them sent "
        f"({share.low:.0%} to {share.high:.0%}), {extra.likely:.0%} extra attempts "
        f"({extra.low:.0%} to {extra.high:.0%}); a server of your own costs what it costs you."
    )


# -- arguments -----------------------------------------------------------------------------------


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        msg = f"expected a day such as 2026-11-28, got {text!r}"
        raise argparse.ArgumentTypeError(msg) from None


def _hour_of(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) // HOUR_S
