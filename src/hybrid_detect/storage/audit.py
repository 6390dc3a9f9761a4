"""The audit of a history: that something was exported or deleted, never what it was."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime

from hybrid_detect.storage.records import Deleted

__all__ = ["AUDIT_TABLE", "AuditLine", "audit_lines", "note"]

logger = logging.getLogger("hybrid_detect.history")

KEPT_LINES = 100_000
"""The newest lines that stay: years of them, as expiry shares one line an hour."""

MERGE_S = 3600.0

MAX_CHARS = 1024
"""Of the name of the one who asked."""

AUDIT_TABLE = """CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    session TEXT NOT NULL,
    results INTEGER NOT NULL,
    images INTEGER NOT NULL
)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """That something was done with what is kept."""

    at: datetime
    """When, in UTC; for events that share a line, when the first of them was."""
    who: str
    """Who asked for it; ``history`` for what it does by itself."""
    action: str
    """``exported``, ``erased``, ``expired`` or ``displaced`` (by newer results)."""
    session: str
    """The session's tag (see `DetectionHistory.tag()`), not its name; empty if by itself."""
    results: int
    images: int


def note(
    db: sqlite3.Connection,
    *,
    at: float,
    who: str,
    action: str,
    what: Deleted,
    session: str = "",
    line: int | None = None,
) -> int:
    """Write a line, in the transaction that does what it records.

    Args:
        db: The history's connection.
        at: When, in seconds since 1970.
        who: Who asked for it.
        action: What was done.
        what: How much there was of it.
        session: The session's tag; empty for what a history does by itself.
        line: A line to add it to, for what is done in several transactions.

    Returns:
        The number of the line.
    """
    if line is None and not session:
        line = _last_line(db, at, action)
    if line is not None:
        db.execute(
            "UPDATE audit SET results = results + ?, images = images + ? WHERE id = ?",
            (what.results, what.images, line),
        )
        return line
    who = "".join(letter for letter in who if letter.isprintable())[:MAX_CHARS]
    number = db.execute(
        "INSERT INTO audit (at, who, action, session, results, images) VALUES (?, ?, ?, ?, ?, ?)",
        (at, who, action, session, what.results, what.images),
    ).lastrowid
    db.execute("DELETE FROM audit WHERE id <= ?", ((number or 0) - KEPT_LINES,))
    counts = f"{what.results} results with {what.images} images"
    logger.info("%s by %s: %s of %s", action, who, counts, session or "any session")
    return number or 0


def _last_line(db: sqlite3.Connection, at: float, action: str) -> int | None:
    """The last line of `action`, if it is recent enough to be shared."""
    last = db.execute(
        "SELECT id, at FROM audit WHERE action = ? ORDER BY id DESC LIMIT 1", (action,)
    ).fetchone()
    if last is None or not isinstance(last[1], float):  # another value is damage
        return None
    return int(last[0]) if 0 <= at - last[1] < MERGE_S else None


def audit_lines(db: sqlite3.Connection) -> tuple[AuditLine, ...]:
    """Every line, oldest first."""
    rows = db.execute("SELECT at, who, action, session, results, images FROM audit ORDER BY id")
    return tuple(
        AuditLine(
            at=datetime.fromtimestamp(at, UTC),
            who=who,
            action=action,
            session=session,
            results=results,
            images=images,
        )
        for at, who, action, session, results, images in rows
    )
