"""WebP parts: a file's picture and everything else, by the walk that decoding uses."""

from __future__ import annotations

from collections.abc import Iterator

from hybrid_detect.frames.layout import refuse
from hybrid_detect.frames.webp_chunks import (
    EXTENDED_LENGTH,
    HAS_ALPHA,
    HEADER_LENGTH,
    webp_chunks,
)
from hybrid_detect.privacy.file_parts import Part

__all__ = ["webp_parts"]

_NAMES = {
    b"EXIF": "EXIF",
    b"XMP ": "XMP",
    b"ICCP": "ICC profile",
    b"ANIM": "animation",
    b"ANMF": "animation",
}


def webp_parts(data: bytes) -> Iterator[Part]:
    """The parts of the WebP file `data`. What is kept of an animation is no file.

    Raises:
        InvalidFrameError: If it breaks the format, or has too many parts.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        refuse("WebP", "one that ends too early")
    parts = _reduced(list(_chunks(data, end)))
    length = 4 + sum(len(part.kept) for part in parts)
    yield Part(HEADER_LENGTH, b"RIFF" + length.to_bytes(4, "little") + b"WEBP")
    yield from parts
    if end < len(data):
        yield Part(len(data) - end, name="bytes behind the picture")


def _chunks(data: bytes, end: int) -> Iterator[tuple[bytes, bytes, int]]:
    """Type, content and size in the file of each chunk."""
    for chunk in webp_chunks(data):
        if chunk.stop > end:
            refuse("WebP", "one whose chunks reach past its end")
        yield chunk.type, data[chunk.body : chunk.stop], min(chunk.end, end) - chunk.start


def _reduced(chunks: list[tuple[bytes, bytes, int]]) -> list[Part]:
    """The parts of `chunks`: one bitstream, and what says how transparent it is."""
    has_alpha = any(type_ == b"ALPH" for type_, _, _ in chunks)
    parts: list[Part] = []
    seen: set[bytes] = set()
    for type_, body, size in chunks:
        is_first = type_ not in seen
        seen.add(type_)
        if type_ in {b"VP8 ", b"VP8L", b"ALPH"} and is_first:
            parts.append(Part(size, _framed(type_, body)))
        elif type_ == b"VP8X" and is_first and len(body) >= EXTENDED_LENGTH:
            # Only a separate alpha channel makes it necessary; the other flags announce metadata.
            flags = bytes((HAS_ALPHA, 0, 0, 0))
            kept = _framed(type_, flags + body[4:EXTENDED_LENGTH]) if has_alpha else b""
            parts.append(Part(size, kept, "" if len(body) == EXTENDED_LENGTH else "chunk VP8X"))
        else:
            parts.append(Part(size, name=_NAMES.get(type_) or _shown(type_)))
    return parts


def _framed(type_: bytes, body: bytes) -> bytes:
    return type_ + len(body).to_bytes(4, "little") + body + bytes(len(body) % 2)


def _shown(type_: bytes) -> str:
    # A type may be any four bytes; a name is what looks like one.
    return f"chunk {type_.decode('ascii').strip()}" if type_.strip().isalnum() else "unnamed chunk"
