"""One message sealed to one key, and one opened with it: HPKE (RFC 9180), single-shot.

What a request's seal covers: the message, and through HPKE's ``info`` the version, suite, key
id, time and nonce in front of it, the method and the content type. The session is a part of
the message, where only the server reads it.

The reply is encrypted with a key that the client draws for this one request and sends along,
sealed with it: only the owner of the server's key learns it, so no other party can read the
answer or make one. What identifies the request (its header, and its last 16 bytes: the tag over all
of it) is authenticated along; the reply of another request does not open. Oblivious HTTP
answers with a secret of the request, too (RFC 9458, 4.4), which spares three more operations
on curves for each frame. The price: an attacker who records everything and steals the server's
private key later can read the answers as well as the pictures.

Nothing here does I/O. Time and nonces may be given; HPKE draws its own keys from the system.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from hybrid_detect.errors import ConfigurationError, EncryptionError, UnknownKeyError
from hybrid_detect.exchange import envelope
from hybrid_detect.exchange.envelope import NONCE_BYTES, RequestHeader
from hybrid_detect.exchange.keys import PrivateKey, PublicKey, Suite

__all__ = [
    "OpenedReply",
    "OpenedRequest",
    "SealedRequest",
    "open_reply",
    "open_request",
    "seal_reply",
    "seal_request",
]

METHOD = b"detect"
CONTENT_TYPE = b"application/vnd.hybrid-detect.v1"
"""What is inside; `wire.CONTENT_TYPE`, frozen here because it is part of what is sealed."""

TAG_BYTES = 16
REPLY_KEY_BYTES = 32
REPLY_NONCE_BYTES = 12
"""Of all three suites' ciphers. Source: RFC 9180, 7.3."""

REPLY_STEP_BYTES = 2048
"""Replies are padded to a multiple of this, so that their length does not count the faces: one
takes at most 270 bytes of JSON, so up to seven look like none."""

_REPLY_LENGTHS = struct.Struct(">HI")


@dataclass(frozen=True, slots=True)
class SealedRequest:
    """A request as it may be sent, and what opens its reply."""

    data: bytes = field(repr=False)
    """The whole sealed message."""
    key_id: str
    """Id of the server's key it is sealed to."""
    suite: Suite
    reply_key: bytes = field(repr=False)
    """The key of the reply: 32 bytes that only the server learns."""
    binding: bytes = field(repr=False)
    """What ties the reply to this request: its header and its tag."""


@dataclass(frozen=True, slots=True)
class OpenedRequest:
    """What was in a sealed request, and what seals its reply."""

    message: bytes = field(repr=False)
    """The message of the wire format that was sealed."""
    key_id: str
    nonce: bytes = field(repr=False)
    sealed_at_ms: int
    """When it was sealed, by the client's clock, in milliseconds since 1970."""
    suite: Suite
    reply_key: bytes = field(repr=False)
    binding: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OpenedReply:
    """What was in a sealed reply."""

    message: bytes = field(repr=False)
    successor: PublicKey | None = None
    """The server's new key, if it has one: from now on, requests should be sealed to it."""


def seal_request(
    message: bytes,
    key: PublicKey,
    *,
    now_s: float,
    nonce: bytes | None = None,
    reply_key: bytes | None = None,
) -> SealedRequest:
    """Seal `message` to the server that has the private half of `key`.

    Args:
        message: What to seal.
        key: The server's key.
        now_s: The time, in seconds since 1970.
        nonce: 16 bytes never used before; drawn at random if `None`.
        reply_key: 32 bytes for the reply, never used before; drawn at random if `None`.

    Raises:
        UnknownKeyError: If the key has ended.
        EncryptionError: If it cannot be sealed to.
    """
    key.require_alive(now_s)
    reply_key = os.urandom(REPLY_KEY_BYTES) if reply_key is None else reply_key
    header = RequestHeader(
        suite=key.suite.code,
        key_id=key.id,
        sealed_at_ms=int(now_s * 1000),
        nonce=os.urandom(NONCE_BYTES) if nonce is None else nonce,
    )
    encoded = header.encoded()
    try:
        sealed = key.suite.hpke.encrypt(reply_key + message, key.handle, _info(b"request", encoded))
    except ValueError:  # a point that shares nothing with anybody (RFC 7748, 6.1)
        msg = f"nothing can be sealed to key {key.id}"
        raise EncryptionError(msg) from None
    data = envelope.pack_request(header, sealed)
    return SealedRequest(data, key.id, key.suite, reply_key, encoded + sealed[-TAG_BYTES:])


