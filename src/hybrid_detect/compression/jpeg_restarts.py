"""JPEG restarts: the files of a picture's bands are joined into one file.

A decoder forgets at a restart what it predicts from, so what lies between two restarts can be
encoded by itself. The pixels are those that encoding the whole picture gives, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybrid_detect.frames.jpeg_segments import SOS, jpeg_segments

__all__ = ["joined"]

# Markers. Source: ITU-T T.81, table B.1.
_SOF0, _RST0 = 0xC0, 0xD0
_EOI = b"\xff\xd9"
_DRI = b"\xff\xdd\x00\x04"
"""Define restart interval, and the length of it. Source: ITU-T T.81, B.2.4.4."""

_RESTARTS = 8
"""Restart markers are numbered modulo this. Source: ITU-T T.81, B.2.1."""


def joined(files: Sequence[bytes], *, height: int, interval: int) -> bytes:
    """One JPEG file of all the rows.

    Args:
        files: Baseline JPEGs of one encoder at one quality: the same width, tables and
            subsampling. A single file is returned as it is.
        height: Of the whole picture, in pixels.
        interval: Minimum coded units in each file; the last may have fewer. 65535 at most.
    """
    if len(files) == 1:
        return files[0]
    parts: list[bytes] = []
    for number, data in enumerate(files):
        frame, scan, body = _landmarks(data)
        if number == 0:
            size = height.to_bytes(2, "big")
            parts += data[: frame + 5], size, data[frame + 7 : scan]
            parts += _DRI, interval.to_bytes(2, "big"), data[scan : -len(_EOI)]
        else:
            restart = bytes((0xFF, _RST0 + (number - 1) % _RESTARTS))
            parts += restart, data[body : -len(_EOI)]
    parts.append(_EOI)
    return b"".join(parts)


def _landmarks(data: bytes) -> tuple[int, int, int]:
    """Where the frame's header begins, the scan's header, and what is compressed."""
    starts: dict[int, int] = {}
    for segment in jpeg_segments(data):
        starts[segment.marker] = segment.start
        if segment.marker == SOS:
            break
    return starts[_SOF0], segment.start, segment.end
