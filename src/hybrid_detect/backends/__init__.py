"""Where detection happens: the strategy interface and the backends behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.types import BackendKind

if TYPE_CHECKING:
    from hybrid_detect.backends.base import Backend
    from hybrid_detect.config import ServiceConfig

__all__ = ["create_backend"]


def create_backend(kind: BackendKind, config: ServiceConfig) -> Backend:
    """Make the backend of `kind` as configured. Loads the libraries of that one alone.

    Raises:
        ConfigurationError: If it cannot work as configured, a missing extra included.
    """
    if kind is BackendKind.DEVICE:
        from hybrid_detect.backends.device.on_device import OnDeviceDetectionService

        return OnDeviceDetectionService(
            model=config.model,
            model_path=config.model_path,
            model_fetch=config.model_fetch,
            min_confidence=config.min_confidence,
            runtime=config.runtime,
            quality=config.device_quality,
            isolation=config.isolation,
            memory_budget_bytes=config.memory_budget_bytes,
        )
    is_cloud_of_targets = kind is BackendKind.CLOUD and bool(config.targets)
    has_own_address = config.endpoint is not None or config.provider != "custom_backend"
    if not has_own_address and not is_cloud_of_targets:
        msg = (
            "no endpoint is configured: set endpoint= (HYBRID_DETECT_ENDPOINT) to the address of a "
            "detection server"
        )
        raise ConfigurationError(msg)
    encryption = None
    if config.server_public_key is not None or config.trust_on_first_use:
        from hybrid_detect.exchange.trust import TrustedKey

        encryption = TrustedKey.from_config(config)
    from hybrid_detect.backends.remote.tls import client_context

    files = {
        "ca_file": config.ca_file,
        "client_cert": config.client_cert,
        "client_key": config.client_key,
    }
    # Without files of its own, a backend reads the system's CAs once it needs them.
    tls = client_context(**files) if any(files.values()) else None
    options: dict[str, Any] = {
        "min_confidence": config.min_confidence,
        "session_id": config.session_id,
        "quality": config.server_quality,
        "second_look": config.server_second_look,
        "encryption": encryption,
        "ssl_context": tls,
    }
    server: dict[str, Any] = {
        "endpoint": config.endpoint,
        "region": config.region,
        "auth_token": config.auth_token,
        "allow_insecure_http": config.allow_insecure_http,
    }
    if kind is BackendKind.CLOUD:
        from hybrid_detect.backends.remote.cloud import CloudDetectionService

        if is_cloud_of_targets:
            return CloudDetectionService(targets=config.targets, **options)
        return CloudDetectionService(
            config.provider,
            provider_options=config.provider_options,
            api_key=config.api_key,
            credentials=config.credentials,
            **server,
            **options,
        )
    if config.provider != "custom_backend":
        msg = (
            "the stream speaks our own server's protocol alone, and another provider is configured"
        )
        raise ConfigurationError(msg)
    if server["auth_token"] is None:
        server["auth_token"] = config.api_key
    from hybrid_detect.backends.remote.streaming import StreamingService

    return StreamingService(**server, **options)
