"""Many policies over many networks, beside an oracle, as figures."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Literal

import numpy as np

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.selection import lookahead
from hybrid_detect.selection.rungs import USUAL_LADDER, PictureLadder
from hybrid_detect.simulation.environment import Environment
from hybrid_detect.simulation.oracle import oracle
from hybrid_detect.simulation.policy_names import FIXED, make_policy
from hybrid_detect.simulation.scenes import CONSTANT, Scenes
from hybrid_detect.simulation.simulated_run import SimulatedResult
from hybrid_detect.simulation.simulator import simulate
from hybrid_detect.simulation.traces import Trace

__all__ = ["BEST_FIXED", "ORACLE", "WITH_RECEIVE_TIMES", "Row", "Scenario", "Summary"]
__all__ += ["compare", "measure", "summarise"]

ORACLE = "oracle"
BEST_FIXED = "best fixed in hindsight"

WITH_RECEIVE_TIMES = "+rx"
"""At the end of a policy's name: the server tells it how long it received each frame."""

SOLVED_STATES = 30_000
"""Solved states that a process keeps, of 5 KB each: networks of a kind meet the same ones."""

RESAMPLES = 1000
"""For the confidence interval; its ends move by less than a tenth of its width with another."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scenario:
    """What makes an `Environment`, and what policies may know of it; see there."""

    trace: Trace
    device: str = "pi5"
    seed: int = 0
    uplink: float = 1.0
    device_accuracy: float | None = None
    scenes: Scenes = field(default_factory=Scenes)
    ladder: PictureLadder = USUAL_LADDER
    sizes: Literal["this", "previous"] = "this"
    device_end: Literal["predicted", "known"] = "predicted"

    def environment(self) -> Environment:
        """The environment that policies run in."""
        return Environment(
            self.trace,
            self.device,
            seed=self.seed,
            uplink=self.uplink,
            device_accuracy=self.device_accuracy,
            scenes=self.scenes,
            ladder=self.ladder,
        )

    def run(self, name: str, environment: Environment | None = None) -> SimulatedResult:
        """Let the policy of that name (see `make_policy`) run through it."""
        environment = environment or self.environment()
        if name == ORACLE:
            return oracle(environment)
        return simulate(
            environment,
            make_policy(name.removesuffix(WITH_RECEIVE_TIMES)),
            receive_times=name.endswith(WITH_RECEIVE_TIMES),
            sizes=self.sizes,
            device_end=self.device_end,
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One policy in one scenario; see `SimulatedResult` for the figures."""

    policy: str
    trace: str
    kind: str
    has_uplink: bool
    device: str
    seed: int
    uplink: float
    scene: str = CONSTANT
    utility: float
    p50_s: float = float("nan")
    p95_s: float = float("nan")
    on_time: float = float("nan")
    switches_per_min: float = float("nan")
    sent_mb_per_min: float = float("nan")
    wasted_mb_per_min: float = float("nan")
    remote_share: float = float("nan")
    device_share: float = float("nan")
    server_answers: float = float("nan")
    needless_share: float = float("nan")

    @property
    def scenario(self) -> tuple[str, str, int, float, str]:
        """What it has in common with the other policies' rows."""
        return (self.trace, self.device, self.seed, self.uplink, self.scene)


FIGURES = (
    "p50_s",
    "p95_s",
    "on_time",
    "switches_per_min",
    "sent_mb_per_min",
    "wasted_mb_per_min",
    "remote_share",
    "device_share",
    "server_answers",
    "needless_share",
)


def measure(scenario: Scenario, policies: Sequence[str]) -> list[Row]:
    """A row for each of `policies`, for the oracle and for the best fixed policy in hindsight."""
    environment = scenario.environment()
    names = dict.fromkeys((*policies, *FIXED, ORACLE))
    rows = {name: _row(scenario, name, scenario.run(name, environment)) for name in names}
    best = max((rows[name] for name in FIXED), key=lambda row: row.utility)
    hindsight = _row(scenario, BEST_FIXED, None, best.utility)
    return [*(rows[name] for name in dict.fromkeys((*policies, ORACLE))), hindsight]


