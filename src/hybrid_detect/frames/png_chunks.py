"""PNG chunks: a file taken apart up to the end of its picture, without inflating it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from hybrid_detect.frames.layout import Layout, Piece, refuse
from hybrid_detect.frames.part_count import PartCount

__all__ = ["FRAME_LENGTH", "SIGNATURE_LENGTH", "Chunk", "png_chunks", "png_layout", "png_profile"]

# Source of names, lengths and limits: W3C, PNG specification, third edition, 5.3 and 11.2.
SIGNATURE_LENGTH = 8
FRAME_LENGTH = 12
"""Length, type and checksum of a chunk."""
_HEADER_LENGTH = 13
_TYPE = re.compile(rb"[A-Za-z]{4}")
_END = b"\0\0\0\0IEND\xae\x42\x60\x82"

MAX_PIXEL_CHUNKS = 64
"""Chunks of pixels that are handed on as they are, however small."""

SMALL_CHUNK_BYTES = 4096
"""Chunks of so many bytes in the mean are handed on as well; libpng writes 8 KiB, Pillow 64."""

_MAX_PROFILE_BYTES = 2 * 1024 * 1024
"""What a colour profile may unfold to: those of screens and cameras have up to 1 MB."""


class Chunk(NamedTuple):
    """A chunk of the file."""

    type: bytes
    start: int
    """Where its length is."""
    body: int
    """Where its content begins."""
    end: int
    """The first byte behind its checksum; past the end of the file if that is cut."""


def png_chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of `data` up to and with its end chunk, or up to where none follows.

    Raises:
        InvalidFrameError: If the file consists of more parts than a picture needs.
    """
    count = PartCount("PNG", len(data))
    position = SIGNATURE_LENGTH
    while position < len(data):
        count.add()
        length = int.from_bytes(data[position : position + 4], "big")
        body = position + 8
        type_ = data[position + 4 : body]
        if not _TYPE.fullmatch(type_):
            return
        chunk = Chunk(type_, position, body, body + length + 4)
        yield chunk
        if type_ == b"IEND":
            return
        position = chunk.end


def png_layout(data: bytes) -> Layout:
    """Where the picture lies in the PNG file `data`: header, palette, transparency and pixels.

    Raises:
        InvalidFrameError: If it has no header or no pixels, or too many parts.
    """
    pieces: list[Piece] = []
    pixels: list[slice] = []
    exif: slice | None = None
    seen: set[bytes] = set()
    previous = b""
    last = 0
    for chunk in png_chunks(data):
        type_, is_first = chunk.type, chunk.type not in seen
        whole = slice(chunk.start, min(chunk.end, len(data)))
        if not seen and (type_ != b"IHDR" or chunk.end - chunk.body - 4 != _HEADER_LENGTH):
            refuse("PNG", "one that does not begin with its header")
        if type_ == b"IDAT":
            if is_first or previous == b"IDAT":  # decoders stop at the first other chunk
                pixels.append(whole)
        elif (type_ in {b"IHDR", b"PLTE"} and is_first) or (
            type_ == b"tRNS" and is_first and _is_intact(data, chunk)
        ):
            if b"IDAT" not in seen:
                pieces.append(whole)
        elif type_ == b"eXIf" and exif is None:
            exif = slice(chunk.body, chunk.end - 4)
        elif type_ == b"IEND":
            last = chunk.start
        seen.add(type_)
        previous = type_
    if b"IDAT" not in seen:
        refuse("PNG", "one without pixels")
    signature = slice(0, SIGNATURE_LENGTH)
    if pixels[-1].stop == len(data):
        # Cut in its pixels: anything put behind them would be taken for more of them.
        return Layout.of((signature, *pieces, *pixels), exif)
    # Where the file ends as it should, its own last chunk is used, so that nothing is copied.
    end: Piece = slice(last, len(data)) if last and data[last:] == _END else _END
    return Layout.of((signature, *pieces, *_few_chunks(data, pixels), end), exif)


def _few_chunks(data: bytes, pixels: list[slice]) -> list[Piece]:
    """The pixels' chunks, or one of all if they are many and small: Pillow takes 10 us each."""
    length = sum(whole.stop - whole.start for whole in pixels)
    if len(pixels) <= MAX_PIXEL_CHUNKS or length >= len(pixels) * SMALL_CHUNK_BYTES:
        return list(pixels)
    bodies = [slice(whole.start + 8, whole.stop - 4) for whole in pixels]
    view = memoryview(data)
    checksum, length = zlib.crc32(b"IDAT"), 0
    for body in bodies:
        checksum = zlib.crc32(view[body], checksum)
        length += max(0, body.stop - body.start)
    return [length.to_bytes(4, "big") + b"IDAT", *bodies, checksum.to_bytes(4, "big")]


def png_profile(data: bytes) -> bytes | None:
    """The colour profile in the PNG file `data`; `None` if it has none that can be read."""
    for chunk in png_chunks(data):
        if chunk.type == b"iCCP":
            # A name of 1 to 79 bytes, a zero, the method (0 is deflate), then the profile.
            name, _, rest = data[chunk.body : chunk.end - 4].partition(b"\0")
            inflater = zlib.decompressobj()
            try:
                profile = inflater.decompress(rest[1:], _MAX_PROFILE_BYTES)
            except zlib.error:
                return None
            return profile if inflater.eof and name and rest[:1] == b"\0" else None
        if chunk.type == b"IDAT":
            return None
    return None


def _is_intact(data: bytes, chunk: Chunk) -> bool:
    body = data[chunk.body - 4 : chunk.end - 4]
    return zlib.crc32(body) == int.from_bytes(data[chunk.end - 4 : chunk.end], "big")
