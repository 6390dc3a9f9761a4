"""PNG parts: a file's picture and everything else, with filters left as they are."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from hybrid_detect.frames.layout import refuse
from hybrid_detect.frames.png_chunks import FRAME_LENGTH, SIGNATURE_LENGTH, png_chunks
from hybrid_detect.privacy.file_parts import Part

__all__ = ["png_parts"]

# Source of names, lengths and limits: W3C, PNG specification, third edition, 11.2 and 11.3.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel by colour type."""
_INDEXED = 3
"""The colour type whose samples are places in a palette."""

_COLOUR_LENGTHS = {b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"cICP": 4}
"""What says how bright and which colours the samples are, in numbers of fixed length."""

_NAMES = {
    b"eXIf": "EXIF",
    b"iCCP": "ICC profile",
    b"PLTE": "palette",
    b"tEXt": "text",
    b"zTXt": "text",
    b"iTXt": "text",
    b"tIME": "time",
    b"acTL": "animation",
    b"fcTL": "animation",
    b"fdAT": "animation",
}

_PASSES = (
    (0, 8, 0, 8),
    (4, 8, 0, 8),
    (0, 4, 4, 8),
    (2, 4, 0, 4),
    (0, 2, 2, 4),
    (1, 2, 0, 2),
    (0, 1, 1, 2),
)
"""Adam7: first column and step, first row and step. Source: as above, 8.1."""

_PIECE = 64 * 1024
"""Bytes inflated at once: what a small file unfolds to is counted, never held."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    type: bytes
    body: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        return len(self.body) + FRAME_LENGTH

    @property
    def framed(self) -> bytes:
        checksum = zlib.crc32(self.body, zlib.crc32(self.type))
        return (
            struct.pack(">I", len(self.body)) + self.type + self.body + struct.pack(">I", checksum)
        )


def png_parts(data: bytes) -> Iterator[Part]:
    """The parts of the PNG file `data`; the pixels come as one.

    Raises:
        InvalidFrameError: If it breaks the format.
    """
    chunks, end = _chunks(data)
    if not chunks or chunks[0].type != b"IHDR" or len(chunks[0].body) != 13:
        refuse("PNG", "one that does not begin with its header")
    has_profile = any(chunk.type == b"iCCP" for chunk in chunks)
    yield Part(SIGNATURE_LENGTH, data[:SIGNATURE_LENGTH])
    pixels: list[_Chunk] = []
    has_pixels = False
    seen: set[bytes] = set()
    for number, chunk in enumerate(chunks):
        if chunk.type != b"IDAT":
            yield _part(chunk, chunks[0], is_first=chunk.type not in seen, has_profile=has_profile)
            seen.add(chunk.type)
        elif has_pixels:  # decoders stop at the first other chunk
            yield Part(chunk.size_bytes, name="bytes behind the pixels")
        else:
            pixels.append(chunk)
            if chunks[number + 1].type != b"IDAT":
                has_pixels = True
                yield from _pixel_parts(chunks[0], pixels)
    if end < len(data):
        yield Part(len(data) - end, name="bytes behind the picture")


def _chunks(data: bytes) -> tuple[list[_Chunk], int]:
    """The chunks of `data` up to its end chunk, and where that ends."""
    chunks: list[_Chunk] = []
    end = SIGNATURE_LENGTH
    for chunk in png_chunks(data):
        end = chunk.end
        chunks.append(_Chunk(chunk.type, data[chunk.body : end - 4]))
    if end > len(data) or not chunks or chunks[-1].type != b"IEND":
        refuse("PNG", "one that ends, or has no chunk, where a chunk should be")
    return chunks, end


def _part(chunk: _Chunk, header: _Chunk, *, is_first: bool, has_profile: bool) -> Part:
    """A chunk other than the pixels'.

    Args:
        chunk: The chunk.
        header: The file's first chunk.
        is_first: Whether it is the first of its type.
        has_profile: Whether the file has a colour profile.
    """
    if chunk is header:
        return Part(chunk.size_bytes, chunk.framed)
    if chunk.type == b"IEND":
        return Part(chunk.size_bytes, _Chunk(b"IEND", b"").framed, "text" if chunk.body else "")
    # In a picture that has colours of its own, a palette is advice for displays that are gone.
    is_read = chunk.type == b"tRNS" or (chunk.type == b"PLTE" and header.body[9] == _INDEXED)
    # Beside a profile these are its approximation for simple decoders, and go with it.
    tells_colour = len(chunk.body) == _COLOUR_LENGTHS.get(chunk.type) and not has_profile
    if is_first and (is_read or tells_colour):
        return Part(chunk.size_bytes, chunk.framed)
    name = _NAMES.get(chunk.type) or f"chunk {chunk.type.decode('ascii')}"
    return Part(chunk.size_bytes, name=name)


def _pixel_parts(header: _Chunk, pixels: list[_Chunk]) -> Iterator[Part]:
    """The pixels, and what is hidden behind them in the same chunks: decoders stop reading."""
    size = sum(chunk.size_bytes for chunk in pixels)
    stream = b"".join(chunk.body for chunk in pixels)
    exact = _exact(stream, _raw_length(header.body))
    if exact is stream:
        yield Part(size, b"".join(chunk.framed for chunk in pixels))
    else:
        hidden = max(1, len(stream) - len(exact))
        yield Part(size - hidden, _Chunk(b"IDAT", exact).framed)
        yield Part(hidden, name="bytes behind the pixels")


def _exact(stream: bytes, length: int) -> bytes:
    """`stream`, without what does not belong to the first `length` bytes it inflates to.

    Returns:
        `stream` itself if there is no such thing, or it cannot be inflated.
    """
    total = 0
    inflater = zlib.decompressobj()
    try:
        for piece in _inflated(stream, inflater):
            total += len(piece)
            if total > length:
                return _deflated(stream, length)
    except zlib.error:
        return stream  # The decoder will say so.
    end = len(stream) - len(inflater.unused_data)
    return stream if end == len(stream) else stream[:end]


def _deflated(stream: bytes, length: int) -> bytes:
    """The first `length` bytes that `stream` inflates to, deflated again."""
    deflater = zlib.compressobj()
    parts: list[bytes] = []
    for piece in _inflated(stream, zlib.decompressobj()):
        parts.append(deflater.compress(piece[:length]))
        length -= min(length, len(piece))
        if not length:
            break
    return b"".join((*parts, deflater.flush()))


def _inflated(stream: bytes, inflater: zlib._Decompress) -> Iterator[bytes]:
    """What `stream` inflates to, a piece at a time; what follows it stays in the inflater."""
    for start in range(0, len(stream), _PIECE):
        rest = stream[start : start + _PIECE]
        while rest and not inflater.eof:
            yield inflater.decompress(rest, _PIECE)
            rest = inflater.unconsumed_tail
        if inflater.eof:
            inflater.decompress(stream[start + _PIECE :])
            return


def _raw_length(header: bytes) -> int:
    """Bytes of all rows, a filter byte before each."""
    width, height, depth, colour_type, _, _, interlace = struct.unpack(">IIBBBBB", header)
    bits = depth * _SAMPLES.get(colour_type, 4)
    passes = _PASSES if interlace else ((0, 1, 0, 1),)
    total = 0
    for column, column_step, row, row_step in passes:
        wide = -(-(width - column) // column_step)
        high = -(-(height - row) // row_step)
        if wide > 0 and high > 0:
            total += high * (1 + (wide * bits + 7) // 8)
    return total
