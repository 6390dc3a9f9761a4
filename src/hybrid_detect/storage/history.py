"""A history of results that deletes itself: kept for a day, exportable, erasable.

One SQLite file. Sessions are not named in it: they are found by a keyed digest of their name and
owner, so whoever asks for a session of another owner finds nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hybrid_detect.errors import ConfigurationError, InvalidFrameError, StorageError
from hybrid_detect.storage.archive import archive
from hybrid_detect.storage.audit import AUDIT_TABLE, AuditLine, audit_lines, note
from hybrid_detect.storage.database import PAGE_BYTES, Database, used_bytes
from hybrid_detect.storage.records import Deleted, StoredResult
from hybrid_detect.types import DetectionResult

__all__ = ["DEFAULT_MAX_BYTES", "DEFAULT_RETENTION_S", "MIN_MAX_BYTES", "DetectionHistory"]

logger = logging.getLogger("hybrid_detect.history")

DEFAULT_RETENTION_S = 24 * 3600.0
"""The mission's: what is kept is deleted after 24 hours."""

DEFAULT_MAX_BYTES = 256 * 1024 * 1024
"""About 3,000 pictures of 80 KB, or 100,000 results without."""

MIN_MAX_BYTES = 64 * 1024
"""Tables and a few results."""

SWEEP_EVERY_S = 60.0
"""What has expired cannot be read any more; this is how long it may still lie in the file."""

BATCH = 100
"""Rows deleted in one go, so that others get their turn: 8 MB of pictures."""

MAX_CHARS = 1024
"""Of a session's or owner's name, as in the wire format."""

OLDEST_EXPIRED = f"recorded_at <= ? ORDER BY recorded_at LIMIT {BATCH}"

HISTORY = "history"
"""Who deletes by age."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS secret (id INTEGER PRIMARY KEY CHECK (id = 1), key BLOB)""",
    """CREATE TABLE IF NOT EXISTS records (
        id INTEGER PRIMARY KEY,
        session BLOB NOT NULL,
        recorded_at REAL NOT NULL,
        padding BLOB NOT NULL,
        result TEXT NOT NULL,
        image BLOB
    )""",
    "CREATE INDEX IF NOT EXISTS records_of_session ON records (session)",
    "CREATE INDEX IF NOT EXISTS records_by_age ON records (recorded_at)",
    AUDIT_TABLE,
)


