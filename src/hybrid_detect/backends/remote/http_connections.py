"""HTTP/1.1 connections to one endpoint, each with at most one request at a time.

httpcore's pool loses a place for good when a request that waits in it is cancelled in the moment it
is given a connection, and a camera's frames are cancelled all the time. Here nothing waits inside a
library: a request waits for a place, then owns a connection alone. A connection is kept only if its
request ran to its end; every other end, cancellation at any point included, throws it away. So no
state outlives a request that went wrong.

The only module that meets httpcore, whose protocol code carries each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any, SupportsIndex

import httpcore
import httpx

from hybrid_detect.backends.remote.dialling import (
    Dialler,
    connection_error,
    proxy_authorization,
    proxy_refusal,
)
from hybrid_detect.errors import BackendUnavailableError

__all__ = ["HttpConnections"]

KEEPALIVE_EXPIRY_S = 4.0
"""Idle connections are dropped before the server drops them (after 5 s), so that
a frame does not meet a connection that is just being closed."""

MAX_CONNECTIONS = 4
"""A camera has one or two frames under way; the rest is room for retries and checks."""


class HttpConnections(httpx.AsyncBaseTransport):
    """An httpx transport over connections of its own.

    It has no limits of time: the caller limits the whole request, and may cancel it at any
    moment. It keeps no cookies, follows no redirects and reads no environment.

    Args:
        dialler: Connects to the endpoint.
        on_round_trip: Is told the seconds of a round trip that connecting to the server took.
        max_connections: Requests under way at the same time; others wait for a place.
    """

    def __init__(
        self,
        dialler: Dialler,
        *,
        on_round_trip: Callable[[float], object] | None = None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._dialler = dialler
        self._on_round_trip = on_round_trip
        self._places = asyncio.Semaphore(max_connections)
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._closed = False

    @property
    def forwards(self) -> bool:
        """Whether requests go to an HTTP proxy that reads them: plain http is not tunnelled."""
        proxy = self._dialler.proxy
        return proxy is not None and proxy.scheme == "http" and self._dialler.ssl_context is None

    def limit_s(self, usual_s: float) -> float:
        """Seconds that a request may take that does little but cross the network."""
        return self._dialler.limit_s(usual_s)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` once its turn has come.

        Raises:
            BackendError: If there is no connection to be had.
            httpx.TransportError: If the connection broke, or its other end broke HTTP.
        """
        await self._places.acquire()
        connection: _Connection | None = None
        try:
            if self._closed:  # while this one waited
                msg = "the connections were closed"
                raise BackendUnavailableError(msg)
            connection = self._kept() or await self._opened()
            self._busy.add(connection)
            response = await connection.send(
                request, target=self._target(request), headers=self._proxy_headers()
            )
            if response.status == 407 and self._dialler.proxy is not None:
                raise proxy_refusal(self._dialler.proxy, 407)
        except BaseException as error:
            self._leave(connection, is_clean=False)
            if (translated := _translated(error)) is not None:
                raise translated from None
            raise
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(self, connection, response),
        )

    def _target(self, request: httpx.Request) -> bytes:
        # RFC 9112, 3.2: a proxy gets the whole URL, a server the path.
        return str(request.url).encode("ascii") if self.forwards else request.url.raw_path

    def _proxy_headers(self) -> list[tuple[bytes, bytes]]:
        # In a tunnel they are the server's to read, and the proxy has had them before.
        proxy = self._dialler.proxy
        if proxy is None or not self.forwards:
            return []
        authorization = proxy_authorization(proxy)
        return [(b"Proxy-Authorization", authorization.encode())] if authorization else []

    def _kept(self) -> _Connection | None:
        """The connection that was used last, if it is still good."""
        kept = None
        while kept is None and self._idle:
            connection = self._idle.pop()
            if connection.is_good():
                kept = connection
            else:
                connection.abort()
        for connection in [each for each in self._idle if not each.is_good()]:
            self._idle.remove(connection)
            connection.abort()
        return kept

    async def _opened(self) -> _Connection:
        sock = await self._dialler.dial(tunnel=not self.forwards)
        round_trip_s = self._dialler.round_trip_s
        if self._on_round_trip and round_trip_s is not None and self._dialler.proxy is None:
            self._on_round_trip(round_trip_s)
        loop = asyncio.get_running_loop()
        reader = _Reader()
        is_tls = self._dialler.ssl_context is not None
        try:
            transport, protocol = await loop.create_connection(
                lambda: asyncio.StreamReaderProtocol(reader, loop=loop),
                sock=sock,
                ssl=self._dialler.ssl_context,
                server_hostname=self._dialler.host if is_tls else None,
            )
        except OSError as error:
            raise connection_error(error) from None
        stream = _Stream(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        origin = httpcore.Origin(
            b"https" if is_tls else b"http", self._dialler.host.encode("idna"), self._dialler.port
        )
        return _Connection(origin, stream)

    def _leave(self, connection: _Connection | None, *, is_clean: bool) -> None:
        """Give the place back, with its connection only if it can carry another request.

        Not a coroutine: a cancellation cannot come in between.
        """
        self._places.release()
        if connection is None:
            return
        self._busy.discard(connection)
        if is_clean and not self._closed and connection.is_good():
            self._idle.append(connection)
        else:
            connection.abort()

    def recall(self) -> None:
        """Break off the requests under way: bytes that are still here do not leave."""
        for connection in self._busy:
            connection.abort()

    async def aclose(self) -> None:
        """Break all connections off; requests under way fail."""
        self._closed = True
        self._dialler.close()
        for connection in [*self._idle, *self._busy]:
            connection.abort()
        self._idle.clear()


class _Connection:
    """A connection that stands."""

    def __init__(self, origin: httpcore.Origin, stream: _Stream) -> None:
        self._origin = origin
        self._stream = stream
        self._http = httpcore.AsyncHTTP11Connection(
            origin=origin, stream=stream, keepalive_expiry=KEEPALIVE_EXPIRY_S
        )

    async def send(
        self, request: httpx.Request, *, target: bytes, headers: list[tuple[bytes, bytes]]
    ) -> httpcore.Response:
        url = httpcore.URL(
            scheme=self._origin.scheme,
            host=self._origin.host,
            port=self._origin.port,
            target=target,
        )
        assert isinstance(request.stream, httpx.AsyncByteStream)  # noqa: S101 - as httpx does
        return await self._http.handle_async_request(
            httpcore.Request(
                request.method,
                url,
                headers=[*request.headers.raw, *headers],
                content=request.stream,
            )
        )

    def is_good(self) -> bool:
        """Whether another request can be sent over it."""
        return self._http.is_idle() and not self._http.has_expired()

    def abort(self) -> None:
        """Close it at once, and let nothing leave that is still here."""
        self._stream.abort()


class _Body(httpx.AsyncByteStream):
    """A response's body, which gives the connection back when it is closed."""

    def __init__(
        self, owner: HttpConnections, connection: _Connection, response: httpcore.Response
    ) -> None:
        self._owner: HttpConnections | None = owner
        self._connection = connection
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            assert isinstance(self._response.stream, AsyncIterable)  # noqa: S101 - as httpcore does
            async for part in self._response.stream:
                yield part
        except Exception as error:
            if (translated := _translated(error)) is not None:
                raise translated from None
            raise

    async def aclose(self) -> None:
        owner, self._owner = self._owner, None
        if owner is None:
            return
        is_clean = False
        try:
            await self._response.aclose()
            is_clean = True
        finally:
            owner._leave(self._connection, is_clean=is_clean)


class _Reader(asyncio.StreamReader):
    """Remembers whether something came in that was not read, which ends an idle connection."""

    has_unread = False

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self.has_unread = True
        super().feed_data(data)

    async def read(self, n: int = -1) -> bytes:
        data = await super().read(n)
        self.has_unread = len(data) == n  # there may be more
        return data


class _Stream(httpcore.AsyncNetworkStream):
    """What httpcore reads from and writes to. Its limits of time are not used."""

    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        # What has been written is with the system, not in a buffer here. Not 0: asyncio's and
        # uvloop's TLS transports pause at that many bytes, so an empty buffer would pause them, and
        # every second event would find them paused with nothing left to resume them.
        writer.transport.set_write_buffer_limits(high=1)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return await self._reader.read(max_bytes)
        except OSError:
            raise httpcore.ReadError from None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._writer.write(buffer)
            await self._writer.drain()
        except OSError:
            raise httpcore.WriteError from None

    def abort(self) -> None:
        self._writer.transport.abort()

    async def aclose(self) -> None:
        self.abort()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # on an idle connection: it ends, or breaks HTTP
            has_ended = self._reader.at_eof() or self._writer.is_closing()
            return self._reader.has_unread or has_ended
        return self._writer.get_extra_info({"ssl_object": "ssl_object"}.get(info, info))


def _translated(error: BaseException) -> httpx.TransportError | None:
    """The exception of httpx that has the name of httpcore's."""
    for cls in type(error).__mro__:
        if cls.__module__.partition(".")[0] == "httpcore":
            found = getattr(httpx, cls.__name__, None)
            if isinstance(found, type) and issubclass(found, httpx.TransportError):
                return found(str(error))
    return None
