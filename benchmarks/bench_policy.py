"""How well the policies choose on recorded networks, beside an oracle: the documentation's tables.

Every trace in ../shared/traces beside the repository (or in the folder given), three classes of
device, three seeds, the uplink as it is, halved and doubled, with and without the server's receive
times. 972 runs of up to 300 s, about three seconds of processor time each for all policies and
the oracle's plan together, in one process for each processor: half an hour on two.

    python benchmarks/bench_policy.py [--traces DIR] [--seeds 3] [--uplinks 1 0.5 2] [--policy ...]
                                      [--devices phone pi5 desktop] [--processes N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from hybrid_detect.cli.bench_policy import summary_table
from hybrid_detect.simulation.comparison import Row, Scenario, Summary, compare, summarise
from hybrid_detect.simulation.traces import read_traces

TRACES = Path(__file__).parents[2] / "shared" / "traces"
POLICIES = (
    "auto",
    "auto+rx",
    "threshold-rule",
    "last-latency",
    "ewma-hysteresis",
    "cloud-q80",
    "cloud-360p",
    "device",
)
DEVICES = ("phone", "pi5", "desktop")
FAST = {"pi5", "desktop"}


def main() -> int:
    arguments = parsed()
    if not arguments.traces.is_dir():
        print(f"skipped: no traces in {arguments.traces}")
        return 0
    traces = read_traces(arguments.traces)
    scenarios = [
        Scenario(trace=trace, device=device, seed=seed, uplink=uplink)
        for uplink in arguments.uplinks
        for trace in traces
        for device in arguments.devices
        for seed in range(arguments.seeds)
    ]
    began_s = time.monotonic()

    def progress(done: int, of: int) -> None:
        if done % max(of // 50, 1) == 0 or done == of:
            print(f"{done} of {of} runs, {time.monotonic() - began_s:.0f} s", file=sys.stderr)

    rows = compare(scenarios, arguments.policy, processes=arguments.processes, progress=progress)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows]))
    print(f"{len(traces)} traces, {arguments.seeds} seeds")
    for uplink in arguments.uplinks:
        figures(rows, uplink, arguments.devices)
    goals(rows)
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=Path, default=TRACES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--uplinks", type=float, nargs="+", default=[1.0, 0.5, 2.0])
    parser.add_argument("--policy", nargs="+", default=list(POLICIES))
    parser.add_argument("--devices", nargs="+", default=list(DEVICES), choices=DEVICES)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--json", type=Path, help="write every row there")
    return parser.parse_args()


def figures(rows: list[Row], uplink: float, devices: list[str]) -> None:
    rows = [row for row in rows if row.uplink == uplink]
    groups: dict[str, Callable[[Row], bool]] = {"all devices": lambda row: True}
    if uplink == 1:
        groups |= {device: lambda row, device=device: row.device == device for device in devices}
        groups["traces with a measured uplink only"] = lambda row: row.has_uplink
    for name, belongs in groups.items():
        chosen = [row for row in rows if belongs(row)]
        if chosen:
            print(f"\n## uplink x{uplink:g}, {name}\n\n{summary_table(summarise(chosen))}")
    if uplink == 1:
        print("\n## regret % by kind of network")
        for kind in sorted({row.kind for row in rows}):
            summaries = summarise(row for row in rows if row.kind == kind)
            each = (f"{one.policy} {one.regret * 100:.1f}" for one in summaries)
            print(f"{kind}: {', '.join(each)}")


def goals(rows: list[Row]) -> None:
    """What was set out to reach, and whether it was."""

    def of(policy: str, belongs: Callable[[Row], bool], uplink: float = 1.0) -> Summary | None:
        chosen = [row for row in rows if belongs(row) and row.uplink == uplink]
        found = [one for one in summarise(chosen) if one.policy == policy]
        return found[0] if found else None

    def line(name: str, value: float, limit: float, *, least: bool = False) -> None:
        is_met = value >= limit if least else value <= limit
        sign = ">=" if least else "<="
        print(f"{'met   ' if is_met else 'MISSED'}  {name}: {value:.3g} ({sign} {limit:g})")

    for policy in ("auto", "auto+rx"):
        if (whole := of(policy, lambda row: True)) is None:
            continue
        print(f"\n## goals: {policy}")
        line("regret %", whole.regret * 100, 3.5 if policy == "auto" else 3.0)
        line("worst against the best fixed policy", whole.worst_vs_fixed, -0.01, least=True)
        for device, limit in (("phone", 6.5), ("pi5", 2.0), ("desktop", 2.0)):
            if one := of(policy, lambda row, device=device: row.device == device):
                line(f"{device}: regret %", one.regret * 100, limit)
        if fast := of(policy, lambda row: row.device in FAST):
            figures = fast.figures
            wasted = figures["wasted_mb_per_min"] / max(figures["sent_mb_per_min"], 1e-9)
            line("pi5 and desktop: in 200 ms %", figures["on_time"] * 100, 97, least=True)
            line("pi5 and desktop: switches a minute", figures["switches_per_min"], 8)
            line("pi5 and desktop: wasted % of bytes", wasted * 100, 6)
        for uplink in (0.5, 2.0):
            if one := of(policy, lambda row: True, uplink):
                line(f"uplink x{uplink:g}: regret %", one.regret * 100, 4.5)


if __name__ == "__main__":
    raise SystemExit(main())
