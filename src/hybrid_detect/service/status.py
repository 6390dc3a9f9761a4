"""What `HybridDetectionService.status()` tells."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid_detect.service.managed_backend import BackendStatus
from hybrid_detect.service.plan_executor import HedgeCounts
from hybrid_detect.types import DetectionMode, Plan

__all__ = ["ServiceStatus", "Traffic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes sent to remote ways."""

    sent_bytes: int = 0
    """Of all pictures, in their messages."""
    wasted_bytes: int = 0
    """Of the pictures whose answers nobody waited for to the end."""
    probe_bytes: int = 0
    """Of the pictures that were sent to learn what the network carries."""
    pings: int = 0
    """Pings sent for the same purpose, of about 60 bytes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """What the service would do now, and why."""

    mode: DetectionMode
    plan: Plan
    """The plan the next frame would get."""
    backends: tuple[BackendStatus, ...]
    frames_dropped: int
    """Frames that cameras gave and newer ones replaced before anybody could look."""
    hedges: HedgeCounts
    """How often a second way was started beside the first, and what came of it."""
    traffic: Traffic
    """What went over the network."""
