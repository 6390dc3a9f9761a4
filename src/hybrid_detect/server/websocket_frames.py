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
    "FrameUnderWay",
    "message_frame",
    "parser_of",
    "payload_of",
]

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

    def measure(
        self, data: bytes | bytearray | memoryview, begin: int = 0, *, begins: bool
    ) -> tuple[int, bytes] | None:
        """Note how much is to come of the next frame, once its length is known; the last is over.

        Args:
            data: What has come.
            begin: Where in it the next frame begins.
            begins: Whether a message may begin with it.

        Returns:
            Where the frame ends, and its message, if it is all there and is a whole message: then
            nothing is to come of it. Else `None`.
        """
        self.pieces, self.is_refused = None, False
        there, mask_at = len(data), begin + 2
        if there < mask_at:
            return None
        second = data[begin + 1]
        size = second & 0x7F
        if size > 125:
            mask_at += _LONGER[size]
            if there < mask_at:
                return None
            size = int.from_bytes(data[begin + 2 : mask_at], "big")
        payload_at = mask_at + 4 if second & _MASKED else mask_at
        end = payload_at + size
        if (
            begins
            and data[begin] == _WHOLE_BINARY
            and second & _MASKED  # as a client must
            and end - begin <= self.max_bytes
        ):
            if end <= there:
                message = memoryview(data)[payload_at:end]
                return end, apply_mask(message, bytes(data[mask_at:payload_at]))
            self.pieces = []
        self.left_bytes = end - begin
        return None

    def message(self) -> bytes:
        """The whole message, all of which has come."""
        pieces, self.pieces = self.pieces or [], None
        return payload_of(b"".join(pieces))

    def forget(self) -> None:
        """Nothing more of it comes."""
        self.left_bytes, self.pieces = 0, None


def message_frame(message: bytes) -> bytes:
    """`message` as a server sends it: whole, and without a mask."""
    size = len(message)
    if size < 126:
        return bytes((_WHOLE_BINARY, size)) + message
    if size < 1 << 16:
        return _LENGTH.pack(_WHOLE_BINARY, 126, size) + message
    return _LONG_LENGTH.pack(_WHOLE_BINARY, 127, size) + message
