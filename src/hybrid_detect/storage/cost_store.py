"""What was spent, in a file that survives the process and that several processes share.

The file is a `DetectionHistory`'s: the two may be the same one, and then exporting and erasing a
session takes its costs along. Each addition is one transaction, which adds to the sums that are
there, so that writers lose nothing of each other's, and a killed one leaves all or nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from hybrid_detect.charges import CostRow
from hybrid_detect.errors import ConfigurationError, StorageError
from hybrid_detect.storage import cost_table
from hybrid_detect.storage.database import Database
from hybrid_detect.storage.tables import SCHEMA, seals_of

__all__ = ["CostStore"]

NAMES_KEPT_S = 24 * 3600.0
"""Seconds for which costs tell whose they are: as long as results are kept by default."""

SWEEP_EVERY_S = 600.0
"""Seconds between two looks at whose time is over."""


class CostStore:
    """Keeps sums of what was spent.

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
        names_kept_s: float = NAMES_KEPT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 < names_kept_s < math.inf:
            msg = f"names_kept_s: expected seconds above 0, got {names_kept_s!r}"
            raise ConfigurationError(msg)
        self._names_kept_s = names_kept_s
        self._clock = clock
        self._swept_at = -math.inf
        self._seen_version: object = None
        self._file = Database(Path(path), schema=SCHEMA)
        try:
            self._seals = seals_of(self._file)
        except BaseException:
            self._file.close()
            raise

    def add(self, rows: Iterable[CostRow]) -> None:
        """Add `rows`, with the names of their sessions and users: all of them, or none.

        Raises:
            StorageError: If they cannot be written.
        """
        rows = tuple(rows)
        self.sweep_if_due()  # first: whoever is told that it failed may add the same rows again
        with self._file.writing() as db:
            cost_table.add(
                db,
                rows,
                tag=self._seals.cost_tag,
                now=self._clock(),
                kept_s=self._names_kept_s,
            )

    def rows(self, *, from_hour: int = 0) -> list[CostRow]:
        """What is kept, oldest first. Names are what stands for them: see `tag`.

        Args:
            from_hour: The first hour, in whole hours since 1970.

        Raises:
            StorageError: If the file cannot be read or is damaged.
        """
        with self._file.reading() as db:
            return cost_table.rows(db, from_hour=from_hour)

    def tag(self, kind: str, name: str) -> str:
        """What stands in the file for the ``session`` or ``user`` (`kind`) called `name`.

        Raises:
            ConfigurationError: If it cannot be a name.
        """
        return self._seals.cost_tag(kind, name).hex()

    def erase(self, session: str) -> int:
        """Forget whose the costs of `session` are; how many rows there were.

        `DetectionHistory.erase` does the same, and deletes the session's results.

        Raises:
            StorageError: If it cannot be done.
        """
        digest = self._seals.cost_tag("session", session)
        count = self._file.must_write(lambda db: cost_table.forget_session(db, digest))
        if not self._file.forget():
            msg = f"erased, but another process reads {self._file.path} and keeps its older state"
            raise StorageError(msg)
        return count

    def sweep(self) -> None:
        """Forget whose the costs are whose time is over; called by itself in between.

        Raises:
            StorageError: If it cannot be done.
        """
        now = self._clock()
        if self._file.must_write(lambda db: cost_table.sweep(db, now)):
            self._file.forget()
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
