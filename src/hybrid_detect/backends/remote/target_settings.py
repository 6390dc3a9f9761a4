"""A target as configuration spells it: plain settings become a `Target`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from hybrid_detect.backends.remote.provider_access import credentials_for, protocol_for
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.backends.remote.tls import client_context
from hybrid_detect.destination import same_name
from hybrid_detect.errors import ConfigurationError

__all__ = ["TARGET_SETTINGS", "target_of"]

TARGET_SETTINGS = (
    "allow_insecure_http",
    "api_key",
    "auth_token",
    "ca_file",
    "client_cert",
    "client_key",
    "credentials",
    "currency",
    "endpoint",
    "name",
    "preference",
    "price_per_frame",
    "provider",
    "provider_options",
    "region",
)
"""What configuration can say of a target. All may be left out, but `endpoint` only with a provider
that has a public address."""


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
    protocol = protocol_for(
        values.pop("provider", "custom_backend"),
        values.pop("provider_options", None),
        region=values.get("region", ""),
    )
    endpoint = values.pop("endpoint", None)
    if endpoint is None:
        endpoint = getattr(protocol, "url", None)
    if not isinstance(endpoint, str):
        msg = (
            "expected endpoint, the URL of your detection server, or targets that have one: "
            f"{protocol.name} has no public address"
        )
        raise ConfigurationError(msg)
    credentials = credentials_for(
        protocol,
        auth_token=values.pop("auth_token", None),
        api_key=values.pop("api_key", None),
        credentials=values.pop("credentials", None),
    )
    values["region"] = _region(values.get("region", ""), getattr(protocol, "region", ""))
    if protocol.name == "aws":
        _require_same_region(endpoint, values["region"])
    files = {name: values.pop(name, None) for name in ("ca_file", "client_cert", "client_key")}
    return Target(
        url=endpoint,
        protocol=protocol,
        credentials=credentials,
        ssl_context=client_context(**files) if any(files.values()) else None,
        **values,
    )


def _region(stated: str, own: str) -> str:
    """The region that rules are held to: the one where the provider is really asked."""
    if stated and own and same_name(stated) != same_name(own):
        msg = f"region: {stated!r} is stated, and the provider is asked in {own!r}"
        raise ConfigurationError(msg)
    return own or stated


_HOSTS_WITH_REGION = (".amazonaws.com", ".api.aws")
"""Hosts of AWS, one part of whose name is their region."""


def _require_same_region(endpoint: str, region: str) -> None:
    """Refuse an address of AWS in another region: it says no once it has the picture."""
    try:
        host = (urlsplit(endpoint).hostname or "").rstrip(".")
    except ValueError:
        return  # the target tells what is wrong with it
    if host.endswith(_HOSTS_WITH_REGION) and region not in host.split("."):
        msg = f"endpoint: {host} is not in the region {region!r}, for which requests are signed"
        raise ConfigurationError(msg)
