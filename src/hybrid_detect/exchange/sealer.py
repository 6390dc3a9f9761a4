"""End-to-end encryption: from the client to the detection server and back, past everyone between.

A request is sealed to the server's key, its reply to a key that the client draws for that one
request. A proxy that terminates TLS, a tunnel or a cloud's gateway sees who sends how much and
when, and neither picture, session nor faces. `sealing` says what exactly is covered.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hybrid_detect.errors import EncryptionError
from hybrid_detect.exchange.envelope import Kind, kind_of
from hybrid_detect.exchange.keys import PublicKey
from hybrid_detect.exchange.sealing import SealedRequest, open_reply, seal_request
from hybrid_detect.exchange.wire import ErrorReply, decode_reply

__all__ = ["Sealer"]


class Sealer:
    """Seals requests to one server and opens its replies.

    Args:
        public_key: The server's key, or its text as ``hybrid-detect keys show`` prints it.
        clock: Seconds since 1970.
        on_successor: Called with the server's new key when a reply names one. The old key
            vouches for it, and it is used from then on.

    Raises:
        ConfigurationError: If it is not a key, or its suite is not available here.
    """

    def __init__(
        self,
        public_key: PublicKey | str,
        *,
        clock: Callable[[], float] = time.time,
        on_successor: Callable[[PublicKey], None] | None = None,
    ) -> None:
        self._key = PublicKey.from_text(public_key) if isinstance(public_key, str) else public_key
        self._key.suite.hpke  # noqa: B018 - said now rather than at the first picture
        self._clock = clock
        self._on_successor = on_successor

    def __repr__(self) -> str:
        return f"{type(self).__name__}(key_id={self._key.id!r}, suite={self._key.suite.value!r})"

    @property
    def public_key(self) -> PublicKey:
        """The key that requests are sealed to now."""
        return self._key

    def seal(self, message: bytes) -> SealedRequest:
        """Seal one message of the wire format, for one attempt at sending it.

        A second attempt needs a seal of its own: the server refuses what it has seen.

        Raises:
            UnknownKeyError: If the server's key has ended.
            EncryptionError: If it cannot be sealed to.
        """
        return seal_request(message, self._key, now_s=self._clock())

    def open(self, reply: bytes, request: SealedRequest) -> bytes:
        """Open the reply to `request`, and go on with the server's new key if it names one.

        Raises:
            EncryptionError: If it is not the server's own, unaltered reply to this request.
        """
        opened = open_reply(reply, request)
        new = opened.successor
        if new is not None and new != self._key and new.suite.may_follow(self._key.suite):
            self._key = new
            if self._on_successor is not None:
                self._on_successor(new)
        return opened.message

    def open_answer(self, data: bytes, request: SealedRequest) -> bytes:
        """The message in an answer: the opened reply, or an error that came in the clear.

        A server that could not open the request cannot seal a reply, only say why there is none.

        Raises:
            EncryptionError: If a result came in the clear, or the reply does not open.
            ProtocolError: If it is no message at all.
        """
        if kind_of(data) is Kind.REPLY:
            return self.open(data, request)
        if isinstance(decode_reply(data), ErrorReply):
            return data
        msg = "the answer came in the clear, so it is not the server's own"
        raise EncryptionError(msg)
