"""WebP chunks: a file taken apart into its picture and everything else, without decoding it."""

from __future__ import annotations

from collections.abc import Iterator

from hybrid_detect.privacy.file_parts import Part, refuse

__all__ = ["webp_parts"]

# Source of names and layouts: RFC 9649, sections 2.3 to 2.7.
_HEADER_LENGTH = 12
_EXTENDED_LENGTH = 10
_HAS_ALPHA = 0x10

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
        InvalidFrameError: If it breaks the format.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        refuse("WebP", "one that ends too early")
    parts = _reduced(list(_chunks(data, end)))
    length = 4 + sum(len(part.kept) for part in parts)
    yield Part(_HEADER_LENGTH, b"RIFF" + length.to_bytes(4, "little") + b"WEBP")
    yield from parts
    if end < len(data):
        yield Part(len(data) - end, name="bytes behind the picture")


def _chunks(data: bytes, end: int) -> Iterator[tuple[bytes, bytes, int]]:
    """Type, content and size in the file of each chunk."""
    position = _HEADER_LENGTH
    while position < end:
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        stop = position + 8 + length
        if stop > end:
            refuse("WebP", "one whose chunks reach past its end")
        size = min(stop + length % 2, end) - position
        yield data[position : position + 4], data[position + 8 : stop], size
        position += size


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
        elif type_ == b"VP8X" and is_first and len(body) >= _EXTENDED_LENGTH:
            # Only a separate alpha channel makes it necessary; the other flags announce metadata.
            flags = bytes((_HAS_ALPHA, 0, 0, 0))
            kept = _framed(type_, flags + body[4:_EXTENDED_LENGTH]) if has_alpha else b""
            parts.append(Part(size, kept, "" if len(body) == _EXTENDED_LENGTH else "chunk VP8X"))
        else:
            parts.append(Part(size, name=_NAMES.get(type_) or _shown(type_)))
    return parts


def _framed(type_: bytes, body: bytes) -> bytes:
    return type_ + len(body).to_bytes(4, "little") + body + bytes(len(body) % 2)


def _shown(type_: bytes) -> str:
    # A type may be any four bytes; a name is what looks like one.
    return f"chunk {type_.decode('ascii').strip()}" if type_.strip().isalnum() else "unnamed chunk"
