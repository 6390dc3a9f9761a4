"""The table of counts in a history's file: how frames fared, by hour and user.

A count names its session and user by a number; what the number stands for is in a row of a table of
its own, one for each hour. That row has the digests that the results have (`RowSeals.tag`), behind
so much padding that its removal leaves no copy of them (see `database`). When their time is over,
or the session is erased, that row goes, which takes little room on a full disk, and then the counts
are added to those of their hour without names: how frames fared stays known, whose does not.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterable

from hybrid_detect.errors import StorageError
from hybrid_detect.storage.database import PAGE_BYTES
from hybrid_detect.storage.records import END_HOUR
from hybrid_detect.usage import UsageKey, UsageRow

__all__ = ["EXPIRED", "USAGE_TABLES", "add", "add_up_nameless", "forget_owners", "rows", "sweep"]

KEPT_S = 400 * 24 * 3600
"""Seconds for which counts are kept: as long as costs."""

NAMELESS = 0
"""The number of those whose names are forgotten or were never given."""

BATCH = 16
"""Owners dealt with in one transaction: each takes two pages, in the file and in its log."""

EXPIRED = "recorded_at + kept_s <= ?"
"""Owners whose time is over."""

_WHAT = ("user_region", "measure", "backend", "label")
_KEY = f"hour, owner, {', '.join(_WHAT)}"

USAGE_TABLES = (
    """CREATE TABLE IF NOT EXISTS usage_owners (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        hour INTEGER NOT NULL,
        recorded_at REAL NOT NULL,
        kept_s REAL NOT NULL,
        padding BLOB NOT NULL,
        session BLOB NOT NULL,
        user BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS usage_owners_by_hour ON usage_owners (hour)",
    f"""CREATE TABLE IF NOT EXISTS usage (
        hour INTEGER NOT NULL,
        owner INTEGER NOT NULL,
        {", ".join(f"{name} TEXT NOT NULL" for name in _WHAT)},
        count INTEGER NOT NULL,
        PRIMARY KEY ({_KEY})
    ) WITHOUT ROWID""",
    f"CREATE INDEX IF NOT EXISTS usage_owned ON usage (owner) WHERE owner != {NAMELESS}",
)

_ADDED = "ON CONFLICT DO UPDATE SET count = count + excluded.count"


def add(
    db: sqlite3.Connection,
    more: Iterable[UsageRow],
    *,
    tag: Callable[[str, str], bytes],
    now: float,
    kept_s: float,
) -> None:
    """Add `more` to what is there.

    Args:
        db: The file's connection, in a transaction.
        more: Counts with the names of sessions and users.
        tag: What stands in the file for a session and its user, by name; both may be empty.
        now: The time, in seconds since 1970.
        kept_s: Seconds for which the counts keep what stands for session and user.
    """
    owners: dict[tuple[int, str, str], int] = {}
    values = []
    for (hour, session, user, *what), count in more:
        owner = owners.get((hour, session, user))
        if owner is None:
            tags = tag("session", session), tag("user", user)
            owner = owners[hour, session, user] = _owner(db, hour, tags, now, kept_s)
        values.append((hour, owner, *what, count))
    db.executemany(
        f"INSERT INTO usage ({_KEY}, count) VALUES (?, ?, ?, ?, ?, ?, ?) {_ADDED}",  # noqa: S608 - ours
        values,
    )


def _owner(
    db: sqlite3.Connection, hour: int, tags: tuple[bytes, bytes], now: float, kept_s: float
) -> int:
    if tags == (b"", b""):
        return NAMELESS
    found = db.execute(
        "SELECT id FROM usage_owners WHERE hour = ? AND session = ? AND user = ?", (hour, *tags)
    ).fetchone()
    if found is None:
        found = db.execute(
            "INSERT INTO usage_owners (hour, recorded_at, kept_s, padding, session, user)"
            " VALUES (?, ?, ?, zeroblob(?), ?, ?) RETURNING id",
            (hour, now, kept_s, PAGE_BYTES, *tags),
        ).fetchone()
    return int(found[0])


def rows(
    db: sqlite3.Connection,
    *,
    from_hour: int = 0,
    end_hour: int | None = None,
    session: bytes = b"",
) -> list[UsageRow]:
    """The counts, oldest first; names are what stands for them, in hexadecimal digits.

    Args:
        db: The file's connection.
        from_hour: The first hour, in whole hours since 1970.
        end_hour: The hour after the last one; `None` for all.
        session: What stands for a session, for its counts alone.

    Raises:
        StorageError: If a value is not of its kind: the file is damaged.
    """
    query = (
        f"SELECT usage.hour, session, user, {', '.join(_WHAT)}, count FROM usage"  # noqa: S608 - ours
        " LEFT JOIN usage_owners ON id = owner AND usage_owners.hour = usage.hour"
        " WHERE usage.hour >= ? AND usage.hour < ?"
        + (" AND session = ?" if session else "")
        + " ORDER BY usage.hour"
    )
    end = 2**62 if end_hour is None else end_hour
    values = (from_hour, end, session)[: 2 + bool(session)]
    return [_row(found) for found in db.execute(query, values)]


def _row(values: tuple[object, ...]) -> UsageRow:
    hour, session, user, *what, count = values
    session, user = (b"" if each is None else each for each in (session, user))
    if (
        isinstance(hour, int)
        and 0 <= hour < END_HOUR
        and isinstance(session, bytes)
        and isinstance(user, bytes)
        and all(isinstance(each, str) for each in what)
        and isinstance(count, int)
        and count >= 0
    ):
        return UsageRow(
            UsageKey(hour, session.hex(), user.hex(), *map(sys.intern, map(str, what))), count
        )
    msg = "the table of usage is damaged"
    raise StorageError(msg)


def forget_owners(db: sqlite3.Connection, which: str, values: tuple[object, ...]) -> int:
    """Forget whose the counts are of up to `BATCH` of the hours `which`; of how many."""
    rows = f"id IN (SELECT id FROM usage_owners WHERE {which} LIMIT {BATCH})"  # noqa: S608 - ours
    return db.execute(f"DELETE FROM usage_owners WHERE {rows}", values).rowcount  # noqa: S608 - ours


def add_up_nameless(db: sqlite3.Connection) -> bool:
    """Add counts whose owner is forgotten to those without names, some of them at a time.

    Returns:
        Whether there were any.
    """
    found = db.execute(
        f"SELECT DISTINCT owner FROM usage WHERE owner != {NAMELESS}"  # noqa: S608 - ours
        f" AND NOT EXISTS (SELECT 1 FROM usage_owners WHERE id = owner) LIMIT {BATCH}"
    ).fetchall()
    what = ", ".join(_WHAT)
    for (owner,) in found:
        db.execute(
            f"INSERT INTO usage ({_KEY}, count) SELECT hour, {NAMELESS}, {what}, count"  # noqa: S608 - ours
            f" FROM usage WHERE owner = ? AND owner != {NAMELESS} {_ADDED}",
            (owner,),
        )
        db.execute(f"DELETE FROM usage WHERE owner = ? AND owner != {NAMELESS}", (owner,))  # noqa: S608 - ours
    return bool(found)


def sweep(db: sqlite3.Connection, now: float) -> None:
    """Delete counts after `KEPT_S`, and date owners of the future anew."""
    # Kept before a clock was set back: from here it has no more than its time.
    db.execute("UPDATE usage_owners SET recorded_at = ? WHERE recorded_at > ?", (now, now))
    db.execute("DELETE FROM usage WHERE hour < ?", (int(now - KEPT_S) // 3600,))
