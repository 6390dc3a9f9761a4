"""``hybrid-detect bench policy``: how well policies choose, over recorded networks."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.options import at_least_one, can_write, described
from hybrid_detect.cli.progress import counter
from hybrid_detect.cli.table import table

if TYPE_CHECKING:
    from hybrid_detect.simulation.comparison import Row, Scenario, Summary

__all__ = ["add_parser", "summary_table"]

POLICIES = (
    "auto",
    "auto-without-scene",
    "threshold-rule",
    "last-latency",
    "ewma-hysteresis",
    "cloud-q80",
    "cloud-360p",
    "device",
)
"""What is compared if nothing else is asked for."""

DEVICES = ("phone", "pi5", "desktop")

SCENES = ("mixed", "selfie", "group", "crowd", "empty", "constant")

SYNTHETIC_S = 60.0
"""Seconds of each trace that is made when none is given."""

SERVERS = ("centerface", "usual")

HEADER = (
    "policy",
    "utility",
    "regret %",
    "95 % CI",
    "p95 ms",
    "in 200 ms %",
    "switches/min",
    "MB/min",
    "wasted",
    "cloud %",
    "device %",
    "server answers %",
    "worst against the best fixed backend",
)


def add_parser(actions: Any) -> None:
    """Add the command to the parser's `actions`."""
    parser = actions.add_parser(
        "policy",
        **described("compare policies over recorded networks, beside one that knows the future"),
    )
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="PATH",
        help="a trace or a folder of traces (*.csv); without it, networks are made up",
    )
    parser.add_argument(
        "--policy",
        nargs="+",
        default=list(POLICIES),
        metavar="NAME",
        help="built in: auto, auto-without-scene, threshold-rule, last-latency, ewma-hysteresis, "
        "cloud-q80, cloud-q50, cloud-540p, cloud-360p, device; yours: module:Name (default: "
        f"{' '.join(POLICIES)})",
    )
    parser.add_argument(
        "--scene",
        choices=SCENES,
        default="mixed",
        metavar="SCENE",
        help="what is filmed: one kind of scene (selfie, group, crowd or empty), all kinds with "
        "cuts between them (mixed), or nothing in particular, with a device that is always worth "
        "0.8 (constant); default: %(default)s",
    )
    parser.add_argument(
        "--server",
        choices=SERVERS,
        default="centerface",
        help="which pictures the server says it gains by: those of this project's, with CenterFace "
        "(default), or the usual ones of a server that tells nothing",
    )
    parser.add_argument(
        "--faces",
        type=Path,
        metavar="PATH",
        help="labels of photos to draw the scenes from, or their folder; without it, they are "
        "made up",
    )
    parser.add_argument(
        "--devices",
        type=_devices,
        default=DEVICES,
        metavar="LIST",
        help=f"classes of device, with commas (default: {','.join(DEVICES)})",
    )
    parser.add_argument(
        "--seeds",
        type=at_least_one,
        default=1,
        metavar="N",
        help="runs of each trace, with other chances each time (default: %(default)s)",
    )
    parser.add_argument(
        "--uplink",
        type=_factor,
        default=1.0,
        metavar="FACTOR",
        help="multiply each trace's uplink by it (default: 1)",
    )
    parser.add_argument(
        "--receive-times",
        action="store_true",
        help="the server tells how long it took to receive each frame",
    )
    parser.add_argument(
        "--sizes",
        choices=("this", "previous"),
        default="this",
        help="whose size policies are told: this frame's (default) or the last one's",
    )
    parser.add_argument(
        "--device-end",
        choices=("predicted", "known"),
        default="predicted",
        help="when a busy device will be free, as policies are told: predicted from its usual "
        "time (default), or known, as no client can know it",
    )
    parser.add_argument(
        "--processes",
        type=at_least_one,
        metavar="N",
        help="processes that simulate at once (default: one for each core)",
    )
    parser.add_argument(
        "--png", type=Path, metavar="FILE", help="draw the first policy's first run as a PNG"
    )
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="FILE",
        help="show recorded conditions to the first policy, and print how its decisions differ",
    )
    parser.set_defaults(run=run_policy)


