"""What an answer is worth and what it costs, in one number: the explicit trade of the policy.

One unit is what a perfect answer in time is worth. Everything else is measured against it, so
that an app that disagrees changes a number, not code.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.selection.conditions import BackendConditions, SceneConditions
from hybrid_detect.selection.radio import COST_PER_JOULE

__all__ = ["Utility", "device_accuracy"]

FRAMING_BYTES = 300
"""Headers of a message, TLS and TCP."""


_SHARE_STEPS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 1.0)
"""Shares that a decision tells apart. Finer near 1, where 80 KB (0.04) outweigh the difference."""

_SHARE_BOUNDS = tuple((low + high) / 2 for low, high in pairwise(_SHARE_STEPS))


def device_accuracy(device: BackendConditions, scene: SceneConditions | None) -> float:
    """What an answer of the device is worth beside the server's: its share of the faces.

    Without a scene it is `device.accuracy`. Shares are rounded, so that a solved decision is met
    again.
    """
    if scene is None:
        return device.accuracy
    return _SHARE_STEPS[bisect_right(_SHARE_BOUNDS, scene.device_share)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Utility:
    """The worth of an answer, in perfect answers."""

    on_time_s: float = 0.2
    """An answer is worth everything up to this age: an overlay on a moving face is then still on
    the face (`docs/explanation/choosing.md`)."""
    decay_s: float = 0.2
    """After `on_time_s`, the worth falls by a factor of e in so many seconds."""
    cost_per_byte: float = 0.04 / 80e3
    """80 KB cost 4 % of a perfect answer."""
    cost_per_joule: float = COST_PER_JOULE
    """What the radio's energy costs (`selection.radio`); 0 for a machine whose energy is free."""
    switch_cost: float = 0.2
    """What changing between remote and device costs: boxes of two models do not lie alike, and
    each switch shows. 0.06 gives 14 switches a minute on the measured traces, 0.2 gives 8, for no
    measurable loss."""
    metered_factor: float = 5.0
    """How much dearer a byte is on a metered network. Chosen."""
    low_power_factor: float = 2.0
    """How much dearer energy is, the device's and the radio's, on a battery below `low_battery`, or
    if slowed by heat. Chosen."""
    low_battery: float = 0.2

    def worth(self, latency_s: NDArray[np.float64], *, deadline_s: float) -> NDArray[np.float64]:
        """Share of the worth that is left of answers after `latency_s`, 0 to 1."""
        late_s = np.maximum(latency_s - self.on_time_s, 0.0)
        return np.where(latency_s > deadline_s, 0.0, np.exp(-late_s / self.decay_s))
