"""The cascade: the device detects first, and the server as well where the device is not sure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.selection.policy import ModePolicy
from hybrid_detect.types import (
    DEFAULT_TARGET_BYTES,
    BackendKind,
    DetectionMode,
    DetectionResult,
    Plan,
)

__all__ = ["CascadePolicy", "why_unsure"]

SURE_SCORE = 0.85
"""A face below it may be none, and is a sign of faces that were missed. Source: the project's
measurement of routing by score, `docs/explanation/choosing.md`."""

SMALL_SHARE = 0.1
"""Of the longer side: below it the short-range model begins to miss faces (`mediapipe.md` of
the project's references; `docs/explanation/models.md`), so one that small has neighbours."""


def why_unsure(result: DetectionResult) -> str:
    """Why an answer of the device is not to be relied on; empty if it is."""
    if not result.faces:
        return "it found no face"
    scores = [face.score for face in result.faces if face.score is not None]
    if scores and min(scores) < SURE_SCORE:
        return f"it is sure of a face to {min(scores):.0%} only"
    smallest = min(max(face.box.width, face.box.height) for face in result.faces)
    if smallest < SMALL_SHARE * max(result.width, result.height):
        return f"a face is only {smallest:.0f} px large"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadePolicy:
    """On the device first, and on the server as well where the device is unsure.

    Sends fewer pictures than always asking the server, and sees nearly as much. What it misses is
    what the device misses while it is sure of something else.
    """

    target_bytes: int = DEFAULT_TARGET_BYTES
    quality: int = 80
    max_side_px: int | None = 1280

    def decide(self, conditions: Conditions) -> Plan:
        """The plan for a frame under `conditions`."""
        plan = ModePolicy(
            mode=DetectionMode.PREFER_ON_DEVICE,
            target_bytes=self.target_bytes,
            quality=self.quality,
            max_side_px=self.max_side_px,
        ).decide(conditions)
        if plan.backend is not BackendKind.DEVICE or not plan.fallbacks:
            return plan
        return replace(plan, escalation=plan.fallbacks[0])