def run_policy(arguments: argparse.Namespace) -> int:
    """Simulate or replay; 0 if it could be done."""
    if any(":" in name for name in arguments.policy) and (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)  # where a policy of one's own lies, most likely
    if arguments.replay is not None:
        from hybrid_detect.cli.policy_replay import replay_file

        return replay_file(arguments.replay, arguments.policy[0])
    from hybrid_detect.simulation.comparison import WITH_RECEIVE_TIMES, compare

    policies = list(dict.fromkeys(arguments.policy))
    if arguments.receive_times:
        policies = [name + WITH_RECEIVE_TIMES for name in policies]
    scenarios = _scenarios(arguments)
    if arguments.png is not None and not can_write(arguments.png, option="--png"):
        return ExitCode.USAGE
    rows = compare(
        scenarios, policies, processes=arguments.processes, progress=counter("runs", sys.stderr)
    )
    _tell(rows, scenarios, arguments)
    if arguments.png is not None:
        from hybrid_detect.cli.timeline import timeline

        picture = timeline(scenarios[0].run(policies[0]), policies[0])
        picture.save(arguments.png, format="PNG")
        print(f"\nThe timeline of {policies[0]} on {_named(scenarios[0])}: {arguments.png}")
    return ExitCode.DONE


def _scenarios(arguments: argparse.Namespace) -> list[Scenario]:
    from hybrid_detect.simulation.comparison import Scenario
    from hybrid_detect.simulation.pictures import LADDERS
    from hybrid_detect.simulation.scenes import Scenes, read_scenes
    from hybrid_detect.simulation.synthetic_traces import synthetic_traces
    from hybrid_detect.simulation.traces import read_traces

    if arguments.trace is None:
        traces = synthetic_traces(seconds=SYNTHETIC_S)
        print("No trace given: the networks are made up, and so are the figures.")
    else:
        traces = read_traces(arguments.trace)
    photos = read_scenes(arguments.faces) if arguments.faces else None
    scenes = Scenes(kind=arguments.scene, photos=photos)
    return [
        Scenario(
            trace=trace,
            device=device,
            seed=seed,
            uplink=arguments.uplink,
            scenes=scenes,
            ladder=LADDERS[arguments.server],
            sizes=arguments.sizes,
            device_end=arguments.device_end,
        )
        for trace in traces
        for device in arguments.devices
        for seed in range(arguments.seeds)
    ]


def _named(scenario: Scenario) -> str:
    return f"{scenario.trace.name}, {scenario.device}"


# -- telling -------------------------------------------------------------------------------------


def _tell(rows: list[Row], scenarios: list[Scenario], arguments: argparse.Namespace) -> None:
    from hybrid_detect.simulation.comparison import summarise

    traces = len({scenario.trace.name for scenario in scenarios})
    told = f"{arguments.scene} scenes, traces: {traces}, seeds: {arguments.seeds}, "
    told += f"uplink x{arguments.uplink:g}"
    groups = [(f"{device} ({told})", {device}) for device in arguments.devices]
    if len(groups) > 1:
        groups.append((f"all devices ({told})", set(arguments.devices)))
    for title, devices in groups:
        print(f"\n{title}\n")
        print(summary_table(summarise(row for row in rows if row.device in devices)))


def summary_table(summaries: Sequence[Summary]) -> str:
    """The table of the documentation, as text."""
    return table(HEADER, map(_cells, summaries))


def _cells(summary: Summary) -> tuple[str, ...]:
    figures = summary.figures
    low, high = summary.regret_interval
    worst = summary.worst
    return (
        summary.policy,
        f"{summary.utility:.3f}",
        f"{summary.regret:.1%}".rstrip("%"),
        f"{low * 100:.1f} to {high * 100:.1f}",
        _figure(figures["p95_s"] * 1000, 0),
        _figure(figures["on_time"] * 100, 1),
        _figure(figures["switches_per_min"], 1),
        _figure(figures["sent_mb_per_min"], 1),
        _figure(figures["wasted_mb_per_min"], 1),
        _figure(figures["remote_share"] * 100, 0),
        _figure(figures["device_share"] * 100, 0),
        _figure(figures["server_answers"] * 100, 0),
        f"{summary.worst_vs_fixed:+.3f} {worst.trace}, {worst.device}",
    )


def _figure(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


# -- arguments -----------------------------------------------------------------------------------


def _devices(text: str) -> tuple[str, ...]:
    from hybrid_detect.simulation.environment import DEVICES as KNOWN

    devices = tuple(dict.fromkeys(text.split(",")))
    if unknown := [device for device in devices if device not in KNOWN]:
        msg = f"expected some of {', '.join(KNOWN)}, got {', '.join(unknown)!r}"
        raise argparse.ArgumentTypeError(msg)
    return devices


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not (0 < factor < math.inf):
        msg = f"expected a number above 0, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return factor
