"""Disk space kept for what has to be written even when the disk is full."""

from __future__ import annotations

import logging
import os
from pathlib import Path

__all__ = ["Reserve"]

logger = logging.getLogger("hybrid_detect")

PIECE = 16 * 1024
"""Written at once. Of random bytes, since a file system may store a run of zeros as none."""


class Reserve:
    """A file of no content that is removed when its room is needed.

    Erasing and withdrawing write: a log, a line. On a full disk they would fail, and what a person
    asked to have deleted would stay. Another program may take the room in the moment in which it
    is free, so what is written after `release()` may still fail, with an error.

    Args:
        path: The file, made with mode 0600.
        size: Bytes; 0 keeps nothing.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size
        self._is_missed = False

    def keep(self, size: int = 0) -> bool:
        """Make the room, or make it larger.

        Args:
            size: Bytes; less than before changes nothing.

        Returns:
            Whether all of the room is there; else what could be had of it is kept.
        """
        self._size = max(self._size, size)
        if not self._size:
            return True
        is_there = self._make()
        if not is_there and not self._is_missed:
            logger.warning("%s: the disk has no room for a reserve of %d bytes", *self._facts)
        self._is_missed = not is_there
        return is_there

    def release(self) -> bool:
        """Free the room.

        Returns:
            Whether there was any.
        """
        try:
            self._size = max(self._size, self.path.stat().st_size)  # to be kept again afterwards
            self.path.unlink()
        except OSError:
            return False
        logger.warning("%s: the disk is full, the reserve of %d bytes is used", *self._facts)
        return True

    @property
    def _facts(self) -> tuple[Path, int]:
        return self.path, self._size

    def _make(self) -> bool:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        try:
            had = self.path.lstat().st_size
        except OSError:
            had = 0
        if had >= self._size:
            return True
        try:
            descriptor = os.open(self.path, flags, 0o600)
        except OSError:
            return False
        try:
            for start in range(had // PIECE * PIECE, self._size, PIECE):
                # Written, as growing a file alone sets no blocks aside. What fits stays.
                os.lseek(descriptor, start, os.SEEK_SET)
                os.write(descriptor, os.urandom(min(PIECE, self._size - start)))
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return self.path.stat().st_size >= self._size
