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
    from hybrid_detect.backends.device.model_facts import InputSize, ModelSpec, WheelMember
    from hybrid_detect.backends.device.model_registry import register_model
    from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
    from hybrid_detect.backends.device.runtimes import (
        FaceDetector,
        ModelRuntime,
        register_runtime,
    )
    from hybrid_detect.backends.remote.aws_credentials import AwsCredentials
    from hybrid_detect.backends.remote.aws_keys import AwsKeys
    from hybrid_detect.backends.remote.cloud import CloudDetectionService
    from hybrid_detect.backends.remote.credentials import AccessToken, ApiKeyHeader, BearerToken
    from hybrid_detect.backends.remote.error_tables import ErrorRule, ErrorTable
    from hybrid_detect.backends.remote.google_credentials import GoogleCredentials
    from hybrid_detect.backends.remote.protocol import (
        Capabilities,
        DetectParams,
        HttpRequest,
        HttpResponse,
    )
    from hybrid_detect.backends.remote.providers.face_mapping import FaceMapping
    from hybrid_detect.backends.remote.providers.json_endpoint import JsonEndpoint
    from hybrid_detect.backends.remote.remote_backend import RemoteBackend
    from hybrid_detect.backends.remote.secure_transmission import SecureImageTransmission
    from hybrid_detect.backends.remote.streaming import StreamingService
    from hybrid_detect.backends.remote.target_pool import TargetStatus
    from hybrid_detect.backends.remote.targets import Target
    from hybrid_detect.backends.remote.watching import LiveResult, watch_session
    from hybrid_detect.charges import CostKey, CostRow, SentRequest
    from hybrid_detect.compression.compressor import (
        PRESETS,
        CompressedImage,
        ImageCompressionService,
    )
    from hybrid_detect.compression.rate_control import RateController
    from hybrid_detect.config import ServiceConfig
    from hybrid_detect.errors import (
        AllBackendsFailedError,
        BackendError,
        BackendResponseError,
        BackendTimeoutError,
        BackendUnavailableError,
        ClosedError,
        ConfigurationError,
        EncryptionError,
        HybridDetectError,
        InvalidFrameError,
        MissingExtraError,
        ModelError,
        ModelIntegrityError,
        ProtocolError,
        Refusal,
        ReplayError,
        SourceError,
        StaleRequestError,
        StorageError,
        SupersededError,
        UnknownKeyError,
    )
    from hybrid_detect.exchange.keys import PublicKey
    from hybrid_detect.exchange.trust import TrustedKey
    from hybrid_detect.exchange.wire import ResultReply
    from hybrid_detect.frames.camera import CameraFormat, CameraImage, Plane
    from hybrid_detect.frames.drawing import draw
    from hybrid_detect.frames.frame import Frame, PixelFormat
    from hybrid_detect.frames.overlay import Overlay
    from hybrid_detect.frames.timed_image import TimedImage
    from hybrid_detect.interchange import to_coco, to_records
    from hybrid_detect.monitoring.costs import CostMeter, CostSummary
    from hybrid_detect.monitoring.events import (
        Answer,
        BackendEvent,
        FeedbackEvent,
        FrameEvent,
        FrameOutcome,
        SettingsEvent,
    )
    from hybrid_detect.monitoring.exporters.opentelemetry import OpenTelemetryHook
    from hybrid_detect.monitoring.exporters.opentelemetry_tracing import OpenTelemetryTracer
    from hybrid_detect.monitoring.exporters.prometheus import PrometheusHook
    from hybrid_detect.monitoring.hooks import BackendHook, FeedbackHook, FrameHook, SettingsHook
    from hybrid_detect.monitoring.json_lines import JsonLinesHook
    from hybrid_detect.monitoring.logging_hook import LoggingHook
    from hybrid_detect.monitoring.monitor import BackendProcessingMonitor, MonitorFigures
    from hybrid_detect.monitoring.prices import PRICE_TABLES, PriceTable, PriceTier
    from hybrid_detect.monitoring.tracing import Span, Tracer
    from hybrid_detect.privacy.consent import ConsentLedger
    from hybrid_detect.privacy.consent_record import ConsentRecord
    from hybrid_detect.privacy.filter import PrivacyFilter
    from hybrid_detect.privacy.privacy_policy import FramePrivacy, PrivacyPolicy
    from hybrid_detect.selection.auto import AutoPolicy
    from hybrid_detect.selection.conditions import (
        BackendConditions,
        Conditions,
        LinkConditions,
        NetworkClass,
        SceneConditions,
    )
    from hybrid_detect.selection.escalation import CascadePolicy
    from hybrid_detect.selection.fixed import FixedPolicy
    from hybrid_detect.selection.policy import ModePolicy, Policy
    from hybrid_detect.selection.recording import RecordingPolicy
    from hybrid_detect.selection.rungs import RUNGS, Rung
    from hybrid_detect.selection.threshold import ThresholdPolicy
    from hybrid_detect.selection.utility import Utility
    from hybrid_detect.service.detection_stream import DetectionStream
    from hybrid_detect.service.hybrid import HybridDetectionService
    from hybrid_detect.service.ledger import BudgetStatus
    from hybrid_detect.service.managed_backend import BackendStatus
    from hybrid_detect.service.plan_executor import HedgeCounts
    from hybrid_detect.service.status import ServiceStatus, Traffic
    from hybrid_detect.sources.captured import CapturedFrame, DropCause, Intent, OpenSource
    from hybrid_detect.sources.frame_feed import FrameFeed
    from hybrid_detect.sources.kivy_camera import KivyCameraSource
    from hybrid_detect.sources.opencv_source import OpenCVSource
    from hybrid_detect.sources.picamera2_source import Picamera2Source
    from hybrid_detect.sources.protocol import Camera, Reader, Source
    from hybrid_detect.sources.pyav_source import PyAVSource
    from hybrid_detect.sources.sources import open_source
    from hybrid_detect.storage.cost_store import CostStore
    from hybrid_detect.storage.history import DetectionHistory
    from hybrid_detect.types import (
        Attempt,
        BackendKind,
        BoundingBox,
        DetectionMode,
        DetectionResult,
        DetectionStatus,
        Face,
        FeedbackVerdict,
        Keypoint,
        Plan,
        PowerConditions,
        QualityLevel,
        Timings,
    )

