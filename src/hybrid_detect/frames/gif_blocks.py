"""GIF blocks: a file taken apart up to the end of its first picture, without decoding it."""

from __future__ import annotations

from hybrid_detect.frames.layout import Layout, Piece, refuse
from hybrid_detect.frames.part_count import PartCount

__all__ = ["gif_layout"]

# Source of layouts: CompuServe, GIF89a specification, sections 15 to 27.
_HEADER_LENGTH = 13
"""Signature and logical screen descriptor."""
_IMAGE, _EXTENSION, _TRAILER = 0x2C, 0x21, 0x3B
_GRAPHIC_CONTROL = 0xF9
_IMAGE_LENGTH = 10
_HAS_TABLE = 0x80

_BYTES_PER_BLOCK = 64
"""Bytes of the file for each block beyond the free ones: blocks have at most 255, and encoders fill
them."""


def gif_layout(data: bytes) -> Layout:
    """Where the first picture lies in the GIF file `data`, with its palette and transparency.

    Raises:
        InvalidFrameError: If it has no picture, or too many parts.
    """
    count = PartCount("GIF", len(data), bytes_per_part=_BYTES_PER_BLOCK)
    pieces: list[Piece] = [slice(0, _HEADER_LENGTH + _table_length(data[10]))]
    position = _HEADER_LENGTH + _table_length(data[10])
    control: slice | None = None
    while position < len(data):
        kind = data[position]
        if kind == _IMAGE:
            blocks = position + _IMAGE_LENGTH + _table_length(data[position + 9]) + 1
            end = min(_end_of_blocks(data, blocks, count), len(data))
            if control is not None:
                pieces.append(control)
            return Layout.of((*pieces, slice(position, end), _trailer(data, end)))
        if kind == _EXTENSION:
            end = _end_of_blocks(data, position + 2, count)
            if data[position + 1] == _GRAPHIC_CONTROL:
                control = slice(position, end)
            position = end
        elif kind == _TRAILER:
            break
        else:
            count.add()
            position += 1  # decoders pass over bytes between blocks
    return refuse("GIF", "one without a picture")


def _table_length(flags: int) -> int:
    """Bytes of the colour table that `flags` announce: three for each of 2 to 256 colours."""
    return 3 << ((flags & 7) + 1) if flags & _HAS_TABLE else 0


def _end_of_blocks(data: bytes, position: int, count: PartCount) -> int:
    """The first byte behind the row of blocks, each of a length and that many bytes."""
    while position < len(data):
        count.add()
        length = data[position]
        position += 1 + length
        if not length:
            break
    return position


def _trailer(data: bytes, end: int) -> Piece:
    trailer = bytes((_TRAILER,))
    return slice(end, end + 1) if data[end:] == trailer else trailer
