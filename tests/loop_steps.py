"""An event loop watched step by step: what each costs, and what comes if it is the last."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from unittest import mock

__all__ = ["LoopSteps"]


class LoopSteps:
    """Counts the steps of this thread's event loop, as a context manager.

    A step is one callback: the part of a task between two places where it waits. What it costs is
    CPU time of the thread, so that a machine which is busy with other work changes nothing.

    Args:
        after: Called after each step with its number, from 0.

    Attributes:
        count: How many steps there were.
        worst_s: CPU seconds of the dearest one.
        worst: What it was, as asyncio shows it.
    """

    def __init__(self, after: Callable[[int], object] | None = None) -> None:
        self._after = after
        self._patch: Any = None
        self.count = 0
        self.worst_s = 0.0
        self.worst = ""

    def __enter__(self) -> Self:
        watched = threading.get_ident()
        run = asyncio.Handle._run

        def step(handle: asyncio.Handle) -> None:
            if threading.get_ident() != watched:
                run(handle)
                return
            began_s = time.thread_time()
            run(handle)
            took_s = time.thread_time() - began_s
            if took_s > self.worst_s:
                self.worst_s, self.worst = took_s, repr(handle)
            number, self.count = self.count, self.count + 1
            if self._after is not None:
                self._after(number)

        self._patch = mock.patch.object(asyncio.Handle, "_run", step)
        self._patch.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._patch.stop()
