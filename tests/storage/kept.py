"""What the tests of a history share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybrid_detect.storage.history import DetectionHistory
from hybrid_detect.storage.records import Deleted

__all__ = ["DAY_S", "JPEG", "KIB", "counts", "on_disk"]

DAY_S = 24 * 3600.0
JPEG = b"\xff\xd8\xff"
KIB = 1024


def on_disk(path: Path) -> bytes:
    """What is in the database and in every file beside it."""
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def counts(kept: DetectionHistory, session: str = "ann", **options: Any) -> Deleted:
    found = list(kept.results(session, **options))
    return Deleted(len(found), sum(each.image is not None for each in found))
