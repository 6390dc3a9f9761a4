"""From what is believed to the state that is solved: rounded, so that it is met again. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from itertools import pairwise

from hybrid_detect.selection import lookahead
from hybrid_detect.selection.conditions import BackendConditions, Conditions, LinkConditions
from hybrid_detect.selection.lookahead import DecisionState
from hybrid_detect.selection.radio import RADIOS
from hybrid_detect.selection.rungs import PictureLadder
from hybrid_detect.selection.utility import FRAMING_BYTES, Utility, device_accuracy
from hybrid_detect.types import Medium

__all__ = ["States", "device_s"]

MOST_SETTINGS = 16
"""Settings whose states are kept: a stream and lone pictures, some with and without a device."""

TYPICAL_FRAME_BYTES = 100e3
"""A 1280x720 JPEG of quality 80 where nothing is known of its like: median of photos with faces,
`docs/explanation/compression.md`."""

TYPICAL_DEVICE_S = 0.1
"""A device that has not been measured yet: between a desktop (6 ms) and a slow phone (270 ms)."""

# States are rounded, so that one that is solved is met again. The steps are
# well below what an estimate is good for.
_LOG_BITS_STEP = 0.11
_LEAST_LOG_BITS, _MOST_LOG_BITS = math.log(1e3), math.log(1e10)
_SPREADS = (0.05, 0.2, 0.4, 0.7, 1.1)
_SPREAD_BOUNDS = tuple(math.sqrt(low * high) for low, high in pairwise(_SPREADS))
_STEP, _SERVER_STEP = 0.2, 0.4
_DEVICE_STEP = 0.05
"""Finely: it hardly moves, and much hangs on whether the device can still be in time."""


@dataclass(slots=True)
class _Terms:
    """What of a state hardly changes from frame to frame, and the states met so far under it."""

    interval_s: float
    deadline_s: float
    frame_bits: tuple[float, ...]
    frame_cost: tuple[float, ...]
    accuracies: tuple[float, ...]
    device_cost: float
    utility: Utility
    states: dict[tuple[object, ...], DecisionState] = field(default_factory=dict)


class States:
    """Makes the states of conditions, and keeps them: to make one takes longer than to find it.

    Args:
        utility: What answers are worth and what they cost.
        target_bytes: The most a picture may weigh.
    """

    def __init__(self, utility: Utility, target_bytes: int) -> None:
        self._utility = utility
        self._target_bytes = target_bytes
        self._by_setting: dict[tuple[object, ...], _Terms] = {}
        self._setting: tuple[object, ...] = ()
        self._last: _Terms | None = None

    def prices(
        self, conditions: Conditions, medium: Medium, interval_s: float
    ) -> tuple[float, float]:
        """What sending costs by the bit, and by the frame: data and energy."""
        factor = self._utility.metered_factor if conditions.metered else 1.0
        radio = RADIOS[medium]
        per_joule = self._utility.cost_per_joule * self.energy_factor(conditions)
        per_bit = self._utility.cost_per_byte * factor / 8.0 + per_joule * radio.joules_per_bit
        return per_bit, per_joule * radio.awake_j(interval_s)

    def of(
        self,
        conditions: Conditions,
        link: LinkConditions,
        remote: BackendConditions,
        device: BackendConditions | None,
    ) -> DecisionState:
        """The state that `conditions` are nearest to."""
        weight = (conditions.frame_bytes or TYPICAL_FRAME_BYTES) / TYPICAL_FRAME_BYTES
        # A heavier frame over a link is a usual one over a slower link: the table need not know.
        # Nor need it know links that carry nothing, or everything at once.
        log_bits = math.log(max(link.bits_per_s, 1.0)) - math.log(max(weight, 1e-3))
        log_bits = min(max(log_bits, _LEAST_LOG_BITS), _MOST_LOG_BITS)
        rtt_s = link.rtt_s + 0.5 * link.rtt_deviation_s
        if link.idle_s > 1.0:
            rtt_s += link.rtt_s  # TCP starts slowly again after a pause
        terms = self._terms(conditions, link, remote, device)
        key = (
            round(log_bits / _LOG_BITS_STEP),
            bisect_left(_SPREAD_BOUNDS, link.spread),
            _steps(rtt_s, _STEP),
            _steps(link.server_s, _SERVER_STEP),
            _steps(device_s(device), _DEVICE_STEP) if device else None,
            device_accuracy(device, conditions.scene) if device else 0.0,
        )
        state = terms.states.get(key)
        if state is None:
            if len(terms.states) >= lookahead.SOLVED_STATES:
                terms.states.clear()
            state = terms.states[key] = self._made(terms, *key)
        return state

    def _made(
        self,
        terms: _Terms,
        bits: int,
        spread: int,
        rtt: int,
        server: int,
        device: int | None,
        accuracy: float,
    ) -> DecisionState:
        """The state of which these are the steps; see `of`."""
        return DecisionState(
            bits_per_s=math.exp(bits * _LOG_BITS_STEP),
            spread=_SPREADS[spread],
            rtt_s=_seconds(rtt, _STEP),
            server_s=_seconds(server, _SERVER_STEP),
            interval_s=terms.interval_s,
            deadline_s=terms.deadline_s,
            frame_bits=terms.frame_bits,
            frame_cost=terms.frame_cost,
            accuracies=terms.accuracies,
            device_s=math.inf if device is None else _seconds(device, _DEVICE_STEP),
            device_accuracy=accuracy,
            device_cost=terms.device_cost,
            utility=terms.utility,
        )

    def _terms(
        self,
        conditions: Conditions,
        link: LinkConditions,
        remote: BackendConditions,
        device: BackendConditions | None,
    ) -> _Terms:
        """Those of the last frame, if nothing of it has changed."""
        interval_s, energy = conditions.interval_s, self.energy_factor(conditions)
        interval = max(round(min(interval_s, 1.0) * 100), 1)
        deadline = round(conditions.deadline_s * 10)
        setting = (
            interval,
            deadline,
            interval_s == math.inf,
            remote.ladder,
            remote.accuracy,
            conditions.frame_side_px,
            link.medium,
            conditions.metered,
            energy,
            device.cost if device else 0.0,
        )
        if self._last is not None and setting == self._setting:
            return self._last
        terms = self._by_setting.get(setting)
        if terms is None:
            if len(self._by_setting) >= MOST_SETTINGS:
                self._by_setting.clear()
            ladder = remote.ladder
            frame_bits = _frame_bits(ladder, conditions.frame_side_px, self._target_bytes)
            per_bit, per_frame = self.prices(conditions, link.medium, interval / 100)
            terms = self._by_setting[setting] = _Terms(
                interval_s=interval / 100,
                deadline_s=deadline / 10,
                frame_bits=frame_bits,
                frame_cost=tuple(per_bit * bits + per_frame for bits in frame_bits),
                accuracies=tuple(remote.accuracy * rung.accuracy for rung in ladder.rungs),
                device_cost=device.cost * energy if device else 0.0,
                utility=self._utility_of(conditions),
            )
        self._setting, self._last = setting, terms
        return terms

    def _utility_of(self, conditions: Conditions) -> Utility:
        if math.isfinite(conditions.interval_s):
            return self._utility
        # A lone picture is not watched while it moves: what matters is that the answer comes at
        # all, with half of the deadline kept for what cannot be foreseen.
        return replace(self._utility, on_time_s=max(round(conditions.deadline_s, 1), 0.1) / 2)

    def energy_factor(self, conditions: Conditions) -> float:
        """How much dearer energy is now."""
        power = conditions.power
        charge = 1.0 if power.battery is None else power.battery
        is_low = power.on_battery and charge < self._utility.low_battery
        return self._utility.low_power_factor if is_low or power.throttled else 1.0


def _frame_bits(ladder: PictureLadder, side_px: int | None, target_bytes: int) -> tuple[float, ...]:
    """Bits of a typical frame at each rung."""
    most_bytes = ladder.bytes_within(target_bytes)
    return tuple(
        8.0 * (min(TYPICAL_FRAME_BYTES * rung.share_of(side_px), most_bytes) + FRAMING_BYTES)
        for rung in ladder.rungs
    )


def device_s(device: BackendConditions) -> float:
    """Median seconds of the device for a frame."""
    return TYPICAL_DEVICE_S if device.latency_s is None else device.latency_s


def _steps(seconds: float, step: float) -> int:
    """`seconds` in steps of about `step` of itself from 100 ms."""
    return round(math.log(max(seconds, 1e-3) / 0.1) / step)


def _seconds(steps: int, step: float) -> float:
    """What `_steps` has rounded to."""
    return 0.1 * math.exp(steps * step)