class DetectionHistory:
    """Keeps results, and pictures if given, by session; deletes them by itself.

    May be used from any thread. Methods take a few milliseconds of disk time, so call them off an
    event loop. A thread deletes what expires while the app does nothing; `close()` ends it.

    Args:
        path: The file, made with mode 0600 if it is not there. Its folder has to be there.
        retention_s: Seconds after which a result is deleted, pictures included.
        max_bytes: The most the file may hold; the oldest make place for the newest.
        sweeps: Whether a thread deletes what expires; else writing and `sweep()` do.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: If a limit is out of range.
        StorageError: If the file cannot be opened, is broken, or is another program's.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        retention_s: float = DEFAULT_RETENTION_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        sweeps: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 < retention_s < math.inf:
            msg = f"retention_s: expected seconds above 0, got {retention_s!r}"
            raise ConfigurationError(msg)
        if max_bytes < MIN_MAX_BYTES:
            msg = f"max_bytes: expected at least {MIN_MAX_BYTES}, got {max_bytes!r}"
            raise ConfigurationError(msg)
        self.retention_s = retention_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._sweep_every_s = min(SWEEP_EVERY_S, retention_s / 10)
        self._swept_at = -math.inf
        self._has_remains = True
        self._closing = threading.Event()
        self._sweeper: threading.Thread | None = None
        self._file = Database(Path(path), schema=SCHEMA)
        try:
            with self._file.writing() as db:
                db.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_bytes(32),))
                (self._key,) = db.execute("SELECT key FROM secret").fetchone()
            self.sweep()
        except BaseException:
            self._file.close()
            raise
        if sweeps:
            self._sweeper = threading.Thread(
                target=self._keep_sweeping, name="hybrid-detect-history", daemon=True
            )
            self._sweeper.start()

    # -- keeping and reading -----------------------------------------------------------------

    def add(
        self,
        result: DetectionResult | Mapping[str, Any],
        *,
        session: str | None = None,
        image: bytes | None = None,
        owner: str = "",
    ) -> int:
        """Keep `result`, all of it or nothing.

        Args:
            result: A result, or plain JSON-able values. Its ``session_id`` is not kept.
            session: Whom it is about, by the name that export and erasure will be asked for; the
                result's own ``session_id`` if `None`.
            image: The encoded picture, if it is to be kept as well.
            owner: Whose session it is, where several apps or clients share a history.

        Returns:
            Its number.

        Raises:
            ConfigurationError: If there is no session's name: nobody could ask for it again.
            InvalidFrameError: If the picture is not encoded bytes.
            StorageError: If it cannot be written, or is larger than the history.
        """
        if isinstance(result, DetectionResult):
            session = result.session_id if session is None else session
            result = result.to_dict()
        if image is not None and not isinstance(image, bytes):
            raise InvalidFrameError(expected="an encoded picture", actual=type(image).__name__)
        digest = self._digest(session, owner)
        # A session's name is not in the file: only who knows it finds what is kept of it.
        text = json.dumps({name: value for name, value in result.items() if name != "session_id"})
        # Each of the two may leave a page half empty, and so may the indices.
        size = len(text) + len(image or b"") + 8 * PAGE_BYTES
        if size > self._max_bytes // 2:
            msg = f"a result of {size} bytes is too large for a history of {self._max_bytes}"
            raise StorageError(msg)
        if not 0 <= self._clock() - self._swept_at < self._sweep_every_s:
            self.sweep()  # first: what cannot delete may not take in more
        with self._file.writing() as db:
            self._make_place(db, size)
            number = db.execute(
                "INSERT INTO records (session, recorded_at, padding, result, image)"
                " VALUES (?, ?, zeroblob(?), ?, ?)",
                (digest, self._clock(), PAGE_BYTES, text, image),
            ).lastrowid
        return int(number or 0)

    blocking = True  # as a hook it is called off the event loop

    def on_frame(self, event: Any) -> None:
        """Keep the result of a frame, as a hook of a service with a ``session_id``."""
        if event.result is not None:
            self.add(event.result)

    def results(
        self, session: str, *, owner: str = "", images: bool = True
    ) -> Iterator[StoredResult]:
        """What is kept of `session`, oldest first, one at a time.

        What is added after the first is not included, what is deleted meanwhile is left out.

        Raises:
            StorageError: If it cannot be read.
        """
        digest = self._digest(session, owner)
        with self._file.reading() as db:
            (last,) = db.execute("SELECT coalesce(max(id), 0) FROM records").fetchone()
        number = 0
        while True:
            with self._file.reading() as db:
                row = db.execute(
                    "SELECT id, recorded_at, result, CASE WHEN ? THEN image END FROM records"
                    " WHERE session = ? AND id > ? AND id <= ? AND recorded_at > ?"
                    " ORDER BY id LIMIT 1",
                    (images, digest, number, last, self._clock() - self.retention_s),
                ).fetchone()
            if row is None:
                return
            number, recorded_at, text, image = row
            yield StoredResult(
                number=number, recorded_at=_utc(recorded_at), result=json.loads(text), image=image
            )

    # -- portability and erasure -------------------------------------------------------------

    def export(
        self, session: str, destination: str | Path, *, owner: str = "", who: str = "app"
    ) -> Path:
        """Write what is kept of `session` to a ZIP file with ``results.json`` and ``images/``.

        Args:
            session: Whose results.
            destination: Where to; replaced in one step, readable by its owner alone.
            owner: As given to `add`.
            who: Who asked for it, for the audit.

        Raises:
            StorageError: If it cannot be read or written.
        """
        path = Path(destination)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                for piece in self.export_pieces(session, owner=owner, who=who):
                    file.write(piece)
            part.replace(path)
        except OSError as error:
            msg = f"cannot write {path}: {error.strerror}"
            raise StorageError(msg) from error
        finally:
            part.unlink(missing_ok=True)
        return path

    def export_pieces(self, session: str, *, owner: str = "", who: str = "app") -> Iterator[bytes]:
        """The same ZIP file in pieces, for sending it on without keeping it anywhere."""
        digest = self._digest(session, owner)
        with self._file.writing() as db:
            found = _count(db, "session = ?", digest)
            note(
                db,
                at=self._clock(),
                who=who,
                action="exported",
                what=found,
                session=digest.hex(),
            )
        return archive(session, partial(self.results, session, owner=owner))

    def erase(self, session: str, *, owner: str = "", who: str = "app") -> Deleted:
        """Delete what is kept of `session`, so that the file does not hold it any more.

        Returns:
            How much there was; nothing if there was nothing.

        Raises:
            StorageError: If it cannot be done, or if another process that reads the file keeps
                an older state of it alive.
        """
        digest = self._digest(session, owner)
        with self._file.writing() as db:
            erased = _delete(db, "session = ?", digest)
            note(
                db,
                at=self._clock(),
                who=who,
                action="erased",
                what=erased,
                session=digest.hex(),
            )
        self._has_remains = True
        if not self._forget():
            msg = (
                f"erased, but another process reads {self._file.path} and keeps its older state in "
                "the log beside it; this is tried again within a minute"
            )
            raise StorageError(msg)
        return erased

    def sweep(self, now: float | None = None) -> Deleted:
        """Delete what has expired; called by itself when it is opened, written to, and in between.

        Args:
            now: Seconds since 1970; the clock's if `None`.

        Raises:
            StorageError: If it cannot be done.
        """
        now = self._clock() if now is None else now
        self._swept_at = now
        total = Deleted()
        while True:
            with self._file.writing() as db:
                # Kept before a clock was set back: from here it has no more than its time.
                db.execute("UPDATE records SET recorded_at = ? WHERE recorded_at > ?", (now, now))
                expired = _delete(db, OLDEST_EXPIRED, now - self.retention_s)
                if expired.results:
                    note(db, at=now, who=HISTORY, action="expired", what=expired)
            total += expired
            if expired.results < BATCH:
                break
        self._has_remains |= bool(total.results)
        if self._has_remains and not self._forget():
            logger.warning("%s: another process keeps an older state of it", self._file.path)
        return total

    # -- audit -------------------------------------------------------------------------------

    def audit(self) -> tuple[AuditLine, ...]:
        """What was exported and deleted, oldest first: when, by whom and how much."""
        with self._file.reading() as db:
            return audit_lines(db)

    def tag(self, session: str, *, owner: str = "") -> str:
        """What stands for `session` in the audit and the log; tells nothing about its name."""
        return self._digest(session, owner).hex()

    # -- life --------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop deleting and close the file. May be called more than once."""
        self._closing.set()
        if self._sweeper is not None and self._sweeper is not threading.current_thread():
            self._sweeper.join()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _keep_sweeping(self) -> None:
        trouble = ""
        while not self._closing.wait(self._sweep_every_s):
            try:
                self.sweep()
            except StorageError as error:
                if str(error) != trouble:
                    logger.error("what has expired cannot be deleted: %s", error)
                trouble = str(error)
            else:
                trouble = ""

    def _forget(self) -> bool:
        self._has_remains = not self._file.forget()
        return not self._has_remains

    def _make_place(self, db: sqlite3.Connection, size: int) -> None:
        displaced = Deleted()
        while used_bytes(db) + size > self._max_bytes:
            oldest = _delete(db, "id > ? ORDER BY id LIMIT 1", 0)
            if not oldest.results:
                break
            displaced += oldest
        if displaced.results:
            self._has_remains = True
            note(db, at=self._clock(), who=HISTORY, action="displaced", what=displaced)

    def _digest(self, session: str | None, owner: str) -> bytes:
        for name, value, least in (("session", session, 1), ("owner", owner, 0)):
            if not isinstance(value, str) or not least <= len(value) <= MAX_CHARS:
                actual = f"{len(value)} characters" if isinstance(value, str) else repr(value)
                msg = f"{name}: expected a text of at most {MAX_CHARS} characters, got {actual}"
                raise ConfigurationError(msg)
        text = json.dumps((owner, session))
        return hashlib.blake2b(text.encode(), key=self._key, digest_size=16).digest()


def _count(db: sqlite3.Connection, where: str, value: object) -> Deleted:
    query = f"SELECT count(*), count(image) FROM records WHERE {where}"  # noqa: S608 - ours
    return Deleted(*db.execute(query, (value,)).fetchone())


def _delete(db: sqlite3.Connection, which: str, value: object) -> Deleted:
    rows = f"id IN (SELECT id FROM records WHERE {which})"  # noqa: S608 - ours
    found = _count(db, rows, value)
    db.execute(f"DELETE FROM records WHERE {rows}", (value,))  # noqa: S608 - ours
    return found


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
