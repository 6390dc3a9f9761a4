"""A private file that only grows, by whole lines."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from hybrid_detect.errors import ClosedError, StorageError
from hybrid_detect.storage.private_files import lock, make_private, unlock
from hybrid_detect.storage.reserve import Reserve

__all__ = ["LineFile"]


class LineFile:
    """A private file that only grows, by whole lines, each on the disk before the next.

    One `LineFile` at a time has the file, where the system can lock it. A forked child cannot
    use it: its copy would not hear of what its parent writes.

    Args:
        path: Made with mode 0600 if it is not there.
        reserve_bytes: Disk space that is kept for lines which have to be written even when the
            disk is full; 0 for none. It is a hidden file beside `path`.

    Raises:
        StorageError: If it cannot be opened or read, or is in use.
    """

    def __init__(self, path: Path, *, reserve_bytes: int = 0) -> None:
        self.path = path
        self._owner = os.getpid()
        self._descriptor = -1
        self._reserve = Reserve(path.with_name(f".{path.name}.reserve"), reserve_bytes)
        make_private(path)
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            self._descriptor = os.open(path, flags)
            lock(self._descriptor)
            with open(self._descriptor, "rb", closefd=False) as reader:
                content = reader.read()
        except OSError as error:
            self.close()
            reason = "it is in use" if isinstance(error, BlockingIOError) else error.strerror
            msg = f"cannot read {path}: {reason}"
            raise StorageError(msg) from error
        *whole, unfinished = content.split(b"\n")
        self.lines: list[bytes] = whole
        """The lines there were when it was opened, without their ends."""
        self.unfinished = unfinished
        """What followed the last whole line then. It stays until the next line takes its place."""
        self._size = len(content) - len(unfinished)
        self._reserve.keep()

    @property
    def is_own(self) -> bool:
        """Whether this process opened it, rather than a parent that it was forked from."""
        return os.getpid() == self._owner

    def append(self, *lines: bytes, must: bool = False) -> None:
        """Write `lines`, which hold no line feed, and wait until they are on the disk.

        Args:
            lines: Written together.
            must: Whether the reserve may be used, and whether what could be written of the lines
                stays when they could not be written whole.

        Raises:
            StorageError: If they could not be written; unless `must`, nothing of them stays then.
                Or if the process was forked since the file was opened.
            ClosedError: If the file is closed.
        """
        if not self.is_own:
            msg = f"{self.path} was opened before the process forked: only its opener may write it"
            raise StorageError(msg)
        if self._descriptor < 0:
            msg = f"{self.path} has been closed"
            raise ClosedError(msg)
        data = b"".join(line + b"\n" for line in lines)
        try:
            try:
                self._write(data)
            except OSError:
                if not (must and self._reserve.release()):
                    raise
                self._write(data)
        except OSError as error:
            if not must:
                with suppress(OSError):  # else the next line takes its place
                    os.ftruncate(self._descriptor, self._size)
            msg = f"cannot write {self.path}: {error.strerror}"
            raise StorageError(msg) from error
        self._size += len(data)
        self._reserve.keep()

    def close(self) -> None:
        """Give the file back."""
        if self._descriptor >= 0:
            if self.is_own:
                unlock(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, data: bytes) -> None:
        # Over what is unfinished and not after cutting it off: a kill in between would lose it.
        os.lseek(self._descriptor, self._size, os.SEEK_SET)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.ftruncate(self._descriptor, self._size + len(data))
        os.fsync(self._descriptor)