def _row(
    scenario: Scenario, policy: str, result: SimulatedResult | None, utility: float = 0.0
) -> Row:
    facts = {
        "policy": policy,
        "trace": scenario.trace.name,
        "kind": scenario.trace.kind,
        "has_uplink": scenario.trace.has_uplink,
        "device": scenario.device,
        "seed": scenario.seed,
        "uplink": scenario.uplink,
        "scene": scenario.scenes.kind,
    }
    if result is None:
        return Row(**facts, utility=utility)  # type: ignore[arg-type]
    return Row(
        **facts,  # type: ignore[arg-type]
        utility=result.utility,
        p50_s=result.latency_s(0.5),
        p95_s=result.latency_s(0.95),
        on_time=result.on_time,
        switches_per_min=result.switches_per_min,
        sent_mb_per_min=result.sent_mb_per_min,
        wasted_mb_per_min=result.wasted_mb_per_min,
        remote_share=result.remote_share,
        device_share=result.device_share,
        server_answers=result.server_answers,
        needless_share=result.needless_share,
    )


def compare(
    scenarios: Sequence[Scenario],
    policies: Sequence[str],
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """`measure` each of `scenarios`, in several processes.

    Args:
        scenarios: The networks and devices.
        policies: By name; each process makes its own.
        processes: How many at once; as many as the machine has processors if `None`.
        progress: Called with the number of scenarios done and of all.

    Raises:
        ConfigurationError: If there is no policy of a name.
    """
    for name in policies:
        if name != ORACLE:
            make_policy(name.removesuffix(WITH_RECEIVE_TIMES))  # fails here, not in a process
    if not scenarios:
        msg = "expected a scenario at least"
        raise ConfigurationError(msg)
    processes = min(processes or os.cpu_count() or 1, len(scenarios))
    results: dict[int, list[Row]] = {}

    def done(number: int, rows: list[Row]) -> None:
        results[number] = rows
        if progress:
            progress(len(results), len(scenarios))

    if processes <= 1:
        for number, scenario in enumerate(scenarios):
            done(number, measure(scenario, policies))
    else:
        # Spawned rather than forked: the caller may have threads.
        with ProcessPoolExecutor(
            processes, mp_context=get_context("spawn"), initializer=_keep_states
        ) as pool:
            futures = {
                pool.submit(measure, scenario, tuple(policies)): number
                for number, scenario in enumerate(scenarios)
            }
            for future in as_completed(futures):
                done(futures[future], future.result())
    return [row for number in sorted(results) for row in results[number]]


def _keep_states() -> None:
    lookahead.SOLVED_STATES = SOLVED_STATES


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One policy over many scenarios: means, and regret against the oracle."""

    policy: str
    utility: float
    regret: float
    """Lost utility, as a share of the oracle's: sum over sum."""
    regret_interval: tuple[float, float]
    """Its 95 % confidence interval: traces are drawn anew, each with all its devices and seeds,
    because what happens to them in one trace is not independent."""
    worst: Row
    """The row that is furthest below the best fixed policy in hindsight, or least above it."""
    worst_vs_fixed: float
    """How far, in utility; negative is below."""
    figures: dict[str, float] = field(default_factory=dict)
    """Means of the other figures of `Row`."""


def summarise(rows: Iterable[Row]) -> list[Summary]:
    """A summary for each policy in `rows`, in their order."""
    rows = list(rows)
    best = {row.scenario: row.utility for row in rows if row.policy == ORACLE}
    fixed = {row.scenario: row.utility for row in rows if row.policy == BEST_FIXED}
    return [
        _summary([row for row in rows if row.policy == policy], best, fixed)
        for policy in dict.fromkeys(row.policy for row in rows)
    ]


Scenarios = dict[tuple[str, str, int, float, str], float]


def _summary(rows: list[Row], best: Scenarios, fixed: Scenarios) -> Summary:
    worst = min(rows, key=lambda row: row.utility - fixed[row.scenario])
    traces = sorted({row.trace for row in rows})
    lost, had = np.zeros(len(traces)), np.zeros(len(traces))
    for row in rows:
        index = traces.index(row.trace)
        lost[index] += best[row.scenario] - row.utility
        had[index] += best[row.scenario]
    drawn = np.random.default_rng(0).integers(0, len(traces), (RESAMPLES, len(traces)))
    low, high = np.percentile(lost[drawn].sum(axis=1) / had[drawn].sum(axis=1), (2.5, 97.5))
    return Summary(
        policy=rows[0].policy,
        utility=float(np.mean([row.utility for row in rows])),
        regret=float(lost.sum() / had.sum()),
        regret_interval=(float(low), float(high)),
        worst=worst,
        worst_vs_fixed=worst.utility - fixed[worst.scenario],
        figures={name: _mean([getattr(row, name) for row in rows]) for name in FIGURES},
    )


def _mean(values: Sequence[float]) -> float:
    """Of those that are known; NaN if none is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
