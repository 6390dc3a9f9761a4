"""Policies to compare with: simple ones that apps often have, and fixed ones.

They watch the raw events (`simulator.EventListener`), so they run in the simulator only. Each must
be made anew for each run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybrid_detect.selection.auto import AutoPolicy
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.selection.rungs import USUAL_LADDER, PictureLadder
from hybrid_detect.simulation.environment import (
    DEADLINE_S,
    ENCODE_S,
    RAW_BITS,
    TIMEOUT_S,
)
from hybrid_detect.simulation.pictures import MAX_BITS
from hybrid_detect.types import BackendKind, Plan

__all__ = ["AlwaysCloud", "AlwaysDevice", "AutoWithoutScene", "EwmaHysteresis", "LastLatency"]

MAX_IN_FLIGHT = 2
"""Frames in flight before one is left out."""


@dataclass(slots=True)
class _Sent:
    """A frame that was sent, and what became of it."""

    request_id: int
    decided_s: float
    sent_s: float
    bits: float
    ended_s: float = 0.0
    server_s: float | None = None
    """`None` if it was lost."""

    @property
    def latency_s(self) -> float:
        """From the decision, as a viewer counts."""
        return self.ended_s - self.decided_s


class _Watcher:
    """Keeps what is in flight, and what became of the rest since the last decision."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._ladder = USUAL_LADDER
        self._in_flight: dict[int, _Sent] = {}
        self._ended: list[_Sent] = []

    def sent(self, request_id: int, size_bytes: int, *, now_s: float, probe: bool = False) -> None:
        """A frame was handed to the network: the one that was decided about last."""
        self._in_flight[request_id] = _Sent(request_id, self._now_s, now_s, 8.0 * size_bytes)

    def answered(
        self, request_id: int, *, now_s: float, server_s: float, receive_s: float | None = None
    ) -> None:
        """Its answer is there."""
        sent = self._in_flight.pop(request_id)
        sent.ended_s, sent.server_s = now_s, server_s
        self._ended.append(sent)

    def lost(self, request_id: int, *, now_s: float) -> None:
        """It was given up."""
        sent = self._in_flight.pop(request_id)
        sent.ended_s = now_s
        self._ended.append(sent)

    def _news(self, conditions: Conditions) -> list[_Sent]:
        """What has ended since the last frame, in the order of sending."""
        self._now_s = conditions.now_s
        self._ladder = _ladder(conditions)
        news, self._ended = sorted(self._ended, key=lambda sent: sent.request_id), []
        return news

    def _send(self, step: int, *, probe: bool = False, hedge: bool = False) -> Plan:
        """Send at a rung, unless too many are in flight."""
        rung = self._ladder.rungs[step]
        is_full = len(self._in_flight) >= MAX_IN_FLIGHT
        return Plan(
            backend=None if is_full else BackendKind.STREAMING,
            skip=is_full,
            quality=rung.quality,
            max_side_px=rung.max_side_px,
            probe=probe,
            hedge=BackendKind.DEVICE if hedge else None,
            deadline_s=1.0,
            reason="comparison",
        )


def _ladder(conditions: Conditions) -> PictureLadder:
    """What the server tells."""
    (ladder,) = (
        backend.ladder for backend in conditions.backends if backend.kind is not BackendKind.DEVICE
    )
    return ladder


_DEVICE = Plan(backend=BackendKind.DEVICE, deadline_s=1.0, reason="comparison")


class AutoWithoutScene:
    """`AutoPolicy` for which the device's answers are always worth the same, whatever is filmed."""

    def __init__(self) -> None:
        self._auto = AutoPolicy()

    def decide(self, conditions: Conditions) -> Plan:
        """The same plan for a selfie and for a crowd."""
        return self._auto.decide(replace(conditions, scene=None))


class AlwaysDevice:
    """Nothing is sent."""

    is_blind = True

    def decide(self, conditions: Conditions) -> Plan:
        """The device, always."""
        return _DEVICE


class AlwaysCloud(_Watcher):
    """Everything is sent, at one rung of the server's ladder (0 to 3)."""

    is_blind = True

    def __init__(self, rung: int = 0) -> None:
        super().__init__()
        self._rung = rung

    def decide(self, conditions: Conditions) -> Plan:
        """The same again."""
        self._news(conditions)
        return self._send(self._rung)


