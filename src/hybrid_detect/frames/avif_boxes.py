"""AVIF boxes: counted before libavif builds its lists of items, which it searches one by one.

Items of metadata lose their type, so that the decoder passes over them: Pillow would read EXIF as a
whole, though an AVIF picture is turned by properties of its own.
"""

from __future__ import annotations

from hybrid_detect.frames.layout import Layout, Piece, refuse
from hybrid_detect.frames.part_count import PartCount

__all__ = ["avif_layout"]

# Source of names and layouts: ISO/IEC 14496-12, 4.2 and 8.11; ISO/IEC 23008-12, 9.3.
_INSIDE = {
    b"meta": 4,
    b"iprp": 0,
    b"ipco": 0,
    b"iref": 4,
    b"dinf": 0,
    b"moov": 0,
    b"trak": 0,
    b"mdia": 0,
    b"minf": 0,
    b"stbl": 0,
}
"""Boxes that hold boxes, and the bytes of their own before these."""
_MAX_DEPTH = 8

_METADATA = frozenset((b"Exif", b"mime", b"uri "))
"""Types of items that are no pictures: EXIF, XMP and others."""
_NO_TYPE = b"none"

_LISTS = {b"iloc": 6, b"iinf": 4, b"ipma": 4}
"""Lists of items, and where their counts lie."""

# Items of a file are a picture, its alpha, its tiles and metadata. A picture of 48 megapixels has
# 48 tiles. libavif makes an item for each number that it meets in a list or a reference, and looks
# for it from the first one on: its time goes with their square. So all lists together are held to
# the parts that a file of any size may have.


def avif_layout(data: bytes) -> Layout:
    """The whole of the AVIF file `data`, once its boxes and items are counted.

    Raises:
        InvalidFrameError: If it has more of them than a picture needs.
    """
    walk = _Walk(data)
    walk.boxes(0, len(data), depth=0)
    pieces: list[Piece] = []
    position = 0
    for start in walk.metadata_types:
        pieces += slice(position, start), _NO_TYPE
        position = start + len(_NO_TYPE)
    return Layout.of((*pieces, slice(position, len(data))))


class _Walk:
    """One walk over a file's boxes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._boxes = PartCount("AVIF", len(data))
        self._items = PartCount("AVIF", 0)
        self.metadata_types: list[int] = []
        """Where the types of items lie that are metadata."""

    def boxes(self, position: int, end: int, *, depth: int, id_bytes: int = 0) -> None:
        """Count the boxes from `position` on.

        Args:
            position: Where the first one begins.
            end: The first byte behind the last one.
            depth: How many boxes these lie in.
            id_bytes: Bytes of an item's number, if the boxes are references between items.
        """
        if depth > _MAX_DEPTH:
            refuse("AVIF", "one of boxes within boxes")
        data = self._data
        while position + 8 <= end:
            self._boxes.add()
            size, body = self._number(position, 4), position + 8
            type_ = data[position + 4 : body]
            if size == 1:
                size, body = self._number(body, 8), body + 8
            stop = end if size == 0 else position + size
            if stop < body or stop > end:
                return  # the decoder says what it is
            version = self._number(body, 1)
            if id_bytes:
                self._items.add(self._number(body + id_bytes, 2))
            elif type_ in _LISTS:
                is_short = version < {b"iloc": 2, b"iinf": 1}.get(type_, 0)
                self._items.add(self._number(body + _LISTS[type_], 2 if is_short else 4))
                if type_ == b"iinf":
                    start = body + (6 if is_short else 8)
                    self.boxes(start, stop, depth=depth + 1)
            elif type_ == b"infe":
                # A number of two bytes, or of four from version 3 on, and one of protection.
                start = body + (10 if version > 2 else 8)
                if data[start : start + 4] in _METADATA and start + 4 <= stop:
                    self.metadata_types.append(start)
            elif type_ == b"iref":
                wide = 4 if version else 2
                self.boxes(body + _INSIDE[type_], stop, depth=depth + 1, id_bytes=wide)
            elif type_ in _INSIDE:
                self.boxes(body + _INSIDE[type_], stop, depth=depth + 1)
            position = stop

    def _number(self, position: int, length: int) -> int:
        return int.from_bytes(self._data[position : position + length], "big")
