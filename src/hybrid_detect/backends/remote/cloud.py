"""The cloud backend: one HTTP request for each frame.

With `http_connections` the only module that meets httpx.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from functools import lru_cache, partial
from typing import Any, Self, TypeAlias

import httpx

from hybrid_detect.backends.base import CHECK_DEADLINE_S
from hybrid_detect.backends.remote.credentials import AccessToken, TokenSource
from hybrid_detect.backends.remote.dialling import Dialler
from hybrid_detect.backends.remote.http_connections import HttpConnections
from hybrid_detect.backends.remote.link_meter import Upload
from hybrid_detect.backends.remote.protocol import HttpRequest, HttpResponse, Protocol
from hybrid_detect.backends.remote.remote_backend import MAX_REPLY_BYTES, RemoteBackend
from hybrid_detect.backends.remote.retry_after import retry_after_s
from hybrid_detect.backends.remote.target_settings import target_of
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    ConfigurationError,
    ProtocolError,
)
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.types import BackendKind

__all__ = ["CloudDetectionService"]

MORE_REPLY_BYTES = 512 * 1024
"""Added to `MAX_REPLY_BYTES` for each further picture of a request: Google writes 310 KB about one
with 100 faces."""

_HEADERS = {
    # Replies are small; refusing compression rules out decompression bombs.
    "Accept-Encoding": "identity",
    "User-Agent": "hybrid-detect",
}

# httpx's exceptions and whether sending the frame again could help; the most specific class
# wins. A test walks httpx's exports, so that a new exception cannot slip through.
_UNAVAILABLE: dict[type[Exception], tuple[str, bool]] = {
    httpx.ConnectError: ("the server could not be reached", True),
    httpx.ReadError: ("the connection broke while waiting for the answer", True),
    httpx.WriteError: ("the connection broke while sending", True),
    httpx.CloseError: ("the connection broke while closing", True),
    httpx.NetworkError: ("the network failed", True),
    httpx.RemoteProtocolError: ("the server closed the connection or broke HTTP", True),
    httpx.ProxyError: ("the proxy refused or failed", True),
    httpx.PoolTimeout: ("no free connection", True),
    httpx.ConnectTimeout: ("connecting took too long", True),
    httpx.WriteTimeout: ("sending took too long", True),
    httpx.ReadTimeout: ("the answer took too long", True),
    httpx.TimeoutException: ("the request took too long", True),
    httpx.TransportError: ("the request could not be carried", True),
    httpx.UnsupportedProtocol: ("the endpoint's scheme is not supported", False),
    httpx.LocalProtocolError: ("the request breaks HTTP", False),
    httpx.ProtocolError: ("HTTP was broken", False),
    httpx.DecodingError: ("the answer could not be decoded", False),
    httpx.TooManyRedirects: ("the server redirects", False),
    httpx.RequestError: ("the request failed", False),
    httpx.StreamError: ("the answer could not be read", False),
    httpx.InvalidURL: ("the endpoint is not a URL", False),
}


_Way: TypeAlias = tuple[str, bytes, object]
"""Scheme, host with port, and TLS settings."""


class CloudDetectionService(RemoteBackend):
    """Detects faces by sending each frame to a server.

    Args:
        provider: Whose protocol to speak: ``custom_backend`` is this project's own server,
            ``json_endpoint`` any that answers in JSON, ``google``, ``aws`` and so on; or a
            `Protocol` of your own.
        endpoint: The server's URL, such as ``https://faces.example.com``; `None` for the public
            address of a provider that has one.
        provider_options: The provider's own settings, where it is given by name.
        region: Where it processes pictures, such as ``eu-west-1``; empty if it does not say.
        targets: Several servers that stand in for each other, instead of all of the above: each a
            `Target`, or a mapping of its settings.
        allowed_providers: The providers that may get a picture; `None` for all of the targets'. A
            target of another one is left out: not even its health is asked for.
        allowed_regions: The regions that may get a picture; `None` for all of the targets'. A
            target of another one, or of none, is left out.
        auth_token: Bearer token, or a function (sync or async) that gives one.
        api_key: The key, or a function that gives it, sent as the provider takes it: Azure in
            ``Ocp-Apim-Subscription-Key``, our own server as bearer token, one that is not known in
            ``X-Api-Key``.
        credentials: Another kind of credentials, instead of both: for ``aws`` `AwsKeys`, or a
            function that gives them; for ``google`` an object of google-auth's; for any provider an
            object that signs requests itself. Without any, ``aws`` takes the keys of the
            environment or of a profile, and ``google`` the application default credentials.
        allow_insecure_http: Whether plain ``http`` may leave this machine.
        ssl_context: Which CAs to believe and which certificate to show over https; `None` for the
            system's CAs and no certificate.
        transport: An httpx transport to use instead of the network, for tests.
        **options: `min_confidence`, `session_id`, `quality`, `compressor` and `encryption`, as in
            `RemoteBackend`.

    Raises:
        ConfigurationError: If the provider is unknown, one of its options or a credential cannot
            be used, the endpoint is no https URL, or no target is in the allowed regions.
    """

    kind = BackendKind.CLOUD

    shares_requests = True

    def __init__(
        self,
        provider: str | Protocol = "custom_backend",
        *,
        endpoint: str | None = None,
        provider_options: Mapping[str, Any] | None = None,
        region: str = "",
        targets: Sequence[Target | Mapping[str, Any]] = (),
        allowed_providers: Collection[str] | None = None,
        allowed_regions: Collection[str] | None = None,
        auth_token: str | AccessToken | TokenSource | None = None,
        api_key: str | AccessToken | TokenSource | None = None,
        credentials: Any = None,
        allow_insecure_http: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Any,
    ) -> None:
        made = [target_of(target) for target in targets]
        if made and (endpoint is not None or any(target.url is None for target in made)):
            msg = "expected endpoint, the URL of your detection server, or targets that have one"
            raise ConfigurationError(msg)
        if not made:
            settings = {
                "provider": provider,
                "endpoint": endpoint,
                "region": region,
                "provider_options": provider_options,
                "auth_token": auth_token,
                "api_key": api_key,
                "credentials": credentials,
                "allow_insecure_http": allow_insecure_http,
            }
            made = [target_of(settings)]
        self._ssl_context = ssl_context
        self._given_transport = transport
        self._transports: dict[_Way, httpx.AsyncBaseTransport] = {}
        super().__init__(targets=made, **options)
        self._require_allowed(allowed_providers, allowed_regions)

    def _require_allowed(
        self, providers: Collection[str] | None, regions: Collection[str] | None
    ) -> None:
        rule = PrivacyPolicy().within(allowed_providers=providers, allowed_regions=regions)
        if reason := self.restrict(partial(rule.destination_denied_reason, self.kind)):
            msg = f"allowed_providers, allowed_regions: no target is left: {reason}"
            raise ConfigurationError(msg)

    async def start(self) -> None:
        """Read the proxy and certificate settings. Connections are opened by the first frame.

        Raises:
            ConfigurationError: If a setting that applies to a target is unusable.
        """
        self._require_open()
        for target in self.targets:
            assert target.endpoint is not None  # noqa: S101 - each has a URL, checked above
            endpoint = target.endpoint
            way = _way(_parsed(endpoint.url), target.ssl_context)
            if way in self._transports:
                continue
            transport = self._given_transport
            if transport is None:
                dialler = await Dialler.create(
                    endpoint,
                    ssl_context=target.ssl_context or self._ssl_context,
                    executor=self._encoder,
                )
                self._require_open()
                transport = HttpConnections(dialler, on_round_trip=partial(self._met, target.host))
            # Another call may have made it meanwhile.
            self._transports.setdefault(way, transport)

    @property
    def check_deadline_s(self) -> float:
        """Seconds a check may take: longer where connecting was seen to take long."""
        limits = [
            transport.limit_s(CHECK_DEADLINE_S)
            for transport in self._transports.values()
            if isinstance(transport, HttpConnections)
        ]
        return max(limits, default=CHECK_DEADLINE_S)

    async def check(self, *, deadline_s: float) -> None:
        """Ask the server for its health, with the token, so that a wrong one is noticed."""
        try:
            async with asyncio.timeout(deadline_s):
                await self.check_health(deadline_s=deadline_s)
                await self.check_key(deadline_s=deadline_s)
        except BackendError:
            raise
        except TimeoutError:
            msg = f"no answer within {deadline_s:.3f} s"
            raise BackendTimeoutError(msg, backend=self.kind.value, deadline_s=deadline_s) from None

    async def exchange(
        self, request: HttpRequest, *, deadline_s: float, upload: Upload | None = None
    ) -> HttpResponse:
        """Send `request` and read the whole response."""
        await self.start()
        url = _parsed(request.url)
        if deadline_s <= 0:
            msg = "no time left to send the request"
            raise BackendTimeoutError(msg, backend=self.kind.value)
        headers = _ours_beside(request.headers, host=url.netloc.decode("ascii"))
        more = 0 if upload is None else upload.images - 1
        limit_bytes = MAX_REPLY_BYTES + more * MORE_REPLY_BYTES
        if request.body:
            headers["Content-Length"] = str(len(request.body))
        body = _Body(request.body, upload)
        try:
            async with asyncio.timeout(deadline_s):
                way = _way(url, request.ssl_context)
                response = await self._transports[way].handle_async_request(
                    httpx.Request(request.method, url, headers=headers, stream=body)
                )
                # Closed without a limit of its own: it gives the connection back, or breaks it.
                async with aclosing(response):
                    received = {
                        name.decode("latin-1").lower(): text.decode("latin-1")
                        for name, text in response.headers.raw
                    }
                    return HttpResponse(
                        status=response.status_code,
                        headers=received,
                        body=await _read(response, limit_bytes),
                        retry_after_s=retry_after_s(received),
                    )
        except TimeoutError:
            msg = f"no answer within {deadline_s:.3f} s"
            raise BackendTimeoutError(msg, backend=self.kind.value, deadline_s=deadline_s) from None
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as exc:
            # Where HTTP itself was broken, httpx's message repeats what the server wrote.
            cause = None if isinstance(exc, httpx.ProtocolError) else exc
            raise self._translated(exc, deadline_s) from cause
        finally:
            await body.aclose()  # a request cut off in its midst would hold its bytes on

    def _met(self, host: str, round_trip_s: float) -> None:
        meter = self.meters.of(host)
        meter.link.connected(round_trip_s)

    def _translated(self, exc: Exception, deadline_s: float) -> BackendError:
        meaning, retryable = next(
            _UNAVAILABLE[cls] for cls in type(exc).__mro__ if cls in _UNAVAILABLE
        )
        if isinstance(exc, httpx.TimeoutException):
            return BackendTimeoutError(
                f"{meaning} (limit {deadline_s:.3f} s)",
                backend=self.kind.value,
                retryable=retryable,
                deadline_s=deadline_s,
            )
        return BackendUnavailableError(meaning, backend=self.kind.value, retryable=retryable)

    def recall(self) -> None:
        """Break off the requests under way, whose pictures would still go out of a buffer."""
        for transport in self._transports.values():
            if isinstance(transport, HttpConnections):
                transport.recall()

    async def aclose(self) -> None:
        """Close the pool's connections."""
        await super().aclose()
        for transport in self._transports.values():
            await transport.aclose()


