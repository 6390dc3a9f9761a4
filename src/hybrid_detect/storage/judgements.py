"""What was said of a result, kept in the record of it."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from typing import Any

from hybrid_detect.storage.database import PAGE_BYTES
from hybrid_detect.storage.row_seals import RowSeals

__all__ = ["MAX_JUDGEMENTS", "judge"]

MAX_JUDGEMENTS = 100
"""Of one result; further ones are not kept with it, so that no record grows without end."""


def judge(db: sqlite3.Connection, seals: RowSeals, tag: bytes, event: Any) -> bool:
    """Add a judgement to the newest record of its frame.

    Args:
        db: The history's connection, in a transaction.
        seals: The history's digests.
        tag: What stands for the session.
        event: The `FeedbackEvent`.

    Returns:
        Whether there is such a record, with room for it.

    Raises:
        StorageError: If the record is damaged.
    """
    # Looked for as text first, because reading all records of a session as JSON is slow.
    found = db.execute(
        "SELECT id, recorded_at, result, NULL, seal FROM records"
        " WHERE session = ? AND instr(result, ?) ORDER BY id DESC",
        (tag, f'"frame_id": {event.frame_id},'),
    )
    for row in found:
        result = seals.stored(tag, row, with_image=False).result
        known = result.get("frame_id"), result.get("captured_at_s")
        if known != (event.frame_id, event.captured_at_s):
            continue
        said = result.setdefault("feedback", [])
        if len(said) >= MAX_JUDGEMENTS:
            return False
        at = datetime.fromtimestamp(event.at_s, UTC).isoformat()
        said.append({"at": at, "verdict": event.verdict, "face": event.face})
        text = json.dumps(result)
        # The padding is written anew, too: a longer row may get another place in its page.
        db.execute(
            "UPDATE records SET padding = zeroblob(?), result = ?, seal = ? WHERE id = ?",
            (PAGE_BYTES, text, seals.seal_again(tag, text, row[4]), row[0]),
        )
        return True
    return False
