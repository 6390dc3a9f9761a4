"""A target as configuration spells it: plain settings become a `Target`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid_detect.backends.remote.credentials import (
    AccessToken,
    BearerToken,
    Credentials,
    TokenSource,
    key_credentials,
)
from hybrid_detect.backends.remote.protocol import Protocol
from hybrid_detect.backends.remote.providers import protocol_of
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.backends.remote.tls import client_context
from hybrid_detect.errors import ConfigurationError

__all__ = ["TARGET_SETTINGS", "target_of"]

TARGET_SETTINGS = (
    "allow_insecure_http",
    "api_key",
    "auth_token",
    "ca_file",
    "client_cert",
    "client_key",
    "currency",
    "endpoint",
    "name",
    "preference",
    "price_per_frame",
    "provider",
    "provider_options",
    "region",
)
"""What configuration can say of a target. All but `endpoint` may be left out."""


def target_of(settings: Mapping[str, Any] | Target) -> Target:
    """The target that `settings` spell.

    Args:
        settings: Some of `TARGET_SETTINGS` by name; or a target that is made already.

    Raises:
        ConfigurationError: If one is unknown or missing, or cannot be used. No value of a secret is
            repeated.
    """
    if isinstance(settings, Target):
        return settings
    if not isinstance(settings, Mapping):
        msg = f"targets: expected mappings or Target, got {type(settings).__name__}"
        raise ConfigurationError(msg)
    if unknown := sorted(set(settings) - set(TARGET_SETTINGS)):
        msg = f"targets: {unknown[0]!r} is no setting of a target: {', '.join(TARGET_SETTINGS)}"
        raise ConfigurationError(msg)
    values = dict(settings)
    endpoint = values.pop("endpoint", None)
    if not isinstance(endpoint, str):
        msg = "targets: expected the endpoint of each, the URL that it is asked at"
        raise ConfigurationError(msg)
    protocol = protocol_of(
        values.pop("provider", "custom_backend"), values.pop("provider_options", None)
    )
    credentials = _credentials(
        protocol, auth_token=values.pop("auth_token", None), api_key=values.pop("api_key", None)
    )
    files = {name: values.pop(name, None) for name in ("ca_file", "client_cert", "client_key")}
    return Target(
        url=endpoint,
        protocol=protocol,
        credentials=credentials,
        ssl_context=client_context(**files) if any(files.values()) else None,
        **values,
    )


def _credentials(
    protocol: Protocol,
    *,
    auth_token: str | AccessToken | TokenSource | None,
    api_key: str | AccessToken | TokenSource | None,
) -> Credentials | None:
    if auth_token is not None and api_key is not None:
        msg = "expected auth_token or api_key, got both"
        raise ConfigurationError(msg)
    if api_key is not None:
        return key_credentials(protocol, api_key)
    return None if auth_token is None else BearerToken(auth_token)
