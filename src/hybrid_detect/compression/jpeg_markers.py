"""JPEG markers: whether a file holds a picture and nothing else, without decoding it.

This reader of `jpeg_segments` is strict: it gives up a file with a segment that it does not know,
or a byte outside of all segments. What it lets pass has tables, one frame and its scans, so no
name, no position and no second picture. It does not check that the picture itself can be decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hybrid_detect.compression.huffman_tables import HUFFMAN_TABLES
from hybrid_detect.compression.size_law import quality_at
from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.jpeg_segments import (
    COMPRESSED,
    EOI,
    JFIF,
    SOS,
    Segment,
    jpeg_segments,
)

__all__ = ["quality_of", "without_metadata"]

# Markers and segments. Source: ITU-T T.81, annex B.
_START = b"\xff\xd8"
_HUFFMAN, _QUANTISERS, _RESTARTS = 0xC4, 0xDB, 0xDD
_BASELINE, _PROGRESSIVE = 0xC0, 0xC2
"""The frames that every decoder reads."""
_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE))
"""APP0 to APP15, and COM."""
_ADOBE = 0xEE

_CLEAN_JFIF = re.compile(rb"JFIF\x00\x01[\x00-\x02][\x00-\x02].{4}\x00\x00", re.DOTALL)
"""The payload of one without thumbnail; density is four bytes that identify no person."""

_STANDARD_LUMA_SUM = 3688
"""Sum of the luma table at scale 100. Source: ITU-T T.81, table K.1."""


class _NotPlainError(Exception):
    """The file is damaged, or holds what this walk does not know."""


def without_metadata(data: bytes) -> bytes | None:
    """`data` without anything but the picture, which stays bit for bit what it was.

    A picture that relies on the standard Huffman tables, as those of USB cameras do (MJPEG), gets
    them: many decoders other than libjpeg-turbo have none of their own.

    Returns:
        `data` itself if there is nothing to change; `None` if the file is damaged, uses what
        is not common to all decoders, or needs its metadata to show the right colours.
    """
    if data[:2] != _START:
        return None
    try:
        parts = list(_picture_parts(data))
    except (InvalidFrameError, _NotPlainError):
        return None
    clean = b"".join((_START, JFIF, *parts))
    is_jfif_first = data[2:4] == b"\xff\xe0" and _CLEAN_JFIF.fullmatch(data, 6, 20)
    if is_jfif_first and data[20:] == clean[20:]:
        return data
    return clean


def quality_of(data: bytes) -> int:
    """The quality whose luma table is nearest to the first in `data`, 1 to 100.

    Below 20 it comes out up to 10 too high: tables end at 255.

    Args:
        data: What `without_metadata` gave.
    """
    position = data.index(b"\xff\xdb") + 4
    wide = data[position] >> 4
    table = data[position + 1 : position + 1 + (128 if wide else 64)]
    total = sum(table[0::2]) * 256 + sum(table[1::2]) if wide else sum(table)
    return min(max(round(quality_at(max(0.1, 100 * total / _STANDARD_LUMA_SUM))), 1), 100)


def _picture_parts(data: bytes) -> Iterator[bytes]:
    """The segments and scans of `data` that are the picture.

    Raises:
        InvalidFrameError: If the file cannot be taken apart.
        _NotPlainError: If it is not strict.
    """
    frame = 0
    has_table = has_scan = False
    tables: set[int] = set()
    for segment in jpeg_segments(data):
        marker, payload = segment.marker, data[segment.payload : segment.end]
        if segment.gap != segment.start or not _has_length(data, segment):
            raise _NotPlainError
        if marker in _METADATA:
            if marker == _ADOBE and not _is_harmless_adobe(payload):
                raise _NotPlainError
            continue
        if marker in {_BASELINE, _PROGRESSIVE}:
            if frame or not _is_common_frame(payload):
                raise _NotPlainError
            frame = marker
        elif marker == SOS:
            if not frame or not has_table:
                raise _NotPlainError
            missing = sorted(_tables_used(payload) - tables) if frame == _BASELINE else ()
            for table in missing:
                if table not in HUFFMAN_TABLES:
                    raise _NotPlainError
                yield HUFFMAN_TABLES[table]
                tables.add(table)
            has_scan = True
        elif marker == _HUFFMAN:
            tables |= _tables_defined(payload)
        elif marker == EOI:
            if not has_scan or segment.end != len(data):
                raise _NotPlainError
        elif marker not in {COMPRESSED, _QUANTISERS, _RESTARTS}:
            raise _NotPlainError
        has_table = has_table or marker == _QUANTISERS
        yield data[segment.start : segment.end]


def _has_length(data: bytes, segment: Segment) -> bool:
    """Whether the segment states a length that is possible, if it must state one."""
    if segment.marker in {COMPRESSED, EOI}:
        return True
    return int.from_bytes(data[segment.start + 2 : segment.payload], "big") >= 2


def _tables_used(scan: bytes) -> set[int]:
    """The Huffman tables that the header of a baseline scan names, by class and number."""
    count = scan[0] if scan else 0
    if not count or len(scan) != 4 + 2 * count:
        raise _NotPlainError
    pairs = scan[2 : 2 + 2 * count : 2]
    return {pair >> 4 for pair in pairs} | {0x10 | pair & 15 for pair in pairs}


def _tables_defined(segment: bytes) -> set[int]:
    """The Huffman tables that a segment defines, by class and number."""
    defined: set[int] = set()
    position = 0
    while position < len(segment):
        defined.add(segment[position])
        position += 17 + sum(segment[position + 1 : position + 17])
    if position != len(segment):
        raise _NotPlainError
    return defined


def _is_common_frame(payload: bytes) -> bool:
    """Whether it is 8-bit, grey or YCbCr, of a size that is known before the first scan."""
    if len(payload) < 9 or payload[0] != 8:
        return False
    height, width, count = payload[1:3], payload[3:5], payload[5]
    # The identifiers R, G, B make decoders take the picture for RGB.
    is_whole = len(payload) == 6 + 3 * count and any(height) and any(width)
    return is_whole and (count == 1 or (count == 3 and payload[6::3] == b"\x01\x02\x03"))


def _is_harmless_adobe(payload: bytes) -> bool:
    """Whether leaving it out changes no colour: it says YCbCr, as JFIF does."""
    return payload[:5] == b"Adobe" and len(payload) == 12 and payload[11] == 1
