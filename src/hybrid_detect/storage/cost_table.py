"""The table of costs in a history's file: sums by hour, session and target."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable

from hybrid_detect.charges import CostKey, CostRow
from hybrid_detect.storage.database import PAGE_BYTES
from hybrid_detect.storage.owned_sums import NAMELESS, OwnedSums, Sum

__all__ = ["COSTS", "FROM_OLDER_VERSIONS", "add", "rows"]

_FIGURES = ("frames", "requests", "answered", "images", "bytes_sent", "price_nanos")
_WHERE = ("backend", "target", "provider", "region", "currency")

COSTS = OwnedSums("spent", labels=_WHERE, figures=_FIGURES)

_VALUES = ", ".join((*_WHERE, *_FIGURES))

_SAME = "o.hour = costs.hour AND o.session = costs.session AND o.user = costs.user"

FROM_OLDER_VERSIONS = (
    f"""CREATE TABLE IF NOT EXISTS costs (
        hour INTEGER, session BLOB, user BLOB, {_VALUES}, recorded_at REAL, kept_s REAL
    )""",
    f"""INSERT INTO usage_owners (hour, recorded_at, kept_s, padding, session, user)
        SELECT hour, min(recorded_at), min(kept_s), zeroblob({PAGE_BYTES}), session, user FROM costs
        WHERE (session != x'' OR user != x'')
        AND NOT EXISTS (SELECT 1 FROM usage_owners AS o WHERE {_SAME})
        GROUP BY hour, session, user""",  # noqa: S608 - ours
    f"""INSERT INTO spent (hour, owner, {_VALUES})
        SELECT hour, coalesce((SELECT id FROM usage_owners AS o WHERE {_SAME}), {NAMELESS}),
        {_VALUES} FROM costs""",  # noqa: S608 - ours
    "DROP TABLE costs",
)
"""Statements that take over the table of costs of versions 3 and 4. Its rows had the digests of
their session and user in them, and copies of these could stay behind when a row was deleted; what
is dropped whole leaves none."""


def add(
    db: sqlite3.Connection,
    more: Iterable[CostRow],
    *,
    tag: Callable[[str, str], bytes],
    now: float,
    kept_s: float,
) -> None:
    """Add `more`, with the names of sessions and users, to what is there: see `OwnedSums.add`."""
    sums = (Sum(*row.key[:3], row.key[3:], row.figures) for row in more)
    COSTS.add(db, sums, tag=tag, now=now, kept_s=kept_s)


def rows(db: sqlite3.Connection, *, from_hour: int = 0, session: bytes = b"") -> list[CostRow]:
    """The rows, oldest first: see `OwnedSums.rows`.

    Raises:
        StorageError: If a value is not of its kind: the file is damaged.
    """
    return [
        CostRow(
            key=CostKey(*each[:3], *each.labels),
            **dict(zip(_FIGURES, each.figures, strict=True)),
        )
        for each in COSTS.rows(db, from_hour=from_hour, session=session)
    ]
