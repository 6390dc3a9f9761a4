"""``hybrid-detect report``: what happened in a span of time, as a page or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from hybrid_detect.cli.cost_file import opened
from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.options import described
from hybrid_detect.environment import ENV_PREFIX

__all__ = ["add_parser"]

DAYS = 28
"""Told if nothing else is asked for: whole weeks, so that each day of the week weighs the same."""

FIRST_DAY, LAST_DAY = date(1970, 1, 1), date(9998, 1, 1)
"""Days that the file's hours can name; see `periods.hour_of`."""


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "report", **described("report usage, speed, quality and cost as a page to read or send")
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="the file that services write to as costs_path, in use or not "
        f"(default: {ENV_PREFIX}COSTS_PATH)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="HTML", help="the page (default: report.html)"
    )
    parser.add_argument(
        "--since",
        type=_day,
        metavar="DATE",
        help=f"from that day on (default: the {DAYS} days before the end)",
    )
    parser.add_argument(
        "--until", type=_day, metavar="DATE", help="up to that day (default: today)"
    )
    parser.add_argument(
        "--time-zone",
        type=_zone,
        default=UTC,
        metavar="NAME",
        help="whose days and hours, such as Europe/Berlin (default: UTC)",
    )
    parser.add_argument(
        "--title", default="Face detection", help="the page's heading (default: %(default)s)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the same figures as one JSON object, no page"
    )
    parser.epilog = (
        "The page is one file that fetches nothing and that you alone can read. Names are not in "
        "it: users are shown as what stands for them in FILE."
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    zone, now_s = arguments.time_zone, time.time()
    until = arguments.until or datetime.fromtimestamp(now_s, zone).date()
    since = arguments.since or max(until - timedelta(days=DAYS - 1), FIRST_DAY)
    if since > until:
        print(f"--until: expected {since} or later, got {until}", file=sys.stderr)
        return ExitCode.USAGE
    store = opened(arguments.file, "report")
    if store is None:
        return ExitCode.USAGE
    from hybrid_detect.monitoring.report import make_report
    from hybrid_detect.monitoring.report_json import report_json

    with store:
        costs = store.rows()  # all of them, for the projection
        usage = store.usage(
            from_hour=_hour(since, zone), end_hour=_hour(until + timedelta(days=1), zone) + 1
        )
    report = make_report(costs, usage, now_s=now_s, zone=zone, since=since, until=until)
    told = report_json(report)
    if arguments.json:
        print(json.dumps(told))
        return ExitCode.DONE
    from hybrid_detect.monitoring.report_page import report_page
    from hybrid_detect.storage.private_files import replace_file

    output = arguments.output or Path("report.html")
    replace_file(output, [report_page(told, title=arguments.title).encode()])
    print(f"{output}: {told['frames']:,} frames from {since} to {until}")
    return ExitCode.DONE


def _hour(day: date, zone: tzinfo) -> int:
    """The whole hour since 1970 in which `day` begins."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) // 3600


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = date.min
    if not FIRST_DAY <= day <= LAST_DAY:
        msg = f"expected a day such as 2026-11-28, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return day


def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    try:
        return UTC if name.upper() == "UTC" else ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # no such name, or no table of time zones
        msg = f"expected a time zone such as Europe/Berlin, got {name!r}"
        if sys.platform == "win32":
            msg += " (on Windows after 'pip install tzdata')"
        raise argparse.ArgumentTypeError(msg) from None
