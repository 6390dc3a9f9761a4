"""How a sealed message lies in bytes: no keys, no clocks, no cryptography.

A sealed message begins with the same twelve bytes as a plain one, so that a channel numbers
and matches either kind (`wire.peek_request_id`, `wire.with_request_id`)::

    0   2  magic "HS"
    2   1  version, 1
    3   1  type: 1 sealed request, 2 sealed reply, 3 asking for the keys, 4 the keys
    4   4  number on this link, big endian; chosen by the channel, repeated by the server
    8   4  length of the header, big endian

A sealed request goes on with its header, readable by anyone and altered by no one, and with
what HPKE made of the message::

    12  1  suite
    13  8  id of the server's key
    21  8  when it was sealed, milliseconds since 1970, big endian
    29  16 nonce, never used twice
    45  .. HPKE's encapsulated key and ciphertext

A sealed reply has no header, since all that it could say is its request's, but 12 bytes of
nonce and the ciphertext. The number on the link is the one thing that is not protected,
because the channel writes it after sealing. If it is changed on the way, a reply meets the wrong
request and does not open.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from hybrid_detect.errors import EncryptionError

__all__ = [
    "KEYS_PATH",
    "KEYS_REQUEST",
    "NONCE_BYTES",
    "SEALED_CONTENT_TYPE",
    "Kind",
    "RequestHeader",
    "decode_keys",
    "encode_keys",
    "kind_of",
    "pack_reply",
    "pack_request",
    "unpack_reply",
    "unpack_request",
]

SEALED_CONTENT_TYPE = "application/vnd.hybrid-detect.sealed.v1"
KEYS_PATH = "/v1/keys"

NONCE_BYTES = 16
"""128 random bits: two equal ones are not to be expected in 2^64 requests."""

KEY_ID_BYTES = 8

VERSION = 1

MAX_KEYS_BYTES = 64 * 1024
"""Some thirty keys of the largest suite; a server has two or three."""

_PREAMBLE = struct.Struct(">2sBBII")
_HEADER = struct.Struct(f">B{KEY_ID_BYTES}sQ{NONCE_BYTES}s")
_MAGIC = b"HS"


class Kind(IntEnum):
    """What a message with the magic of the sealed ones is."""

    REQUEST = 1
    REPLY = 2
    ASKING_FOR_KEYS = 3
    KEYS = 4


KEYS_REQUEST = _PREAMBLE.pack(_MAGIC, VERSION, Kind.ASKING_FOR_KEYS, 0, 0)
"""Asks for the server's public keys, over whatever channel carries the pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHeader:
    """What stands in front of a sealed request."""

    suite: int
    key_id: str
    sealed_at_ms: int
    nonce: bytes = field(repr=False)

    def encoded(self) -> bytes:
        """The header's bytes."""
        return _HEADER.pack(self.suite, bytes.fromhex(self.key_id), self.sealed_at_ms, self.nonce)


def kind_of(data: bytes) -> Kind | None:
    """Which kind of sealed message `data` is; `None` if it is none, but a plain message or picture.

    Raises:
        EncryptionError: If it has the magic of a sealed message, but is none of this version.
    """
    if data[:2] != _MAGIC:
        return None
    if len(data) < _PREAMBLE.size:
        msg = f"expected at least {_PREAMBLE.size} bytes of a sealed message, got {len(data)}"
        raise EncryptionError(msg)
    _, version, kind, _, _ = _PREAMBLE.unpack_from(data)
    if version != VERSION:
        msg = f"expected sealed messages of version {VERSION}, got version {version}"
        raise EncryptionError(msg)
    try:
        return Kind(kind)
    except ValueError:
        msg = f"expected a kind of sealed message, got {kind}"
        raise EncryptionError(msg) from None


def pack_request(header: RequestHeader, sealed: bytes) -> bytes:
    """A whole sealed request; its number is the channel's to write."""
    preamble = _PREAMBLE.pack(_MAGIC, VERSION, Kind.REQUEST, 0, _HEADER.size)
    return b"".join((preamble, header.encoded(), sealed))


def unpack_request(data: bytes) -> tuple[RequestHeader, memoryview]:
    """The header of a sealed request, and what HPKE made of the message.

    Raises:
        EncryptionError: If it is not well-formed.
    """
    body = _body(data, Kind.REQUEST, header_bytes=_HEADER.size)
    suite, key_id, sealed_at_ms, nonce = _HEADER.unpack_from(body)
    header = RequestHeader(suite=suite, key_id=key_id.hex(), sealed_at_ms=sealed_at_ms, nonce=nonce)
    return header, body[_HEADER.size :]


def pack_reply(sealed: bytes, *, number: int) -> bytes:
    """A whole sealed reply, with the number its request had on the link."""
    return _PREAMBLE.pack(_MAGIC, VERSION, Kind.REPLY, number, 0) + sealed


def unpack_reply(data: bytes) -> memoryview:
    """Nonce and ciphertext of a reply.

    Raises:
        EncryptionError: If it is not well-formed.
    """
    return _body(data, Kind.REPLY, header_bytes=0)


def encode_keys(keys: list[dict[str, Any]], *, number: int) -> bytes:
    """The answer to `KEYS_REQUEST`, with the number that had on the link."""
    text = json.dumps({"keys": keys}, separators=(",", ":")).encode()
    return _PREAMBLE.pack(_MAGIC, VERSION, Kind.KEYS, number, 0) + text


def decode_keys(data: bytes) -> list[Any]:
    """The keys in an answer to `KEYS_REQUEST`, as JSON values that are still to be checked.

    Raises:
        EncryptionError: If it is no such answer.
    """
    body = _body(data, Kind.KEYS, header_bytes=0)
    if len(body) > MAX_KEYS_BYTES:
        msg = f"expected at most {MAX_KEYS_BYTES} bytes of keys, got {len(body)}"
        raise EncryptionError(msg)
    try:
        value = json.loads(bytes(body).decode())
    except (ValueError, RecursionError):
        value = None
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list):
        msg = "expected a list of keys, got something else"
        raise EncryptionError(msg)
    return keys


def _body(data: bytes, kind: Kind, *, header_bytes: int) -> memoryview:
    found = kind_of(data)
    if found is not kind:
        msg = (
            f"expected a {_NAMES[kind]}, got {'a ' + _NAMES[found] if found else 'another message'}"
        )
        raise EncryptionError(msg)
    length = _PREAMBLE.unpack_from(data)[4]
    if length != header_bytes or len(data) < _PREAMBLE.size + header_bytes:
        msg = f"expected a {_NAMES[kind]} with {header_bytes} header bytes, got {length} or a part"
        raise EncryptionError(msg)
    return memoryview(data)[_PREAMBLE.size :]


_NAMES = {
    Kind.REQUEST: "sealed request",
    Kind.REPLY: "sealed reply",
    Kind.ASKING_FOR_KEYS: "request for keys",
    Kind.KEYS: "list of keys",
}
