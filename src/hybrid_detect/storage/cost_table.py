"""The table of costs in a history's file: sums by hour, session and target.

A row names its session and user by the digests that the results have (`RowSeals.tag`). When their
time is over, or the session is erased, its rows are added to those of the same hour without names:
what was spent stays known, by whom does not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable

from hybrid_detect.charges import CostKey, CostRow
from hybrid_detect.errors import StorageError
from hybrid_detect.storage.records import END_HOUR

__all__ = ["COSTS_TABLE", "add", "forget_session", "rows", "sweep"]

KEPT_S = 400 * 24 * 3600
"""Seconds for which sums are kept: a year and a month, to compare a month with the same one of the
year before."""

_FIGURES = ("frames", "requests", "answered", "images", "bytes_sent", "price_nanos")
_WHERE = ("backend", "target", "provider", "region", "currency")
_COLUMNS = ("hour", "session", "user", *_WHERE, *_FIGURES, "recorded_at", "kept_s")

COSTS_TABLE = f"""CREATE TABLE IF NOT EXISTS costs (
    hour INTEGER NOT NULL,
    session BLOB NOT NULL,
    user BLOB NOT NULL,
    {", ".join(f"{name} TEXT NOT NULL" for name in _WHERE)},
    {", ".join(f"{name} INTEGER NOT NULL" for name in _FIGURES)},
    recorded_at REAL NOT NULL,
    kept_s REAL NOT NULL,
    PRIMARY KEY (hour, session, user, {", ".join(_WHERE)})
) WITHOUT ROWID"""

_ADDED = "ON CONFLICT DO UPDATE SET " + ", ".join(
    f"{name} = {name} + excluded.{name}" for name in _FIGURES
)


def add(
    db: sqlite3.Connection,
    more: Iterable[CostRow],
    *,
    tag: Callable[[str, str], bytes],
    now: float,
    kept_s: float,
) -> None:
    """Add `more` to what is there.

    Args:
        db: The file's connection, in a transaction.
        more: Rows with the names of sessions and users.
        tag: What stands in the file for a session and its user, by name; both may be empty.
        now: The time, in seconds since 1970.
        kept_s: Seconds for which the rows keep what stands for session and user.
    """
    values = (
        (
            row.key.hour,
            tag("session", row.key.session),
            tag("user", row.key.user),
            *row.key[3:],
            *row.figures,
            now,
            kept_s,
        )
        for row in more
    )
    marks = ", ".join("?" * len(_COLUMNS))
    db.executemany(
        f"INSERT INTO costs ({', '.join(_COLUMNS)}) VALUES ({marks}) {_ADDED}",  # noqa: S608 - ours
        values,
    )


def rows(db: sqlite3.Connection, *, from_hour: int = 0, session: bytes = b"") -> list[CostRow]:
    """The rows, oldest first; names are what stands for them, in hexadecimal digits.

    Args:
        db: The file's connection.
        from_hour: The first hour, in whole hours since 1970.
        session: What stands for a session, for its rows alone.

    Raises:
        StorageError: If a value is not of its kind: the file is damaged.
    """
    columns = ", ".join(_COLUMNS[:-2])
    only = " AND session = ?" if session else ""
    query = f"SELECT {columns} FROM costs WHERE hour >= ?{only} ORDER BY hour"  # noqa: S608 - ours
    return [_row(values) for values in db.execute(query, (from_hour, session)[: 1 + bool(session)])]


def _row(values: tuple[object, ...]) -> CostRow:
    hour, session, user, *rest = values
    where, figures = rest[: len(_WHERE)], rest[len(_WHERE) :]
    if (
        isinstance(hour, int)
        and 0 <= hour < END_HOUR
        and isinstance(session, bytes)
        and isinstance(user, bytes)
        and all(isinstance(each, str) for each in where)
        and all(isinstance(each, int) and each >= 0 for each in figures)
    ):
        key = CostKey(hour, session.hex(), user.hex(), *map(str, where))
        return CostRow(key=key, **dict(zip(_FIGURES, figures, strict=True)))  # type: ignore[arg-type]
    msg = "the table of costs is damaged"
    raise StorageError(msg)


def forget_session(db: sqlite3.Connection, session: bytes) -> int:
    """Take the session that `session` stands for out of its rows; how many there were."""
    return _forget(db, "session = ?", (session,))


def sweep(db: sqlite3.Connection, now: float) -> int:
    """Take the names out of the rows whose time is over; how many there were.

    Rows without names are deleted after `KEPT_S`.
    """
    # Kept before a clock was set back: from here it has no more than its time.
    db.execute("UPDATE costs SET recorded_at = ? WHERE recorded_at > ?", (now, now))
    db.execute("DELETE FROM costs WHERE hour < ?", (int(now - KEPT_S) // 3600,))
    return _forget(db, "session != x'' AND recorded_at + kept_s <= ?", (now,))


def _forget(db: sqlite3.Connection, which: str, values: tuple[object, ...]) -> int:
    where, figures = ", ".join(_WHERE), ", ".join(f"sum({name})" for name in _FIGURES)
    db.execute(
        f"INSERT INTO costs ({', '.join(_COLUMNS)})"  # noqa: S608 - ours
        f" SELECT hour, x'', x'', {where}, {figures}, min(recorded_at), 0 FROM costs"
        f" WHERE {which} GROUP BY hour, {where} {_ADDED}",
        values,
    )
    return db.execute(f"DELETE FROM costs WHERE {which}", values).rowcount  # noqa: S608 - ours
