"""A SQLite file that forgets: what was deleted from it cannot be found in it again.

``secure_delete`` alone does not do that. It overwrites the row that is deleted, but not the copies
that stay behind in a page when SQLite moves rows between pages to balance its tree (found after up
to a quarter of the deletions in random histories of small rows). Only what a page of the tree holds
of a row is ever moved, which is at most 35 bytes less than a page (SQLite, "Database File Format",
1.6); the rest lies in overflow pages of its own, which stay where they are until overwritten. So a
row of content starts with as much padding as a page has bytes, and nothing of its content is moved.
What stands before the padding, and in an index, may leave copies: a record's age and the digest of
its session (found after 2 % of erasures). A table of sessions behind padding would not, but damage
of one row of it would hide all of a session's records from their erasure. So a file that is not
large is written anew after an erasure (`Database.rewrite`), which copies what is there and no more.

Deleting writes: each page it changes goes to the log first. So that a full disk keeps nothing from
being deleted, disk space is kept in reserve for the log, the index of the log, and the pages that
the file still has to grow by.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from hybrid_detect.errors import ClosedError, StorageError
from hybrid_detect.storage.private_files import make_private
from hybrid_detect.storage.reserve import Reserve

__all__ = ["PAGE_BYTES", "Database", "is_ours", "lacks_room", "used_bytes"]

T = TypeVar("T")

logger = logging.getLogger("hybrid_detect.history")

PAGE_BYTES = 1024
"""Small, because each row has so much padding; 80 KB are written in 1 ms all the same."""

APPLICATION_ID = 0x68644831
"""``hdH1``: says that the file is ours. Source: SQLite, "PRAGMA application_id"."""

HEADER_BYTES, MAGIC = 100, b"SQLite format 3\0"
"""Of any SQLite file; the application's number is at 68. Source: SQLite, "Database File Format",
1.3."""

VERSION = 5
"""Since 2, each row carries a digest that binds it to its session; since 3 there are costs, since 4
counts of how frames fared; since 5 costs name their owners as counts do."""

OLDEST_VERSION = 2
"""A file of this version and later is brought up to date when it is opened, in one transaction."""

BUSY_TIMEOUT_S = 5.0
"""How long to wait for another process that uses the file."""

REWRITE_BYTES = 8 * 1024 * 1024
"""The largest file that is written anew: 0.1 s of a desktop processor, and as much memory for that
time, since SQLite keeps its copy in memory, so that none lies on the disk. 5,000 results have as
much."""

CHECKPOINT_PAGES = 256
"""The log is brought into the file after about 256 KiB: what the file may still have to grow by."""

BASE_RESERVE_BYTES = CHECKPOINT_PAGES * PAGE_BYTES + 64 * 1024
"""For that growth, and for the log's index (32 KiB) and the tables' own pages."""

RESERVE_PER_ROW_BYTE = 3
"""The largest row once in the file, once in the log, and once in the log as zeros."""

NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
"""What SQLite answers when the disk is full: the last two where it makes or grows its log."""

_INHERITED: list[sqlite3.Connection] = []
"""Connections that a forked child has from its parent. Closing one there would delete the parent's
log (SQLite, "How To Corrupt An SQLite Database File", 2.6), so they are kept until the child ends.
"""


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
        self._owner = os.getpid()
        self._schema = schema
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._reserve = Reserve(path.with_name(f".{path.name}.reserve"), BASE_RESERVE_BYTES)
        make_private(path)
        try:
            try:
                self._connect()
            except StorageError as error:
                if not (lacks_room(error) and self.use_reserve()):
                    raise
                self._connect()
            self.keep_reserve()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        self.close()
        with self._translated():
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._set_up(self._connection)
            except (TypeError, ValueError) as error:  # no row, or no number, where SQLite has one
                msg = f"{self.path} is damaged"
                raise StorageError(msg) from error

    def _set_up(self, connection: sqlite3.Connection) -> None:
        def ask(question: str) -> int | str:
            answer: int | str = connection.execute(question).fetchone()[0]
            return answer

        tables = ask("SELECT count(*) FROM sqlite_master")
        if ask("PRAGMA application_id") != APPLICATION_ID and tables:
            msg = f"{self.path} is another program's database"
            raise StorageError(msg)
        version = int(ask("PRAGMA user_version"))
        if version > VERSION or (tables and version < OLDEST_VERSION):
            age = "a newer" if version > VERSION else "an early"
            msg = f"{self.path} was made by {age} version of this library"
            raise StorageError(msg)
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA secure_delete = ON")
        # Else SQLite may put old pages into a temporary file, where they are not overwritten.
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        if (mode := ask("PRAGMA journal_mode = WAL")) != "wal":
            msg = f"{self.path} cannot have a write-ahead log here (got {mode}): use a local disk"
            raise StorageError(msg)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        if version < VERSION:  # else nothing is written: a full disk may be opened
            with self._transaction(connection):
                for statement in self._schema:
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
        self._require_own_process()
        with self._lock, self._translated():
            yield self._opened()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection in a transaction: all of it happens, or nothing.

        Raises:
            StorageError: If the file cannot be written.
            ClosedError: If it has been closed.
        """
        self._require_own_process()
        with self._lock, self._translated():
            connection = self._opened()
            with self._transaction(connection):
                yield connection

    def must_write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction, on a full disk with the room that is kept.

        Raises:
            StorageError: If the file cannot be written all the same.
        """
        try:
            with self.writing() as connection:
                return work(connection)
        except StorageError as error:
            if not (lacks_room(error) and self.use_reserve()):
                raise
        try:
            self.empty_log()
            with self.writing() as connection:
                return work(connection)
        finally:
            self.keep_reserve()

    def forget(self) -> bool:
        """Empty the log, which holds what the file held before.

        Returns:
            False if another process that reads the file kept it from happening.

        Raises:
            StorageError: If the log cannot be brought into the file.
        """
        try:
            return self.empty_log()
        except StorageError as error:
            if not (lacks_room(error) and self.use_reserve()):
                raise
            return self.empty_log()
        finally:
            self.keep_reserve()

    def rewrite(self) -> None:
        """Write the file anew, without what rows left behind that SQLite has moved.

        It stays as it was if it is larger than `REWRITE_BYTES`, another process uses it, or the
        disk is full.
        """
        try:
            with self.reading() as connection:  # VACUUM cannot run in a transaction
                if used_bytes(connection) <= REWRITE_BYTES:
                    connection.execute("VACUUM")
        except StorageError as error:
            logger.warning("digests of erased sessions may stay for a while: %s", error)

    def keep_reserve(self, row_bytes: int = 0) -> bool:
        """Keep as much of the disk as it takes to delete the largest row.

        Args:
            row_bytes: Size of a row that is to come.

        Returns:
            Whether there is room for it.
        """
        return self._reserve.keep(BASE_RESERVE_BYTES + RESERVE_PER_ROW_BYTE * row_bytes)

    def use_reserve(self) -> bool:
        """Free what is kept of the disk, for a deletion that found it full.

        Returns:
            Whether there was any.
        """
        return self._reserve.release()

    def close(self) -> None:
        """Close the file."""
        if os.getpid() != self._owner:
            if self._connection is not None:
                _INHERITED.append(self._connection)
            self._connection = None
            return
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    def empty_log(self) -> bool:
        """As `forget`, but with the room that there is."""
        with self.reading() as connection:
            answer = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return answer is not None and not answer[0]

    def _require_own_process(self) -> None:
        # Before the lock: a fork may have copied it locked.
        if os.getpid() != self._owner:
            msg = f"{self.path} was opened before the process forked: open it in the child"
            raise StorageError(msg)

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
        except UnicodeDecodeError as error:
            # Python cannot read SQLite's own message when it quotes a damaged file.
            msg = f"{self.path} is damaged"
            raise StorageError(msg) from error
        except UnicodeEncodeError:  # holds the text, so it is not passed on
            msg = f"{self.path}: a text that is no Unicode cannot be kept"
            raise StorageError(msg) from None


def lacks_room(error: StorageError) -> bool:
    """Whether SQLite failed for want of disk space, as far as its answer tells."""
    code = getattr(error.__cause__, "sqlite_errorcode", 0)
    return code & 0xFF in NO_ROOM


def is_ours(path: Path) -> bool:
    """Whether the file at `path` was made here, by its header alone: it is not touched.

    One whose header is still in the log beside it may be ours, and counts as ours. Not for
    a file that this process has open: closing it gives up SQLite's locks of it.

    Raises:
        StorageError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise StorageError(msg) from error
    number = int.from_bytes(header[68:72], "big")
    is_new = not number and path.with_name(f"{path.name}-wal").exists()
    return header.startswith(MAGIC) and (number == APPLICATION_ID or is_new)


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something; the rest is free for what comes next."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(pages - free) * PAGE_BYTES
