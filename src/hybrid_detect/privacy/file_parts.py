"""File parts: the pieces an encoded image consists of, the picture's and all others."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an encoded image. What is kept of all pieces is a file with the picture alone."""

    size_bytes: int
    """Bytes it takes in the file."""
    kept: bytes = field(default=b"", repr=False)
    """What a file without metadata has in its place."""
    name: str = ""
    """What metadata it is; empty if it belongs to the picture."""
