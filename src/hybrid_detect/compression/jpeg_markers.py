"""JPEG markers: whether a file holds a picture and nothing else, without decoding it.

The walk is strict: a file with a segment it does not know, or a byte outside of all segments, is
no use to it. What it lets pass has tables, one frame and its scans, so no name, no position and
no second picture. It does not check that the picture itself can be decoded.
"""

from __future__ import annotations

import re

from hybrid_detect.compression.size_law import quality_at

__all__ = ["quality_of", "without_metadata"]

# Markers and segments. Source: ITU-T T.81, annex B.
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_TABLES = frozenset((0xDB, 0xC4, 0xDD))
"""DQT, DHT and DRI."""
_FRAMES = frozenset((0xC0, 0xC2))
"""SOF0 and SOF2: what every decoder reads, baseline and progressive."""
_SCAN = 0xDA
_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE))
"""APP0 to APP15, and COM."""
_ADOBE = 0xEE

_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]")
"""The first marker that is neither a stuffed byte nor a restart."""

_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
"""A header without density and thumbnail. Source: ITU-T T.871, clause 10.1."""

_CLEAN_JFIF = re.compile(rb"JFIF\x00\x01[\x00-\x02][\x00-\x02].{4}\x00\x00", re.DOTALL)
"""The payload of one without thumbnail; density is four bytes that say nothing of anyone."""

_STANDARD_LUMA_SUM = 3688
"""Sum of the luma table at scale 100. Source: ITU-T T.81, table K.1."""


def without_metadata(data: bytes) -> bytes | None:
    """`data` without anything but the picture, which stays bit for bit what it was.

    Returns:
        `data` itself if there is nothing to remove; `None` if the file is damaged, uses what
        is not common to all decoders, or needs its metadata to show the right colours.
    """
    parts = _picture_parts(data)
    if parts is None:
        return None
    clean = b"".join((_SOI, _JFIF, *parts))
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


def _picture_parts(data: bytes) -> list[bytes] | None:
    """The segments and scans of `data` that are the picture; `None` if it is not strict."""
    if data[:2] != _SOI:
        return None
    parts: list[bytes] = []
    position = 2
    has_frame = has_scan = has_table = False
    while data[position : position + 2] != _EOI:
        if position + 4 > len(data) or data[position] != 0xFF:
            return None
        marker = data[position + 1]
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        payload = data[position + 4 : end]
        if end > len(data) or end < position + 4:
            return None
        if marker in _METADATA:
            if marker == _ADOBE and not _is_harmless_adobe(payload):
                return None
            position = end
            continue
        if marker in _FRAMES:
            if has_frame or not _is_common_frame(payload):
                return None
            has_frame = True
        elif marker == _SCAN:
            stop = _END_OF_SCAN.search(data, end)
            if not has_frame or not has_table or stop is None:
                return None
            has_scan = True
            end = stop.start()
        elif marker not in _TABLES:
            return None
        has_table = has_table or marker == 0xDB
        parts.append(data[position:end])
        position = end
    if not has_scan or position + 2 != len(data):
        return None
    parts.append(_EOI)
    return parts


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
