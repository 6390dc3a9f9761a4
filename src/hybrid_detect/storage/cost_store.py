"""What was spent and how frames fared, in a file that several processes may share.

It survives the process. The file is a `DetectionHistory`'s: the two may be the same one, and then
exporting and erasing a session takes its costs along. Each addition is one transaction, which adds
to the sums that are there, so that writers lose nothing of each other's, and a killed one leaves
all or nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hybrid_detect.charges import CostRow
from hybrid_detect.closing import Closing
from hybrid_detect.config import DEFAULT_NAMES_KEPT_S
from hybrid_detect.errors import ConfigurationError, StorageError
from hybrid_detect.storage import cost_table, usage_table
from hybrid_detect.storage.database import Database
from hybrid_detect.storage.tables import SCHEMA, forget_old_names, forget_session, seals_of
from hybrid_detect.usage import UsageRow

__all__ = ["CostStore"]

SWEEP_EVERY_S = 600.0
"""Seconds between two looks at whose time is over."""


class CostStore(Closing):
    """Keeps sums of what was spent, and counts of how frames fared.

    May be used from any thread. Methods take a few milliseconds of disk time, so call them off an
    event loop.

    Args:
        path: The file, made with mode 0600 if it is not there. Its folder has to be there.
        names_kept_s: Seconds after which the sums no longer tell whose they are.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: If `names_kept_s` is out of range.
        StorageError: If the file cannot be opened, is broken, or is another program's.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        names_kept_s: float = DEFAULT_NAMES_KEPT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 < names_kept_s < math.inf:
            msg = f"names_kept_s: expected seconds above 0, got {names_kept_s!r}"
            raise ConfigurationError(msg)
        self._names_kept_s = names_kept_s
        self._clock = clock
        self._swept_at = -math.inf
        self._has_remains = False
        self._seen_version: object = None
        self._file = Database(Path(path), schema=SCHEMA)
        try:
            self._seals = seals_of(self._file)
        except BaseException:
            self._file.close()
            raise

    def add(self, rows: Iterable[CostRow], *, usage: Iterable[UsageRow] = ()) -> None:
        """Add `rows` and `usage`, with the names of sessions and users: all of them, or none.

        Raises:
            StorageError: If they cannot be written.
        """
        rows = tuple(rows)
        self.sweep_if_due()  # first: if it fails, the caller may add the same rows again
        now, kept_s = self._clock(), self._names_kept_s
        with self._file.writing() as db:
            cost_table.add(db, rows, tag=self._seals.cost_tag, now=now, kept_s=kept_s)
            usage_table.add(db, usage, tag=self._seals.cost_tag, now=now, kept_s=kept_s)

    def rows(self, *, from_hour: int = 0) -> list[CostRow]:
        """What is kept, oldest first. Names are what stands for them: see `tag`.

        Args:
            from_hour: The first hour, in whole hours since 1970.

        Raises:
            StorageError: If the file cannot be read or is damaged.
        """
        with self._file.reading() as db:
            return cost_table.rows(db, from_hour=from_hour)

    def usage(self, *, from_hour: int = 0, end_hour: int | None = None) -> list[UsageRow]:
        """How frames fared, oldest first. Names are what stands for them: see `tag`.

        Args:
            from_hour: The first hour, in whole hours since 1970.
            end_hour: The hour after the last one; `None` for all.

        Raises:
            StorageError: If the file cannot be read or is damaged.
        """
        with self._file.reading() as db:
            return usage_table.rows(db, from_hour=from_hour, end_hour=end_hour)

    def tag(self, kind: str, name: str) -> str:
        """What stands in the file for the ``session`` or ``user`` (`kind`) called `name`.

        Raises:
            ConfigurationError: If it cannot be a name.
        """
        return self._seals.cost_tag(kind, name).hex()

    def erase(self, session: str) -> int:
        """Forget whose the sums of `session` are; how many rows of costs there were.

        `DetectionHistory.erase` does the same, and deletes the session's results.

        Raises:
            ConfigurationError: If it cannot be a session's name; an empty one is none.
            StorageError: If it cannot be done.
        """
        digest = self._seals.tag(session, "")
        count = forget_session(self._file, digest)
        self._has_remains = not self._file.forget()
        if self._has_remains:
            msg = f"erased, but another process reads {self._file.path} and keeps its older state"
            raise StorageError(msg)
        return count

    def sweep(self) -> None:
        """Forget whose the sums are whose time is over; called by itself in between.

        Raises:
            StorageError: If it cannot be done.
        """
        now = self._clock()
        self._has_remains |= bool(forget_old_names(self._file, now))
        if self._has_remains:  # until no other process keeps the log from being emptied
            self._has_remains = not self._file.forget()
        self._swept_at = now

    def sweep_if_due(self) -> None:
        """`sweep`, once in ten minutes; called by `add`, and for those who add nothing.

        Raises:
            StorageError: If it cannot be done.
        """
        if not 0 <= self._clock() - self._swept_at < SWEEP_EVERY_S:
            self.sweep()

    def has_changed(self) -> bool:
        """Whether another process, or another store, has written since this was last asked.

        Raises:
            StorageError: If the file cannot be read.
        """
        with self._file.reading() as db:
            # Source: SQLite, "PRAGMA data_version": it is the same after this connection's writes.
            (version,) = db.execute("PRAGMA data_version").fetchone()
        seen, self._seen_version = self._seen_version, version
        return bool(version != seen)

    def close(self) -> None:
        """Close the file. May be called more than once."""
        self._file.close()
