"""Tables of sums by hour in a history's file, and whose the sums are.

A sum names its session and user by a number. What the number stands for is in a row of
`OWNERS_TABLE`, one for each hour: the digests that the results have (`RowSeals.tag`), behind so
much padding that removing the row leaves no copy of them (see `database`). When their time is over,
or the session is erased, that row goes, which takes little room on a full disk, and then the sums
are added to those of their hour without names: what happened stays known, to whom does not.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from hybrid_detect.errors import StorageError
from hybrid_detect.storage.database import PAGE_BYTES
from hybrid_detect.storage.records import END_HOUR

__all__ = [
    "EXPIRED",
    "NAMELESS",
    "OF_SESSION",
    "OWNERS_TABLE",
    "OwnedSums",
    "Sum",
    "date_owners_anew",
    "forget_owners",
]

KEPT_S = 400 * 24 * 3600
"""Seconds for which sums are kept: a year and a month, to compare a month with the same one of the
year before."""

NAMELESS = 0
"""The number of those whose names are forgotten or were never given."""

BATCH = 16
"""Owners dealt with in one transaction: each takes two pages, in the file and in its log."""

EXPIRED = "recorded_at + kept_s <= ?"
"""Owners whose time is over."""

OF_SESSION = "session = ?"
"""Owners that stand for one session."""

OWNERS_TABLE = (
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
)


class Sum(NamedTuple):
    """What was added up in an hour."""

    hour: int
    """The hour, in whole hours since 1970 (UTC)."""
    session: str
    """The session's name; read back, what stands for it in the file. Empty if forgotten."""
    user: str
    """The user's name, likewise."""
    labels: tuple[str, ...]
    """Of what, in the order of the table's labels."""
    figures: tuple[int, ...]
    """How much, in the order of the table's figures."""


