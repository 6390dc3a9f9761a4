"""Policies: from conditions to a plan with a reason. Pure, and never raising."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hybrid_detect.config import detection_mode
from hybrid_detect.selection.conditions import BackendConditions, Conditions
from hybrid_detect.types import DEFAULT_TARGET_BYTES, BackendKind, DetectionMode, Plan

__all__ = ["ModePolicy", "Policy"]

_CLOUD, _STREAMING, _DEVICE = BackendKind.CLOUD, BackendKind.STREAMING, BackendKind.DEVICE

ORDERS: dict[DetectionMode, tuple[BackendKind, ...]] = {
    # The server has the larger model, which finds smaller faces, so it goes first while it
    # answers in time; the stream costs less per frame than a request. After a remote backend has
    # failed, the device is the surest: the other remote backend leads to the same server.
    DetectionMode.AUTO: (_STREAMING, _DEVICE, _CLOUD),
    DetectionMode.CLOUD: (_CLOUD,),
    DetectionMode.STREAMING: (_STREAMING,),
    DetectionMode.ON_DEVICE: (_DEVICE,),
    DetectionMode.PREFER_CLOUD: (_CLOUD, _DEVICE, _STREAMING),
    DetectionMode.PREFER_ON_DEVICE: (_DEVICE, _STREAMING, _CLOUD),
}
"""The backends of each mode, in order of preference."""

RESERVE_FACTOR = 2.0
"""The fallback is given twice its predicted time: a one-off may take that long, not more."""

MIN_RESERVE_SHARE = 0.1
"""Least share of the deadline kept for a fallback: one that takes 10 ms on an idle machine would
be given 20, which a busy machine can spend before it runs. Chosen, not measured."""

UNKNOWN_RESERVE_SHARE = 0.3
"""Share of the deadline kept for a fallback that has not been measured yet."""

RETRIES_ALONE = 4
"""Without a fallback: with back-offs of 50 ms doubling, four fill the default deadline."""

MAX_RESERVE_SHARE = 0.5
"""The first backend always gets at least half of the deadline."""


class Policy(Protocol):
    """Decides which backend gets a frame. Any object with this method will do."""

    def decide(self, conditions: Conditions) -> Plan:
        """The plan for a frame under `conditions`. Does no I/O and does not raise."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModePolicy:
    """Takes the first backend of the mode's order that is usable and predicted to be in time.

    A backend without a recent measurement counts as in time, since that is how it gets one. If
    none is in time, the one predicted to be fastest is taken.
    """

    mode: DetectionMode | str = DetectionMode.AUTO
    target_bytes: int = DEFAULT_TARGET_BYTES
    quality: int = 80
    max_side_px: int | None = 1280

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", detection_mode(self.mode))

    def decide(self, conditions: Conditions) -> Plan:
        """The plan for a frame under `conditions`."""
        known = [
            backend
            for kind in ORDERS[DetectionMode(self.mode)]
            if (backend := conditions.backend(kind))
        ]
        usable = [backend for backend in known if backend.usable]
        if not usable:
            return self._plan(conditions, None, (), why_none(known))
        in_time = [
            backend for backend in usable if (backend.latency_s or 0.0) <= conditions.deadline_s
        ]
        chosen = (
            in_time[0] if in_time else min(usable, key=lambda backend: backend.latency_s or 0.0)
        )
        fallbacks = tuple(backend for backend in usable if backend is not chosen)
        reason = self._reason(chosen, known, conditions.deadline_s)
        return self._plan(conditions, chosen, fallbacks, reason)

    def _plan(
        self,
        conditions: Conditions,
        chosen: BackendConditions | None,
        fallbacks: tuple[BackendConditions, ...],
        reason: str,
    ) -> Plan:
        return Plan(
            backend=chosen.kind if chosen else None,
            fallbacks=tuple(backend.kind for backend in fallbacks),
            deadline_s=conditions.deadline_s,
            reserve_s=fallback_reserve_s(fallbacks, conditions.deadline_s),
            # Another backend that is ready beats asking the one that has just failed.
            retries=0 if fallbacks else RETRIES_ALONE,
            target_bytes=self.target_bytes,
            quality=self.quality,
            max_side_px=self.max_side_px,
            reason=reason,
        )

    def _reason(
        self, chosen: BackendConditions, known: list[BackendConditions], deadline_s: float
    ) -> str:
        passed = [_why_passed(backend, deadline_s) for backend in known[: known.index(chosen)]]
        latency = "not measured yet" if chosen.latency_s is None else _ms(chosen.latency_s)
        text = f"{self.mode}: {chosen.kind.value} ({latency})"
        return f"{text}; {'; '.join(passed)}" if passed else text


def fallback_reserve_s(fallbacks: Sequence[BackendConditions], deadline_s: float) -> float:
    """Seconds of `deadline_s` to keep for the first of `fallbacks`."""
    if not fallbacks:
        return 0.0
    latency_s = fallbacks[0].latency_s
    wanted = UNKNOWN_RESERVE_SHARE * deadline_s if latency_s is None else RESERVE_FACTOR * latency_s
    return min(max(wanted, MIN_RESERVE_SHARE * deadline_s), MAX_RESERVE_SHARE * deadline_s)


def _why_passed(backend: BackendConditions, deadline_s: float) -> str:
    if not backend.usable:
        return why_out(backend)
    return (
        f"{backend.kind.value} would be late ({_ms(backend.latency_s or 0.0)} of {_ms(deadline_s)})"
    )


def why_out(backend: BackendConditions) -> str:
    """Why `backend` takes no part, in words a person can read."""
    return f"{backend.kind.value} is out ({backend.unavailable_reason})"


def why_none(known: Iterable[BackendConditions]) -> str:
    """Why none of the `known` backends can be taken, in words a person can read."""
    reasons = "; ".join(f"{backend.kind.value}: {backend.unavailable_reason}" for backend in known)
    return f"no backend is usable: {reasons or 'none is configured'}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
