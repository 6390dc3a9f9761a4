"""A server's keys: the active one, and those before it that still open requests.

They are one JSON file, written by ``hybrid-detect keys`` (`key_files` reads and writes it;
nothing here does I/O).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.exchange.keys import PrivateKey, PublicKey

__all__ = ["GRACE", "VALIDITY", "KeyRing"]

VALIDITY = timedelta(days=365)
"""An app in the field has to be updated before the key it pins ends."""

GRACE = timedelta(days=1)
"""Clients stop sealing to a key when it ends by their own clocks, which may be late."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """A server's keys, the newest first, which is the one that clients should use.

    Raises:
        ConfigurationError: If there is none.
    """

    keys: tuple[PrivateKey, ...]

    def __post_init__(self) -> None:
        if not self.keys:
            msg = "expected at least one key, got none"
            raise ConfigurationError(msg)

    @property
    def active(self) -> PublicKey:
        """The key that clients should use."""
        return self.keys[0].public

    def accepted(self, now: datetime) -> Mapping[str, PrivateKey]:
        """The keys that open requests at `now`, by id: up to `GRACE` after their end."""
        return {key.public.id: key for key in self.keys if now - GRACE <= key.public.not_after}

    def published(self, now: datetime) -> tuple[PublicKey, ...]:
        """What clients may seal to at `now`, the active key first."""
        return tuple(key.public for key in self.keys if now <= key.public.not_after)

    def rotated(self, new: PrivateKey, *, now: datetime, revoke: bool = False) -> KeyRing:
        """The ring with `new` as its active key.

        Args:
            new: The new key.
            now: The time; keys that opened nothing any more are dropped.
            revoke: Whether to drop every old key at once, because one has become known.
        """
        old = () if revoke else tuple(self.accepted(now).values())
        return KeyRing((new, *old))

    def to_text(self) -> str:
        """The key file's text."""
        return json.dumps({"version": 1, "keys": [key.to_json() for key in self.keys]}, indent=2)

    @classmethod
    def from_text(cls, text: str) -> KeyRing:
        """The ring in a key file's text.

        Raises:
            ConfigurationError: If it is no key file; nothing of it is repeated.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        keys = value.get("keys") if isinstance(value, dict) else None
        if not isinstance(keys, list) or value.get("version") != 1:
            msg = "expected keys as 'hybrid-detect keys generate' writes them, got another text"
            raise ConfigurationError(msg)
        return cls(tuple(map(PrivateKey.from_json, keys)))
