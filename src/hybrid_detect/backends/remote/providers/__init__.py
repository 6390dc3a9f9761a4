"""The protocols of detection servers, a file each. Pure: no I/O."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from hybrid_detect.backends.remote.protocol import Protocol
from hybrid_detect.errors import ConfigurationError

__all__ = ["PROVIDERS", "protocol_of"]

PROVIDERS = {
    "custom_backend": ("custom", "CustomProtocol"),
    "json_endpoint": ("json_endpoint", "JsonEndpoint"),
}
"""Module and class of each provider that configuration can name; loaded when it is."""


def protocol_of(provider: str | Protocol, options: Mapping[str, Any] | None = None) -> Protocol:
    """The protocol of `provider`.

    Args:
        provider: A name of `PROVIDERS`, or a protocol of your own.
        options: The provider's own settings, where it is given by name.

    Raises:
        ConfigurationError: If there is none of that name, or an option cannot be used.
    """
    if not isinstance(provider, str):
        if options or not all(hasattr(provider, name) for name in _METHODS):
            msg = f"provider: expected a name or a Protocol, got {type(provider).__name__}"
            if options:
                msg = "provider_options: expected none with a protocol that is made already"
            raise ConfigurationError(msg)
        return provider
    if provider not in PROVIDERS:
        msg = f"provider: expected one of {', '.join(PROVIDERS)}, got {provider!r}"
        raise ConfigurationError(msg)
    module, name = PROVIDERS[provider]
    made: Protocol = getattr(importlib.import_module(f"{__name__}.{module}"), name).from_options(
        options or {}
    )
    return made


_METHODS = ("name", "capabilities", "encode", "decode", "health")
