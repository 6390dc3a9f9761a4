"""Where a remote backend sends its requests: an address, its protocol and its credentials."""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hybrid_detect.backends.remote.credentials import Credentials
from hybrid_detect.backends.remote.protocol import DetectParams, HttpRequest, Protocol
from hybrid_detect.backends.remote.providers.custom import CustomProtocol
from hybrid_detect.charges import DEFAULT_CURRENCY, Price, SentRequest, to_nanos
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.destination import Destination
from hybrid_detect.endpoint import Endpoint
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    ConfigurationError,
)
from hybrid_detect.types import BackendKind

__all__ = ["Target"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One server that can answer, or one region of a provider.

    Raises:
        ConfigurationError: If the URL is not usable, the price is negative or the preference is no
            whole number.
    """

    url: str | None = None
    """The server's URL, such as ``https://faces.example.com``; `None` for a transport that has its
    address from elsewhere."""
    protocol: Protocol = field(default_factory=CustomProtocol)
    credentials: Credentials | None = field(default=None, repr=False)
    price_per_frame: Price | None = None
    """What a picture costs there, such as ``0.0015``; `None` for the provider's list price."""
    currency: str = DEFAULT_CURRENCY
    """What it is paid in."""
    region: str = ""
    """Where it processes pictures, such as ``eu-west-1``: what `PrivacyPolicy.allowed_regions`
    names, and what events, status and the figures of costs tell. Empty if it does not say."""
    preference: int = 0
    """Targets with the lowest number are asked; those with a higher one while no other works."""
    name: str = ""
    """What logs and errors call it; its host if empty."""
    allow_insecure_http: bool = False
    """Whether plain ``http`` may leave this machine."""
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    """Which CAs to believe and which certificate to show there; `None` for the backend's own."""
    endpoint: Endpoint | None = field(init=False, repr=False)
    """The checked URL."""
    host: str = field(init=False, repr=False)
    """Name or address of its host; empty without a URL."""
    price_nanos: int = field(init=False, repr=False)
    """What a picture costs there, in billionths of a unit of `currency`."""
    destination: Destination = field(init=False, repr=False)
    """What rules, events and status call it."""

    def __post_init__(self) -> None:
        if isinstance(self.preference, bool) or not isinstance(self.preference, int):
            msg = f"preference: expected a whole number, got {self.preference!r}"
            raise ConfigurationError(msg)
        price = self.price_per_frame
        if price is None:
            price = self.protocol.capabilities.price_per_image
        object.__setattr__(self, "price_nanos", to_nanos(price, name="price_per_frame"))
        endpoint = None
        if self.url is not None:
            endpoint = Endpoint.parse(self.url, allow_insecure_http=self.allow_insecure_http)
        object.__setattr__(self, "endpoint", endpoint)
        object.__setattr__(self, "host", endpoint.host if endpoint else "")
        object.__setattr__(self, "name", self.name or self.host)
        destination = Destination(
            host=self.host, provider=self.protocol.name, region=self.region, target=self.name
        )
        object.__setattr__(self, "destination", destination)

    @property
    def provider(self) -> str:
        """Whose protocol it speaks."""
        return self.protocol.name

    def require(self, *, sealed: bool) -> None:
        """Check that its protocol can carry what is sent.

        Raises:
            ConfigurationError: If it takes no JPEG, or pictures are to be `sealed` and it cannot.
        """
        protocol = self.protocol
        if "jpeg" not in protocol.capabilities.formats:
            msg = f"targets: expected a protocol that takes JPEG, got {protocol.name!r}"
            raise ConfigurationError(msg)
        if sealed and not protocol.capabilities.can_seal:
            msg = (
                f"encryption: only our own server opens sealed pictures, and {self.name} is asked "
                f"in the protocol {protocol.name!r}; leave one of the two out"
            )
            raise ConfigurationError(msg)

    def encoded(self, pictures: Sequence[CompressedImage], params: DetectParams) -> HttpRequest:
        """The request that asks this target for the faces in `pictures`.

        Raises:
            BackendError: If it would be larger than the provider takes: it is not sent.
        """
        request = self.protocol.encode(pictures, params)
        limit = self.protocol.capabilities.max_request_bytes
        if limit is not None and len(request.body) > limit:
            msg = (
                f"{self.name} takes requests of at most {limit} bytes, "
                f"and this one has {len(request.body)}"
            )
            raise BackendError(msg)
        return request

    def sent_request(self, backend: BackendKind, *, images: int, bytes_sent: int) -> SentRequest:
        """A request that is about to leave for it, at its price.

        Args:
            backend: The backend that sends it.
            images: Pictures in it.
            bytes_sent: Bytes of its body.
        """
        return SentRequest(
            at_s=time.time(),
            backend=backend.value,
            target=self.name,
            provider=self.protocol.name,
            region=self.region,
            images=images,
            bytes_sent=bytes_sent,
            price_nanos=self.price_nanos * images,
            currency=self.currency,
        )

    async def addressed(self, request: HttpRequest, *, now_s: float) -> HttpRequest:
        """`request` with this target's address, credentials and TLS settings.

        Args:
            request: A request of this target's protocol.
            now_s: Seconds since 1970.

        Raises:
            BackendUnavailableError: If the credentials cannot be had.
        """
        if self.endpoint is not None:
            request = replace(request, url=self.endpoint.url + request.url)
        if self.credentials is not None:
            await self.credentials.prepare(now_s=now_s)
            request = self.credentials.apply(request, now_s=now_s)
        # Last: credentials may make a request of their own, which must not leave as another's.
        return replace(request, ssl_context=self.ssl_context)

    def can_renew(self, error: BaseException) -> bool:
        """Whether `error` refuses credentials that `addressed` will renew when called again."""
        return (
            isinstance(error, BackendResponseError)
            and self.credentials is not None
            and self.credentials.on_refused(error)
        )
