"""How a command ends that is asked to by a signal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["ended_in_order"]


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Treat a SIGTERM inside the block like Ctrl-C, and let it end the program after the block.

    By default it ends Python at once, and what a service spent last is not written. Where the
    signal is handled or ignored already, or this is no main thread, nothing is changed.
    """
    came = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.raise_signal(signal.SIGINT)

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if came:
            with suppress(OSError):  # the program that reads it may have ended as well
                sys.stdout.flush()
            signal.raise_signal(signal.SIGTERM)  # so that the parent sees what it asked for
