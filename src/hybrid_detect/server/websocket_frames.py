"""Frames of a WebSocket as bytes (RFC 6455, 5.2): where one ends, and what a picture's frame has.

`websockets` reads the frames whose meaning could be disputed. A whole message in one frame, as
clients send their pictures, is most of the bytes and the simplest of all: it needs no parser, which
would copy it twice more.
"""

from __future__ import annotations

import logging

from websockets.server import ServerProtocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # where there is no compiled one
    from websockets.utils import apply_mask

__all__ = ["MAX_HEAD_BYTES", "frame_bytes", "is_whole_message", "parser_of", "payload_of"]

MAX_HEAD_BYTES = 14
"""Of a frame, before its payload."""

_WHOLE_BINARY = 0x82  # FIN, no extension, opcode 2
_MASKED = 0x80
_LONGER = {126: 2, 127: 8}  # bytes of the length behind the first two


# What strangers send is no news for a log, and at debug level websockets writes out bits of the
# pictures. No configuration of logging reaches a logger that `getLogger` did not make.
_quiet = logging.Logger("hybrid_detect.server.websocket", logging.CRITICAL + 1)


def parser_of(*, max_bytes: int) -> ServerProtocol:
    """What reads the frames of one WebSocket, whose messages have at most `max_bytes`."""
    return ServerProtocol(max_size=max_bytes, logger=_quiet)


def frame_bytes(data: bytes | bytearray) -> int:
    """The length of the frame that `data` begins with; 0 if that is not known yet."""
    if len(data) < 2:
        return 0
    size = data[1] & 0x7F
    longer = _LONGER.get(size, 0)
    if len(data) < 2 + longer:
        return 0
    if longer:
        size = int.from_bytes(data[2 : 2 + longer], "big")
    return 2 + longer + (4 if data[1] & _MASKED else 0) + size


def is_whole_message(start: bytes | bytearray) -> bool:
    """Whether a frame that begins like this is all of a binary message, masked as a client must."""
    return start[0] == _WHOLE_BINARY and bool(start[1] & _MASKED)


def payload_of(frame: bytes) -> bytes:
    """What the masked `frame` carries, or its beginning does: nothing before the mask is whole."""
    mask_at = 2 + _LONGER.get(frame[1] & 0x7F, 0)
    mask = frame[mask_at : mask_at + 4]
    return apply_mask(memoryview(frame)[mask_at + 4 :], mask) if len(mask) == 4 else b""
