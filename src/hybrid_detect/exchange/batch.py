"""Several messages of the wire format in one HTTP body: a list of detect messages, or of replies.

::

    0   4  length of the first message, big endian
    4   n  the first message, whole (`hybrid_detect.exchange.wire`), sealed or not
    ..     the next one, in the same form

The replies come in the order of the requests, one for each: a result or an error. An error of one
leaves the others their results. Pure: no I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Never

from hybrid_detect.errors import ProtocolError

__all__ = ["BATCH_CONTENT_TYPE", "BATCH_PATH", "MAX_BATCH", "decode_batch", "encode_batch"]

BATCH_PATH = "/v1/detect/batch"
BATCH_CONTENT_TYPE = "application/vnd.hybrid-detect.batch.v1"

MAX_BATCH = 16
"""Messages in a batch: of 80 KB each, 1.3 MB. As many as Google's Vision takes, and half of
what may wait in the reference server by default."""

_LENGTH = struct.Struct(">I")


def encode_batch(messages: Sequence[bytes]) -> bytes:
    """The bytes of `messages`, 1 to `MAX_BATCH`."""
    return b"".join(part for each in messages for part in (_LENGTH.pack(len(each)), each))


def decode_batch(data: bytes) -> list[bytes]:
    """The messages in `data`, none of which has been looked at.

    Raises:
        ProtocolError: If it is not a batch of 1 to `MAX_BATCH` messages.
    """
    messages: list[bytes] = []
    place = 0
    while place < len(data):
        if len(messages) == MAX_BATCH:
            _fail(f"at most {MAX_BATCH} messages in a batch", "more")
        start = place + _LENGTH.size
        if start > len(data):
            _fail("the length of a message", "a batch that ends in it")
        place = start + _LENGTH.unpack_from(data, place)[0]
        if place > len(data):
            _fail("a whole message", "a batch that ends in it")
        messages.append(bytes(data[start:place]))
    if not messages:
        _fail("a batch of messages", "an empty one")
    return messages


def _fail(expected: str, actual: str) -> Never:
    msg = f"expected {expected}, got {actual}"
    raise ProtocolError(msg)
