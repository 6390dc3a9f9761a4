"""What `HybridDetectionService.status()` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from hybrid_detect.backends.remote.link_meter import LinkMeter
from hybrid_detect.service.managed_backend import BackendStatus
from hybrid_detect.service.plan_executor import HedgeCounts
from hybrid_detect.types import DetectionMode, Plan

__all__ = ["ServiceStatus", "Traffic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes sent to remote backends."""

    sent_bytes: int = 0
    """Of all pictures, in their messages."""
    wasted_bytes: int = 0
    """Of the pictures whose answers were given up before they came."""
    probe_bytes: int = 0
    """Of the pictures that were sent to learn what the network carries."""
    pings: int = 0
    """Pings sent for the same purpose, of about 60 bytes each."""

    @classmethod
    def of(cls, meter: LinkMeter | None) -> Self:
        """What `meter` has counted; nothing without one."""
        if meter is None:
            return cls()
        return cls(
            sent_bytes=meter.link.bytes_sent,
            wasted_bytes=meter.wasted_bytes,
            probe_bytes=meter.link.bytes_probing,
            pings=meter.link.pings,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """What the service would do now, and why."""

    mode: DetectionMode
    plan: Plan
    """The plan the next frame would get."""
    backends: tuple[BackendStatus, ...]
    frames_dropped: int
    """Frames of sources that newer ones replaced before a backend could look."""
    hedges: HedgeCounts
    """How often a second backend was started beside the first, and what came of it."""
    traffic: Traffic
    """What went over the network."""
