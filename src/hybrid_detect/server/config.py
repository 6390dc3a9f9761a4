"""Configuration of the reference server."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from hybrid_detect.backends.remote import checked_token
from hybrid_detect.config import DEFAULT_MIN_CONFIDENCE
from hybrid_detect.errors import ConfigurationError

__all__ = ["ServerConfig"]


def _usable_cores() -> int:
    """The cores this process may run on, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything the reference server can be told.

    Raises:
        ConfigurationError: If it would be open to the network without a token, if no client could
            send that token, or if a value is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free port; the server prints which."""
    auth_token: str | None = field(default=None, repr=False)
    """Bearer token that clients must send; `None` only on this machine's own address."""
    model: str = "full_range"
    """The larger model: it sees faces from about 5 % of the long side, short range from 10 %."""
    model_path: Path | None = None
    min_confidence: float = DEFAULT_MIN_CONFIDENCE
    """Lowest score the detectors report; clients may ask for more, not for less."""
    detectors: int = field(default_factory=_usable_cores)
    """Detectors, each in a process of its own; fewer are started if memory is short of so many."""
    max_waiting: int = 16
    """Pictures that may wait for a detector; beyond it the server answers 503 at once."""
    max_body_bytes: int = 4 * 1024 * 1024
    """Fifty times the client's usual 80 KB."""
    max_uploads: int = 64
    """Bodies received at the same time, which at their largest are 256 MiB; beyond it the server
    answers 503 at once."""
    max_pixels: int = 16_000_000
    """Pixels of a picture, checked before it is decoded: 4K has 8.3 million."""
    stream_in_flight: int = 2
    """Pictures of one stream looked at at the same time; what comes beyond waits in TCP."""

    def __post_init__(self) -> None:
        if self.auth_token is None and not self._is_local:
            msg = f"host {self.host!r} is open to the network: set a token"
            raise ConfigurationError(msg)
        checked_token(self.auth_token)
        if not 0 <= self.port <= 65535:
            msg = f"port: expected 0 to 65535, got {self.port}"
            raise ConfigurationError(msg)
        if not 0 <= self.min_confidence <= 1:
            msg = f"min_confidence: expected 0 to 1, got {self.min_confidence}"
            raise ConfigurationError(msg)
        for name in (
            "detectors",
            "max_waiting",
            "max_body_bytes",
            "max_uploads",
            "max_pixels",
            "stream_in_flight",
        ):
            if getattr(self, name) < 1:
                msg = f"{name}: expected at least 1, got {getattr(self, name)}"
                raise ConfigurationError(msg)

    @property
    def _is_local(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
