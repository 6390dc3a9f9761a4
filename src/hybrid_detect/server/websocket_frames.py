"""Frames of a WebSocket as bytes (RFC 6455, 5.2): where one ends, and what a picture's frame has.

`websockets` reads the frames whose meaning could be disputed. A whole message in one frame, as
clients send their pictures, is most of the bytes and the simplest of all: it needs no parser, which
would copy it twice more; nor does an answer need one that writes it.
"""

from __future__ import annotations

import logging
import struct

from websockets.server import ServerProtocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # where there is no compiled one
    from websockets.utils import apply_mask

__all__ = [
    "MAX_HEAD_BYTES",
    "FrameUnderWay",
    "frame_bytes",
    "is_whole_message",
    "message_frame",
    "parser_of",
    "payload_of",
    "whole_message",
]

MAX_HEAD_BYTES = 14
"""Of a frame, before its payload."""

_WHOLE_BINARY = 0x82  # FIN, no extension, opcode 2
_MASKED = 0x80
_LONGER = {126: 2, 127: 8}  # bytes of the length behind the first two
_LENGTH = struct.Struct("!BBH")
_LONG_LENGTH = struct.Struct("!BBQ")


# What strangers send is no news for a log, and at debug level websockets writes out bits of the
# pictures. No configuration of logging reaches a logger that `getLogger` did not make.
_quiet = logging.Logger("hybrid_detect.server.websocket", logging.CRITICAL + 1)


def parser_of(*, max_bytes: int) -> ServerProtocol:
    """What reads the frames of one WebSocket, whose messages have at most `max_bytes`."""
    return ServerProtocol(max_size=max_bytes, logger=_quiet)


def frame_bytes(data: bytes | bytearray | memoryview) -> int:
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


def is_whole_message(start: bytes | bytearray | memoryview) -> bool:
    """Whether a frame that begins like this is all of a binary message, masked as a client must."""
    return start[0] == _WHOLE_BINARY and bool(start[1] & _MASKED)


def payload_of(frame: bytes) -> bytes:
    """What the masked `frame` carries, or its beginning does: nothing before the mask is whole."""
    mask_at = 2 + _LONGER.get(frame[1] & 0x7F, 0)
    mask = frame[mask_at : mask_at + 4]
    return apply_mask(memoryview(frame)[mask_at + 4 :], mask) if len(mask) == 4 else b""


class FrameUnderWay:
    """A frame of which a part has come.

    Args:
        max_bytes: Of one that is read here; `websockets` knows what to say of a larger one.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.left_bytes = 0
        """What is to come of it."""
        self.pieces: list[bytes] | None = None
        """What has come, if it is a whole message; `None` if it is not."""
        self.is_refused = False
        """Whether what is to come of it is not wanted."""

    def measure(self, data: bytes | bytearray | memoryview, *, begins: bool) -> None:
        """Note what is to come of the next frame, if `data` begins with it.

        Args:
            data: What comes next.
            begins: Whether a message may begin there.
        """
        if self.left_bytes:
            return
        self.left_bytes = size = frame_bytes(data)
        is_whole = begins and 0 < size <= self.max_bytes and is_whole_message(data)
        self.pieces = [] if is_whole else None
        self.is_refused = False

    def message(self) -> bytes:
        """The whole message, all of which has come."""
        pieces, self.pieces = self.pieces or [], None
        return payload_of(b"".join(pieces))

    def forget(self) -> None:
        """Nothing more of it comes."""
        self.left_bytes, self.pieces = 0, None

    def refuse(self) -> None:
        """Take nothing more of it."""
        self.pieces, self.is_refused = None, True


def whole_message(
    data: bytes | memoryview, begin: int, *, max_bytes: int
) -> tuple[int, bytes] | None:
    """A message that lies in `data` from `begin` on, in one masked frame of at most `max_bytes`.

    Returns:
        Where its frame ends, and the message; `None` if it is not of that kind or not all there.
    """
    there = len(data) - begin
    if there < 6 or data[begin] != _WHOLE_BINARY or not data[begin + 1] & _MASKED:
        return None
    size, mask_at = data[begin + 1] & 0x7F, begin + 2
    if size > 125:
        mask_at += _LONGER[size]
        size = int.from_bytes(data[begin + 2 : mask_at], "big")
    end = mask_at + 4 + size
    if end > len(data) or end - begin > max_bytes:
        return None
    message = memoryview(data)[mask_at + 4 : end]
    return end, apply_mask(message, bytes(data[mask_at : mask_at + 4]))


def message_frame(message: bytes) -> bytes:
    """`message` as a server sends it: whole, and without a mask."""
    size = len(message)
    if size < 126:
        return bytes((_WHOLE_BINARY, size)) + message
    if size < 1 << 16:
        return _LENGTH.pack(_WHOLE_BINARY, 126, size) + message
    return _LONG_LENGTH.pack(_WHOLE_BINARY, 127, size) + message
