"""JPEG segments: a file taken apart up to the end of its first picture, without decoding it.

This is the one walk over JPEG files. It is lenient where decoders are; its readers add what they
must refuse: `jpeg_layout` for decoding here, `privacy.jpeg_parts`, which accounts for every byte,
and `compression.jpeg_markers`, which lets only plain pictures pass. A file for decoding that is all
plain picture is known as one in fewer steps, with the same layout.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.jpeg_search import end_of_data, next_marker
from hybrid_detect.frames.layout import Layout, Piece, refuse
from hybrid_detect.frames.part_count import PartCount

__all__ = [
    "ADOBE",
    "ADOBE_LENGTH",
    "COMPRESSED",
    "EOI",
    "JFIF",
    "JFIF_LENGTH",
    "PICTURE",
    "SOI",
    "SOS",
    "Segment",
    "jpeg_layout",
    "jpeg_profile",
    "jpeg_segments",
]

# Markers. Source: ITU-T T.81, table B.1.
SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
COMPRESSED = 0x00
"""Stands for the compressed data of a scan, which has no marker of its own."""
PICTURE = frozenset((*range(0xC0, 0xD0), SOS, 0xDB, 0xDD)) - {0xC8}
"""Frame headers, DHT, DAC, SOS, DQT and DRI."""

FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15, without DHT, JPG and DAC."""
USUAL_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended sequential and progressive frames, Huffman-coded."""
PLAIN_TABLES = frozenset({0xC4, 0xDB, 0xDD})
"""DHT, DQT and DRI."""

_START = b"\xff\xd8"
_ENDS_SCAN = bytes(0x01 <= second < 0xFF and not 0xD0 <= second < SOI for second in range(256))
"""Second bytes of the markers that end compressed data: no stuffed bytes, fill or restarts."""

_BEGINS_SEGMENT = bytes((0, 0)) + _ENDS_SCAN[2:]
"""The same but TEM (01), which stands alone and holds nothing, as restarts do."""

JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
"""A header without density and thumbnail. Source: ITU-T T.871, clause 10.1."""
JFIF_LENGTH = 14

ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""All but the last byte, which tells the colour space. Source: Adobe Technical Note 5116, 18."""
ADOBE_LENGTH = 12

MAX_SCANS = 100
"""A progressive JPEG has about ten. Each can be 31 bytes long. Source of the number: libtiff's
``JPEG_MAX_ALLOWED_SCAN_NUMBER``. Their pixels are bounded as well, by `decoding`."""

MAX_TABLE_BYTES = 32 * 1024
"""Bytes of the tables and headers of a picture, all scans together. Those of 100 optimised scans
have about 20 KB, and those of an ordinary file 600 bytes. A table can be 17 bytes long, and costs
Pillow 10 us."""

_PLAIN_SEGMENTS = 16
"""Between its first marker and its pixels, a plain picture has 4 to 9, of 600 bytes in all."""

_SEGMENT = struct.Struct(">BBH")
"""0xFF, marker and length."""

_PLAIN_START = _START + JFIF[:9]
"""Up to the version of JFIF."""

_FRAME = struct.Struct(">BHHB")
"""Bits of a sample, height, width and number of colours; three bytes for each of these follow."""

_ICC = b"ICC_PROFILE\0"
_ICC_HEADER = len(_ICC) + 2
"""Name, number and count of a piece of a colour profile. Source: ICC.1:2022, B.4."""


class Segment(NamedTuple):
    """A segment of the file, or the compressed data of a scan."""

    marker: int
    """The second byte of its marker, or `COMPRESSED`."""
    gap: int
    """Where the bytes begin that no segment holds and that lie before it; `start` if none do."""
    start: int
    """Where its marker is."""
    payload: int
    """Where its content begins."""
    end: int
    """The first byte behind it."""


def jpeg_segments(data: bytes) -> Iterator[Segment]:
    """The segments of `data` behind its first marker (SOI), up to and with the end marker (EOI).

    Raises:
        InvalidFrameError: If the file ends before its picture does, begins twice, or consists of
            more parts or scans than a picture needs.
    """
    count = PartCount("JPEG", len(data))
    gap = position = len(_START)
    scans = tables = 0
    while True:
        start = next_marker(data, position, _BEGINS_SEGMENT)
        if start is None:
            refuse("JPEG", "one without an end")
        count.add()
        payload, marker = start + 4, data[start + 1]
        if marker == SOI:
            refuse("JPEG", "one that begins twice")
        if marker == EOI:
            yield Segment(marker, gap, start, start + 2, start + 2)
            return
        # Decoders take a length that is too small for one of two, the length itself.
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        position = start + 2 + max(2, length)
        if position > len(data):
            refuse("JPEG", "one whose segments reach past its end")
        if marker == SOS:
            scans += 1
        elif marker in PICTURE:
            tables += position - start
        if scans > MAX_SCANS or tables > MAX_TABLE_BYTES:
            raise InvalidFrameError(
                expected=f"a JPEG of at most {MAX_SCANS} scans "
                f"and {MAX_TABLE_BYTES} bytes of tables",
                actual="one of more",
            )
        yield Segment(marker, gap, start, payload, position)
        gap = position
        if marker == SOS:
            stop = next_marker(data, position, _ENDS_SCAN)
            if stop is None:
                refuse("JPEG", "one that ends in its pixels")
            gap = end_of_data(data, position, stop)
            yield Segment(COMPRESSED, position, position, position, gap)
            position = stop


