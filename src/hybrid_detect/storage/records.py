"""What a history gives back: frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["END_HOUR", "Deleted", "StoredResult"]

END_HOUR = 2**26
"""Hours since 1970 that a calendar can name, by far; a row of a later one is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """One result as it was kept."""

    number: int
    """Its number in the history, growing in the order of keeping."""
    recorded_at: datetime
    """When it was kept, in UTC."""
    result: dict[str, Any]
    """As `DetectionResult.to_dict()` gave it, but without its ``session_id``."""
    image: bytes | None = field(default=None, repr=False)
    """The encoded picture, if it was kept, too."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """How much was deleted."""

    results: int = 0
    images: int = 0

    def __add__(self, other: Deleted) -> Deleted:
        return Deleted(self.results + other.results, self.images + other.images)
