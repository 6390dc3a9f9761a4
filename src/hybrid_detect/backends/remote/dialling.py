"""Connected sockets for both transports: straight to the endpoint, or through its proxy.

TLS comes after: the transport starts it on the socket that it gets here, with the endpoint's name.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import socket
import ssl
import sys
from concurrent.futures import Executor
from typing import Self
from urllib.parse import urlsplit

import h11

from hybrid_detect.backends.remote.addresses import Resolver, connect_first
from hybrid_detect.backends.remote.proxies import HTTP_PORTS, Proxy, proxy_for, system_settings
from hybrid_detect.backends.remote.tls import certificate_trouble, client_context
from hybrid_detect.endpoint import Endpoint
from hybrid_detect.errors import BackendError, BackendResponseError, BackendUnavailableError

__all__ = ["Dialler", "connection_error", "proxy_authorization", "proxy_refusal"]

NOT_SENT_BYTES = 16 * 1024
"""What the system may hold that it has not sent: enough to fill every gap, a fifth of a frame."""

OPENING_ROUND_TRIPS = 6.0
"""One for TCP, two for TLS 1.2, one for the request, and half as many again for what varies."""

LONGEST_LIMIT_S = 15.0
"""A network that needs more for this is of no use for a camera."""

MAX_HEAD_BYTES = 16 * 1024
"""The most a proxy's answer may take: what browsers and h11 allow a response's head."""

_SOCKS_REFUSALS = {
    2: "does not allow this connection",
    3: "cannot reach the server's network",
    4: "cannot reach the server",
    5: "was refused by the server",
}
"""Source: RFC 1928, 6."""


class Dialler:
    """Connects to one endpoint.

    Args:
        endpoint: The server's address.
        proxy: What stands in between; `None` for nothing.
        ssl_context: For an endpoint with https; `None` for plain http.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        proxy: Proxy | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(endpoint.url)
        self.host = endpoint.host
        self.port = parts.port or HTTP_PORTS[parts.scheme]
        self.proxy = proxy
        self.ssl_context = ssl_context
        self.round_trip_s: float | None = None
        """Seconds that the last connection took to be made, to the server or to its proxy; `None`
        if the last attempt failed."""
        self._resolver = Resolver()

    @classmethod
    async def create(
        cls, endpoint: Endpoint, *, ssl_context: ssl.SSLContext | None, executor: Executor
    ) -> Self:
        """A dialler by the settings of this process.

        Args:
            endpoint: The server's address.
            ssl_context: What to connect with over https; `None` to believe the system's CAs.
            executor: Reads them: 10 ms and more that the event loop should not stand still.

        Raises:
            ConfigurationError: If a proxy or certificate setting that applies is unusable.
        """
        proxy = proxy_for(endpoint, system_settings())
        if not endpoint.url.startswith("https:"):
            return cls(endpoint, proxy=proxy)
        if ssl_context is None:
            loop = asyncio.get_running_loop()
            ssl_context = await loop.run_in_executor(executor, client_context)
        return cls(endpoint, proxy=proxy, ssl_context=ssl_context)

    async def dial(self, *, tunnel: bool = True) -> socket.socket:
        """A socket at whose other end the server is.

        Args:
            tunnel: Whether an HTTP proxy is asked for a tunnel; without, the socket ends at the
                proxy, for requests that name their server themselves.

        Raises:
            BackendError: If there is none.
        """
        proxy = self.proxy
        try:
            if proxy is None:
                return await self._connect(self.host, self.port)
            sock = await self._connect(proxy.host, proxy.port)
        except (OSError, UnicodeError) as error:
            raise connection_error(error, proxy) from None
        try:
            if proxy.scheme == "socks5":
                await _open_socks(sock, proxy, self.host, self.port)
            elif tunnel:
                await _open_tunnel(sock, proxy, self.host, self.port)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError | h11.ProtocolError):
                raise _no_proxy(proxy, "broke the connection off") from None
            if isinstance(error, UnicodeError):
                raise connection_error(error) from None
            raise
        return sock

    def close(self) -> None:
        """Wait no longer for look-ups that hang."""
        self._resolver.close()

    def limit_s(self, usual_s: float) -> float:
        """Seconds that opening a connection and one answer may take.

        A fixed limit rules slow but living networks out: over a satellite with a round trip of
        1.6 s, TCP, TLS and one request take more than 6 s. It follows a round trip that was seen
        alone: while nothing answers, a longer limit would only delay the next attempt.

        Args:
            usual_s: What is enough on most networks; never less.
        """
        return max(usual_s, min(OPENING_ROUND_TRIPS * (self.round_trip_s or 0.0), LONGEST_LIMIT_S))

    async def _connect(self, host: str, port: int) -> socket.socket:
        self.round_trip_s = None
        addresses = await self._resolver.find(host, port)
        sock, self.round_trip_s = await connect_first(addresses)
        _keep_queue_short(sock)
        return sock


