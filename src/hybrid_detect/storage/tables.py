"""The tables of a history, and what is counted and deleted in them."""

from __future__ import annotations

import sqlite3
from functools import partial

from hybrid_detect.errors import StorageError
from hybrid_detect.storage import owned_sums
from hybrid_detect.storage.audit import AUDIT_TABLE
from hybrid_detect.storage.cost_table import COSTS, FROM_OLDER_VERSIONS
from hybrid_detect.storage.database import Database, lacks_room
from hybrid_detect.storage.owned_sums import OWNERS_TABLE
from hybrid_detect.storage.records import Deleted
from hybrid_detect.storage.row_seals import RowSeals
from hybrid_detect.storage.usage_table import USAGE

__all__ = [
    "EXPIRED",
    "SCHEMA",
    "count",
    "date_anew",
    "delete",
    "forget_old_names",
    "forget_session",
    "seals_of",
]

EXPIRED = "recorded_at <= ? ORDER BY recorded_at"

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS secret (id INTEGER PRIMARY KEY CHECK (id = 1), key BLOB)""",
    """CREATE TABLE IF NOT EXISTS records (
        id INTEGER PRIMARY KEY,
        session BLOB NOT NULL,
        recorded_at REAL NOT NULL,
        padding BLOB NOT NULL,
        result TEXT NOT NULL,
        image BLOB,
        seal BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS records_of_session ON records (session)",
    "CREATE INDEX IF NOT EXISTS records_by_age ON records (recorded_at)",
    "CREATE TABLE IF NOT EXISTS exports (folder TEXT PRIMARY KEY)",
    AUDIT_TABLE,
    *OWNERS_TABLE,
    *USAGE.schema,
    *COSTS.schema,
    *FROM_OLDER_VERSIONS,
)


def seals_of(file: Database) -> RowSeals:
    """The digests of a file; their key is made by the first who opens it.

    Raises:
        StorageError: If the key is damaged, or cannot be read or made.
    """
    query = "SELECT key FROM secret WHERE id = 1"
    with file.reading() as db:
        found = db.execute(query).fetchone()
    if found is None:
        with file.writing() as db:
            db.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (RowSeals.new_key(),))
            found = db.execute(query).fetchone()
    return RowSeals(found[0] if found else None)  # a damaged table may find no row


def forget_session(file: Database, session: bytes) -> int:
    """Take a session out of the sums of costs and usage; how many rows of costs there were.

    Raises:
        StorageError: If it cannot be done.
    """
    with file.reading() as db:
        found = COSTS.count(db, session)
    _forget_owners(file, owned_sums.OF_SESSION, session)
    return found


def forget_old_names(file: Database, now: float) -> int:
    """Take the names out of the sums whose time is over; how many names there were.

    Raises:
        StorageError: If it cannot be done.
    """
    for table in (COSTS, USAGE):
        file.must_write(partial(table.sweep, now=now))
    file.must_write(partial(owned_sums.date_owners_anew, now=now))
    return _forget_owners(file, owned_sums.EXPIRED, now)


def _forget_owners(file: Database, which: str, value: object) -> int:
    total = 0
    forget = partial(owned_sums.forget_owners, which=which, value=value)
    while found := file.must_write(forget):
        total += found
    try:
        for table in (COSTS, USAGE):
            while total and file.must_write(table.add_up_nameless):
                pass
    except StorageError as error:
        # They tell of no one now; adding them up may wait for a disk with room.
        if not lacks_room(error):
            raise
    return total


def count(db: sqlite3.Connection, where: str, value: object) -> Deleted:
    """How much there is of the records `where`."""
    query = f"SELECT count(*), count(image) FROM records WHERE {where}"  # noqa: S608 - ours
    return Deleted(*db.execute(query, (value,)).fetchone())


def delete(db: sqlite3.Connection, which: str, value: object) -> Deleted:
    """Delete the records `which`, and say how much it was."""
    rows = f"id IN (SELECT id FROM records WHERE {which})"  # noqa: S608 - ours
    found = count(db, rows, value)
    db.execute(f"DELETE FROM records WHERE {rows}", (value,))  # noqa: S608 - ours
    return found


def date_anew(db: sqlite3.Connection, now: float, limit: int) -> int:
    """Give up to `limit` records that are dated into the future the time `now`.

    Returns:
        How many there were.
    """
    rows = f"id IN (SELECT id FROM records WHERE recorded_at > ? LIMIT {limit})"  # noqa: S608
    return db.execute(f"UPDATE records SET recorded_at = ? WHERE {rows}", (now, now)).rowcount  # noqa: S608
