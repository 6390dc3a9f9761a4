"""Blocking calls in daemon threads, so that one that never returns holds nothing else up.

asyncio's own executor is shared with name look-ups, is waited for when the loop ends, and is
joined again when the interpreter ends: one silent name server or network drive would stall all
of it. A daemon thread is left behind instead.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

__all__ = ["in_daemon_thread"]

P = ParamSpec("P")
T = TypeVar("T")

MAX_THREADS = 32
"""Calls that may run, or hang, at the same time in a process: a thread of an idle call takes
about 50 KB. Further calls wait for one to end, inside their own deadlines."""

_places = threading.Semaphore(MAX_THREADS)

RETRY_S = 0.01
"""Seconds between two looks for a free place, while all are taken."""


async def in_daemon_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` in a daemon thread and wait for its answer.

    Cancelled, it stops waiting at once; the call goes on and its answer is dropped.

    Raises:
        Exception: What `function` raises.
    """
    # Polled, because places are given back in threads, of any loop.
    while not _places.acquire(blocking=False):  # noqa: ASYNC110
        await asyncio.sleep(RETRY_S)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def deliver(value: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(value)
        elif isinstance(error, StopIteration):  # which a future refuses to carry
            answer.set_exception(RuntimeError("the function raised StopIteration"))
        else:
            answer.set_exception(error)

    def run() -> None:
        value, error = None, None
        try:
            value = function(*args, **kwargs)
        except BaseException as exc:  # handed to the caller
            error = exc
        finally:
            _places.release()
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(deliver, value, error)
        del value, error

    try:
        threading.Thread(target=run, name="hybrid-detect-call", daemon=True).start()
    except BaseException:
        _places.release()
        raise
    result: T = await answer
    return result
