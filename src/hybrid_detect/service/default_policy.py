"""The policy of a mode, within the limits of the configuration."""

from __future__ import annotations

from typing import Any

from hybrid_detect.config import ServiceConfig
from hybrid_detect.selection.auto import AutoPolicy
from hybrid_detect.selection.policy import ModePolicy, Policy
from hybrid_detect.types import DetectionMode

__all__ = ["default_policy"]


def default_policy(config: ServiceConfig) -> Policy:
    """The policy that decides if the app gives none."""
    limits: dict[str, Any] = {
        "target_bytes": int(config.target_file_size_kb * 1024),
        "quality": config.quality,
        "max_side_px": config.max_side_px,
    }
    if config.mode is DetectionMode.AUTO:
        return AutoPolicy(**limits)
    return ModePolicy(mode=config.mode, **limits)
