"""Networks made by code, for when no recordings are at hand: seeded, and free of personal data.

They are shaped after what recordings show, and prove that a policy works, not how well it does in
the world: for that, download recordings (`docs/how-to/choose-a-policy.md`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.simulation.traces import Trace

__all__ = ["synthetic_traces"]

STEP_S = 0.2


def synthetic_traces(seed: int = 0, *, seconds: float = 120.0) -> list[Trace]:
    """A drive, a walk, a WiFi and an outage that comes and goes, each `seconds` long."""
    rng = np.random.default_rng(seed)
    t_s = np.arange(0, seconds, STEP_S)
    uplinks = {
        # LTE and 5G while driving: median 4 to 5 Mbit/s, a fifth of half-seconds below 1 Mbit/s
        # (the NUWiNS drives).
        ("drive", "4g"): _wander(rng, len(t_s), kbps=4000, spread=1.3, memory_s=4.0),
        ("walk", "4g"): _wander(rng, len(t_s), kbps=3000, spread=0.5, memory_s=10.0),
        ("wifi", "wifi"): _with_gaps(rng, _wander(rng, len(t_s), 15000, 0.3, 5.0)),
        ("outage", "4g"): np.where(t_s % 10 < 5, 8000.0, 0.0),
    }
    return [
        Trace(name=f"synthetic_{name}_{seed}", kind=kind, t_s=t_s, up_kbps=kbps)
        for (name, kind), kbps in uplinks.items()
    ]


def _wander(
    rng: np.random.Generator, count: int, kbps: float, spread: float, memory_s: float
) -> NDArray[np.float64]:
    """A log-normal around `kbps` whose correlation falls by e in `memory_s`."""
    keep = math.exp(-STEP_S / memory_s)
    news = rng.standard_normal(count) * math.sqrt(1 - keep * keep)
    values = np.empty(count)
    value = 0.0
    for index in range(count):
        value = keep * value + news[index]
        values[index] = value
    result: NDArray[np.float64] = kbps * np.exp(spread * values)
    return result


def _with_gaps(rng: np.random.Generator, kbps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Another user's download every half minute or so: a second or two with almost nothing."""
    for begin in rng.integers(0, len(kbps), max(1, len(kbps) // 150)):
        kbps[begin : begin + int(rng.integers(5, 11))] *= 0.03
    return kbps
