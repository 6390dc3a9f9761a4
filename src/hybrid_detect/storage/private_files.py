"""Files that nobody but their owner may read."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from hybrid_detect.errors import ClosedError, StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LineFile", "make_private"]

logger = logging.getLogger("hybrid_detect")

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""The permissions of everybody but the owner."""


def make_private(path: Path) -> None:
    """Make the file at `path` unless it is there, and close it to others in either case.

    A link is not followed: it may have been put there to have something else overwritten.

    Raises:
        StorageError: If it cannot be made or closed to others, or is not a plain file.
    """
    try:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            # Not opened, even to look at it: closing a file gives up all locks of this process.
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode):
                msg = f"cannot open {path}: expected a plain file"
                raise StorageError(msg) from None
            if os.name == "posix" and mode & OTHERS:
                path.chmod(stat.S_IMODE(mode) & ~OTHERS)
                logger.warning("%s could be read by others; now it cannot", path)
    except OSError as error:
        msg = f"cannot make or close to others {path}: {error.strerror}"
        raise StorageError(msg) from error


class LineFile:
    """A private file that only grows, by whole lines, each on the disk before the next.

    One `LineFile` at a time has the file, where the system can lock it.

    Raises:
        StorageError: If it cannot be opened or read, or is in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        make_private(path)
        flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._descriptor = os.open(path, flags)
            if fcntl is not None:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(self._descriptor, "rb", closefd=False) as reader:
                content = reader.read()
        except OSError as error:
            self.close()
            why = "it is in use" if isinstance(error, BlockingIOError) else error.strerror
            msg = f"cannot read {path}: {why}"
            raise StorageError(msg) from error
        *whole, torn = content.split(b"\n")
        self.lines: list[bytes] = whole
        """The lines there were when it was opened, without their ends."""
        self._size = len(content) - len(torn)
        self._is_torn = bool(torn)
        if torn:
            # Whoever wrote it was ended before the line was whole, so nobody was told it holds.
            logger.warning("%s ended in an unfinished line, which is dropped", path)

    def append(self, line: bytes) -> None:
        """Write `line`, which holds no line feed, and wait until it is on the disk.

        Raises:
            StorageError: If it could not be written; then nothing of it stays.
            ClosedError: If the file is closed.
        """
        if self._descriptor < 0:
            msg = f"{self.path} has been closed"
            raise ClosedError(msg)
        try:
            if self._is_torn:
                os.ftruncate(self._descriptor, self._size)
            self._is_torn = True
            rest = memoryview(line + b"\n")
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except OSError as error:
            with suppress(OSError):  # else before the next line
                os.ftruncate(self._descriptor, self._size)
            msg = f"cannot write {self.path}: {error.strerror}"
            raise StorageError(msg) from error
        self._is_torn = False
        self._size += len(line) + 1

    def close(self) -> None:
        """Give the file back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
