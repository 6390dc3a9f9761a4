"""A SQLite file that forgets: what was deleted from it cannot be found in it again.

``secure_delete`` alone does not do that. It overwrites the row that is deleted, but not the copies
that stay behind in a page when SQLite moves rows between pages to balance its tree (found after up
to a quarter of the deletions in random histories of small rows). Only what a page of the tree holds
of a row is ever moved, which is at most 35 bytes less than a page (SQLite, "Database File Format",
1.6); the rest lies in overflow pages of its own, which stay where they are until overwritten. So a
row of content starts with as much padding as a page has bytes, and nothing of its content is moved.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from hybrid_detect.errors import ClosedError, StorageError
from hybrid_detect.storage.private_files import make_private

__all__ = ["PAGE_BYTES", "Database", "used_bytes"]

logger = logging.getLogger("hybrid_detect.history")

PAGE_BYTES = 1024
"""Small, because each row has so much padding; 80 KB are written in 1 ms all the same."""

APPLICATION_ID = 0x68644831
"""``hdH1``: says that the file is ours. Source: SQLite, "PRAGMA application_id"."""

VERSION = 1

BUSY_TIMEOUT_S = 5.0
"""How long to wait for another process that uses the file."""

CHECKPOINT_PAGES = 4096
"""The log is brought into the file after about 4 MiB."""


class Database:
    """The file at `path`, for one thread after the other.

    Args:
        path: Made with mode 0600 if it is not there, as are the two files SQLite puts beside it.
        schema: Statements that make the tables, each with IF NOT EXISTS.

    Raises:
        StorageError: If it cannot be opened, is broken, or is another program's.
    """

    def __init__(self, path: Path, *, schema: tuple[str, ...]) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        make_private(path)
        try:
            with self._translated():
                self._connection = sqlite3.connect(
                    path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
                )
                self._set_up(self._connection, schema)
        except BaseException:
            self.close()
            raise

    def _set_up(self, connection: sqlite3.Connection, schema: tuple[str, ...]) -> None:
        def ask(question: str) -> int | str:
            answer: int | str = connection.execute(question).fetchone()[0]
            return answer

        tables = ask("SELECT count(*) FROM sqlite_master")
        if ask("PRAGMA application_id") != APPLICATION_ID and tables:
            msg = f"{self.path} is another program's database"
            raise StorageError(msg)
        if int(ask("PRAGMA user_version")) > VERSION:
            msg = f"{self.path} was made by a newer version of this library"
            raise StorageError(msg)
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA secure_delete = ON")
        # Else SQLite may put old pages into a temporary file, where nobody overwrites them.
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        if (mode := ask("PRAGMA journal_mode = WAL")) != "wal":
            msg = f"{self.path} cannot have a write-ahead log here (got {mode}): use a local disk"
            raise StorageError(msg)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        with self._transaction(connection):
            for statement in schema:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        if ask("PRAGMA page_size") != PAGE_BYTES:
            msg = f"{self.path} has pages of another size, from which deleted rows would not vanish"
            raise StorageError(msg)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for statements that change nothing.

        Raises:
            StorageError: If the file cannot be read.
            ClosedError: If it has been closed.
        """
        with self._lock, self._translated():
            yield self._opened()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection in a transaction: all of it happens, or nothing.

        Raises:
            StorageError: If the file cannot be written.
            ClosedError: If it has been closed.
        """
        with self._lock, self._translated():
            connection = self._opened()
            with self._transaction(connection):
                yield connection

    def forget(self) -> bool:
        """Empty the log, which holds what the file held before.

        Returns:
            False if another process that reads the file kept it from happening.
        """
        with self.reading() as connection:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            msg = f"{self.path} has been closed"
            raise ClosedError(msg)
        return self._connection

    @staticmethod
    @contextlib.contextmanager
    def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # on a full disk SQLite has ended it by itself
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # SQLite's messages name tables and causes, never values.
            msg = f"{self.path}: {error}"
            raise StorageError(msg) from error


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something; the rest is free for what comes next."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(pages - free) * PAGE_BYTES
