"""The address of a detection server, checked."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from hybrid_detect.errors import ConfigurationError

__all__ = ["Endpoint"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a detection server, such as ``https://faces.example.com``.

    The two remote backends share it: HTTP requests go to ``<url>/v1/detect``, the stream to
    ``<url>/v1/stream`` with ``http`` replaced by ``ws``.
    """

    url: str

    @classmethod
    def parse(cls, text: str, *, allow_insecure_http: bool = False) -> Self:
        """Check `text` and drop its trailing slash.

        Args:
            text: Absolute URL with scheme ``https`` (or ``http``), without user, query or fragment.
            allow_insecure_http: Whether plain ``http`` may go to a host other than this machine.

        Raises:
            ConfigurationError: If it is not such a URL, or would send pictures in the clear.
        """
        try:
            parts = urlsplit(text)
            port = parts.port  # raises ValueError for a port that is none
        except ValueError:
            # Its message repeats parts of the text, and there may be a password in it.
            msg = "expected an endpoint like 'https://host[:port]', got an unreadable URL"
            raise ConfigurationError(msg) from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            msg = f"expected an endpoint like 'https://host[:port]', got scheme {parts.scheme!r}"
            raise ConfigurationError(msg)
        if parts.username or parts.password or parts.query or parts.fragment:
            # A key in a URL ends up in proxies' and servers' logs.
            msg = "the endpoint may not carry a user, query or fragment; pass auth_token= instead"
            raise ConfigurationError(msg)
        if parts.scheme == "http" and not allow_insecure_http and not _is_loopback(parts.hostname):
            msg = (
                f"refusing to send pictures in the clear to {parts.hostname!r}: use https, "
                "or pass allow_insecure_http=True if that network is yours"
            )
            raise ConfigurationError(msg)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        netloc = host if port is None else f"{host}:{port}"
        return cls(f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}")

    @property
    def host(self) -> str:
        """Its host's name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, where no proxy may come between."""
        return _is_loopback(self.host)

    def http(self, path: str) -> str:
        """The HTTP URL of `path`, which starts with a slash."""
        return self.url + path

    def websocket(self, path: str) -> str:
        """The WebSocket URL of `path`, which starts with a slash."""
        return "ws" + self.url.removeprefix("http") + path


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
