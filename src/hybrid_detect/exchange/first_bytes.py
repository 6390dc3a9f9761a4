"""What the first bytes of a detect message tell, before its picture has come."""

from __future__ import annotations

from hybrid_detect.exchange.wire import (
    MAX_REQUEST_HEADER_BYTES,
    PREAMBLE_BYTES,
    DetectRequest,
    decode_request,
    header_bytes_in,
)

__all__ = ["request_in"]


def request_in(start: bytes) -> DetectRequest | None:
    """The request whose message begins with `start`; its `image` is nothing to look at.

    Returns:
        The request, or `None` where more bytes are needed to tell.

    Raises:
        ProtocolError: If no bytes that follow could make it a well-formed detect message.
    """
    header_bytes = header_bytes_in(start)
    if header_bytes is None:
        return None
    end = PREAMBLE_BYTES + header_bytes
    if len(start) < end and header_bytes <= MAX_REQUEST_HEADER_BYTES:
        return None
    return decode_request(start[:end] + b"\0")  # a byte stands for the picture
