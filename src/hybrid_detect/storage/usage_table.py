"""The table of counts in a history's file: how frames fared, by hour and user."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable

from hybrid_detect.storage.owned_sums import OwnedSums, Sum
from hybrid_detect.usage import UsageKey, UsageRow

__all__ = ["USAGE", "add", "rows"]

USAGE = OwnedSums(
    "usage", labels=("user_region", "measure", "backend", "label"), figures=("count",)
)


def add(
    db: sqlite3.Connection,
    more: Iterable[UsageRow],
    *,
    tag: Callable[[str, str], bytes],
    now: float,
    kept_s: float,
) -> None:
    """Add `more`, with the names of sessions and users, to what is there: see `OwnedSums.add`."""
    sums = (Sum(*row.key[:3], row.key[3:], (row.number,)) for row in more)
    USAGE.add(db, sums, tag=tag, now=now, kept_s=kept_s)


def rows(
    db: sqlite3.Connection,
    *,
    from_hour: int = 0,
    end_hour: int | None = None,
    session: bytes = b"",
) -> list[UsageRow]:
    """The counts, oldest first: see `OwnedSums.rows`.

    Raises:
        StorageError: If a value is not of its kind: the file is damaged.
    """
    found = USAGE.rows(db, from_hour=from_hour, end_hour=end_hour, session=session)
    return [UsageRow(UsageKey(*each[:3], *each.labels), each.figures[0]) for each in found]
