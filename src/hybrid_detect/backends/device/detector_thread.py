"""The thread that asks a detector.

Not a thread of `ThreadPoolExecutor`: the interpreter joins those when it ends, so that a detector
that hangs would keep the app from ending. This one is a daemon, and is given a moment at the end.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

__all__ = ["DetectorThread"]

EXIT_WAIT_S = 0.5
"""Seconds that the calls under way have when the interpreter ends: native code that is cut off in
the middle may crash on the way out."""

_Result = TypeVar("_Result")
_Job: TypeAlias = "tuple[Future[Any], Callable[..., Any], tuple[object, ...]]"

_running: weakref.WeakSet[DetectorThread] = weakref.WeakSet()


class DetectorThread:
    """Does one call after the other. Ends after `end`, or when it is garbage.

    Args:
        name: The thread's name.

    Raises:
        RuntimeError: If there is no thread to be had.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # The thread must not refer to this object, which could not become garbage then.
        self._thread = threading.Thread(target=_work, args=(self._jobs,), name=name, daemon=True)
        self._thread.start()
        weakref.finalize(self, self._jobs.put, None).atexit = False
        _running.add(self)

    def submit(self, work: Callable[..., _Result], *args: object) -> Future[_Result]:
        """Call `work` with `args`, after what was submitted before."""
        answer: Future[_Result] = Future()
        self._jobs.put((answer, work, args))
        return answer

    def end(self, *, timeout_s: float) -> None:
        """End the thread after what was submitted, and wait for that for `timeout_s` seconds."""
        self._jobs.put(None)
        self._thread.join(timeout_s)


def _work(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        answer, work, args = job
        if answer.set_running_or_notify_cancel():
            try:
                result = work(*args)
            except BaseException as error:  # It is the caller's, even one that ends programs.
                answer.set_exception(error)
            else:
                answer.set_result(result)
                del result
        del job, answer, work, args  # They must not outlive the call until the next one.


def _end_all() -> None:
    """Wait a moment for the calls under way."""
    ends_s = time.monotonic() + EXIT_WAIT_S
    for thread in tuple(_running):
        thread.end(timeout_s=max(ends_s - time.monotonic(), 0.0))


atexit.register(_end_all)