def _keep_queue_short(sock: socket.socket) -> None:
    """Have the system hold little more than what is on its way.

    Otherwise it takes megabytes into its buffer, and over a slow link a frame waits there behind
    others that are of no use any more, while it counts as sent.
    """
    # Linux and macOS; Python names it from 3.12 on, and Linux's number is 25.
    option = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
    if option is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, NOT_SENT_BYTES)


def connection_error(error: Exception, proxy: Proxy | None = None) -> BackendError:
    """What it means that connecting, or TLS, failed with `error`."""
    if (trouble := certificate_trouble(error)) is not None:
        return BackendUnavailableError(trouble)
    if isinstance(error, UnicodeError):
        return BackendUnavailableError("the endpoint's host is not a name")
    if proxy is not None and not isinstance(error, ssl.SSLError):
        if isinstance(error, socket.gaierror):
            return _no_proxy(proxy, "has a host whose name cannot be looked up")
        return _no_proxy(proxy, "could not be reached")
    if isinstance(error, socket.gaierror):
        text = "the endpoint's host name cannot be looked up"
    elif isinstance(error, ssl.SSLError):
        text = "TLS with the server failed"
    else:
        text = "the server could not be reached"
    return BackendUnavailableError(text, retryable=True)


def proxy_refusal(proxy: Proxy, status: int) -> BackendError:
    """What a proxy's own HTTP status means."""
    if status == 407:
        given = "does not accept this user and password" if proxy.username else "asks for a user"
        msg = f"the proxy of {proxy.variable} {given} (status 407)"
        return BackendResponseError(msg, status_code=status, by_server=False)
    return _no_proxy(proxy, f"refuses to connect to the server (status {status})")


def _no_proxy(proxy: Proxy, what: str) -> BackendError:
    return BackendUnavailableError(f"the proxy of {proxy.variable} {what}", retryable=True)


def proxy_authorization(proxy: Proxy) -> str | None:
    """The value of ``Proxy-Authorization``; `None` without credentials. Source: RFC 7617."""
    if proxy.username is None:
        return None
    pair = f"{proxy.username}:{proxy.password or ''}".encode()
    return f"Basic {base64.b64encode(pair).decode('ascii')}"


async def _open_tunnel(sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Have an HTTP proxy connect `sock` to `host`. Source: RFC 9110, 9.3.6."""
    loop = asyncio.get_running_loop()
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    headers = [("Host", target), ("User-Agent", "hybrid-detect")]
    if (authorization := proxy_authorization(proxy)) is not None:
        headers.append(("Proxy-Authorization", authorization))
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    request = h11.Request(method="CONNECT", target=target, headers=headers)
    await loop.sock_sendall(sock, http.send(request) or b"")
    await loop.sock_sendall(sock, http.send(h11.EndOfMessage()) or b"")
    while not isinstance(event := http.next_event(), h11.Response):
        if event is h11.NEED_DATA:
            http.receive_data(await loop.sock_recv(sock, MAX_HEAD_BYTES))
        elif not isinstance(event, h11.InformationalResponse):
            raise _no_proxy(proxy, "broke the connection off")
    if not 200 <= event.status_code < 300:
        raise proxy_refusal(proxy, event.status_code)
    if http.trailing_data[0]:
        # The server has not been spoken to, so that these are no words of its.
        raise _no_proxy(proxy, "broke HTTP")


async def _open_socks(sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Have a SOCKS proxy connect `sock` to `host`, whose name it looks up. Source: RFC 1928."""
    loop = asyncio.get_running_loop()
    has_user = proxy.username is not None
    await loop.sock_sendall(sock, b"\x05\x02\x00\x02" if has_user else b"\x05\x01\x00")
    version, method = await _exactly(sock, 2)
    if version != 5:
        raise _no_proxy(proxy, "does not speak SOCKS 5")
    if method == 2 and has_user:
        user = (proxy.username or "").encode()[:255]
        password = (proxy.password or "").encode()[:255]
        words = bytes([1, len(user)]) + user + bytes([len(password)]) + password
        await loop.sock_sendall(sock, words)  # RFC 1929
        if (await _exactly(sock, 2))[1] != 0:
            raise proxy_refusal(proxy, 407)
    elif method != 0:
        raise proxy_refusal(proxy, 407)
    await loop.sock_sendall(sock, b"\x05\x01\x00" + _socks_host(host) + port.to_bytes(2, "big"))
    _, reply, _, kind = await _exactly(sock, 4)
    if reply != 0:
        raise _no_proxy(proxy, _SOCKS_REFUSALS.get(reply, f"failed (SOCKS reply {reply})"))
    # Where the proxy's own socket is bound is of no use here.
    lengths = {1: 4, 4: 16}
    await _exactly(sock, (lengths.get(kind) or (await _exactly(sock, 1))[0]) + 2)


def _socks_host(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna")
        return bytes([3, len(name)]) + name
    return (b"\x01" if address.version == 4 else b"\x04") + address.packed


async def _exactly(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count:
        if not (part := await loop.sock_recv(sock, count - len(data))):
            raise ConnectionResetError
        data += part
    return data
