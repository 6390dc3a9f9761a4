"""How well the policies choose on recorded networks, beside an oracle: the documentation's tables.

Every trace in ../shared/traces beside the repository (or in the folder given), three classes of
device, three seeds, the uplink as it is, halved and doubled, with and without the server's receive
times; and what is filmed: scenes of the photos in ../shared/faces with cuts between them (mixed),
selfies and crowds, or nothing in particular, with a device that is always worth 0.8 (constant). The
server says that it gains by pictures of 640 pixels (centerface), or tells nothing (usual).
For each kind of scene 972 runs of up to 300 s, some seconds of processor time each for two
policies, in one process for each processor. Every second trace was used to choose constants; --half
takes those (chosen) or the others (held-out).

    python benchmarks/bench_policy.py [--traces DIR] [--faces PATH] [--scenes mixed ...] [--seeds 3]
                                      [--uplinks 1 0.5 2] [--policy ...] [--half all]
                                      [--server centerface] [--devices phone pi5 desktop]
                                      [--processes N] [--json FILE]
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
from hybrid_detect.simulation.pictures import LADDERS
from hybrid_detect.simulation.scenes import CONSTANT, SCENES, Scenes, read_scenes
from hybrid_detect.simulation.traces import read_traces

SHARED = Path(__file__).parents[2] / "shared"
TRACES, FACES = SHARED / "traces", SHARED / "faces"
WITHOUT = "auto-without-scene"
POLICIES = (
    "auto",
    "auto+rx",
    f"{WITHOUT}+rx",
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
    traces = sorted(read_traces(arguments.traces), key=lambda trace: trace.name)
    traces = traces[{"held-out": 1}.get(arguments.half, 0) :: 1 if arguments.half == "all" else 2]
    photos = read_scenes(arguments.faces) if arguments.faces.exists() else None
    scenarios = [
        Scenario(
            trace=trace,
            device=device,
            seed=seed,
            uplink=uplink,
            scenes=Scenes(kind=kind, photos=photos),
            ladder=LADDERS[arguments.server],
        )
        for kind in arguments.scenes
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
    filmed = "the photos'" if photos else "made up"
    print(f"{len(traces)} traces ({arguments.half}), {arguments.seeds} seeds, scenes {filmed}")
    for kind in arguments.scenes:
        of_kind = [row for row in rows if row.scene == kind]
        for uplink in arguments.uplinks:
            figures(of_kind, uplink, arguments.devices, kind)
        goals(of_kind, kind)
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=Path, default=TRACES)
    parser.add_argument("--faces", type=Path, default=FACES, help="labels of photos")
    parser.add_argument("--scenes", nargs="+", default=["mixed"], choices=SCENES)
    parser.add_argument("--server", default="centerface", choices=LADDERS)
    parser.add_argument("--half", default="all", choices=["all", "chosen", "held-out"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--uplinks", type=float, nargs="+", default=[1.0, 0.5, 2.0])
    parser.add_argument("--policy", nargs="+", default=list(POLICIES))
    parser.add_argument("--devices", nargs="+", default=list(DEVICES), choices=DEVICES)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--json", type=Path, help="write every row there")
    return parser.parse_args()


def figures(rows: list[Row], uplink: float, devices: list[str], kind: str) -> None:
    rows = [row for row in rows if row.uplink == uplink]
    groups: dict[str, Callable[[Row], bool]] = {"all devices": lambda row: True}
    if uplink == 1:
        groups |= {device: lambda row, device=device: row.device == device for device in devices}
        groups["traces with a measured uplink only"] = lambda row: row.has_uplink
    for name, belongs in groups.items():
        chosen = [row for row in rows if belongs(row)]
        if chosen:
            print(f"\n## {kind} scenes, uplink x{uplink:g}, {name}\n")
            print(summary_table(summarise(chosen)))
    if uplink == 1:
        print("\n## regret % by kind of network")
        for kind in sorted({row.kind for row in rows}):
            summaries = summarise(row for row in rows if row.kind == kind)
            each = (f"{one.policy} {one.regret * 100:.1f}" for one in summaries)
            print(f"{kind}: {', '.join(each)}")


def goals(rows: list[Row], kind: str) -> None:
    """What was set out to reach, and whether it was."""

    def of(policy: str, belongs: Callable[[Row], bool], uplink: float = 1.0) -> Summary | None:
        chosen = [row for row in rows if belongs(row) and row.uplink == uplink]
        found = [one for one in summarise(chosen) if one.policy == policy]
        return found[0] if found else None

    def line(name: str, value: float, limit: float, *, least: bool = False) -> None:
        is_met = value >= limit if least else value <= limit
        sign = ">=" if least else "<="
        print(f"{'met   ' if is_met else 'MISSED'}  {name}: {value:.3g} ({sign} {limit:g})")

    if kind != CONSTANT:
        scene_goals(rows, kind, line)
        return
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


def scene_goals(rows: list[Row], kind: str, line: Callable[..., None]) -> None:
    """What knowing the scene was to bring, with the server's receive times."""
    rows = [row for row in rows if row.uplink == 1]
    by_policy = {one.policy: one for one in summarise(rows)}
    if not {"auto+rx", f"{WITHOUT}+rx"} <= set(by_policy):
        return
    auto, without = by_policy["auto+rx"], by_policy[f"{WITHOUT}+rx"]
    print(f"\n## goals: {kind} scenes")
    line("regret %", auto.regret * 100, 3.0)
    line(
        "regret % above that of the policy without scenes", (auto.regret - without.regret) * 100, 0
    )
    means: dict[str, list[float]] = {}
    for policy, sign in (("auto+rx", 1), (f"{WITHOUT}+rx", -1)):
        for row in rows:
            if row.policy == policy:
                means.setdefault(row.trace, []).append(sign * row.utility)
    gains = {trace: sum(values) / (len(values) / 2) for trace, values in means.items()}
    worst = min(gains, key=lambda trace: gains[trace])
    behind = sum(gain < 0 for gain in gains.values())
    print(f"        traces on which it is behind: {behind} of {len(gains)}")
    line(f"worst trace against it ({worst})", gains[worst], 0, least=True)
    lte = [row for row in rows if row.kind == "4g" and row.device in FAST]
    if not lte:
        return
    on_lte = {one.policy: one.figures for one in summarise(lte)}
    if kind == "selfie":
        for device in sorted({row.device for row in rows}):
            each = {
                one.policy: one.figures["needless_share"] * 100
                for one in summarise(row for row in rows if row.device == device)
                if one.policy in ("auto+rx", "oracle")
            }
            print(
                f"        {device}, all networks: sent % of such frames, beside the oracle: {each}"
            )
        name = "LTE, pi5 and desktop: sent % of the frames whose faces the device finds"
        line(name, on_lte["auto+rx"]["needless_share"] * 100, 5)
        oracle_share = on_lte["oracle"]["needless_share"] * 100
        print(f"        the oracle's: {oracle_share:.3g}")
    if kind == "crowd":
        share = on_lte["auto+rx"]["server_answers"] / on_lte["oracle"]["server_answers"]
        line(
            "LTE, pi5 and desktop: server's answers, % of the oracle's", share * 100, 90, least=True
        )


if __name__ == "__main__":
    raise SystemExit(main())
