"""Layouts: where the picture lies in an encoded image, found by walking its parts.

A decoder gets the picture's own parts only. Metadata is left out before it can refuse, delay or
mislead a decoder; what follows the picture is not read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Never, TypeAlias

from hybrid_detect.errors import InvalidFrameError

__all__ = ["Layout", "Piece", "joined", "refuse"]

Piece: TypeAlias = bytes | slice
"""Bytes as they are, or where they lie in the file."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the walk over a file's parts found."""

    pieces: tuple[Piece, ...]
    """What makes a file of the picture alone, in order."""
    exif: slice | None = None
    """Where the first EXIF block lies, if there is one."""
    passes: int = 1
    """How often a decoder goes over all pixels: once for each scan of a JPEG."""
    size: tuple[int, int] | None = None
    """Width and height as stored, where the walk met them in a header of the most usual kind;
    `None` where a decoder has to say what the header means."""

    @classmethod
    def of(
        cls,
        pieces: Iterable[Piece],
        exif: slice | None = None,
        *,
        passes: int = 1,
        size: tuple[int, int] | None = None,
    ) -> Layout:
        """The layout of `pieces`, those that lie side by side in the file taken together."""
        merged: list[Piece] = []
        for piece in pieces:
            last = merged[-1] if merged else b""
            if isinstance(piece, slice) and isinstance(last, slice) and last.stop == piece.start:
                merged[-1] = slice(last.start, piece.stop)
            else:
                merged.append(piece)
        return cls(tuple(merged), exif, passes, size)

    def picture(self, data: bytes) -> bytes:
        """The file `data` reduced to its picture; `data` itself if it holds nothing else."""
        return joined(data, self.pieces)


def joined(data: bytes, pieces: tuple[Piece, ...]) -> bytes:
    """The bytes of `pieces`, in order; `data` itself if they are all of it."""
    if len(pieces) == 1 and pieces[0] == slice(0, len(data)):
        return data
    view = memoryview(data)  # its slices are no copies
    return b"".join(view[piece] if isinstance(piece, slice) else piece for piece in pieces)


def refuse(format: str, why: str) -> Never:
    """Say that a file breaks its own format.

    Raises:
        InvalidFrameError: Always.
    """
    raise InvalidFrameError(expected=f"a readable {format} image", actual=why)
