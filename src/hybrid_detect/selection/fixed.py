"""Always one backend at one quality."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.types import DEFAULT_TARGET_BYTES, BackendKind, Plan

__all__ = ["FixedPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPolicy:
    """Takes `backend` for every frame, on any network.

    For comparisons, and for apps that have decided. A frame that may be left out is, while
    `max_in_flight` are in flight: a longer queue only makes all answers late.
    """

    backend: BackendKind | str
    quality: int = 80
    max_side_px: int | None = 1280
    target_bytes: int = DEFAULT_TARGET_BYTES
    max_in_flight: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "backend", BackendKind(self.backend))

    def decide(self, conditions: Conditions) -> Plan:
        """The plan for a frame under `conditions`."""
        kind = BackendKind(self.backend)
        backend = conditions.backend(kind)
        link = conditions.link_to(kind)
        under_way = link.in_flight if link else 0
        is_full = kind is not BackendKind.DEVICE and under_way >= self.max_in_flight
        skip = is_full and not conditions.must_answer
        if backend is None or not backend.usable:
            why = backend.unavailable_reason if backend else "this service has no such backend"
            reason = f"fixed: {kind.value} is out ({why})"
        else:
            reason = f"fixed: {kind.value}" + (f", {under_way} under way" if skip else "")
        return Plan(
            backend=kind if backend and backend.usable and not skip else None,
            skip=skip,
            deadline_s=conditions.deadline_s,
            quality=self.quality,
            max_side_px=self.max_side_px,
            target_bytes=self.target_bytes,
            reason=reason,
        )
