"""What the first bytes of a detect message tell, before its picture has come."""

from __future__ import annotations

import struct

from hybrid_detect.exchange.wire import (
    MAX_REQUEST_HEADER_BYTES,
    DetectRequest,
    decode_request,
)

__all__ = ["request_in"]

_LENGTH = struct.Struct(">8xI")  # of the header, behind 8 bytes of the preamble


def request_in(start: bytes) -> DetectRequest | None:
    """The request whose message begins with `start`; its `image` is nothing to look at.

    Returns:
        The request, or `None` where more bytes are needed to tell.

    Raises:
        ProtocolError: If no bytes that follow could make it a well-formed detect message.
    """
    if len(start) < _LENGTH.size:
        return None
    (header_bytes,) = _LENGTH.unpack_from(start)
    end = _LENGTH.size + header_bytes
    if len(start) < end and header_bytes <= MAX_REQUEST_HEADER_BYTES:
        return None
    return decode_request(start[:end] + b"\0")  # a byte stands for the picture
