"""How a provider is reached: its protocol, and the credentials it takes."""

from __future__ import annotations

import os
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
from hybrid_detect.errors import ConfigurationError, MissingExtraError

__all__ = ["credentials_for", "protocol_for"]


def protocol_for(
    provider: str | Protocol, options: Mapping[str, Any] | None, *, region: str = ""
) -> Protocol:
    """The protocol of `provider`.

    Args:
        provider: A name, or a protocol that is made already.
        options: The provider's own settings, where it is given by name.
        region: Where it is to process pictures; for AWS the region of the request itself, which
            comes from the environment if neither this nor an option says it.

    Raises:
        ConfigurationError: If one of them cannot be used.
    """
    options = dict(options or {})
    if provider == "aws" and "region" not in options:
        options["region"] = region or _aws_region()
    return protocol_of(provider, options)


def _aws_region() -> str:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        if region := os.environ.get(name):
            return region
    msg = "provider_options: aws needs 'region', or AWS_REGION in the environment"
    raise ConfigurationError(msg)


def credentials_for(
    protocol: Protocol,
    *,
    auth_token: str | AccessToken | TokenSource | None = None,
    api_key: str | AccessToken | TokenSource | None = None,
    credentials: Any = None,
) -> Credentials | None:
    """The credentials for `protocol`; `None` if it is asked without.

    Args:
        protocol: The protocol.
        auth_token: A bearer token, or a function that gives it.
        api_key: A key, or a function that gives it.
        credentials: What else the provider takes, or an object that signs requests itself.

    Raises:
        ConfigurationError: If there are two of them, or the provider takes another kind.
    """
    given = {"auth_token": auth_token, "api_key": api_key, "credentials": credentials}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        msg = f"expected one of auth_token, api_key and credentials, got {' and '.join(names)}"
        raise ConfigurationError(msg)
    if all(hasattr(credentials, name) for name in ("prepare", "apply", "on_refused")):
        made: Credentials = credentials
        return made
    if protocol.name == "aws":
        return _aws(protocol, names, credentials)
    if api_key is not None:
        return key_credentials(protocol, api_key)
    if auth_token is not None:
        return BearerToken(auth_token)
    if protocol.name == "google":
        return _google(credentials)
    if credentials is not None:
        msg = f"credentials: {protocol.name} takes auth_token, api_key or a Credentials object"
        raise ConfigurationError(msg)
    return None


def _aws(protocol: Protocol, names: list[str], keys: Any) -> Credentials:
    from hybrid_detect.backends.remote.aws_credentials import AwsCredentials

    if names not in ([], ["credentials"]):
        msg = f"{names[0]}: aws signs requests; give credentials=AwsKeys(...) or a function"
        raise ConfigurationError(msg)
    return AwsCredentials(keys, region=protocol.region)  # type: ignore[attr-defined]


def _google(found: Any) -> Credentials:
    from hybrid_detect.backends.remote.google_credentials import GoogleCredentials

    try:
        return GoogleCredentials(found)
    except MissingExtraError as error:
        msg = f"google: give api_key or auth_token; without, {error}"
        raise MissingExtraError(msg, extra=error.extra) from None
