"""What the on-device detector found in a frame."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid_detect.types import Face, QualityLevel

__all__ = ["Detection"]


@dataclass(frozen=True, slots=True)
class Detection:
    """The faces in a frame, in its pixels, and how they were found."""

    faces: tuple[Face, ...]
    detect_s: float
    """Seconds for decoding and detecting."""
    level: QualityLevel = QualityLevel.FAST
    """How thoroughly it was looked at."""
    note: str = ""
    """What came between, for the result's reason; empty if nothing did."""
