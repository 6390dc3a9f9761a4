"""An event loop on which waiting costs no time, so that a test of minutes takes seconds.

Whenever every task waits for a time, the loop's clock jumps to the next timer instead of waiting
for it. Work takes no time on that clock - in tasks, in threads of `run_in_executor` and of
`in_daemon_thread`, in a source that is asked for its next image, between sockets of this process -
however slow or busy the machine is: the test sees the same order of things on every machine.
Sockets of *other* processes do not work: their answers are slower than the clock.

Mark a test or a module with it; all of the library then reads the same clock::

    pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import selectors
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from hybrid_detect.sources.captured import CapturedFrame
from hybrid_detect.sources.thread_reader import ThreadReader

__all__ = [
    "VIRTUAL_TIME",
    "VirtualTimeLoop",
    "library_reads",
    "reading_takes_no_time",
    "virtual_now_s",
]

START_S = 1000.0

GRACE_S = 0.0005
"""Seconds that the kernel has to bring what one socket of this process sent to another. Loopback
delivers within the call that sends, so this is met even where all CPUs are busy."""

PATIENCE_S = 0.05
"""Seconds between two looks whether the work of a thread has ended; its end wakes the loop."""

SOURCE_THREAD = "hybrid-detect-source"
"""A camera's reads may block for good; see `reading_takes_no_time`."""

WAITING_PLACES = {"threading.py", "queue.py", "thread.py", "detector_thread.py", "history.py"}
"""The files in whose own functions a thread that has nothing to do waits."""

THREAD_LIMIT_S = 20.0
"""After so long a thread at work is taken to wait for the clock itself, which then goes on."""

CALL_THREAD = "hybrid-detect-call"
"""The name of threads that make one call and end: `hybrid_detect.sources.daemon_threads`."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps over every wait."""

    def __init__(self) -> None:
        global _newest
        self._now_s = START_S
        self._at_work = 0
        super().__init__(_JumpingSelector(self))
        _newest = self

    def time(self) -> float:
        """Return the seconds that have passed on this clock."""
        return self._now_s

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run `func` in a thread; the clock stands still until it has ended."""
        self._at_work += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._work_ended)
        return future

    def _work_ended(self, _future: object) -> None:
        self._at_work -= 1

    @contextmanager
    def work_of_a_thread(self) -> Iterator[None]:
        """The clock stands still while a task waits, inside this, for what a thread is doing."""
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    def jump(self, seconds: float) -> None:
        """Move the clock on."""
        self._now_s += seconds

    @property
    def is_waiting_for_threads(self) -> bool:
        """Whether a thread is at work, whose end may come before the next timer."""
        return self._at_work > 0 or any(map(_is_at_work, threading.enumerate()))


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[valid-type,misc]
    """Waits for sockets and threads, but never for a time."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        looks = int(THREAD_LIMIT_S / PATIENCE_S)
        at_rest = 0
        while at_rest < 2:  # one that has just been given work may not have begun
            is_busy = looks > 0 and self._loop.is_waiting_for_threads
            looks -= is_busy
            at_rest = 0 if is_busy else at_rest + 1
            if ready := super().select(PATIENCE_S if is_busy else GRACE_S):
                return ready
        self._loop.jump(timeout)
        return []


_newest: VirtualTimeLoop | None = None


def virtual_now_s() -> float:
    """Return the time of the newest such loop: also threads may ask, which run no loop."""
    return START_S if _newest is None else _newest.time()


def _frames() -> dict[int, FrameType]:
    """What each thread runs. CPython may wait for itself for ever where garbage is collected
    meanwhile (its issue 106883; seen with 3.11.7)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if was_enabled:
            gc.enable()


def _is_at_work(thread: threading.Thread) -> bool:
    """Whether a thread of the library does something, rather than wait for something to do."""
    is_ours = thread.name.startswith("hybrid-detect") and thread.name != SOURCE_THREAD
    if thread is threading.current_thread() or not is_ours:
        return False
    if thread.name == CALL_THREAD:
        return True
    frame = _frames().get(thread.ident or 0)
    if frame is None or Path(frame.f_code.co_filename).name not in WAITING_PLACES:
        return frame is not None
    # It may have been woken already, and wait for a CPU.
    try:
        stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "R"


VIRTUAL_TIME = ("asyncio", {"loop_factory": VirtualTimeLoop})
"""What the fixture `anyio_backend` returns for a test on such a loop."""


def library_reads(clock: Callable[[], float], patch: pytest.MonkeyPatch) -> None:
    """Make all of the library, and the modules it stands on, read `clock` as the monotonic time.

    `time.monotonic` itself is replaced, and the parameters that have it as their default.
    """
    real = time.monotonic
    for function in _functions_of_the_library():
        defaults = function.__kwdefaults__ or {}
        for name, value in list(defaults.items()):
            if value is real:
                patch.setitem(defaults, name, clock)
    patch.setattr(time, "monotonic", clock)


def reading_takes_no_time(patch: pytest.MonkeyPatch) -> None:
    """Let the clock stand still while a source that never drops reads its next image.

    A camera, which drops, reads all the time and may block for good: the clock goes on beside it.
    """
    take = ThreadReader.take

    async def take_at_work(reader: ThreadReader) -> CapturedFrame | None:
        loop = asyncio.get_running_loop()
        if reader.drops or not isinstance(loop, VirtualTimeLoop):
            return await take(reader)
        with loop.work_of_a_thread():
            return await take(reader)

    patch.setattr(ThreadReader, "take", take_at_work)


def _functions_of_the_library() -> Iterator[Any]:
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != "hybrid_detect":
            continue
        for value in list(vars(module).values()):
            if inspect.isfunction(value):
                yield value
            elif inspect.isclass(value):
                yield from filter(inspect.isfunction, list(vars(value).values()))
