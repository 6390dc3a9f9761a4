"""JPEG segments: a file taken apart into its picture and everything else, without decoding it.

Lenient where decoders are: bytes between segments, further pictures behind the first and whatever
else a camera or an editor left are told apart, not refused. `jpeg_markers` is the strict sibling,
for files that go out without anybody having decoded them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hybrid_detect.privacy.file_parts import Part, refuse

__all__ = ["jpeg_parts"]

# Markers. Source: ITU-T T.81, table B.1.
_SOI, _EOI, _SCAN = 0xD8, 0xD9, 0xDA
_COMMENT = 0xFE
_PICTURE = frozenset((*range(0xC0, 0xD0), _SCAN, 0xDB, 0xDD)) - {0xC8}
"""Frame headers, DHT, DAC, SOS, DQT and DRI."""
_LONE = frozenset((0x01, *range(0xD0, 0xD8)))
"""TEM and restarts, which have no length."""

_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""The first marker that is neither a stuffed byte nor a restart."""

_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
"""A header without density and thumbnail. Source: ITU-T T.871, clause 10.1."""
_JFIF_LENGTH = 14

_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""All but the last byte, which tells the colour space. Source: Adobe Technical Note 5116, 18."""
_ADOBE_LENGTH = 12

_KNOWN = (
    (0xE0, b"JFXX\0", "JFXX thumbnail"),
    (0xE1, b"Exif\0", "EXIF"),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0", "XMP"),
    (0xE1, b"http://ns.adobe.com/xmp/extension/\0", "extended XMP"),
    (0xE2, b"ICC_PROFILE\0", "ICC profile"),
    (0xE2, b"MPF\0", "index of further pictures"),
    (0xED, b"Photoshop 3.0\0", "Photoshop and IPTC"),
)
"""What application segments begin with.

Sources: JFIF 1.02, page 5; CIPA DC-008 (Exif), 4.7.2; Adobe XMP part 3, 1.1.3; ICC.1, B.4;
CIPA DC-007 (MPF), 5.1; Adobe Photoshop file formats.
"""


def jpeg_parts(data: bytes) -> Iterator[Part]:
    """The parts of the JPEG file `data`, in order.

    Raises:
        InvalidFrameError: If it ends before its picture does.
    """
    yield Part(2, data[:2])
    position = 2
    seen: set[int] = set()
    while True:
        found = _MARKER.search(data, position)
        if found is None:
            refuse("JPEG", "one without an end")
        if found.start() > position:
            # Decoders pass over what lies before a marker.
            yield Part(found.start() - position, name="bytes between segments")
        marker, position = data[found.end() - 1], found.end()
        if marker == _EOI:
            break
        if marker == _SOI:
            refuse("JPEG", "one that begins twice")
        if marker in _LONE:
            yield Part(2, name="bytes between segments")
            continue
        end = position + int.from_bytes(data[position : position + 2], "big")
        if end < position + 2 or end > len(data):
            refuse("JPEG", "one whose segments reach past its end")
        yield _segment(marker, data[position + 2 : end], data[found.start() : end], seen)
        seen.add(marker)
        position = end
        if marker == _SCAN:
            stop = _END_OF_SCAN.search(data, end)
            if stop is None:
                refuse("JPEG", "one that ends in its pixels")
            position = stop.start()
            yield Part(position - end, data[end:position].rstrip(b"\xff"))
    yield Part(2, data[position - 2 : position])
    if position < len(data):
        yield Part(len(data) - position, name="bytes behind the picture")


def _segment(marker: int, payload: bytes, whole: bytes, seen: set[int]) -> Part:
    """A segment, reduced to what decoders need of it.

    Args:
        marker: Its second byte.
        payload: Its content.
        whole: Marker, length and content.
        seen: The markers of those before it.
    """
    size = len(whole)
    if marker in _PICTURE:
        return Part(size, whole)
    if marker not in seen:
        # Both tell decoders the colour space, so one that was there stays, emptied.
        if marker == 0xE0 and payload.startswith(b"JFIF\0") and len(payload) >= _JFIF_LENGTH:
            return Part(size, _JFIF, "" if len(payload) == _JFIF_LENGTH else "JFIF thumbnail")
        if marker == 0xEE and payload.startswith(b"Adobe") and len(payload) >= _ADOBE_LENGTH:
            transform = payload[_ADOBE_LENGTH - 1 : _ADOBE_LENGTH]
            name = "" if len(payload) == _ADOBE_LENGTH else "Adobe"
            return Part(size, _ADOBE + transform, name)
    for known, start, name in _KNOWN:
        if marker == known and payload.startswith(start):
            return Part(size, name=name)
    if marker == _COMMENT:
        return Part(size, name="comment")
    if 0xE0 <= marker <= 0xEF:
        return Part(size, name=f"APP{marker - 0xE0}")
    return Part(size, name=f"segment {marker:02X}")
