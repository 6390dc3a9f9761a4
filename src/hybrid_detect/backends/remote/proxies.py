"""Which proxy stands between this device and an endpoint: one reading of the settings for all.

httpx, websockets and urllib each read ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` in their own
manner, so that a backend worked or failed by the library it was built on. Both transports ask
here. Pure, except that `system_settings` reads the process's environment.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from hybrid_detect.endpoint import Endpoint
from hybrid_detect.errors import ConfigurationError

__all__ = ["Proxy", "is_excepted", "proxy_for", "system_settings"]

DEFAULT_PORTS = {"http": 80, "socks5": 1080, "socks5h": 1080}
"""Ports of proxies without one, as in curl's manual, ``--proxy`` (which takes 1080 for all)."""

HTTP_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy, as one setting names it. The credentials are kept out of the repr."""

    variable: str
    """The setting that named it, for messages: ``HTTPS_PROXY``."""
    scheme: str
    """``http``, or ``socks5`` for both of SOCKS's spellings: host names are looked up there."""
    host: str
    port: int
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, variable: str, text: str) -> Self:
        """Read a proxy's URL; ``host:port`` alone stands for ``http://host:port``.

        Args:
            variable: The setting that holds `text`, for the error.
            text: Such as ``http://user:password@proxy.example.com:3128``.

        Raises:
            ConfigurationError: If it cannot be read. `text` is not repeated: there may be a
                password in it.
        """
        expected = "expected http://host:port or socks5://host:port"
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            port = parts.port
        except ValueError:
            msg = f"{variable}: {expected}, got an address that cannot be read"
            raise ConfigurationError(msg) from None
        scheme = "socks5" if parts.scheme == "socks" else parts.scheme
        if scheme not in DEFAULT_PORTS:
            msg = f"{variable}: {expected}, got scheme {parts.scheme!r}"
            raise ConfigurationError(msg)
        if not parts.hostname:
            msg = f"{variable}: {expected}, got no host"
            raise ConfigurationError(msg)
        return cls(
            variable=variable,
            scheme="socks5" if scheme == "socks5h" else scheme,
            host=parts.hostname,
            port=port or DEFAULT_PORTS[scheme],
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
        )


def system_settings() -> Mapping[str, str]:
    """The settings of this process: its environment, else what macOS or Windows are set to."""
    settings = dict(os.environ)
    if sys.platform in {"darwin", "win32"} and not any(
        name.lower().endswith("_proxy") for name in settings
    ):
        settings |= {f"{name}_proxy": url for name, url in urllib.request.getproxies().items()}
    return settings


def proxy_for(
    endpoint: Endpoint,
    settings: Mapping[str, str],
    *,
    bypass: Callable[[str], object] = urllib.request.proxy_bypass,
) -> Proxy | None:
    """The proxy that requests to `endpoint` go through; `None` for none.

    ``HTTPS_PROXY`` or ``HTTP_PROXY``, by the endpoint's scheme, then ``ALL_PROXY``; in lower case
    first, as in curl. An empty value means no proxy. This machine itself is never reached through
    a proxy: plain http is meant to stay on it.

    Args:
        endpoint: The server's address. Its stream has the same proxy.
        settings: The environment's variables.
        bypass: Asked on macOS and Windows, whose exceptions are no variable.

    Raises:
        ConfigurationError: If the setting that applies cannot be read.
    """
    if endpoint.is_local:
        return None
    scheme = urlsplit(endpoint.url).scheme
    for name in (f"{scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            if variable == "HTTP_PROXY" and "REQUEST_METHOD" in settings:
                continue  # in a CGI script it is a request's header: https://httpoxy.org
            if (text := settings.get(variable)) is None:
                continue
            port = urlsplit(endpoint.url).port or HTTP_PORTS[scheme]
            exceptions = settings.get("no_proxy", settings.get("NO_PROXY", ""))
            if not text.strip() or is_excepted(endpoint.host, port, exceptions):
                return None
            if sys.platform in {"darwin", "win32"} and bypass(endpoint.host):
                return None
            return Proxy.parse(variable, text.strip())
    return None


def is_excepted(host: str, port: int, exceptions: str) -> bool:
    """Whether ``NO_PROXY`` names `host`. Entries that cannot be read are passed over.

    An entry is ``*``, a domain (with or without a leading dot or ``*.``; its subdomains are meant
    too), an address, or a network such as ``10.0.0.0/8`` and ``fd00::/8``. A port at its end limits
    it to that port; an IPv6 address with one stands in brackets.

    Args:
        host: A name or an address, an IPv6 one without brackets.
        port: The endpoint's.
        exceptions: The value of ``NO_PROXY``, its entries parted by commas or blanks.

    Source: GitLab, "We need to talk: can we standardize NO_PROXY?", for what programs agree on.
    """
    address = _address(host)
    name = host.lower().rstrip(".")
    for entry in re.split(r"[,\s]+", exceptions.lower()):
        if entry == "*":
            return True
        rest, entry_port = _without_port(entry)
        if not rest or entry_port not in {None, port}:
            continue
        if address is None:
            domain = rest.removeprefix("*").lstrip(".").rstrip(".")
            if domain and (name == domain or name.endswith(f".{domain}")):
                return True
            continue
        try:
            # A network of the other family contains nothing of this one.
            if address in ipaddress.ip_network(rest, strict=False):
                return True
        except ValueError:
            continue
    return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _without_port(entry: str) -> tuple[str, int | None]:
    """An entry's host or network, and its port; an empty host for what cannot be read."""
    if match := re.fullmatch(r"\[([^\]]*)\](?::(\d+))?", entry):
        return match[1], int(match[2]) if match[2] else None
    host, colon, port = entry.rpartition(":")
    if not colon or ":" in host:  # without a port, or an IPv6 address without brackets
        return entry, None
    return (host, int(port)) if port.isdecimal() else ("", None)
