"""Where a replica is: what it tells the owner of the list, and the gateway reads there."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ReplicaPlace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPlace:
    """Where a replica is, and whether it takes new work."""

    name: str
    host: str
    port: int
    metrics_port: int | None = None
    """Of its metrics, on the same host; `None` for none."""
    is_leaving: bool = False
