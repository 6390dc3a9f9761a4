"""TLS of the server: its certificate, and the CA of its clients' certificates."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Never

from hybrid_detect.errors import ConfigurationError

__all__ = ["TlsConfig", "server_context"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Files in PEM form, read once, at start."""

    cert: Path
    """The server's certificate, and after it those between it and its CA."""
    key: Path
    """The certificate's private key, not encrypted: readable by the server's user alone."""
    client_ca: Path | None = None
    """The CA that every client's certificate must come from (mTLS); `None` asks for none."""


def server_context(config: TlsConfig) -> ssl.SSLContext:
    """The context that connections are accepted with: TLS 1.2 or newer.

    Raises:
        ConfigurationError: If a file cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: older ones must not be used
    try:
        context.load_cert_chain(config.cert, config.key, password=_no_password)
    except (OSError, ValueError) as exc:
        msg = f"cannot use the certificate {config.cert} with the key {config.key}: {_why(exc)}"
        raise ConfigurationError(msg) from None
    if config.client_ca is not None:
        try:
            context.load_verify_locations(config.client_ca)
        except (OSError, ValueError) as exc:
            msg = f"cannot use the client CA {config.client_ca}: {_why(exc)}"
            raise ConfigurationError(msg) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_password() -> Never:
    # Without this, OpenSSL would wait for a person to type the password.
    msg = "the key is encrypted"
    raise ValueError(msg)


def _why(error: Exception) -> str:
    """The reason of a failure, without any of the file's content."""
    if isinstance(error, ssl.SSLError):
        return error.reason or "they are not PEM files that belong together"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)
