"""WebP chunks: a file taken apart into its RIFF chunks, without decoding it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hybrid_detect.frames.layout import Layout, Piece, refuse
from hybrid_detect.frames.part_count import PartCount

__all__ = [
    "EXTENDED_LENGTH",
    "HAS_ALPHA",
    "HEADER_LENGTH",
    "RiffChunk",
    "webp_chunks",
    "webp_layout",
    "webp_profile",
]

# Source of names and layouts: RFC 9649, sections 2.3 to 2.7.
HEADER_LENGTH = 12
EXTENDED_LENGTH = 10
HAS_ALPHA = 0x10
_IS_ANIMATED = 0x02
_PICTURES = frozenset((b"VP8 ", b"VP8L", b"ANMF"))
"""Bitstreams, and a frame of an animation."""


class RiffChunk(NamedTuple):
    """A chunk of the file."""

    type: bytes
    start: int
    """Where its type is."""
    body: int
    """Where its content begins."""
    stop: int
    """The first byte behind its content; past the end of the file if that is cut."""
    end: int
    """The same, with the byte that makes its length even."""


def webp_chunks(data: bytes) -> Iterator[RiffChunk]:
    """The chunks of `data`.

    Raises:
        InvalidFrameError: If the file consists of more parts than a picture needs.
    """
    count = PartCount("WebP", len(data))
    position = HEADER_LENGTH
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while position < end:
        count.add()
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        stop = position + 8 + length
        chunk = RiffChunk(
            data[position : position + 4], position, position + 8, stop, stop + length % 2
        )
        yield chunk
        position = chunk.end


def webp_layout(data: bytes) -> Layout:
    """Where the picture, or the first of an animation, lies in the WebP file `data`.

    Raises:
        InvalidFrameError: If it has no picture, or too many parts.
    """
    found: dict[bytes, RiffChunk] = {}
    for chunk in webp_chunks(data):
        if not (chunk.type in _PICTURES and found.keys() & _PICTURES):
            found.setdefault(chunk.type, chunk)
    picture = next((found[type_] for type_ in _PICTURES if type_ in found), None)
    if picture is None:
        refuse("WebP", "one without a picture")
    exif = found.get(b"EXIF")
    is_animated = picture.type == b"ANMF"
    kept = [found[type_] for type_ in (b"ANIM",) if is_animated and type_ in found]
    kept += [found[type_] for type_ in (b"ALPH",) if not is_animated and type_ in found]
    kept.append(picture)
    pieces: list[Piece] = []
    extended = found.get(b"VP8X")
    # A still picture without a separate alpha channel needs no extended header.
    if extended is not None and len(kept) + is_animated > 1:
        flags = data[extended.body] & (HAS_ALPHA | _IS_ANIMATED)
        rest = data[extended.body + 4 : extended.body + EXTENDED_LENGTH]
        size = EXTENDED_LENGTH.to_bytes(4, "little")
        pieces.append(b"VP8X" + size + bytes((flags, 0, 0, 0)) + rest)
    for chunk in kept:
        pieces.append(slice(chunk.start, min(chunk.end, len(data))))
        if chunk.end == len(data) + 1:
            pieces.append(b"\0")  # some writers leave out the last chunk's padding
    length = 4 + sum(len(p) if isinstance(p, bytes) else p.stop - p.start for p in pieces)
    header = b"RIFF" + length.to_bytes(4, "little") + b"WEBP"
    first: Piece = slice(0, HEADER_LENGTH) if data[:HEADER_LENGTH] == header else header
    return Layout.of((first, *pieces), slice(exif.body, exif.stop) if exif else None)


def webp_profile(data: bytes) -> bytes | None:
    """The colour profile in the WebP file `data`; `None` if it has none."""
    chunks = webp_chunks(data)
    return next((data[c.body : c.stop] for c in chunks if c.type == b"ICCP"), None)
