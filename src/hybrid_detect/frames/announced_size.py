"""The size that an encoded image says it has, read from its first bytes without a decoder.

For what must be refused before any work is done on it. It is a hint: `EncodedPicture.of` decides.
"""

from __future__ import annotations

import struct

__all__ = ["announced_size"]

MAX_SEGMENTS = 64
"""JPEG segments that are walked over: cameras write about ten before the frame header. A file of
more is not refused, but left to the decoder's own walk."""

_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15, without DHT, JPG and DAC. Source: ITU-T T.81, table B.1."""


def announced_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as stored, of a JPEG, PNG, GIF or WebP; `None` if they are not told there.

    Takes a few microseconds, whatever the data.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _of_jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
        if data.startswith((b"GIF87a", b"GIF89a")):
            width, height = struct.unpack_from("<HH", data, 6)
            return width, height
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _of_webp(data)
    except (struct.error, IndexError):  # it ends before
        pass
    return None


def _of_jpeg(data: bytes) -> tuple[int, int] | None:
    position = 2
    for _ in range(MAX_SEGMENTS):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker in _FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        length = data[position + 2] << 8 | data[position + 3]
        position += 2 + length if length > 2 else 4
    return None


def _of_webp(data: bytes) -> tuple[int, int] | None:
    # Source: RFC 9649, 2.5 to 2.7.
    kind = data[12:16]
    if kind == b"VP8X":
        packed = int.from_bytes(data[24:30].ljust(6, b"\0"), "little")
        return 1 + (packed & 0xFFFFFF), 1 + (packed >> 24)
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
