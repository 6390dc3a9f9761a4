"""A display of one's own for tests that open windows: Xvfb, without a screen."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["display", "unavailable_reason"]

SIZE = "1024x768x24"


def unavailable_reason() -> str:
    """Why there can be no display here; empty if there can."""
    return "" if shutil.which("Xvfb") else "Xvfb is not installed (apt-get install xvfb)"


@contextmanager
def display() -> Iterator[str]:
    """A display that is nobody else's, such as ``:3``."""
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", SIZE, "-nolisten", "tcp"]
    process = subprocess.Popen(command, pass_fds=[writer], stderr=subprocess.DEVNULL)
    os.close(writer)
    try:
        with os.fdopen(reader, encoding="ascii") as answer:
            number = answer.readline().strip()  # empty if it has ended
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        process.terminate()
        process.wait()
