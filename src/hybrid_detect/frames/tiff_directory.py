"""TIFF directories: the first one, reduced to what its picture needs.

Entries of a directory may point anywhere, so that one megabyte is read again for each of thousands
of entries, and a list of strips may name the whole picture thousands of times. What is kept here
is counted against the file's bytes and the picture's size.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.layout import Layout, refuse
from hybrid_detect.frames.part_count import PartCount

__all__ = ["tiff_layout"]

# Source of tags, types and layouts: TIFF 6.0, sections 2, 8, 15 and 22; BigTIFF: LibTIFF 4.0.
_WIDTH, _LENGTH, _SAMPLES, _ROWS, _PLANAR = 256, 257, 277, 278, 284
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_STRIPS, _TILES = (273, 279), (324, 325)
"""Offsets and byte counts."""
_KEPT = {
    *(*_STRIPS, *_TILES),
    *(_WIDTH, _LENGTH, 258, 259, 262, 266, 274, _SAMPLES, _ROWS, _PLANAR, 292, 293, 301),
    *(317, 320, _TILE_WIDTH, _TILE_LENGTH, 338, 339, 347),
    *(512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
}
"""What says how the samples are stored: sizes, bits, compression, colours, strips and tiles; the
last two rows' JPEG tables and YCbCr factors."""

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BIG_TYPE_BYTES = {16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}

MAX_STRIPS = 32_768
"""Strips or tiles of a picture, at 10 us each. Three planes of 10,000 rows have 30,000."""

MAX_TILE_SIDE_PX = 4096
"""A tile larger than the picture costs memory for all of it; usual ones have 256 or 512."""


class _Shape(NamedTuple):
    """What differs between TIFF and BigTIFF, as formats of `struct`."""

    order: str
    first: int
    """Where the first directory's offset lies."""
    number: str
    """Of offsets and counts of values."""
    entries: str
    """Of the count of entries."""


class _Entry(NamedTuple):
    tag: int
    type: int
    values: int
    raw: bytes
    """The entry as it is."""
    field: bytes
    """Its last part: the values if they fit, else their offset."""


def tiff_layout(data: bytes) -> Layout:
    """Where the first picture lies in the TIFF file `data`, with a directory of its own behind it.

    Raises:
        InvalidFrameError: If the directory is damaged, or names more than one picture needs.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = struct.unpack_from(order + "H", data, 2)[0] == 43
    shape = _Shape(order, 8, "Q", "Q") if is_big else _Shape(order, 4, "I", "H")
    try:
        entries = _entries(data, shape)
    except struct.error:
        refuse("TIFF", "one whose directory reaches past its end")
    _check_grid(entries, order)
    at = len(data) + len(data) % 2
    number = struct.Struct(order + shape.number)
    directory = struct.pack(order + shape.entries, len(entries))
    directory += b"".join(entry.raw for entry in entries.values()) + bytes(number.size)
    padding = bytes(at - len(data))
    rest = slice(shape.first + number.size, len(data))
    return Layout.of((slice(0, shape.first), number.pack(at), rest, padding + directory))


def _entries(data: bytes, shape: _Shape) -> dict[int, _Entry]:
    """The entries of the first directory that are kept, by tag; of equal ones the first."""
    number = struct.Struct(shape.order + shape.number)
    entry = struct.Struct(f"{shape.order}HH{shape.number}{number.size}s")
    position = number.unpack_from(data, shape.first)[0]
    count = struct.unpack_from(shape.order + shape.entries, data, position)[0]
    PartCount("TIFF", len(data)).add(count)
    position += struct.calcsize(shape.entries)
    sizes = _TYPE_BYTES if shape.first == 4 else _TYPE_BYTES | _BIG_TYPE_BYTES
    entries: dict[int, _Entry] = {}
    room = len(data)
    for _ in range(count):
        tag, type_, values, field = entry.unpack_from(data, position)
        raw = data[position : position + entry.size]
        position += entry.size
        if tag not in _KEPT or tag in entries or type_ not in sizes:
            continue
        size = values * sizes[type_]
        if size > number.size:
            room -= size
            if room < 0 or number.unpack(field)[0] + size > len(data):
                refuse("TIFF", "one whose values reach past its end or are shared")
        entries[tag] = _Entry(tag, type_, values, raw, field)
    return entries


def _check_grid(entries: dict[int, _Entry], order: str) -> None:
    """Refuse lists of strips or tiles that cover the picture more than once."""
    width, length = _number(entries, _WIDTH, order, 0), _number(entries, _LENGTH, order, 0)
    is_planar = _number(entries, _PLANAR, order, 1) == 2
    planes = _number(entries, _SAMPLES, order, 1) if is_planar else 1
    rows = min(_number(entries, _ROWS, order, length), length) or 1
    _check_count(entries, _STRIPS, -(-length // rows) * planes)
    # Each list is held to its own grid: decoders disagree on which one counts where both are there.
    across = _number(entries, _TILE_WIDTH, order, MAX_TILE_SIDE_PX)
    down = _number(entries, _TILE_LENGTH, order, MAX_TILE_SIDE_PX)
    most = max(width, MAX_TILE_SIDE_PX), max(length, MAX_TILE_SIDE_PX)
    if not (1 <= across <= most[0] and 1 <= down <= most[1]):
        refuse("TIFF", "one of tiles larger than the picture")
    _check_count(entries, _TILES, -(-width // across) * -(-length // down) * planes)


def _check_count(entries: dict[int, _Entry], tags: tuple[int, int], wanted: int) -> None:
    listed = max((entries[tag].values for tag in tags if tag in entries), default=0)
    if listed > min(wanted, MAX_STRIPS):
        raise InvalidFrameError(
            expected=f"a TIFF image of at most {min(wanted, MAX_STRIPS)} strips or tiles",
            actual=f"one of {listed}",
        )


def _number(entries: dict[int, _Entry], tag: int, order: str, default: int) -> int:
    """The single whole number of an entry; `default` if there is no such entry."""
    entry = entries.get(tag)
    if entry is None:
        return default
    if entry.type not in _INTEGERS or entry.values != 1:
        refuse("TIFF", "one whose sizes are no whole numbers")
    return int(struct.unpack_from(order + _INTEGERS[entry.type], entry.field)[0])