class OwnedSums:
    """A table of sums.

    Args:
        name: The table's.
        labels: Columns that say what was added up.
        figures: Columns that are added up.
    """

    def __init__(self, name: str, *, labels: Sequence[str], figures: Sequence[str]) -> None:
        self._name = name
        self._what = ", ".join(labels)
        self._key = f"hour, owner, {self._what}"
        self._figures = ", ".join(figures)
        self._key_size = len(labels) + 3
        added = ", ".join(f"{figure} = {figure} + excluded.{figure}" for figure in figures)
        self._added = f"ON CONFLICT DO UPDATE SET {added}"
        self._into = f"INTO {name} ({self._key}, {self._figures})"
        self._marks = ", ".join("?" * (2 + len(labels) + len(figures)))
        self.schema = (
            f"""CREATE TABLE IF NOT EXISTS {name} (
                hour INTEGER NOT NULL,
                owner INTEGER NOT NULL,
                {", ".join(f"{label} TEXT NOT NULL" for label in labels)},
                {", ".join(f"{figure} INTEGER NOT NULL" for figure in figures)},
                PRIMARY KEY ({self._key})
            ) WITHOUT ROWID""",
            f"CREATE INDEX IF NOT EXISTS {name}_owned ON {name} (owner) WHERE owner != {NAMELESS}",
        )
        """Statements that make it."""

    def add(
        self,
        db: sqlite3.Connection,
        sums: Iterable[Sum],
        *,
        tag: Callable[[str, str], bytes],
        now: float,
        kept_s: float,
    ) -> None:
        """Add `sums` to what is there.

        Args:
            db: The file's connection, in a transaction.
            sums: With the names of sessions and users.
            tag: What stands in the file for a session and its user, by name; both may be empty.
            now: The time, in seconds since 1970.
            kept_s: Seconds for which the sums keep what stands for session and user.
        """
        owners: dict[tuple[int, str, str], int] = {}
        values = []
        for hour, session, user, labels, figures in sums:
            owner = owners.get((hour, session, user))
            if owner is None:
                tags = tag("session", session), tag("user", user)
                owner = owners[hour, session, user] = _owner(db, hour, tags, now, kept_s)
            values.append((hour, owner, *labels, *figures))
        query = f"INSERT {self._into} VALUES ({self._marks}) {self._added}"  # noqa: S608 - ours
        db.executemany(query, values)

    def rows(
        self,
        db: sqlite3.Connection,
        *,
        from_hour: int = 0,
        end_hour: int | None = None,
        session: bytes = b"",
    ) -> list[Sum]:
        """What is there, oldest first; names are what stands for them, in hexadecimal digits.

        Args:
            db: The file's connection.
            from_hour: The first hour, in whole hours since 1970.
            end_hour: The hour after the last one; `None` for all.
            session: What stands for a session, for its sums alone.

        Raises:
            StorageError: If a value is not of its kind: the file is damaged.
        """
        only = f" AND {OF_SESSION}" if session else ""
        query = (
            f"SELECT sums.hour, session, user, {self._what}, {self._figures} FROM {self._name}"  # noqa: S608 - ours
            f" AS sums LEFT JOIN usage_owners ON id = owner AND usage_owners.hour = sums.hour"
            f" WHERE sums.hour >= ? AND sums.hour < ?{only} ORDER BY sums.hour"
        )
        end = 2**62 if end_hour is None else end_hour
        values = (from_hour, end, session)[: 2 + bool(session)]
        return [self._row(found) for found in db.execute(query, values)]

    def _row(self, values: tuple[object, ...]) -> Sum:
        hour, session, user = values[:3]
        session, user = (b"" if each is None else each for each in (session, user))
        labels, figures = values[3 : self._key_size], values[self._key_size :]
        if (
            isinstance(hour, int)
            and 0 <= hour < END_HOUR
            and isinstance(session, bytes)
            and isinstance(user, bytes)
            and all(isinstance(each, str) for each in labels)
            and all(isinstance(each, int) and each >= 0 for each in figures)
        ):
            shared = tuple(map(sys.intern, map(str, labels)))
            return Sum(hour, session.hex(), user.hex(), shared, figures)  # type: ignore[arg-type]
        msg = f"the table {self._name!r} is damaged"
        raise StorageError(msg)

    def count(self, db: sqlite3.Connection, session: bytes) -> int:
        """How many rows tell of the session that `session` stands for."""
        query = f"SELECT count(*) FROM {self._name} JOIN usage_owners ON id = owner"  # noqa: S608 - ours
        (found,) = db.execute(f"{query} WHERE {OF_SESSION}", (session,)).fetchone()
        return int(found)

    def add_up_nameless(self, db: sqlite3.Connection) -> bool:
        """Add sums whose owner is forgotten to those without names, some of them at a time.

        Returns:
            Whether there were any.
        """
        found = db.execute(
            f"SELECT DISTINCT owner FROM {self._name} WHERE owner != {NAMELESS}"  # noqa: S608 - ours
            f" AND NOT EXISTS (SELECT 1 FROM usage_owners WHERE id = owner) LIMIT {BATCH}"
        ).fetchall()
        for owner in found:
            of_owner = f"FROM {self._name} WHERE owner = ? AND owner != {NAMELESS}"
            nameless = f"SELECT hour, {NAMELESS}, {self._what}, {self._figures} {of_owner}"
            db.execute(f"INSERT {self._into} {nameless} {self._added}", owner)
            db.execute(f"DELETE {of_owner}", owner)
        return bool(found)

    def sweep(self, db: sqlite3.Connection, now: float) -> None:
        """Delete sums after `KEPT_S`."""
        end_hour = int(now - KEPT_S) // 3600
        db.execute(f"DELETE FROM {self._name} WHERE hour < ?", (end_hour,))  # noqa: S608 - ours


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


def forget_owners(db: sqlite3.Connection, which: str, value: object) -> int:
    """Forget whose the sums are of up to `BATCH` owners `which`; how many they were."""
    rows = f"id IN (SELECT id FROM usage_owners WHERE {which} LIMIT {BATCH})"  # noqa: S608 - ours
    return db.execute(f"DELETE FROM usage_owners WHERE {rows}", (value,)).rowcount  # noqa: S608 - ours


def date_owners_anew(db: sqlite3.Connection, now: float) -> None:
    """Give owners that were kept before a clock was set back no more than their time from `now`."""
    db.execute("UPDATE usage_owners SET recorded_at = ? WHERE recorded_at > ?", (now, now))
