"""What `HybridDetectionService.status()` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from hybrid_detect.backends.remote.link_meter import LinkMeters
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.selection.conditions import LinkConditions
from hybrid_detect.service.ledger import BudgetStatus
from hybrid_detect.service.managed_backend import BackendStatus
from hybrid_detect.service.plan_executor import HedgeCounts
from hybrid_detect.sources.captured import DropCause
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
    """Pings sent on streams, of 84 bytes each with what TCP and TLS add; no cost includes them."""

    @classmethod
    def of(cls, meters: LinkMeters) -> Self:
        """What `meters` have counted together."""
        return cls(
            sent_bytes=sum(meter.link.bytes_sent for meter in meters),
            wasted_bytes=sum(meter.wasted_bytes for meter in meters),
            probe_bytes=sum(meter.link.bytes_probing for meter in meters),
            pings=sum(meter.link.pings for meter in meters),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """What the service would do now, and why."""

    mode: DetectionMode
    """The mode that holds now."""
    plan: Plan
    """The plan the next frame would get."""
    backends: tuple[BackendStatus, ...]
    hedges: HedgeCounts
    """How often a second backend was started beside the first, and what came of it."""
    traffic: Traffic
    """What went over the network."""
    drops: Mapping[DropCause, int] = field(default_factory=dict)
    """Frames of sources that no backend got to look at, by cause."""
    link: LinkConditions | None = None
    """What is believed about the path to the server; `None` without a measured one."""
    budgets: tuple[BudgetStatus, ...] = ()
    """What may be spent and what was; empty without a budget."""
    privacy: PrivacyPolicy = field(default_factory=PrivacyPolicy)
    """What may leave the device now."""

    @property
    def frames_dropped(self) -> int:
        """Frames of sources that were read and dropped before a backend could look."""
        return sum(n for cause, n in self.drops.items() if cause is not DropCause.MISSED)
