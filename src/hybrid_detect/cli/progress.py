"""Progress of work that takes longer than a reader's patience, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from hybrid_detect.backends.device.models import Progress

__all__ = ["counter", "progress_line"]


def counter(what: str, stream: TextIO) -> Callable[[int, int], None]:
    """A function to call with the number of `what` that are done and of all.

    It counts in one line of a terminal. Elsewhere, such as in a log, it prints a line for each
    tenth of the work.
    """
    is_terminal = stream.isatty()

    def show(done: int, of: int) -> None:
        if is_terminal:
            end = "\n" if done == of else ""
            print(f"\r{done} of {of} {what}", end=end, file=stream, flush=True)
        elif done * 10 // of > (done - 1) * 10 // of:
            print(f"{done} of {of} {what}", file=stream, flush=True)

    return show


@contextmanager
def progress_line() -> Iterator[Progress]:
    """Show how a fetch goes in one line of the terminal, and end that line."""
    shown = False

    def show(source: str, received: int, total: int | None) -> None:
        nonlocal shown
        if sys.stderr.isatty():
            shown = True
            size = f" of {total}" if total else ""
            print(f"\r{source}: {received}{size} bytes", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shown:
            print(file=sys.stderr)
