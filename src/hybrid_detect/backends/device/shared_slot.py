"""Memory that two processes see: one picture at a time crosses in it and is copied once."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import sys
import tempfile

import numpy as np
from numpy.typing import NDArray

__all__ = ["CAPACITY", "SharedSlot"]

CAPACITY = 3840 * 2160 * 3
"""Bytes of the RGB pixels of a 4K picture. Only the part that is written to takes memory: 2.6 MiB
for a frame of 1280x720."""


class SharedSlot:
    """One place for one picture (or any bytes).

    On Linux it is an anonymous memory file, which no full ``/dev/shm`` can hinder and which ends
    with the last process that holds it. Elsewhere on POSIX it is a deleted temporary file, on
    Windows a named mapping.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self._name = ""
        self._fd = -1
        self.memory: mmap.mmap
        """The mapped memory. What is read from it has to be copied before `close`."""
        if sys.platform == "linux":
            self._fd = os.memfd_create("hybrid-detect")
        elif sys.platform == "win32":
            self._name = f"hybrid-detect-{secrets.token_hex(8)}"
        else:
            self._fd, path = tempfile.mkstemp(prefix="hybrid-detect-")
            os.unlink(path)
        try:
            self.memory = self._map()
        except BaseException:
            self._close_fd()
            raise

    def _map(self) -> mmap.mmap:
        size = self.capacity + 1
        if self._fd == -1:
            return mmap.mmap(-1, size, tagname=self._name)  # type: ignore[call-arg]
        if sys.platform == "linux":
            os.ftruncate(self._fd, size)
        else:
            # A full disk has to fail here, and not as a bus error when the memory is touched.
            with open(self._fd, "wb", closefd=False) as file:
                file.write(bytes(size))
        return mmap.mmap(self._fd, size)

    @property
    def handle(self) -> int | str:
        """The name another process opens it by: an inherited file descriptor, or a name."""
        return self._fd if self._fd != -1 else self._name

    @property
    def inherited(self) -> tuple[int, ...]:
        """The file descriptors a child must inherit."""
        return () if self._fd == -1 else (self._fd,)

    def put(self, data: bytes | NDArray[np.uint8]) -> None:
        """Copy `data`, which must fit, to the start of the slot. It is wanted from now on."""
        self.memory[self.capacity] = False
        flat = data if isinstance(data, bytes) else np.ascontiguousarray(data).data.cast("B")
        self.memory[: len(flat)] = flat

    def drop(self) -> None:
        """Tell the other process that the picture's answer is not wanted any more."""
        self.memory[self.capacity] = True

    def close(self) -> None:
        """Give the memory back."""
        with contextlib.suppress(BufferError):
            self.memory.close()
        self._close_fd()

    def _close_fd(self) -> None:
        if self._fd != -1:
            os.close(self._fd)
            self._fd = -1