class LastLatency(_Watcher):
    """Sends at the best rung while the last answer was in time; tries again every `retry_s`."""

    def __init__(self, retry_s: float = 2.0) -> None:
        super().__init__()
        self._retry_s = retry_s
        self._is_remote = True
        self._failed_s = -9.0

    def decide(self, conditions: Conditions) -> Plan:
        """As the last answer was."""
        now_s = conditions.now_s
        for sent in self._news(conditions):
            self._is_remote = sent.server_s is not None and sent.latency_s <= DEADLINE_S
            if not self._is_remote:
                self._failed_s = now_s
        if any(now_s - sent.decided_s > DEADLINE_S for sent in self._in_flight.values()):
            self._is_remote, self._failed_s = False, max(self._failed_s, now_s)
        if self._is_remote:
            return self._send(0)
        if now_s - self._failed_s >= self._retry_s and not self._in_flight:
            self._failed_s = now_s
            return self._send(0)
        return _DEVICE


class EwmaHysteresis(_Watcher):
    """What video players do: the lower of two EWMAs of throughput, safety factors, and a dwell.

    Sources: half-lives of 3 and 8 s, dash.js v5 `Settings.js`; leaving at 0.9 of the estimate, as
    there; returning at 0.7, as hls.js `config.ts`. A dwell of 2 s, and a probe of the smallest
    rung every second while the device detects, are chosen.
    """

    ping_s = 1.0
    HALF_LIVES_S = (3.0, 8.0)
    DOWN, UP = 0.9, 0.7
    DWELL_S = 2.0
    PROBE_S = 1.0
    HANGS_S = 0.4
    """An upload in flight for longer bounds the throughput."""
    PRIOR_BITS_PER_S = 2e6

    def __init__(self) -> None:
        super().__init__()
        self._throughputs: list[float] = []
        self._rtt_s, self._server_s = 0.06, 0.04
        self._is_remote = True
        self._switched_s = self._probed_s = self._drained_s = -9.0
        self._learned_s = 0.0

    def ponged(self, sent_s: float, *, now_s: float) -> None:
        """A round trip."""
        self._rtt_s = 0.8 * self._rtt_s + 0.2 * min(now_s - sent_s, 1.0)

    def decide(self, conditions: Conditions) -> Plan:
        """The largest rung that is predicted to be in time, or the device."""
        now_s = conditions.now_s
        for sent in self._news(conditions):
            self._learn(sent, max(conditions.interval_s, now_s - self._learned_s))
            self._learned_s = now_s
        bits_per_s = min(self._throughputs, default=self.PRIOR_BITS_PER_S)
        for sent in self._in_flight.values():
            if now_s - sent.decided_s > self.HANGS_S:
                bits_per_s = min(bits_per_s, sent.bits / (now_s - sent.decided_s))
        safety = self.DOWN if self._is_remote else self.UP
        step = self._largest(bits_per_s * safety, conditions.interval_s)
        if (step is not None) is not self._is_remote and now_s - self._switched_s >= self.DWELL_S:
            self._is_remote, self._switched_s = step is not None, now_s
        last = len(self._ladder.rungs) - 1
        if self._is_remote:
            return self._send(last if step is None else step)
        if now_s - self._probed_s >= self.PROBE_S and not self._in_flight:
            self._probed_s = now_s
            return self._send(last, probe=True, hedge=True)
        return _DEVICE

    def _learn(self, sent: _Sent, since_s: float) -> None:
        if sent.server_s is None:
            seen = sent.bits / TIMEOUT_S
        else:
            self._server_s += 0.1 * (sent.server_s - self._server_s)
            ended_s = sent.ended_s - sent.server_s - self._rtt_s
            seen = sent.bits / max(ended_s - max(sent.sent_s, self._drained_s), 0.004)
            self._drained_s = max(self._drained_s, ended_s)
        if not self._throughputs:
            self._throughputs = [seen, seen]
        for index, half_life_s in enumerate(self.HALF_LIVES_S):
            weight = 1 - 0.5 ** (since_s / half_life_s)
            self._throughputs[index] += weight * (seen - self._throughputs[index])

    def _largest(self, bits_per_s: float, interval_s: float) -> int | None:
        fixed_s = ENCODE_S + self._rtt_s + self._server_s
        for step, rung in enumerate(self._ladder.rungs):
            upload_s = min(RAW_BITS * rung.share, MAX_BITS) / bits_per_s
            if fixed_s + upload_s <= DEADLINE_S and upload_s <= 1.5 * interval_s:
                return step
        return None
