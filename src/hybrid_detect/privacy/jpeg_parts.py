"""JPEG parts: a file's picture and everything else, by the walk that decoding uses.

Bytes between segments, further pictures behind the first and the many things that cameras and
editors leave are told apart, not refused. `compression.jpeg_markers` is stricter: it serves files
that are sent without having been decoded.
"""

from __future__ import annotations

from collections.abc import Iterator

from hybrid_detect.frames.jpeg_segments import (
    ADOBE,
    ADOBE_LENGTH,
    COMPRESSED,
    EOI,
    JFIF,
    JFIF_LENGTH,
    PICTURE,
    jpeg_segments,
)
from hybrid_detect.privacy.file_parts import Part

__all__ = ["jpeg_parts"]

_COMMENT = 0xFE

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
        InvalidFrameError: If it ends before its picture does, or has too many parts.
    """
    yield Part(2, data[:2])
    seen: set[int] = set()
    end = 2
    for marker, gap, start, payload, end in jpeg_segments(data):
        if start > gap:
            # Decoders pass over what lies before a marker.
            yield Part(start - gap, name="bytes between segments")
        if marker in {COMPRESSED, EOI}:
            yield Part(end - start, data[start:end])
        else:
            yield _segment(marker, data[payload:end], data[start:end], seen)
            seen.add(marker)
    if end < len(data):
        yield Part(len(data) - end, name="bytes behind the picture")


def _segment(marker: int, payload: bytes, whole: bytes, seen: set[int]) -> Part:
    """A segment, reduced to what decoders need of it.

    Args:
        marker: Its second byte.
        payload: Its content.
        whole: Marker, length and content.
        seen: The markers of those before it.
    """
    size = len(whole)
    if marker in PICTURE:
        return Part(size, whole)
    if marker not in seen:
        # Both tell decoders the colour space, so one that was there stays, emptied.
        if marker == 0xE0 and payload.startswith(b"JFIF\0") and len(payload) >= JFIF_LENGTH:
            return Part(size, JFIF, "" if len(payload) == JFIF_LENGTH else "JFIF thumbnail")
        if marker == 0xEE and payload.startswith(b"Adobe") and len(payload) >= ADOBE_LENGTH:
            transform = payload[ADOBE_LENGTH - 1 : ADOBE_LENGTH]
            name = "" if len(payload) == ADOBE_LENGTH else "Adobe"
            return Part(size, ADOBE + transform, name)
    for known, start, name in _KNOWN:
        if marker == known and payload.startswith(start):
            return Part(size, name=name)
    if marker == _COMMENT:
        return Part(size, name="comment")
    if 0xE0 <= marker <= 0xEF:
        return Part(size, name=f"APP{marker - 0xE0}")
    return Part(size, name=f"segment {marker:02X}")
