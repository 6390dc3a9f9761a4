"""Metadata: what an encoded image holds beside its pixels, found and left out losslessly."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.privacy.file_parts import Part
from hybrid_detect.privacy.jpeg_parts import jpeg_parts
from hybrid_detect.privacy.png_parts import png_parts
from hybrid_detect.privacy.webp_parts import webp_parts

__all__ = ["Metadata", "find_metadata", "picture_alone"]

_READERS = {"JPEG": jpeg_parts, "PNG": png_parts, "WEBP": webp_parts}


@dataclass(frozen=True, slots=True)
class Metadata:
    """One thing in a file that is not the picture: its name and size, never its content."""

    name: str
    """What it is, such as ``EXIF``, ``comment`` or ``bytes behind the picture``."""
    size_bytes: int
    """Bytes it takes in the file."""


def find_metadata(data: bytes, format: str) -> tuple[Metadata, ...]:
    """What is in the file `data` beside the picture, in order.

    Args:
        data: The file.
        format: ``JPEG``, ``PNG`` or ``WEBP``.

    Raises:
        InvalidFrameError: If the file is damaged or has another format.
    """
    return tuple(Metadata(part.name, part.size_bytes) for part in _parts(data, format) if part.name)


def picture_alone(data: bytes, format: str) -> bytes:
    """The file `data` without anything that `find_metadata` finds, the rest bit for bit as it was.

    It may show other colours than `data`, if that has a colour profile, and no picture at all, if
    that is an animation: compare their pixels.

    Raises:
        InvalidFrameError: If the file is damaged or has another format.
    """
    return b"".join(part.kept for part in _parts(data, format))


def _parts(data: bytes, format: str) -> list[Part]:
    if format not in _READERS:
        raise InvalidFrameError(expected="a JPEG, PNG or WebP file", actual=format)
    return list(_READERS[format](data))
