"""A small disk that a test may fill: a tmpfs of its own, which only root can mount."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

__all__ = ["SmallDisk"]


class SmallDisk:
    """A file system of `size` bytes at `path`."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
            pytest.skip("only root can mount a small disk")
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "hybrid-detect-test", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")

    def fill(self) -> None:
        """Take every byte that is left."""
        with (self.path / "ballast").open("ab", buffering=0) as file:
            for size in (1024 * 1024, 4096, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def empty(self) -> None:
        """Give back what `fill` took."""
        (self.path / "ballast").unlink()

    def close(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "-l", str(self.path)], check=True, timeout=30)
