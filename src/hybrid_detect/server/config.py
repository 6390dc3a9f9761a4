"""Configuration of the reference server."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from hybrid_detect.backends.remote.credentials import checked_token
from hybrid_detect.config import quality_level
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.server.tls import TlsConfig
from hybrid_detect.server.tokens import JwtConfig
from hybrid_detect.storage.history import (
    DEFAULT_MAX_BYTES,
    DEFAULT_RETENTION_S,
    MIN_MAX_BYTES,
)
from hybrid_detect.system.cores import usable_cores
from hybrid_detect.types import QualityLevel

__all__ = ["AUTO_MODEL", "PROVIDERS", "REQUEST_LOGS", "ServerConfig", "is_loopback"]

PROVIDERS = ("cpu", "cuda", "tensorrt")
"""ONNX Runtime's execution providers that may be asked for."""

AUTO_MODEL = "auto"
"""CenterFace where it can be had, and the full-range model for pictures with little time."""

REQUEST_LOGS = ("none", "refused", "all")
"""Which requests and streams have a line in the log: none, those with an error, or all."""

MIN_TOKEN_CHARS = 16
"""Of a token that the network can try: 104 bits if it is random, beyond guessing at any rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The configuration of the reference server: every option has a default.

    Raises:
        ConfigurationError: If it would be open to the network without a credential or with a token
            that can be guessed, if no client could send that token, or if a value is out of range.
    """

    host: str = "127.0.0.1"
    """Name or address to listen on."""
    port: int = 8000
    """Port to listen on; 0 takes a free one, and the server prints it."""
    auth_token: str | None = field(default=None, repr=False)
    """Bearer token that clients may send. Without it, `api_keys` and `jwt` everyone may come in,
    which is refused on any but this machine's own address."""
    api_keys: Path | None = None
    """File of API keys that clients may send; see ``hybrid-detect api-keys``."""
    jwt: JwtConfig | None = None
    """The issuer of the JSON Web Tokens that clients may send."""
    allowed_origins: tuple[str, ...] = ()
    """Origins (``https://app.example.com``) whose pages in a browser may come in."""
    tls: TlsConfig | None = None
    """Certificate and key; `None` for plain HTTP, behind a proxy that terminates TLS."""
    rate_per_s: float = 30.0
    """Pictures a second of each API key, JWT subject, or address of the token's users; 0 for no
    limit. It is a camera's full rate, twice what our own client sends over a good link."""
    burst: int = 60
    """Pictures that may come at once after a pause: two seconds of them, as after an outage."""
    max_per_caller: int = 32
    """Requests under way and streams open of one caller: half of `max_uploads`, so that none can
    take every place."""
    max_streams: int = 64
    """Streams open at the same time. Each may hold `stream_in_flight` messages, three that
    wait, and a half one."""
    max_watchers: int = 64
    """Callers that watch sessions at the same time, of all sessions; 0 lets none watch."""
    max_watchers_per_session: int = 8
    """Callers that watch one session at the same time."""
    stream_idle_s: float = 300.0
    """Seconds a stream may be open without a picture; our client opens another when it has one."""
    max_connections: int = 512
    """Connections of any kind; half of the 1024 files a process may have open on most systems."""
    max_connections_per_peer: int = 256
    """Connections from one address, so that none can take every place; raise it behind a proxy."""
    model: str = AUTO_MODEL
    """The model, such as ``full_range``. ``auto`` is CenterFace where it can be had (F1 0.95 on
    photos of people, against 0.38 of the full-range model), and the full-range model elsewhere and
    for pictures with little time."""
    model_path: Path | None = None
    """A model file to use instead of looking for one; it must be the published file of `model`, or
    with ``auto`` of CenterFace or the full-range model."""
    quality: QualityLevel | str = QualityLevel.HIGH
    """How thoroughly to look at pictures that ask for no level. More thorough levels start when
    they are asked for; a deadline or a long queue makes a look a quicker one."""
    provider: str = "cpu"
    """What runs the network: ``cpu``, or ``cuda`` or ``tensorrt`` of a graphics processor, where
    CenterFace alone looks, at up to eight pictures at once. It is checked that it really does."""
    provider_fallback: bool = False
    """Whether to look on the processor where the graphics processor cannot be used; the server
    refuses to start otherwise. The log tells."""
    min_confidence: float = 0.1
    """The lowest score that faces are reported with, whatever a client asks for; the reply says
    what was applied. Clients that ask for none get the model's own, such as 0.45. A detector that
    reports scores below 0.1 takes longer, and nearly all that it adds are not faces."""
    detectors: int | None = None
    """Detectors, each in a process of its own; fewer are started if memory is short of so many.
    `None` for what suits the level; see `detectors_at`."""
    max_waiting: int = 32
    """Pictures that may wait for a detector. More, and those that could not be looked at before
    their deadline, are answered with 503 at once."""
    max_body_bytes: int = 4 * 1024 * 1024
    """Bytes of a body or message: fifty times the client's usual 80 KB."""
    max_uploads: int = 64
    """Bodies received at the same time, which at their largest are 256 MiB; beyond it the server
    answers 503 at once."""
    max_pixels: int = 16_000_000
    """Pixels of a picture, checked before it is decoded: 4K has 8.3 million."""
    keys_path: Path | None = None
    """File of the keys that pictures may be encrypted to; see ``hybrid-detect keys``."""
    require_encryption: bool = False
    """Whether to refuse pictures that are not encrypted to one of these keys."""
    history_path: Path | None = None
    """File to keep results in, by session, so that they can be exported and erased; `None` keeps
    nothing."""
    history_images: bool = False
    """Whether to keep the pictures, too."""
    history_retention_s: float = DEFAULT_RETENTION_S
    """Seconds until what is kept is deleted."""
    history_max_bytes: int = DEFAULT_MAX_BYTES
    """The most the file may hold; the oldest make place for the newest."""
    otlp_endpoint: str | None = None
    """URL of an OpenTelemetry collector that traces are sent to over HTTP, such as
    ``http://127.0.0.1:4318``; `None` sends none. The standard variables tell the rest:
    ``OTEL_TRACES_SAMPLER``, ``OTEL_SERVICE_NAME``, ``OTEL_EXPORTER_OTLP_HEADERS`` and so on."""
    stream_in_flight: int = 2
    """Pictures of one stream that are looked at at the same time; later ones wait in TCP. Clients
    are told it, and ours has no more under way."""
    stream_rate_per_s: float = 0.0
    """Pictures a second of each stream, two seconds of them at once; 0 leaves it to `rate_per_s`,
    which counts all that a caller sends."""
    metrics_port: int | None = None
    """Port of ``/metrics`` and of the probes beside that of the pictures; 0 takes a free one.
    `None` for no such port."""
    metrics_host: str = "127.0.0.1"
    """Name or address that `metrics_port` is listened on. On the network it has the TLS of the
    pictures."""
    metrics_token: str | None = field(default=None, repr=False)
    """Bearer token for ``/metrics`` alone. With it and without `metrics_port`, ``/metrics`` is
    beside the pictures."""
    request_log: str = "none"
    """Which requests and streams have a line in the log: ``none``, ``refused`` or ``all``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "quality", quality_level(self.quality))
        has_credentials = any(c is not None for c in (self.auth_token, self.api_keys, self.jwt))
        if not self.is_local and not has_credentials:
            msg = f"host {self.host!r} is open to the network: set a token, API keys or an issuer"
            raise ConfigurationError(msg)
        if self.auth_token is not None:
            checked_token(self.auth_token)
        if not self.is_local and 0 < len(self.auth_token or "") < MIN_TOKEN_CHARS:
            msg = f"auth_token: expected at least {MIN_TOKEN_CHARS} characters on the network"
            raise ConfigurationError(msg)
        if not 0 < self.history_retention_s < math.inf:
            msg = f"history_retention_s: expected seconds above 0, got {self.history_retention_s}"
            raise ConfigurationError(msg)
        if self.history_max_bytes < MIN_MAX_BYTES:
            msg = f"history_max_bytes: expected at least {MIN_MAX_BYTES} bytes"
            raise ConfigurationError(msg)
        if self.history_images and self.history_path is None:
            msg = "history_images: expected history_path as well, got none"
            raise ConfigurationError(msg)
        if any("*" in origin for origin in self.allowed_origins):
            msg = "allowed_origins: expected origins such as 'https://app.example.com', got a '*'"
            raise ConfigurationError(msg)
        if not 0 <= self.rate_per_s < math.inf:
            msg = f"rate_per_s: expected 0 or more, got {self.rate_per_s}"
            raise ConfigurationError(msg)
        if not 0 <= self.stream_rate_per_s < math.inf:
            msg = f"stream_rate_per_s: expected 0 or more, got {self.stream_rate_per_s}"
            raise ConfigurationError(msg)
        if self.max_watchers < 0:
            msg = f"max_watchers: expected 0 or more, got {self.max_watchers}"
            raise ConfigurationError(msg)
        if not 0 < self.stream_idle_s < math.inf:
            msg = f"stream_idle_s: expected seconds above 0, got {self.stream_idle_s}"
            raise ConfigurationError(msg)
        if self.require_encryption and self.keys_path is None:
            msg = "require_encryption: expected keys_path as well, got none"
            raise ConfigurationError(msg)
        for name in ("port", "metrics_port"):
            if not 0 <= (getattr(self, name) or 0) <= 65535:
                msg = f"{name}: expected 0 to 65535, got {getattr(self, name)}"
                raise ConfigurationError(msg)
        self._check_metrics()
        if self.otlp_endpoint is not None and not _is_http_url(self.otlp_endpoint):
            msg = "otlp_endpoint: expected an http or https URL with a host"
            raise ConfigurationError(msg)
        if not 0 <= self.min_confidence <= 1:
            msg = f"min_confidence: expected 0 to 1, got {self.min_confidence}"
            raise ConfigurationError(msg)
        if self.provider not in PROVIDERS:
            msg = f"provider: expected one of {', '.join(PROVIDERS)}, got {self.provider!r}"
            raise ConfigurationError(msg)
        for name in (
            "detectors",
            "max_waiting",
            "max_body_bytes",
            "max_uploads",
            "max_pixels",
            "stream_in_flight",
            "burst",
            "max_per_caller",
            "max_streams",
            "max_watchers_per_session",
            "max_connections",
            "max_connections_per_peer",
        ):
            if (value := getattr(self, name)) is not None and value < 1:
                msg = f"{name}: expected at least 1, got {value}"
                raise ConfigurationError(msg)

    def detectors_at(self, quality: QualityLevel) -> int:
        """How many detectors are wanted where most pictures are looked at so thoroughly.

        Without `detectors` it is one a usable core, and at ``fast`` one more: its looks take 7 ms,
        so that the moment in which a detector has no picture counts. On two cores the third one
        brought 0.85 of a bare loop instead of 0.78 (HTTP) and 0.83 (WebSocket), and nothing at
        ``high``, where it would hold another 105 MB (`docs/explanation/performance.md`).
        """
        return self.detectors or usable_cores() + (quality is QualityLevel.FAST)

    def _check_metrics(self) -> None:
        if self.request_log not in REQUEST_LOGS:
            msg = f"request_log: expected one of {', '.join(REQUEST_LOGS)}, got {self.request_log}"
            raise ConfigurationError(msg)
        if self.metrics_port and self.metrics_port == self.port:
            msg = f"metrics_port: expected another port than that of the pictures, {self.port}"
            raise ConfigurationError(msg)
        if self.metrics_token is not None:
            checked_token(self.metrics_token)
            if self.metrics_token == self.auth_token:
                msg = "metrics_token: expected another token than that for pictures"
                raise ConfigurationError(msg)
        is_local = self.is_local if self.metrics_port is None else is_loopback(self.metrics_host)
        if not is_local and self.metrics_token is None and self.metrics_port is not None:
            msg = f"metrics_host {self.metrics_host!r} is open to the network: set metrics_token"
            raise ConfigurationError(msg)
        if not is_local and 0 < len(self.metrics_token or "") < MIN_TOKEN_CHARS:
            msg = f"metrics_token: expected at least {MIN_TOKEN_CHARS} characters on the network"
            raise ConfigurationError(msg)

    @property
    def is_local(self) -> bool:
        """Whether it listens on this machine's own address alone."""
        return is_loopback(self.host)

    @property
    def has_metrics(self) -> bool:
        """Whether ``/metrics`` is to be had anywhere; else nothing is counted."""
        return self.metrics_port is not None or self.metrics_token is not None


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine's own address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)
