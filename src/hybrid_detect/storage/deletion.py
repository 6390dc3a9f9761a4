"""Deleting records of a history and noting it: in batches, on a full disk one by one."""

from __future__ import annotations

from hybrid_detect.errors import StorageError
from hybrid_detect.storage.audit import note
from hybrid_detect.storage.database import Database, lacks_room
from hybrid_detect.storage.records import Deleted
from hybrid_detect.storage.tables import delete

__all__ = ["BATCH", "HISTORY", "delete_all"]

BATCH = 100
"""Rows deleted in one go, so that others get their turn: 8 MB of pictures."""

HISTORY = "history"
"""Who deletes by age."""


def delete_all(
    file: Database,
    which: str,
    value: object,
    *,
    at: float,
    action: str,
    who: str = HISTORY,
    session: str = "",
) -> Deleted:
    """Delete the records `which` and note it, a batch at a time: on a full disk, of one."""
    total, line, batch = Deleted(), None, BATCH
    try:
        while True:
            try:
                with file.writing() as db:
                    found = delete(db, f"{which} LIMIT {batch}", value)
                    noted = line
                    if found.results or (session and line is None):
                        noted = note(
                            db,
                            at=at,
                            who=who,
                            action=action,
                            what=found,
                            session=session,
                            line=line,
                        )
            except StorageError as error:
                if batch == 1 or not (lacks_room(error) and file.use_reserve()):
                    raise
                batch = 1
                file.empty_log()
                continue
            line, total = noted, total + found
            if found.results < batch:
                return total
            if batch == 1:
                file.empty_log()  # which makes room for the next one
    finally:
        file.keep_reserve()
