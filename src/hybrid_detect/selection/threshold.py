"""The mission's rule, as written: two round-trip times separate three presets."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid_detect.compression.compressed_image import PRESETS
from hybrid_detect.config import DEFAULT_QUALITY
from hybrid_detect.selection.conditions import Conditions, LinkConditions, NetworkClass
from hybrid_detect.selection.policy import RETRIES_ALONE, fallback_reserve_s
from hybrid_detect.types import DEFAULT_TARGET_BYTES, BackendKind, Plan

__all__ = ["ThresholdPolicy"]

GOOD_RTT_S = 0.1
"""Below this round trip the link is good. Source: the project's mission."""

SLOW_RTT_S = 0.3
"""From this round trip on the device detects. Source: the project's mission.

So it does without a pong for 1 s, as the mission asks, and even sooner: a ping that is not answered
counts as a round trip that has taken so long already (`LinkEstimator`)."""

EARLY_SHARE = 0.1
"""A frame may come so much of the pause early: cameras are not that regular, and what is measured
is the pause since the last frame was sent, after it was compressed."""

MAX_IN_FLIGHT = 2
"""Frames in flight on the link; a third would only wait."""

_REMOTE = (BackendKind.STREAMING, BackendKind.CLOUD)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdPolicy:
    """Good link: quality 80, up to 15 fps. Moderate: quality 50, up to 5 fps. Else the device.

    Good is a round trip below 100 ms, moderate one below 300 ms. The other backends are
    fallbacks, for a frame that the chosen one cannot answer. Simple to explain and to foresee;
    it does not know what the link carries, which is why `AutoPolicy` is better on every kind of
    network that was measured.
    """

    target_bytes: int = DEFAULT_TARGET_BYTES

    def decide(self, conditions: Conditions) -> Plan:
        """The plan for a frame under `conditions`."""
        usable = {backend.kind for backend in conditions.backends if backend.usable}
        remote = next((kind for kind in _REMOTE if kind in usable), None)
        device = BackendKind.DEVICE if BackendKind.DEVICE in usable else None
        link = conditions.link_to(remote)
        if link is None or link.network is NetworkClass.OFFLINE:
            link_state = "no network" if link else "the network is not measured"
            return self._plan(conditions, device or remote, link_state)
        link_state = f"round trip {link.rtt_s * 1000:.0f} ms"
        if remote is None or (device is not None and link.rtt_s >= SLOW_RTT_S):
            return self._plan(conditions, device, link_state)
        is_good = link.rtt_s < GOOD_RTT_S
        preset = PRESETS["high" if is_good else "low"]
        if not conditions.must_answer and (why := _why_wait(link, preset.fps)):
            return self._plan(conditions, None, f"{link_state}, {why}", skip=True)
        return self._plan(conditions, remote, link_state, quality=preset.quality)

    def _plan(
        self,
        conditions: Conditions,
        backend: BackendKind | None,
        link_state: str,
        *,
        quality: int = DEFAULT_QUALITY,
        skip: bool = False,
    ) -> Plan:
        what = "left out" if skip else backend.value if backend else "no backend is usable"
        others = [
            other for other in conditions.backends if other.usable and other.kind is not backend
        ]
        # The other remote backend leads to the same server, so it comes last.
        others.sort(key=lambda other: other.kind is not BackendKind.DEVICE)
        if backend is None:
            others = []
        return Plan(
            backend=backend,
            skip=skip,
            fallbacks=tuple(other.kind for other in others),
            reserve_s=fallback_reserve_s(others, conditions.deadline_s),
            retries=0 if others else RETRIES_ALONE,
            deadline_s=conditions.deadline_s,
            quality=quality,
            target_bytes=self.target_bytes,
            reason=f"threshold rule: {what}, {link_state}",
        )


def _why_wait(link: LinkConditions, fps: float) -> str:
    """Why a frame should not be sent now; empty if it may."""
    if link.in_flight >= MAX_IN_FLIGHT:
        return f"{link.in_flight} under way"
    return f"at most {fps:.0f} fps" if link.idle_s < (1 - EARLY_SHARE) / fps else ""
