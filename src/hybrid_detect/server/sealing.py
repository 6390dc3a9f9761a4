"""The server's part of the encryption: opens what came sealed, and seals the answer to it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hybrid_detect.errors import (
    ConfigurationError,
    EncryptionError,
    ReplayError,
    StaleRequestError,
    UnknownKeyError,
)
from hybrid_detect.exchange.envelope import Kind, encode_keys, kind_of
from hybrid_detect.exchange.key_files import read_key_file
from hybrid_detect.exchange.key_ring import KeyRing
from hybrid_detect.exchange.keys import PublicKey
from hybrid_detect.exchange.sealing import OpenedRequest, open_request, seal_reply
from hybrid_detect.exchange.wire import ErrorReply, peek_request_id
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.shared_state import LocalState, SharedState, StateUnavailableError
from hybrid_detect.storage.private_files import remove_leftovers

__all__ = ["Received", "SealRefusedError", "Sealing"]

logger = logging.getLogger("hybrid_detect.server")

RELOAD_S = 5.0
"""How soon a rotation is noticed: at once for people, and a `stat` in 5 s costs nothing."""

UNKNOWN_RETRY_S = 1.0
"""Seconds to wait when nothing can tell a replay: a new owner of the state starts in about that."""


class SealRefusedError(Exception):
    """A message that is not opened. `reply` says why; it can only go in the clear."""

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.code)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Received:
    """A message that came sealed, opened; and the way to seal its reply."""

    message: bytes = field(repr=False)
    _seal: Callable[[bytes], bytes] = field(repr=False)

    def protected(self, reply: bytes) -> bytes:
        """`reply`, sealed."""
        return self._seal(reply)


class Sealing:
    """Opens sealed requests, each once, and knows the keys to publish.

    The key file is read again when it changes, so that rotating needs no restart.

    What has been seen is remembered by `state`. That of a server alone is this process's own: of
    several behind a load balancer, each would answer a copy. A cluster shares one state.

    Args:
        keys_path: The key file; `None` opens nothing.
        require: Whether to refuse what is not sealed.
        clock: Seconds since 1970.
        state: Remembers what was seen; `None` for a memory of its own.

    Raises:
        ConfigurationError: If the key file cannot be used.
    """

    def __init__(
        self,
        keys_path: Path | None,
        *,
        require: bool = False,
        clock: Callable[[], float] = time.time,
        state: SharedState | None = None,
    ) -> None:
        self._path = keys_path
        self._require = require
        self._clock = clock
        self._state = state or LocalState(ServerConfig(), clock=clock)
        self._ring: KeyRing | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._looked_at_s = clock()
        if keys_path is not None:
            remove_leftovers(keys_path.parent)
            self._stamp = _stamp(keys_path)
            self._ring = read_key_file(keys_path)

    def published(self) -> list[dict[str, str]]:
        """What clients may seal to, as JSON values; the key they should use comes first."""
        return [key.to_json() for key in self._published()]

    def answer(self, data: bytes) -> bytes | None:
        """The answer to a message that asks for the keys; `None` if it is another."""
        try:
            if kind_of(data) is not Kind.ASKING_FOR_KEYS:
                return None
        except EncryptionError:
            return None
        return encode_keys(self.published(), number=peek_request_id(data))

    def is_taken_as_it_is(self, data: bytes) -> bool:
        """Whether `data` is a plain message or picture, where such may come."""
        try:
            return not self._require and kind_of(data) is None
        except EncryptionError:
            return False

    async def receive(self, data: bytes) -> Received:
        """The message in `data`, which is not taken as it is, opened.

        Raises:
            SealRefusedError: If it does not open, comes late or again, or is in the clear.
        """
        number = peek_request_id(data)
        try:
            if kind_of(data) is None:
                raise _refused(
                    number, 403, "encryption_required", "this server takes sealed pictures only"
                )
            ring = self._current()
            keys = {} if ring is None else ring.accepted(self._now())
            request = open_request(data, keys)
            await self._state.admit(request.nonce, sealed_at_ms=request.sealed_at_ms)
        except UnknownKeyError as error:
            raise _refused(number, 421, "unknown_key", str(error)) from None
        except StaleRequestError as error:
            raise _refused(number, 412, "stale", str(error)) from None
        except ReplayError as error:
            raise _refused(number, 409, "replayed", str(error)) from None
        except EncryptionError as error:
            raise _refused(number, 400, "bad_seal", str(error)) from None
        except StateUnavailableError:
            # Answered all the same, it could be answered twice.
            detail = "whether this came before cannot be told now; try again"
            raise _refused(number, 503, "unavailable", detail, UNKNOWN_RETRY_S) from None
        successor = self._successor(request)
        return Received(
            request.message,
            lambda reply: seal_reply(reply, request, number=number, successor=successor),
        )

    def _successor(self, request: OpenedRequest) -> PublicKey | None:
        """The key its sender should use from now on; `None` for the one it has used."""
        for key in self._published():  # the newest first
            if key.id == request.key_id:
                return None
            if key.suite.may_follow(request.suite):
                return key
        return None

    def _published(self) -> tuple[PublicKey, ...]:
        ring = self._current()
        return () if ring is None else ring.published(self._now())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _current(self) -> KeyRing | None:
        """The keys, read again if the file has changed."""
        now_s = self._clock()
        if self._path is None or abs(now_s - self._looked_at_s) < RELOAD_S:
            return self._ring
        self._looked_at_s = now_s
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self._ring = read_key_file(self._path)
                logger.warning("the keys have changed; %s is active", self._ring.active.id)
        except ConfigurationError as error:
            # A slip of the hand must not end a server that works.
            logger.error("the changed keys cannot be used, the old ones stay: %s", error)
        return self._ring


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        msg = f"{path}: the keys cannot be read ({error.strerror})"
        raise ConfigurationError(msg) from None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _refused(
    number: int, status: int, code: str, detail: str, retry_after_s: float | None = None
) -> SealRefusedError:
    reply = ErrorReply(
        request_id=number, status=status, code=code, detail=detail, retry_after_s=retry_after_s
    )
    return SealRefusedError(reply)
