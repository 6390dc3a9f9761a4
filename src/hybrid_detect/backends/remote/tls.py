"""TLS of the remote backends: the CAs to believe, the certificate to show, and what went wrong."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Never

import certifi

from hybrid_detect.errors import ConfigurationError

__all__ = ["certificate_trouble", "client_context"]

_TROUBLE = {
    9: "the server's certificate is not valid yet by this device's clock",
    10: "the server's certificate has expired by this device's clock",
    18: "the server's certificate is signed by itself: give its CA as ca_file",
    19: "the server's certificate is of a CA that is not known here: give it as ca_file",
    20: "the server's certificate is of a CA that is not known here: give it as ca_file",
    62: "the server's certificate is for another host name",
    64: "the server's certificate is for another IP address",
}
"""Source: OpenSSL, ``X509_V_ERR_*`` in ``x509_vfy.h``."""

_OF_TIME = frozenset({9, 10})
"""Trouble that a wrong clock makes as well: a Raspberry Pi has none that runs without power."""

_CERTIFICATE_ALERTS = (
    "CERTIFICATE_REQUIRED",
    "BAD_CERTIFICATE",
    "UNKNOWN_CA",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "HANDSHAKE_FAILURE",
)
"""How a server that asks for a certificate refuses one, or none. Source: RFC 8446, 6.2."""


def client_context(
    *,
    ca_file: Path | str | None = None,
    client_cert: Path | str | None = None,
    client_key: Path | str | None = None,
) -> ssl.SSLContext:
    """What both transports connect with: TLS 1.2 or newer, certificate and name checked.

    The CAs are the system's, with what a company or a user added to them; certifi's where the
    system has none at all, as slim containers do.

    Args:
        ca_file: The only CA to believe; `None` for the system's.
        client_cert: The certificate for a server that asks for one; with `client_key`.
        client_key: Its private key, not encrypted.

    Raises:
        ConfigurationError: If a file cannot be used, or one of certificate and key is missing.
    """
    if (client_cert is None) != (client_key is None):
        msg = "client_cert and client_key: expected both or neither"
        raise ConfigurationError(msg)
    named = "ca_file"
    if ca_file is None and (ca_file := os.environ.get("SSL_CERT_FILE")) is not None:
        named = (
            "SSL_CERT_FILE"  # OpenSSL passes an unreadable file over, and then trusts no CA at all
        )
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if ca_file is None and not _system_has_cas(context):
            context.load_verify_locations(certifi.where())
    except (OSError, ValueError):
        msg = f"{named}: cannot read certificates in PEM form from {ca_file}"
        raise ConfigurationError(msg) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: older ones must not be used
    if client_cert is not None:
        try:
            context.load_cert_chain(client_cert, client_key, password=_no_password)
        except (OSError, ValueError):
            msg = (
                f"client_cert and client_key: cannot use {client_cert} with {client_key}; expected "
                "PEM files that belong together, the key not encrypted"
            )
            raise ConfigurationError(msg) from None
    return context


def _system_has_cas(context: ssl.SSLContext) -> bool:
    paths = ssl.get_default_verify_paths()
    # A folder's certificates are read when they are needed, so that the context counts none.
    in_folder = paths.capath is not None and any(Path(paths.capath).iterdir())
    return in_folder or context.cert_store_stats()["x509_ca"] > 0


def certificate_trouble(error: BaseException | None) -> str | None:
    """What is wrong with a certificate, if that is what `error` or a cause of it is about.

    Trying again does not help then; what may be cured by itself, a clock that is set, is found out
    by the service's checks.
    """
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            code = error.verify_code
            trouble = _TROUBLE.get(code, "the server's certificate cannot be verified")
            return (
                f"{trouble} ({datetime.now(UTC):%Y-%m-%d %H:%M} UTC)"
                if code in _OF_TIME
                else trouble
            )
        if isinstance(error, ssl.SSLError) and any(
            alert in (error.reason or "") for alert in _CERTIFICATE_ALERTS
        ):
            return "the server broke TLS off: it asks for a client certificate or refuses this one"
        error = error.__cause__ or error.__context__
    return None


def _no_password() -> Never:
    # Without this, OpenSSL would wait for a password at the terminal.
    msg = "the key is encrypted"
    raise ValueError(msg)
