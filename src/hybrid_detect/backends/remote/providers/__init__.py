"""The protocols of detection servers, a file each. Pure: no I/O but the look for entry points.

A provider of another distribution registers itself by an entry point, and is then reached by name
like those that come with the library::

    [project.entry-points."hybrid_detect.providers"]
    acme = "acme_faces:AcmeProtocol"

The class has a classmethod ``from_options(options)`` that makes it from configuration.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from hybrid_detect.backends.remote.protocol import Capabilities, Protocol
from hybrid_detect.errors import ConfigurationError

__all__ = ["ENTRY_POINT_GROUP", "PROVIDERS", "capabilities_of", "protocol_of", "provider_names"]

PROVIDERS = {
    "custom_backend": ("custom", "CustomProtocol"),
    "json_endpoint": ("json_endpoint", "JsonEndpoint"),
    "aws": ("aws", "AwsRekognition"),
    "azure": ("azure", "AzureFace"),
    "google": ("google", "GoogleVision"),
    "kserve": ("kserve", "KServe"),
    "compreface": ("compreface", "CompreFace"),
    "codeproject": ("codeproject", "CodeProjectAI"),
    "deepstack": ("codeproject", "DeepStack"),
    "roboflow": ("roboflow", "Roboflow"),
}
"""Module and class of each provider that comes with the library; loaded when it is named."""

ENTRY_POINT_GROUP = "hybrid_detect.providers"
"""The group of entry points that other distributions register providers in."""


def provider_names() -> tuple[str, ...]:
    """The names that a configuration can give: ours and those of installed packages."""
    found = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    return (*PROVIDERS, *sorted(found - set(PROVIDERS)))


def capabilities_of(name: str) -> Capabilities:
    """The facts of one of the library's own `PROVIDERS`, as it is without options."""
    found: Capabilities = _class_of(name).capabilities
    return found


def protocol_of(provider: str | Protocol, options: Mapping[str, Any] | None = None) -> Protocol:
    """The protocol of `provider`.

    Args:
        provider: A name of `provider_names`, or a protocol of your own. A name of the library's own
            cannot be taken by an entry point.
        options: The provider's own settings, where it is given by name.

    Raises:
        ConfigurationError: If there is none of that name, it cannot be loaded, or an option cannot
            be used.
    """
    if not isinstance(provider, str):
        if options:
            msg = "provider_options: expected none with a protocol that is made already"
            raise ConfigurationError(msg)
        return _checked(provider, "provider: expected a name or a Protocol")
    made = _class_of(provider).from_options(options or {})
    return _checked(made, f"provider {provider!r}: expected from_options to make a Protocol")


def _class_of(provider: str) -> Any:
    if provider in PROVIDERS:
        module, name = PROVIDERS[provider]
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    for point in entry_points(group=ENTRY_POINT_GROUP, name=provider):
        try:
            found = point.load()
        except Exception as exc:
            msg = f"provider {provider!r}: {point.value} cannot be loaded ({type(exc).__name__})"
            raise ConfigurationError(msg) from exc
        if not callable(getattr(found, "from_options", None)):
            msg = f"provider {provider!r}: expected {point.value} to have from_options"
            raise ConfigurationError(msg)
        return found
    msg = f"provider: expected one of {', '.join(provider_names())}, got {provider!r}"
    raise ConfigurationError(msg)


def _checked(made: Any, expected: str) -> Protocol:
    if all(hasattr(made, name) for name in _METHODS):
        protocol: Protocol = made
        return protocol
    msg = f"{expected}, got {type(made).__name__}"
    raise ConfigurationError(msg)


_METHODS = ("name", "capabilities", "encode", "decode", "health")
