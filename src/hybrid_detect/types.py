"""The values that pass between the parts: frozen, plain, without I/O.

Those of `geometry` and `results` are here as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hybrid_detect.geometry import KEYPOINT_NAMES, BoundingBox, Face, Keypoint
from hybrid_detect.results import (
    Attempt,
    BackendKind,
    DetectionResult,
    DetectionStatus,
    Timings,
)

__all__ = [
    "KEYPOINT_NAMES",
    "Attempt",
    "BackendKind",
    "BoundingBox",
    "DetectionMode",
    "DetectionResult",
    "DetectionStatus",
    "Face",
    "FeedbackVerdict",
    "Keypoint",
    "Medium",
    "Plan",
    "PowerConditions",
    "QualityLevel",
    "Timings",
]

DEFAULT_TARGET_BYTES = 80 * 1024
"""The most bytes a compressed picture may have, unless configured. Source: the project's mission,
80 KB for a 1280x720 frame; detection loses nothing measurable at that size."""


class DetectionMode(StrEnum):
    """Which backends may be used, and in which order."""

    AUTO = "auto"
    """The backend that serves this frame best."""
    CLOUD = "cloud"
    """Cloud alone."""
    STREAMING = "streaming"
    """The live stream alone."""
    ON_DEVICE = "on_device"
    """The device alone: nothing is sent anywhere."""
    PREFER_CLOUD = "prefer_cloud"
    """A remote backend first (cloud, then the stream), the device as fallback."""
    PREFER_ON_DEVICE = "prefer_on_device"
    """The device first, the remote backends as fallback."""


class QualityLevel(StrEnum):
    """How thoroughly a server of this project looks at a picture, the quickest level first.

    The figures are those of the levels' usual models on photos of people, most of them in groups
    (`docs/explanation/models.md`).
    """

    FAST = "fast"
    """The full-range model on the whole picture: F1 0.38 in 6 ms of a processor core."""
    HIGH = "high"
    """CenterFace at 640 pixels: F1 0.95 in 52 ms."""
    MAX = "max"
    """CenterFace at 1280 pixels: F1 0.97 in 189 ms; it sees smaller faces in larger pictures."""


class FeedbackVerdict(StrEnum):
    """What is said of a result by those who saw the picture."""

    CORRECT = "correct"
    """The faces are right."""
    FALSE_POSITIVE = "false_positive"
    """A face was reported where there is none."""
    MISSED_FACE = "missed_face"
    """A face in the picture was not reported."""


class Medium(StrEnum):
    """What carries a network's first hop, which decides what sending costs in energy."""

    UNKNOWN = "unknown"
    """The system does not tell, nor does the app."""
    WIRED = "wired"
    """Ethernet, or this machine itself."""
    WIFI = "wifi"
    CELLULAR = "cellular"


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerConditions:
    """What the platform tells of its energy and heat; `None` where it does not tell."""

    battery: float | None = None
    """Charge, 0 to 1."""
    on_battery: bool | None = None
    """Whether it runs on the battery."""
    throttled: bool | None = None
    """Whether the processor is slowed down to cool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do with one frame, and why. Made by a policy, carried out by the service."""

    backend: BackendKind | None
    """The backend to ask; `None` when none is usable."""
    reason: str
    """Why, in words a person can read."""
    deadline_s: float
    """Seconds the frame has from now: connecting, retrying and falling back included."""
    fallbacks: tuple[BackendKind, ...] = ()
    """The backends to ask after it, in order, if it cannot answer."""
    reserve_s: float = 0.0
    """Seconds of the deadline the first backend may not use, kept for the fallbacks."""
    retries: int = 4
    """How often a remote backend may send the frame again, inside the deadline."""
    target_bytes: int = DEFAULT_TARGET_BYTES
    """The most bytes a compressed picture may have."""
    quality: int = 80
    """Highest JPEG quality worth sending, 1 to 95."""
    max_side_px: int | None = 1280
    """Longest side sent, in pixels; `None` sends the full size."""
    hedge: BackendKind | None = None
    """A second backend that starts while the first still runs; the first good answer wins."""
    hedge_after_s: float = 0.0
    """Seconds after which `hedge` starts; 0 starts both at once."""
    probe: bool = False
    """Whether the frame is sent mainly to learn what the network carries."""
    skip: bool = False
    """Whether to leave this frame out on purpose, because a later one will be served better."""
    escalation: BackendKind | None = None
    """The backend to ask as well when the answer of `backend` is not sure enough."""
