"""A history of results that deletes itself: kept for a day, exportable, erasable.

One SQLite file. Sessions are not named in it: they are found by a keyed digest of their name and
owner, so a caller who asks for a session of another owner finds nothing. Each row carries a keyed
digest of its content and its session: a damaged file gives no altered row, and no other session's.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hybrid_detect.closing import Closing
from hybrid_detect.errors import ConfigurationError, InvalidFrameError, StorageError
from hybrid_detect.storage import cost_table, usage_table
from hybrid_detect.storage.archive import archive
from hybrid_detect.storage.audit import AuditLine, audit_lines, note
from hybrid_detect.storage.database import PAGE_BYTES, Database, used_bytes
from hybrid_detect.storage.deletion import BATCH, HISTORY, delete_all
from hybrid_detect.storage.judgements import judge
from hybrid_detect.storage.private_files import remove_leftovers, replace_file
from hybrid_detect.storage.records import Deleted, StoredResult
from hybrid_detect.storage.tables import (
    EXPIRED,
    SCHEMA,
    count,
    date_anew,
    delete,
    forget_old_names,
    forget_session,
    seals_of,
)
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


class DetectionHistory(Closing):
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
            self._seals = seals_of(self._file)
            self._remove_unfinished_exports()
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
            session: Whom it is about: the name by which export and erasure are asked for; the
                result's own ``session_id`` if `None`.
            image: The encoded picture, if it is to be kept as well.
            owner: Whose session it is, where several apps or clients share a history.

        Returns:
            Its number.

        Raises:
            ConfigurationError: If there is no session's name, by which it could be asked for again.
            InvalidFrameError: If the picture is not encoded bytes.
            StorageError: If it cannot be written, is larger than the history, or could not be
                erased again because the disk is full.
        """
        if isinstance(result, DetectionResult):
            session = result.session_id if session is None else session
            result = result.to_dict()
        if image is not None and not isinstance(image, bytes):
            raise InvalidFrameError(expected="an encoded picture", actual=type(image).__name__)
        digest = self._seals.tag(session, owner)
        # A session's name is not in the file: only who knows it finds what is kept of it.
        text = json.dumps({name: value for name, value in result.items() if name != "session_id"})
        # Each of the two may leave a page half empty, and so may the indices.
        size = len(text) + len(image or b"") + 8 * PAGE_BYTES
        if size > self._max_bytes // 2:
            msg = f"a result of {size} bytes is too large for a history of {self._max_bytes}"
            raise StorageError(msg)
        if not 0 <= self._clock() - self._swept_at < self._sweep_every_s:
            self.sweep()  # first: what cannot delete may not take in more
        if not self._file.keep_reserve(size):
            msg = f"{self._file.path}: the disk has no room left to erase the result again"
            raise StorageError(msg)
        seal = self._seals.seal(digest, text, image)
        with self._file.writing() as db:
            self._make_place(db, size)
            number = db.execute(
                "INSERT INTO records (session, recorded_at, padding, result, image, seal)"
                " VALUES (?, ?, zeroblob(?), ?, ?, ?)",
                (digest, self._clock(), PAGE_BYTES, text, image, seal),
            ).lastrowid
        return int(number or 0)

    blocking = True  # as a hook it is called off the event loop

    def on_frame(self, event: Any) -> None:
        """Keep the result of a frame, as a hook of a service with a ``session_id``."""
        if event.result is not None:
            self.add(event.result)

    def on_feedback(self, event: Any) -> None:
        """Keep what was said of a result with its record, as a hook."""
        tag = self._seals.tag(event.session_id, "")
        with self._file.writing() as db:
            is_kept = judge(db, self._seals, tag, event)
        if not is_kept:
            logger.warning("feedback for frame %d: there is no record of it", event.frame_id)

    def results(
        self, session: str, *, owner: str = "", images: bool = True
    ) -> Iterator[StoredResult]:
        """What is kept of `session`, oldest first, one at a time.

        What is added after the first is not included, what is deleted meanwhile is left out.

        Raises:
            StorageError: If it cannot be read, or a result is not as it was kept: the file is
                damaged. Erasing the session and expiry still work.
        """
        digest = self._seals.tag(session, owner)
        with self._file.reading() as db:
            (last,) = db.execute("SELECT coalesce(max(id), 0) FROM records").fetchone()
        number = 0
        while True:
            with self._file.reading() as db:
                row = db.execute(
                    "SELECT id, recorded_at, result, CASE WHEN ? THEN image END, seal FROM records"
                    " WHERE session = ? AND id > ? AND id <= ? AND recorded_at > ?"
                    " ORDER BY id LIMIT 1",
                    (images, digest, number, last, self._clock() - self.retention_s),
                ).fetchone()
            if row is None:
                return
            number = row[0]
            yield self._seals.stored(digest, row, with_image=images)

    # -- portability and erasure -------------------------------------------------------------

    def export(
        self, session: str, destination: str | Path, *, owner: str = "", who: str = "app"
    ) -> Path:
        """Write what is kept of `session` to a ZIP file: its results, images, costs and usage.

        Args:
            session: Whose results.
            destination: Where to; replaced in one step, readable by its owner alone.
            owner: As given to `add`.
            who: Who asked for it, for the audit.

        Raises:
            StorageError: If it cannot be read or written.
        """
        path = Path(destination)
        folder = str(path.parent.resolve())
        # Noted first, so that the next start finds what is left if this process is killed.
        with self._file.writing() as db:
            db.execute("INSERT OR IGNORE INTO exports VALUES (?)", (folder,))
        replace_file(path, self.export_pieces(session, owner=owner, who=who))
        self._remove_unfinished_exports()
        return path

    def export_pieces(self, session: str, *, owner: str = "", who: str = "app") -> Iterator[bytes]:
        """The same ZIP file in pieces, for sending it on without keeping it anywhere."""
        digest = self._seals.tag(session, owner)
        with self._file.writing() as db:
            found = count(db, "session = ?", digest)
            note(
                db,
                at=self._clock(),
                who=who,
                action="exported",
                what=found,
                session=digest.hex(),
            )
            costs = cost_table.rows(db, session=digest)
            usage = usage_table.rows(db, session=digest)
        results = partial(self.results, session, owner=owner)
        return archive(session, results, costs=costs, usage=usage)

    def erase(self, session: str, *, owner: str = "", who: str = "app") -> Deleted:
        """Delete what is kept of `session`, so that the file does not hold it any more.

        Works on a full disk, too: room is kept for it.

        Returns:
            How much there was; nothing if there was nothing.

        Raises:
            StorageError: If it cannot be done, or if another process that reads the file keeps
                an older state of it alive.
        """
        self._has_remains = True
        erased = delete_all(
            self._file,
            "session = ?",
            digest := self._seals.tag(session, owner),
            at=self._clock(),
            who=who,
            action="erased",
            session=digest.hex(),
        )
        sums = forget_session(self._file, digest)
        if erased.results or sums:
            self._file.rewrite()
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
        # Kept before a clock was set back: from here it has no more than its time.
        while self._file.must_write(partial(date_anew, now=now, limit=BATCH)) == BATCH:
            pass
        try:
            total = delete_all(
                self._file, EXPIRED, now - self.retention_s, at=now, action="expired"
            )
        except StorageError:
            self._has_remains = True  # of the batches that went through
            raise
        forgotten = forget_old_names(self._file, now)
        self._has_remains |= bool(total.results or forgotten)
        if self._has_remains and not self._forget():
            logger.warning("%s: another process keeps an older state of it", self._file.path)
        return total

    # -- audit -------------------------------------------------------------------------------

    def audit(self) -> tuple[AuditLine, ...]:
        """What was exported and deleted, oldest first: when, by whom and how much."""
        with self._file.reading() as db:
            try:
                return audit_lines(db)
            except (TypeError, ValueError, OverflowError, OSError):
                msg = f"{self._file.path}: the audit is damaged"
                raise StorageError(msg) from None

    def tag(self, session: str, *, owner: str = "") -> str:
        """What stands for `session` in the audit and the log; tells nothing about its name."""
        return self._seals.tag(session, owner).hex()

    # -- life --------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop deleting and close the file. May be called more than once."""
        self._closing.set()
        if self._sweeper is not None and self._sweeper is not threading.current_thread():
            self._sweeper.join()
        self._file.close()

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
            oldest = delete(db, "id > ? ORDER BY id LIMIT 1", 0)
            if not oldest.results:
                break
            displaced += oldest
        if displaced.results:
            self._has_remains = True
            note(db, at=self._clock(), who=HISTORY, action="displaced", what=displaced)

    def _remove_unfinished_exports(self) -> None:
        """Remove what killed exports left, wherever exports of this history went."""
        with self._file.reading() as db:
            folders = [str(folder) for (folder,) in db.execute("SELECT folder FROM exports")]
        done = [(folder,) for folder in folders if not remove_leftovers(Path(folder))]
        if not done:
            return
        query = "DELETE FROM exports WHERE folder = ?"
        self._file.must_write(lambda db: db.executemany(query, done))
