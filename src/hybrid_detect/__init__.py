"""Face detection in the cloud, over a live stream or on the device, chosen frame by frame.

Importing this package loads no backend and no network library: every name below is loaded
when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybrid_detect import sync
    from hybrid_detect.backends.base import Backend
    from hybrid_detect.backends.cloud import CloudDetectionService
    from hybrid_detect.backends.device import OnDeviceDetectionService
    from hybrid_detect.backends.remote import RemoteBackend
    from hybrid_detect.backends.streaming import StreamingService
    from hybrid_detect.config import ServiceConfig
    from hybrid_detect.errors import (
        AllBackendsFailedError,
        BackendError,
        BackendResponseError,
        BackendTimeoutError,
        BackendUnavailableError,
        ClosedError,
        ConfigurationError,
        HybridDetectError,
        InvalidFrameError,
        MissingExtraError,
        ModelError,
        ModelIntegrityError,
        ProtocolError,
        SupersededError,
    )
    from hybrid_detect.frames.camera import CameraFormat, CameraImage, Plane
    from hybrid_detect.frames.compression import PRESETS, CompressedImage, ImageCompressionService
    from hybrid_detect.frames.drawing import draw
    from hybrid_detect.frames.frame import Frame, PixelFormat
    from hybrid_detect.frames.rate_control import RateController
    from hybrid_detect.selection.policy import ModePolicy, Policy
    from hybrid_detect.service import HybridDetectionService, ServiceStatus
    from hybrid_detect.types import (
        Attempt,
        BackendKind,
        BoundingBox,
        Conditions,
        DetectionMode,
        DetectionResult,
        DetectionStatus,
        Face,
        Keypoint,
        Plan,
        Timings,
        WayConditions,
    )
    from hybrid_detect.ways import WayStatus

_HOMES = {
    "backends.base": ("Backend",),
    "backends.cloud": ("CloudDetectionService",),
    "backends.device": ("OnDeviceDetectionService",),
    "backends.remote": ("RemoteBackend",),
    "backends.streaming": ("StreamingService",),
    "config": ("ServiceConfig",),
    "errors": (
        "AllBackendsFailedError",
        "BackendError",
        "BackendResponseError",
        "BackendTimeoutError",
        "BackendUnavailableError",
        "ClosedError",
        "ConfigurationError",
        "HybridDetectError",
        "InvalidFrameError",
        "MissingExtraError",
        "ModelError",
        "ModelIntegrityError",
        "ProtocolError",
        "SupersededError",
    ),
    "frames.camera": ("CameraFormat", "CameraImage", "Plane"),
    "frames.compression": ("PRESETS", "CompressedImage", "ImageCompressionService"),
    "frames.drawing": ("draw",),
    "frames.frame": ("Frame", "PixelFormat"),
    "frames.rate_control": ("RateController",),
    "selection.policy": ("ModePolicy", "Policy"),
    "service": ("HybridDetectionService", "ServiceStatus"),
    "types": (
        "Attempt",
        "BackendKind",
        "BoundingBox",
        "Conditions",
        "DetectionMode",
        "DetectionResult",
        "DetectionStatus",
        "Face",
        "Keypoint",
        "Plan",
        "Timings",
        "WayConditions",
    ),
    "ways": ("WayStatus",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - sorted as a reader looks for them, case aside
    "AllBackendsFailedError",
    "Attempt",
    "Backend",
    "BackendError",
    "BackendKind",
    "BackendResponseError",
    "BackendTimeoutError",
    "BackendUnavailableError",
    "BoundingBox",
    "CameraFormat",
    "CameraImage",
    "ClosedError",
    "CloudDetectionService",
    "CompressedImage",
    "Conditions",
    "ConfigurationError",
    "DetectionMode",
    "DetectionResult",
    "DetectionStatus",
    "draw",
    "Face",
    "Frame",
    "HybridDetectError",
    "HybridDetectionService",
    "ImageCompressionService",
    "InvalidFrameError",
    "Keypoint",
    "MissingExtraError",
    "ModelError",
    "ModelIntegrityError",
    "ModePolicy",
    "OnDeviceDetectionService",
    "PixelFormat",
    "Plan",
    "Plane",
    "Policy",
    "PRESETS",
    "ProtocolError",
    "RateController",
    "RemoteBackend",
    "ServiceConfig",
    "ServiceStatus",
    "StreamingService",
    "SupersededError",
    "sync",
    "Timings",
    "WayConditions",
    "WayStatus",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("hybrid-detect")
    if name == "sync":
        return import_module("hybrid_detect.sync")
    if name in _HOME:
        value = getattr(import_module(f"hybrid_detect.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    msg = f"module 'hybrid_detect' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
