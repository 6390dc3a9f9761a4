"""How many replicas there should be, from what each of them is doing.

The rule is that of Kubernetes' horizontal autoscaler: as many as it takes to bring the measure
that is furthest above its target back to it, and no change while it is within a tolerance. Ray
Serve asks for it, holds the answer back for its delays, and starts and ends replicas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

__all__ = ["Load", "ScalingPolicy", "Targets", "wanted_replicas"]

TOLERANCE = 0.1
"""Share by which a measure may be off its target without a change (Kubernetes' default)."""

WAIT_SHARE = 0.2
"""Of the target latency: pictures that wait for less are slow for another reason than the number of
replicas, such as the model or a busy machine, and more replicas would not help."""

MAX_LATENCY_FACTOR = 2.0
"""Latency grows without bound while a queue does, so it says that there are too few replicas, but
not how many: at most twice as many are added for it at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one replica is doing."""

    work: float = 0.0
    """Pictures under way, waiting ones included."""
    streams: float = 0.0
    """Streams open."""
    latency_s: float = 0.0
    """From a picture's arrival to its answer, 90th percentile of late."""
    wait_s: float = 0.0
    """The part of it that was spent waiting for a detector, 90th percentile."""
    refused: float = 0.0
    """Pictures a second that were refused because too many waited."""

    def to_values(self) -> dict[str, float]:
        """Its numbers by name, as Ray Serve takes them."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What a replica should be doing on average."""

    work: float
    streams: float
    latency_s: float


def wanted_replicas(loads: Sequence[Load], targets: Targets) -> int:
    """The number of replicas that `targets` are met with; as many as there are without `loads`."""
    now = len(loads)
    if not now:
        return 0
    factors = [
        fmean(load.work for load in loads) / targets.work,
        fmean(load.streams for load in loads) / targets.streams,
    ]
    waiting = [load for load in loads if load.wait_s > WAIT_SHARE * targets.latency_s]
    if waiting:
        latency_s = fmean(load.latency_s for load in waiting) * len(waiting) / now
        factors.append(min(latency_s / targets.latency_s, MAX_LATENCY_FACTOR))
    if any(load.refused > 0 for load in loads):
        factors.append(1 + 1 / now)  # at least one more
    factor = max(factors)
    if abs(factor - 1) <= TOLERANCE:
        return now
    # A hair above a whole number is that number: figures are averages.
    return max(math.ceil(now * factor - 1e-6), 1)


class ScalingPolicy:
    """What Ray Serve asks for the number of replicas.

    Args:
        work, streams, latency_s: Those of `Targets`; by name, as Ray Serve passes them as JSON.
    """

    def __init__(self, *, work: float, streams: float, latency_s: float) -> None:
        self._targets = Targets(work=work, streams=streams, latency_s=latency_s)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The number that is wanted; Ray Serve keeps it within its bounds."""
        loads = loads_of(context.aggregated_metrics or {})
        missing = context.current_num_replicas - len(loads)
        wanted = wanted_replicas(loads, self._targets)
        # Those that have not said anything yet are being started: they count as they are.
        return wanted + missing if loads else context.target_num_replicas, {}


def loads_of(metrics: Mapping[str, Mapping[Any, float]]) -> list[Load]:
    """The load of each replica, from values by name and replica."""
    names = Load.__dataclass_fields__
    replicas = {replica for name in names for replica in metrics.get(name, ())}
    return [
        Load(**{name: float(metrics.get(name, {}).get(replica, 0.0)) for name in names})
        for replica in replicas
    ]