def open_request(data: bytes, keys: Mapping[str, PrivateKey]) -> OpenedRequest:
    """Open a sealed request. Whether it is fresh is for `ReplayGuard` to say.

    Args:
        data: The whole sealed message.
        keys: The keys to open with, by id.

    Raises:
        UnknownKeyError: If it is sealed to another key.
        EncryptionError: If it is malformed, was altered, or is sealed with another suite.
    """
    header, sealed = envelope.unpack_request(data)
    key = keys.get(header.key_id)
    if key is None:
        msg = f"sealed to key {header.key_id}, which is not one of this server's"
        raise UnknownKeyError(msg, key_id=header.key_id)
    if Suite.of_code(header.suite) is not key.suite:
        msg = f"key {header.key_id} is for suite {key.suite.value}, got suite {header.suite}"
        raise EncryptionError(msg)
    encoded = header.encoded()
    try:
        plain = key.suite.hpke.decrypt(sealed, key.handle, _info(b"request", encoded))
    except (InvalidTag, ValueError):
        raise _shut() from None
    if len(plain) < REPLY_KEY_BYTES:
        msg = "expected a key for the reply in the sealed request, got less"
        raise EncryptionError(msg)
    return OpenedRequest(
        message=plain[REPLY_KEY_BYTES:],
        key_id=header.key_id,
        nonce=header.nonce,
        sealed_at_ms=header.sealed_at_ms,
        suite=key.suite,
        reply_key=plain[:REPLY_KEY_BYTES],
        binding=encoded + bytes(sealed[-TAG_BYTES:]),
    )


def seal_reply(
    message: bytes,
    request: OpenedRequest,
    *,
    number: int = 0,
    successor: PublicKey | None = None,
    nonce: bytes | None = None,
) -> bytes:
    """Seal the reply to `request`.

    Args:
        message: What to seal.
        request: The request it answers.
        number: The request's number on its link.
        successor: The key to use from now on, if it is not the request's.
        nonce: 12 bytes not used for this request before; drawn at random if `None`. Random ones
            will do: a request is answered once, or once by each machine it was played to.
    """
    text = b"" if successor is None else successor.text.encode()
    plain = _REPLY_LENGTHS.pack(len(text), len(message)) + text + message
    padded = plain.ljust(-(-len(plain) // REPLY_STEP_BYTES) * REPLY_STEP_BYTES, b"\0")
    nonce = os.urandom(REPLY_NONCE_BYTES) if nonce is None else nonce
    sealed = _reply_cipher(request).encrypt(nonce, padded, _info(b"reply", request.binding))
    return envelope.pack_reply(nonce + sealed, number=number)


def open_reply(data: bytes, request: SealedRequest) -> OpenedReply:
    """Open the reply to `request`.

    Raises:
        EncryptionError: If it is malformed, was altered, or is not the reply to this request.
    """
    body = envelope.unpack_reply(data)
    nonce, sealed = body[:REPLY_NONCE_BYTES], body[REPLY_NONCE_BYTES:]
    try:
        plain = _reply_cipher(request).decrypt(nonce, sealed, _info(b"reply", request.binding))
    except (InvalidTag, ValueError):
        raise _shut() from None
    if len(plain) < _REPLY_LENGTHS.size:
        msg = "expected a reply in the sealed reply, got less"
        raise EncryptionError(msg)
    text_bytes, message_bytes = _REPLY_LENGTHS.unpack_from(plain)
    text_end = _REPLY_LENGTHS.size + text_bytes
    if len(plain) < text_end + message_bytes:
        msg = "expected a whole reply in the sealed reply, got a part"
        raise EncryptionError(msg)
    return OpenedReply(
        message=plain[text_end : text_end + message_bytes],
        successor=_successor(plain[_REPLY_LENGTHS.size : text_end]),
    )


def _info(kind: bytes, about: bytes) -> bytes:
    """HPKE's ``info``: each part with its length in front, so that no two can be confused."""
    label = b"hybrid-detect sealed " + kind
    parts = (label, bytes([envelope.VERSION]), METHOD, CONTENT_TYPE, about)
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _reply_cipher(request: SealedRequest | OpenedRequest) -> AESGCM | ChaCha20Poly1305:
    cipher = AESGCM if request.suite is Suite.X25519_AES_GCM else ChaCha20Poly1305
    return cipher(request.reply_key)


def _shut() -> EncryptionError:
    return EncryptionError(
        "a sealed message does not open: it was altered, or is not meant for this key"
    )


def _successor(text: bytes) -> PublicKey | None:
    """The key a reply names; `None` if it names none, or one of a suite not to be had here."""
    try:
        return PublicKey.from_text(text.decode()) if text else None
    except (ConfigurationError, UnicodeDecodeError):
        return None  # the present key goes on while it lasts
