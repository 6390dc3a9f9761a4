"""EXIF: the orientation, read from the first directory of an EXIF block and from nothing else.

A full EXIF reader follows offsets and copies values; one block can make it copy the same megabyte
for each of 65,535 entries. This one looks at twelve bytes of each entry and follows one offset.
"""

from __future__ import annotations

import struct

__all__ = ["orientation_of"]

# Source of the layout: Exif 2.32, section 4.5.2, and TIFF 6.0, section 2.
_PREFIX = b"Exif\0\0"
_ORIENTATION = 0x0112
"""Source: Exif 2.32, section 4.6.4 A, tag 274."""
_ENTRY_LENGTH = 12
_MAX_ENTRIES = 512
"""Entries looked at: cameras write 10 to 60."""

_INTEGERS = {1: "B", 3: "H", 4: "I"}
"""BYTE, SHORT and LONG; the standard asks for SHORT, some editors write LONG."""


def orientation_of(block: bytes) -> int:
    """The orientation that an EXIF block tells.

    Args:
        block: With or without ``Exif`` and two zeros in front.

    Returns:
        1 to 8; 1 if there is none, or the block is damaged: metadata is a hint, and a picture is
        not refused over it.
    """
    start = len(_PREFIX) if block.startswith(_PREFIX) else 0
    order = {b"II": "<", b"MM": ">"}.get(block[start : start + 2])
    if order is None:
        return 1
    try:
        directory = start + struct.unpack_from(order + "I", block, start + 4)[0]
        count = struct.unpack_from(order + "H", block, directory)[0]
        for number in range(min(count, _MAX_ENTRIES)):
            entry = directory + 2 + number * _ENTRY_LENGTH
            tag, type_, values = struct.unpack_from(order + "HHI", block, entry)
            if tag == _ORIENTATION and values == 1 and type_ in _INTEGERS:
                value = struct.unpack_from(order + _INTEGERS[type_], block, entry + 8)[0]
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
