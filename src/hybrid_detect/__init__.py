"""Face detection in the cloud, over a live stream or on the device, chosen frame by frame.

Importing this package loads no backend and no network library: every name below is loaded
when it is first used (PEP 562). Type checkers and editors read the names in ``__init__.pyi``, which
is made from this list by `nox -s reference`.
"""

from importlib import import_module as _import_module

_HOMES = {
    "backends.base": "Backend",
    "backends.device.model_facts": "InputSize ModelSpec WheelMember",
    "backends.device.model_registry": "register_model",
    "backends.device.on_device": "OnDeviceDetectionService",
    "backends.device.runtimes": "FaceDetector ModelRuntime register_runtime",
    "backends.remote.aws_credentials": "AwsCredentials",
    "backends.remote.aws_keys": "AwsKeys",
    "backends.remote.cloud": "CloudDetectionService",
    "backends.remote.credentials": "AccessToken ApiKeyHeader BearerToken",
    "backends.remote.error_tables": "ErrorRule ErrorTable",
    "backends.remote.google_credentials": "GoogleCredentials",
    "backends.remote.protocol": "Capabilities DetectParams HttpRequest HttpResponse",
    "backends.remote.providers.face_mapping": "FaceMapping",
    "backends.remote.providers.json_endpoint": "JsonEndpoint",
    "backends.remote.remote_backend": "RemoteBackend",
    "backends.remote.secure_transmission": "SecureImageTransmission",
    "backends.remote.streaming": "StreamingService",
    "backends.remote.target_pool": "TargetStatus",
    "backends.remote.targets": "Target",
    "backends.remote.watching": "LiveResult watch_session",
    "charges": "CostKey CostRow SentRequest",
    "compression.compressor": "PRESETS CompressedImage ImageCompressionService",
    "compression.rate_control": "RateController",
    "config": "ServiceConfig",
    "errors": (
        "AllBackendsFailedError BackendError BackendResponseError BackendTimeoutError "
        "BackendUnavailableError ClosedError ConfigurationError EncryptionError "
        "HybridDetectError InvalidFrameError MissingExtraError ModelError ModelIntegrityError "
        "ProtocolError Refusal ReplayError SourceError StaleRequestError StorageError "
        "SupersededError UnknownKeyError"
    ),
    "exchange.keys": "PublicKey",
    "exchange.trust": "TrustedKey",
    "exchange.wire": "ResultReply",
    "frames.camera": "CameraFormat CameraImage Plane",
    "frames.drawing": "draw",
    "frames.frame": "Frame PixelFormat",
    "frames.overlay": "Overlay",
    "frames.timed_image": "TimedImage",
    "interchange": "to_coco to_records",
    "monitoring.costs": "CostMeter CostSummary",
    "monitoring.events": "Answer BackendEvent FeedbackEvent FrameEvent FrameOutcome SettingsEvent",
    "monitoring.exporters.opentelemetry": "OpenTelemetryHook",
    "monitoring.exporters.opentelemetry_tracing": "OpenTelemetryTracer",
    "monitoring.exporters.prometheus": "PrometheusHook",
    "monitoring.hooks": "BackendHook FeedbackHook FrameHook SettingsHook",
    "monitoring.json_lines": "JsonLinesHook",
    "monitoring.logging_hook": "LoggingHook",
    "monitoring.monitor": "BackendProcessingMonitor MonitorFigures",
    "monitoring.prices": "PRICE_TABLES PriceTable PriceTier",
    "monitoring.tracing": "Span Tracer",
    "privacy.consent": "ConsentLedger",
    "privacy.consent_record": "ConsentRecord",
    "privacy.filter": "PrivacyFilter",
    "privacy.privacy_policy": "FramePrivacy PrivacyPolicy",
    "selection.auto": "AutoPolicy",
    "selection.conditions": (
        "BackendConditions Conditions LinkConditions NetworkClass SceneConditions"
    ),
    "selection.escalation": "CascadePolicy",
    "selection.fixed": "FixedPolicy",
    "selection.policy": "ModePolicy Policy",
    "selection.recording": "RecordingPolicy",
    "selection.rungs": "RUNGS Rung",
    "selection.threshold": "ThresholdPolicy",
    "selection.utility": "Utility",
    "service.detection_stream": "DetectionStream",
    "service.hybrid": "HybridDetectionService",
    "service.ledger": "BudgetStatus",
    "service.managed_backend": "BackendStatus",
    "service.plan_executor": "HedgeCounts",
    "service.status": "ServiceStatus Traffic",
    "sources.captured": "CapturedFrame DropCause Intent OpenSource",
    "sources.frame_feed": "FrameFeed",
    "sources.kivy_camera": "KivyCameraSource",
    "sources.opencv_source": "OpenCVSource",
    "sources.picamera2_source": "Picamera2Source",
    "sources.protocol": "Camera Reader Source",
    "sources.pyav_source": "PyAVSource",
    "sources.sources": "open_source",
    "storage.cost_store": "CostStore",
    "storage.history": "DetectionHistory",
    "types": (
        "Attempt BackendKind BoundingBox DetectionMode DetectionResult DetectionStatus Face "
        "FeedbackVerdict Keypoint Medium Plan PowerConditions QualityLevel Timings"
    ),
}
"""The public names by the module that each comes from."""

_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted([*_HOME, "sync"], key=str.casefold)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("hybrid-detect")
    if name == "sync":
        return _import_module("hybrid_detect.sync")
    if name in _HOME:
        value = getattr(_import_module(f"hybrid_detect.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    msg = f"module 'hybrid_detect' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