@lru_cache(maxsize=64)
def _parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


def _way(url: httpx.URL, ssl_context: object) -> _Way:
    """What requests that share connections have in common.

    Two targets at one origin that show different certificates are different clients to its server.
    """
    return url.scheme, url.netloc, ssl_context if url.scheme == "https" else None


class _Body(httpx.AsyncByteStream):
    """A request's body, which is let go of once it is asked for.

    httpx's Request and Response form reference cycles; a body given as bytes would live until the
    garbage collector comes by (+4.7 MB over 1,000 frames instead of +1.1). It is no generator,
    because asyncio keeps a list of those.
    """

    def __init__(self, data: bytes, upload: Upload | None) -> None:
        self._data = data
        self._upload = upload

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The bytes; asked for when the connection stands and the headers have gone."""
        data, self._data = self._data, b""
        if not data:
            raise StopAsyncIteration
        if self._upload is not None:
            self._upload.handed_over()
        return data

    async def aclose(self) -> None:
        self._data = b""


def _ours_beside(theirs: Mapping[str, str], *, host: str) -> dict[str, str]:
    """The headers of a protocol, and ours where it has none; the case of a name means nothing."""
    own = {name.lower() for name in theirs}
    ours = {"Host": host, **_HEADERS}
    return {**{name: text for name, text in ours.items() if name.lower() not in own}, **theirs}


async def _read(response: httpx.Response, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - of an async transport
    async for part in response.stream:  # as it came: nothing is decompressed
        size += len(part)
        if size > limit_bytes:
            msg = f"expected a reply of at most {limit_bytes} bytes, got more"
            raise ProtocolError(msg)
        parts.append(part)
    return b"".join(parts)