_HOMES = {
    "backends.base": ("Backend",),
    "backends.remote.aws_credentials": ("AwsCredentials",),
    "backends.remote.aws_keys": ("AwsKeys",),
    "backends.remote.cloud": ("CloudDetectionService",),
    "backends.device.model_facts": ("InputSize", "ModelSpec", "WheelMember"),
    "backends.device.model_registry": ("register_model",),
    "backends.device.on_device": ("OnDeviceDetectionService",),
    "backends.device.runtimes": ("FaceDetector", "ModelRuntime", "register_runtime"),
    "backends.remote.credentials": ("AccessToken", "ApiKeyHeader", "BearerToken"),
    "backends.remote.error_tables": ("ErrorRule", "ErrorTable"),
    "backends.remote.google_credentials": ("GoogleCredentials",),
    "backends.remote.protocol": ("Capabilities", "DetectParams", "HttpRequest", "HttpResponse"),
    "backends.remote.providers.face_mapping": ("FaceMapping",),
    "backends.remote.providers.json_endpoint": ("JsonEndpoint",),
    "backends.remote.remote_backend": ("RemoteBackend",),
    "backends.remote.secure_transmission": ("SecureImageTransmission",),
    "backends.remote.streaming": ("StreamingService",),
    "backends.remote.targets": ("Target",),
    "backends.remote.watching": ("LiveResult", "watch_session"),
    "charges": ("CostKey", "CostRow", "SentRequest"),
    "config": ("ServiceConfig",),
    "errors": (
        "AllBackendsFailedError",
        "BackendError",
        "BackendResponseError",
        "BackendTimeoutError",
        "BackendUnavailableError",
        "ClosedError",
        "ConfigurationError",
        "EncryptionError",
        "HybridDetectError",
        "InvalidFrameError",
        "MissingExtraError",
        "ModelError",
        "ModelIntegrityError",
        "ProtocolError",
        "Refusal",
        "ReplayError",
        "SourceError",
        "StaleRequestError",
        "StorageError",
        "SupersededError",
        "UnknownKeyError",
    ),
    "exchange.keys": ("PublicKey",),
    "exchange.trust": ("TrustedKey",),
    "exchange.wire": ("ResultReply",),
    "frames.camera": ("CameraFormat", "CameraImage", "Plane"),
    "compression.compressor": ("PRESETS", "CompressedImage", "ImageCompressionService"),
    "frames.drawing": ("draw",),
    "frames.frame": ("Frame", "PixelFormat"),
    "frames.overlay": ("Overlay",),
    "frames.timed_image": ("TimedImage",),
    "sources.captured": ("CapturedFrame", "DropCause", "Intent", "OpenSource"),
    "sources.frame_feed": ("FrameFeed",),
    "sources.kivy_camera": ("KivyCameraSource",),
    "sources.opencv_source": ("OpenCVSource",),
    "sources.picamera2_source": ("Picamera2Source",),
    "sources.protocol": ("Camera", "Reader", "Source"),
    "sources.pyav_source": ("PyAVSource",),
    "sources.sources": ("open_source",),
    "service.detection_stream": ("DetectionStream",),
    "monitoring.costs": ("CostMeter", "CostSummary"),
    "monitoring.prices": ("PRICE_TABLES", "PriceTable", "PriceTier"),
    "monitoring.events": (
        "Answer",
        "BackendEvent",
        "FeedbackEvent",
        "FrameEvent",
        "FrameOutcome",
        "SettingsEvent",
    ),
    "monitoring.exporters.opentelemetry": ("OpenTelemetryHook",),
    "monitoring.exporters.opentelemetry_tracing": ("OpenTelemetryTracer",),
    "monitoring.exporters.prometheus": ("PrometheusHook",),
    "monitoring.hooks": ("BackendHook", "FeedbackHook", "FrameHook", "SettingsHook"),
    "monitoring.json_lines": ("JsonLinesHook",),
    "monitoring.logging_hook": ("LoggingHook",),
    "monitoring.monitor": ("BackendProcessingMonitor", "MonitorFigures"),
    "monitoring.tracing": ("Span", "Tracer"),
    "privacy.filter": ("PrivacyFilter",),
    "compression.rate_control": ("RateController",),
    "storage.cost_store": ("CostStore",),
    "storage.history": ("DetectionHistory",),
    "service.plan_executor": ("HedgeCounts",),
    "selection.auto": ("AutoPolicy",),
    "selection.escalation": ("CascadePolicy",),
    "selection.rungs": ("RUNGS", "Rung"),
    "selection.utility": ("Utility",),
    "selection.conditions": (
        "Conditions",
        "LinkConditions",
        "NetworkClass",
        "BackendConditions",
        "SceneConditions",
    ),
    "privacy.consent": ("ConsentLedger",),
    "privacy.consent_record": ("ConsentRecord",),
    "selection.fixed": ("FixedPolicy",),
    "selection.policy": ("ModePolicy", "Policy"),
    "privacy.privacy_policy": ("FramePrivacy", "PrivacyPolicy"),
    "selection.recording": ("RecordingPolicy",),
    "selection.threshold": ("ThresholdPolicy",),
    "service.hybrid": ("HybridDetectionService",),
    "service.ledger": ("BudgetStatus",),
    "service.status": ("ServiceStatus", "Traffic"),
    "interchange": ("to_coco", "to_records"),
    "types": (
        "Attempt",
        "BackendKind",
        "BoundingBox",
        "DetectionMode",
        "DetectionResult",
        "DetectionStatus",
        "Face",
        "FeedbackVerdict",
        "Keypoint",
        "Plan",
        "PowerConditions",
        "QualityLevel",
        "Timings",
    ),
    "backends.remote.target_pool": ("TargetStatus",),
    "service.managed_backend": ("BackendStatus",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - sorted as a reader looks for them, case aside
    "AccessToken",
    "AllBackendsFailedError",
    "Answer",
    "ApiKeyHeader",
    "Attempt",
    "AutoPolicy",
    "AwsCredentials",
    "AwsKeys",
    "Backend",
    "BackendConditions",
    "BackendError",
    "BackendEvent",
    "BackendHook",
    "BackendKind",
    "BackendProcessingMonitor",
    "BackendResponseError",
    "BackendStatus",
    "BackendTimeoutError",
    "BackendUnavailableError",
    "BearerToken",
    "BoundingBox",
    "BudgetStatus",
    "Camera",
    "CameraFormat",
    "CameraImage",
    "Capabilities",
    "CapturedFrame",
    "CascadePolicy",
    "ClosedError",
    "CloudDetectionService",
    "CompressedImage",
    "Conditions",
    "ConfigurationError",
    "ConsentLedger",
    "ConsentRecord",
    "CostKey",
    "CostMeter",
    "CostRow",
    "CostStore",
    "CostSummary",
    "DetectionHistory",
    "DetectionMode",
    "DetectionResult",
    "DetectionStatus",
    "DetectionStream",
    "DetectParams",
    "draw",
    "DropCause",
    "EncryptionError",
    "ErrorRule",
    "ErrorTable",
    "Face",
    "FaceDetector",
    "FaceMapping",
    "FeedbackEvent",
    "FeedbackHook",
    "FeedbackVerdict",
    "FixedPolicy",
    "Frame",
    "FrameEvent",
    "FrameFeed",
    "FrameHook",
    "FrameOutcome",
    "FramePrivacy",
    "GoogleCredentials",
    "HedgeCounts",
    "HttpRequest",
    "HttpResponse",
    "HybridDetectError",
    "HybridDetectionService",
    "ImageCompressionService",
    "InputSize",
    "Intent",
    "InvalidFrameError",
    "JsonEndpoint",
    "JsonLinesHook",
    "Keypoint",
    "KivyCameraSource",
    "LinkConditions",
    "LiveResult",
    "LoggingHook",
    "MissingExtraError",
    "ModelError",
    "ModelIntegrityError",
    "ModelRuntime",
    "ModelSpec",
    "ModePolicy",
    "MonitorFigures",
    "NetworkClass",
    "OnDeviceDetectionService",
    "open_source",
    "OpenCVSource",
    "OpenSource",
    "OpenTelemetryHook",
    "OpenTelemetryTracer",
    "Overlay",
    "Picamera2Source",
    "PixelFormat",
    "Plan",
    "Plane",
    "Policy",
    "PowerConditions",
    "PRESETS",
    "PRICE_TABLES",
    "PriceTable",
    "PriceTier",
    "PrivacyFilter",
    "PrivacyPolicy",
    "PrometheusHook",
    "ProtocolError",
    "PublicKey",
    "PyAVSource",
    "QualityLevel",
    "RateController",
    "Reader",
    "RecordingPolicy",
    "Refusal",
    "register_model",
    "register_runtime",
    "RemoteBackend",
    "ReplayError",
    "ResultReply",
    "Rung",
    "RUNGS",
    "SceneConditions",
    "SecureImageTransmission",
    "SentRequest",
    "ServiceConfig",
    "ServiceStatus",
    "SettingsEvent",
    "SettingsHook",
    "Source",
    "SourceError",
    "Span",
    "StaleRequestError",
    "StorageError",
    "StreamingService",
    "SupersededError",
    "sync",
    "Target",
    "TargetStatus",
    "ThresholdPolicy",
    "TimedImage",
    "Timings",
    "to_coco",
    "to_records",
    "Tracer",
    "Traffic",
    "TrustedKey",
    "UnknownKeyError",
    "Utility",
    "watch_session",
    "WheelMember",
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
