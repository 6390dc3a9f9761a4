"""Which key of the server a client seals to, and why it trusts that key."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hybrid_detect.errors import ConfigurationError, EncryptionError, UnknownKeyError
from hybrid_detect.exchange.key_files import KnownKeys, read_public_key
from hybrid_detect.exchange.keys import PublicKey
from hybrid_detect.exchange.sealer import Sealer

if TYPE_CHECKING:
    from hybrid_detect.config import ServiceConfig

__all__ = ["TrustedKey", "known_keys_path"]

logger = logging.getLogger("hybrid_detect")

KNOWN_KEYS = ".config/hybrid-detect/known-keys.json"
"""Below the home folder: not the cache, which may be emptied by anyone at any time."""


def known_keys_path(config: ServiceConfig) -> Path:
    """The file in which keys trusted on first use are kept.

    Raises:
        ConfigurationError: If none is configured and there is no home folder.
    """
    try:
        return config.known_keys_path or Path.home() / KNOWN_KEYS
    except RuntimeError:
        msg = "known_keys_path: expected a file, as there is no home folder to keep one in"
        raise ConfigurationError(msg) from None


class TrustedKey:
    """The server's key: pinned, or trusted when the server was first met.

    While there is none yet, nothing is sent but the question for it. A key that is there is
    given up for its own successor alone, which it vouches for.

    Args:
        key: The pinned key; `None` to trust on first use.
        endpoint: The server's URL, under which its key is remembered.
        known: Where keys are remembered; `None` for nowhere, so that a pinned key is the pinned
            one again after a restart.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: If neither `key` nor `known` is given, or the known keys cannot be read.
    """

    def __init__(
        self,
        key: PublicKey | None = None,
        *,
        endpoint: str = "",
        known: KnownKeys | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._endpoint = endpoint
        self._known = known
        self._clock = clock
        if key is None and known is None:
            msg = "expected a pinned key, or a file to remember keys in"
            raise ConfigurationError(msg)
        if key is None and known is not None:
            key = known.get(endpoint)
        self._sealer = None if key is None else self._to(key)

    @classmethod
    def from_config(cls, config: ServiceConfig) -> Self | None:
        """The key that `config` asks for; `None` if it asks for no encryption.

        Raises:
            ConfigurationError: If the key, or the file of known keys, cannot be used.
        """
        if config.server_public_key is not None:
            return cls(read_public_key(config.server_public_key))
        if not config.trust_on_first_use:
            return None
        return cls(endpoint=config.endpoint or "", known=KnownKeys(known_keys_path(config)))

    @property
    def sealer(self) -> Sealer | None:
        """What seals; `None` until the server has been met."""
        return self._sealer

    @property
    def required_sealer(self) -> Sealer:
        """What seals.

        Raises:
            EncryptionError: If the server has not been met.
        """
        if self._sealer is None:  # what learn() would have raised for
            msg = "there is no key to encrypt to"
            raise EncryptionError(msg)
        return self._sealer

    def learn(self, published: list[Any]) -> None:
        """Compare the keys a server has published with the one believed in, or believe now.

        Args:
            published: The JSON values of `envelope.decode_keys`.

        Raises:
            UnknownKeyError: If the key believed in is not among them: it has been changed without
                a successor, or this is another server. Or if it has ended.
            EncryptionError: If none of them can be used, or the choice cannot be remembered.
        """
        usable = []
        for value in published:
            try:
                usable.append(PublicKey.from_json(value))
            except ConfigurationError:
                continue  # a suite of tomorrow, or one that is not to be had here
        if self._sealer is None and (key := self._remembered()) is not None:
            self._sealer = self._to(key)  # another backend met the server first
        if self._sealer is not None:
            key = self._sealer.public_key
            key.require_alive(self._clock())
            if key.id not in {other.id for other in usable}:
                msg = (
                    f"the server no longer has key {key.id}, which pictures are encrypted to: it "
                    "was changed without overlap, this is another server, or it runs without "
                    "--encryption-keys. Nothing is sent. Ask its operator for 'hybrid-detect keys "
                    "show', then pin the new key"
                    + (f" or remove the old one from {self._known.path}" if self._known else "")
                )
                raise UnknownKeyError(msg, key_id=key.id)
            return
        if not usable:
            msg = "the server publishes no key that can be used here"
            raise EncryptionError(msg)
        key = self._remember_first(usable[0])
        self._sealer = self._to(key)
        if key is not usable[0]:  # another process met the server in the meantime
            self.learn(published)
            return
        logger.warning("key %s of %s is trusted from now on", key.id, self._endpoint)

    def _to(self, key: PublicKey) -> Sealer:
        return Sealer(key, clock=self._clock, on_successor=self._succeed)

    def _succeed(self, key: PublicKey) -> None:
        logger.info("the server's key is %s from now on", key.id)
        try:
            self._remember(key)
        except EncryptionError as error:
            # The old key still works after a restart, and the answer is here.
            logger.warning("the server's new key is not remembered: %s", error)

    def _remembered(self) -> PublicKey | None:
        try:
            return None if self._known is None else self._known.get(self._endpoint)
        except ConfigurationError as error:
            raise EncryptionError(str(error)) from None

    def _remember_first(self, key: PublicKey) -> PublicKey:
        if self._known is None:
            return key
        try:
            return self._known.put_first(self._endpoint, key)
        except ConfigurationError as error:
            raise EncryptionError(str(error)) from None

    def _remember(self, key: PublicKey) -> None:
        if self._known is None:
            return
        try:
            self._known.put(self._endpoint, key)
        except ConfigurationError as error:
            raise EncryptionError(str(error)) from None
