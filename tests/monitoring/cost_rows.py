"""What the tests of costs share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hybrid_detect.charges import CostKey, CostRow, SentRequest
from hybrid_detect.monitoring.events import FrameEvent, FrameOutcome
from hybrid_detect.types import BackendKind

__all__ = ["NOON_S", "at", "frame", "request", "row"]


def at(text: str) -> float:
    """A time of UTC in seconds since 1970."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOON_S = at("2026-11-28T12:00")


def request(at_s: float = NOON_S, **changes: Any) -> SentRequest:
    values: dict[str, Any] = {
        "at_s": at_s,
        "backend": "cloud",
        "target": "vision.example",
        "provider": "google",
        "bytes_sent": 80_000,
        "price_nanos": 1_500_000,
        "answered": True,
    }
    return SentRequest(**{**values, **changes})


def frame(*requests: SentRequest, at_s: float = NOON_S, **changes: Any) -> FrameEvent:
    backend = BackendKind.CLOUD if requests else BackendKind.DEVICE
    values: dict[str, Any] = {"outcome": FrameOutcome.ANSWERED, "backend": backend}
    return FrameEvent(at_s=at_s, requests=requests, **{**values, **changes})


def row(hour: int, *, images: int = 1, nanos: int = 1_500_000, **key: str) -> CostRow:
    values = {"backend": "cloud", "target": "t", "provider": "google", "currency": "USD"}
    return CostRow(
        key=CostKey(hour, **{**values, **key}),
        frames=images,
        requests=images,
        answered=images,
        images=images,
        bytes_sent=images * 1000,
        price_nanos=nanos * images,
    )