def jpeg_layout(data: bytes) -> Layout:
    """Where the picture lies in the JPEG file `data`.

    Raises:
        InvalidFrameError: If `jpeg_segments` cannot take it apart.
    """
    if (plain := _plain_layout(data)) is not None:
        return plain
    pieces: list[Piece] = [slice(0, len(_START))]
    exif: slice | None = None
    frames: list[Segment] = []
    passes = 0
    has_jfif = has_adobe = False
    for segment in jpeg_segments(data):
        marker, payload, end = segment.marker, segment.payload, segment.end
        length = end - payload
        if marker in PICTURE or marker in {COMPRESSED, EOI}:
            passes += marker == SOS
            pieces.append(slice(segment.start, end))
            if marker in FRAME_HEADERS:
                frames.append(segment)
        elif marker == 0xE0 and not has_jfif and data.startswith(b"JFIF\0", payload):
            # This and Adobe's tell decoders the colour space.
            has_jfif = True
            pieces.append(slice(segment.start, end) if length == JFIF_LENGTH else JFIF)
        elif marker == 0xEE and not has_adobe and data.startswith(b"Adobe", payload):
            if length >= ADOBE_LENGTH:
                has_adobe = True
                whole = ADOBE + data[payload + ADOBE_LENGTH - 1 : payload + ADOBE_LENGTH]
                pieces.append(slice(segment.start, end) if length == ADOBE_LENGTH else whole)
        elif marker == 0xE1 and exif is None and data.startswith(b"Exif\0", payload):
            exif = slice(payload, end)
    return Layout.of(pieces, exif, passes=passes, size=_usual_size(data, frames))


def _plain_layout(data: bytes) -> Layout | None:
    """What the walk would give for a JFIF header, tables, one usual frame and one scan, unbroken.

    This is what libraries write by default. `None` for any other file, readable or not.
    """
    if not data.startswith(_PLAIN_START):
        return None
    position, last = len(_START) + 4 + JFIF_LENGTH, len(data) - _SEGMENT.size
    frame: Segment | None = None
    for _ in range(_PLAIN_SEGMENTS):
        if position > last:
            return None
        start = position
        first, marker, length = _SEGMENT.unpack_from(data, start)
        position += 2 + length
        # A length below 2 is wrong. The next step then begins inside the length field, whose bytes
        # are 0 or 1 and no marker, so it gives up; for SOS the search finds what the walk finds.
        if first != 0xFF or position > MAX_TABLE_BYTES:
            return None
        if marker in USUAL_FRAMES and frame is None:
            frame = Segment(marker, start, start, start + 4, position)
        elif marker == SOS and frame is not None:
            size = _usual_size(data, [frame])
            end = next_marker(data, position, _ENDS_SCAN)
            if size and end and data[end + 1] == EOI and data[end - 1] != 0xFF:
                return Layout((slice(0, end + 2),), size=size)
            return None
        elif marker not in PLAIN_TABLES:
            return None
    return None


def _usual_size(data: bytes, frames: list[Segment]) -> tuple[int, int] | None:
    """Width and height, if there is one frame, of 8 bits in one or three colours.

    Source of the header: ITU-T T.81, B.2.2.
    """
    if len(frames) != 1 or frames[0].marker not in USUAL_FRAMES:
        return None
    payload, end = frames[0].payload, frames[0].end
    if end - payload < _FRAME.size:
        return None
    bits, height, width, colours = _FRAME.unpack_from(data, payload)
    is_usual = bits == 8 and colours in {1, 3} and end - payload == _FRAME.size + 3 * colours
    return (width, height) if is_usual and width and height else None


def jpeg_profile(data: bytes) -> bytes | None:
    """The colour profile in the JPEG file `data`; `None` if it has none, or not all of it."""
    found: dict[int, slice] = {}
    count = 0
    for segment in jpeg_segments(data):
        if segment.marker == 0xE2 and data.startswith(_ICC, segment.payload, segment.end):
            start = segment.payload + _ICC_HEADER
            if start < segment.end:
                found[data[start - 2]] = slice(start, segment.end)
                count = data[start - 1]
    if not found or sorted(found) != list(range(1, count + 1)):
        return None
    return b"".join(data[found[number]] for number in sorted(found))
