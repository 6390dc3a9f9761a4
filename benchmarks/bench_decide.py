"""What deciding costs: `AutoPolicy.decide` over the conditions of whole streams.

The conditions are recorded beforehand, from streams over synthetic networks (or the traces in a
folder) with three classes of device, and given the jitter of a camera's clock. So what is measured
is the policy alone: first what a service runs on its event loop (look-ups, with what has to be
solved handed to a thread, as there, and not timed), then the same for code without a service, which
solves at once. Processor time of the thread, so that other programs do not count. Beside it the
ratio to one look-up in a dict by an equal key of 13 numbers, which is the least that a decision by
table could cost.

    python benchmarks/bench_decide.py [--traces DIR] [--seconds 120]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
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
GOAL_US = 200.0
"""Of the 99th percentile, where states are solved in a thread."""


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
    print(
        "device | frames | new states | in a service: median us (look-ups) | mean | p99 us | "
        "solving at once: median us | mean | p99 us"
    )
    worst_us = 0.0
    for device in DEVICES:
        scenarios = [Scenario(trace=trace, device=device) for trace in traces]
        shown = [each for scenario in scenarios for each in recorded(scenario, noise)]
        lookahead._solved_states.clear()
        before = lookahead._solved_states.solved
        in_service = timed(AutoPolicy(lookahead=lookahead.Lookahead(solves_at_once=False)), shown)
        made = lookahead._solved_states.solved - before
        lookahead._solved_states.clear()
        at_once = timed(AutoPolicy(), shown)
        worst_us = max(worst_us, high(in_service))
        print(
            f"{device} | {len(shown)} | {made / len(shown):.0%} | "
            f"{statistics.median(in_service):.1f} "
            f"({statistics.median(in_service) / lookup_us:.0f}) | "
            f"{statistics.mean(in_service):.1f} | {high(in_service):.1f} | "
            f"{statistics.median(at_once):.1f} | {statistics.mean(at_once):.1f} | "
            f"{high(at_once):.1f}"
        )
    met = "met" if worst_us < GOAL_US else "MISSED"
    print(f"{met}: p99 of {worst_us:.1f} us at most in a service (< {GOAL_US:g})")
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


def timed(policy: AutoPolicy, shown: list[Conditions]) -> list[float]:
    """Microseconds of each decision on the event loop."""
    took_us = []
    thread = ThreadPoolExecutor(1)
    for each in shown:
        began_ns = time.thread_time_ns()
        solve = None if policy.lookahead.solves_at_once else policy.unsolved(each)
        took_ns = time.thread_time_ns() - began_ns
        if solve is not None:
            thread.submit(solve).result()
        began_ns = time.thread_time_ns()
        policy.decide(each)
        took_us.append((took_ns + time.thread_time_ns() - began_ns) / 1e3)
    thread.shutdown()
    return took_us


def looked_up() -> float:
    """Median microseconds of finding one of 1,000 tuples of 13 numbers."""
    keys = [tuple(float(number + place) for place in range(13)) for number in range(1000)]
    table = {key: number for number, key in enumerate(keys)}
    took_us = []
    for key in (tuple(float(value) for value in key) for key in keys * 20):
        began_ns = time.thread_time_ns()
        table[key]
        took_us.append((time.thread_time_ns() - began_ns) / 1e3)
    return statistics.median(took_us)


def high(values: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(values, n=100)[98]


if __name__ == "__main__":
    raise SystemExit(main())
