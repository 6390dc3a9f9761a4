"""What deciding costs: `AutoPolicy.decide` over the conditions of whole streams.

The conditions are recorded beforehand, from streams over synthetic networks (or the traces in a
folder) with three classes of device, and given the jitter of a camera's clock. So what is measured
is the policy alone: the first time with a table made wherever a new world is met, as in a run of an
app, and the second time with those of them there that are kept. Beside it the ratio to one look-up
in a dict by an equal key of 13 numbers, which is the least that a decision by table could cost.

    python benchmarks/bench_decide.py [--traces DIR] [--seconds 120]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hybrid_detect.selection import lookahead
from hybrid_detect.selection.auto import AutoPolicy
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.selection.policy import Policy
from hybrid_detect.simulation.comparison import Scenario
from hybrid_detect.simulation.simulator import simulate
from hybrid_detect.simulation.synthetic_traces import synthetic_traces
from hybrid_detect.simulation.traces import read_traces
from hybrid_detect.types import Plan

DEVICES = ("phone", "pi5", "desktop")
GOAL_US = 50.0


class Kept:
    """Decides as `policy` does and keeps what it was shown."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.shown: list[Conditions] = []

    def decide(self, conditions: Conditions) -> Plan:
        self.shown.append(conditions)
        return self._policy.decide(conditions)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=Path, help="recorded networks instead of synthetic ones")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each synthetic network")
    arguments = parser.parse_args()
    traces = (
        read_traces(arguments.traces)
        if arguments.traces
        else synthetic_traces(seconds=arguments.seconds)
    )
    noise = random.Random(1)
    lookup_us = looked_up()
    print(f"a look-up: {lookup_us:.2f} us")
    print("device | frames | first: median us | mean | p99 us | again: median us (ratio) | p99 us")
    medians = []
    for device in DEVICES:
        shown = [
            each
            for trace in traces
            for each in recorded(Scenario(trace=trace, device=device), noise)
        ]
        lookahead._solved.cache_clear()
        first = timed(AutoPolicy().decide, shown)
        made = lookahead._solved.cache_info().misses
        again = timed(AutoPolicy().decide, shown)
        made_again = lookahead._solved.cache_info().misses - made
        medians.append(statistics.median(again))
        print(
            f"{device} | {len(shown)} | {statistics.median(first):.1f} | "
            f"{statistics.mean(first):.1f} | {high(first):.1f} | "
            f"{medians[-1]:.1f} ({medians[-1] / lookup_us:.0f}) | "
            f"{high(again):.1f}"
        )
        share, share_again = (100 * number / len(shown) for number in (made, made_again))
        print(f"    tables made for {share:.1f} % of the frames, again for {share_again:.1f} %")
    met = "met" if max(medians) < GOAL_US else "MISSED"
    print(f"{met}: median of {max(medians):.1f} us at most (< {GOAL_US:g})")
    return 0


def recorded(scenario: Scenario, noise: random.Random) -> list[Conditions]:
    kept = Kept(AutoPolicy())
    simulate(scenario.environment(), kept, receive_times=True)
    return [
        replace(
            each,
            interval_s=each.interval_s + noise.uniform(-1e-3, 1e-3),
            deadline_s=each.deadline_s - noise.uniform(0, 1e-3),
        )
        for each in kept.shown
    ]


def timed(decide: Callable[[Conditions], Plan], shown: list[Conditions]) -> list[float]:
    """Microseconds of each decision."""
    took_us = []
    for each in shown:
        began_ns = time.perf_counter_ns()
        decide(each)
        took_us.append((time.perf_counter_ns() - began_ns) / 1e3)
    return took_us


def looked_up() -> float:
    """Median microseconds of finding one of 1,000 tuples of 13 numbers."""
    keys = [tuple(float(number + place) for place in range(13)) for number in range(1000)]
    table = {key: number for number, key in enumerate(keys)}
    took_us = []
    for key in (tuple(float(value) for value in key) for key in keys * 20):
        began_ns = time.perf_counter_ns()
        table[key]
        took_us.append((time.perf_counter_ns() - began_ns) / 1e3)
    return statistics.median(took_us)


def high(values: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(values, n=100)[98]


if __name__ == "__main__":
    raise SystemExit(main())
