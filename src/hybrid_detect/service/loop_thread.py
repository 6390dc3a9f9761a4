"""An event loop in a thread of its own, for code without one; it ends with the program.

The thread is a daemon and watches for the program's end. Whether the program returns, raises,
calls `sys.exit` or drops the last reference, what was opened in the loop is closed within about a
second, and nothing that hangs keeps the program from ending.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Generic, TypeVar

from hybrid_detect.errors import ClosedError, ConfigurationError, HybridDetectError

__all__ = ["FORKED", "LoopThread", "call_in_loop"]

logger = logging.getLogger("hybrid_detect")

T = TypeVar("T")

CANCEL_TIMEOUT_S = 5.0
"""How long an interrupted call may take to end in the loop's thread: it only has to let go."""

CLOSE_LIMIT_S = 15.0
"""How long `close` waits. Closing takes milliseconds; a detection that hangs, and that no process
of its own can be killed for, is given up by its backend after ten seconds."""

EXIT_LIMIT_S = 1.0
"""How long the program's end waits for what is still open."""

EXIT_POLL_S = 0.2
"""Seconds between two looks at whether the program ends."""

FORKED = (
    "this service was made before the process forked, and its threads and connections are not in "
    "the child: make a new one in the child"
)


def call_in_loop(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Call `function` in the thread of `loop`, and return once it has returned.

    A loop that is blocked is waited for `EXIT_LIMIT_S` seconds; one that has ended is not.
    """
    if asyncio._get_running_loop() is loop:
        function()
        return
    done = threading.Event()

    def call() -> None:
        try:
            function()
        finally:
            done.set()

    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
        done.wait(EXIT_LIMIT_S)


class LoopThread:
    """Enters an async context manager in an event loop in a thread of its own.

    Args:
        context: What to enter. It is left when this is closed, or dropped, or the program ends.
        name: The class that the app made, for messages.

    Raises:
        Exception: What entering raises.
        ConfigurationError: If no event loop can run in a new thread.
    """

    def __init__(self, context: AbstractAsyncContextManager[Any], name: str) -> None:
        self._name = name
        self._owner = os.getpid()
        self._run = _Run(context)
        self._run.start()
        # Not in a fork: it has the loop, but not the thread.
        self._drop = weakref.finalize(self, _Run.ask_to_stop, self._run)
        self._drop.atexit = False
        _open.add(self._run)

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run `function` in the loop and wait for its answer; if interrupted, end it there.

        Raises:
            Exception: What `function` raises.
            ClosedError: If this is closed, the process is a fork, or it is called in the loop.
        """
        if os.getpid() != self._owner:
            raise ClosedError(FORKED)
        if threading.get_ident() == self._run.ident:
            msg = f"a {self._name} cannot be called from its own hooks, policy or clock"
            raise ClosedError(msg)
        running = self._run.submit(function)
        if running is None:
            raise self._closed()
        try:
            return running.future.result()
        except concurrent.futures.CancelledError:
            if not self._run.accepts:
                raise self._closed() from None
            raise
        except BaseException as error:
            if not running.future.done():  # Ctrl-C in this thread: the loop's does not know of it
                running.cancel(CANCEL_TIMEOUT_S)
            is_end = not threading.main_thread().is_alive()
            if is_end and isinstance(error, Exception) and not isinstance(error, HybridDetectError):
                # The interpreter refuses threads and has closed files, in a daemon thread's call.
                raise self._closed() from error
            raise

    def start(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run `function` in the loop without waiting for it; what it raises is logged.

        Nothing happens if this is closed.
        """
        running = self._run.submit(function)
        if running is not None:
            running.future.add_done_callback(_report_bug)

    def _closed(self) -> ClosedError:
        return ClosedError(f"this {self._name} is closed: make a new one")

    def ask_to_close(self) -> None:
        """Have the context left and the thread ended, without waiting for it."""
        self._run.ask_to_stop()

    def close(self) -> None:
        """Leave the context and end the thread. May be called more than once."""
        self._drop.detach()
        _open.discard(self._run)
        if os.getpid() == self._owner and not self._run.stop(CLOSE_LIMIT_S):
            logger.error("a %s did not close within %g s: it is left", self._name, CLOSE_LIMIT_S)


class _Call(Generic[T]):
    """A call that runs in the loop, for the thread that made it.

    `asyncio.run_coroutine_threadsafe` makes the coroutine in that thread: where Ctrl-C comes in
    between, it is never awaited, and Python warns of that.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[T]]
    ) -> None:
        self.future: concurrent.futures.Future[T] = concurrent.futures.Future()
        """What it gives; done when nothing of it runs any more."""
        self._loop = loop
        self._function = function
        self._task: asyncio.Task[T] | None = None

    def cancel(self, limit_s: float) -> None:
        """End it, and wait for its end for `limit_s` seconds."""
        with suppress(RuntimeError):  # the loop has ended, and the call with it
            self._loop.call_soon_threadsafe(self._cancel)
            concurrent.futures.wait([self.future], limit_s)

    # What follows runs in the loop.

    def begin(self) -> None:
        """Run it."""
        self._task = self._loop.create_task(_awaited(self._function))
        self._task.add_done_callback(self._tell)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _tell(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.future.cancel()
            self.future.set_running_or_notify_cancel()
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())


class _Run:
    """The loop and its thread. Refers to nothing that refers to the `LoopThread`."""

    def __init__(self, context: AbstractAsyncContextManager[Any]) -> None:
        self.ident = 0
        """The thread's number."""
        self.owner = os.getpid()
        self.accepts = False
        """Whether calls may be submitted."""
        self._context = context
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._entered: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended = threading.Event()
        self._calls: set[concurrent.futures.Future[Any]] = set()
        """Those under way, for the threads that wait for them."""

    def start(self) -> None:
        """Start the thread and wait until the context has been entered."""
        threading.Thread(target=self._main, name="hybrid-detect-loop", daemon=True).start()
        try:
            self._entered.result()
        except BaseException:
            self.stop(CANCEL_TIMEOUT_S)
            raise

    def submit(self, function: Callable[[], Awaitable[T]]) -> _Call[T] | None:
        """Run `function` in the loop; `None` if it takes no calls any more."""
        with self._lock:
            if not self.accepts:
                return None
            call = _Call(self._loop, function)
            self._calls.add(call.future)
            call.future.add_done_callback(self._calls.discard)
            self._loop.call_soon_threadsafe(call.begin)
            return call

    def ask_to_stop(self) -> None:
        """Have the context left and the thread ended, without waiting for it."""
        if os.getpid() == self.owner:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stopping.set)

    def stop(self, limit_s: float) -> bool:
        """`ask_to_stop`, and wait for it; whether it happened within `limit_s`."""
        self.ask_to_stop()
        return self._ended.wait(limit_s)

    # What follows runs in the thread.

    def _main(self) -> None:
        self.ident = threading.get_ident()
        try:
            self._loop.run_until_complete(self._live())
        except BaseException as error:
            self._report(error)
        finally:
            with suppress(RuntimeError):  # another loop runs in this thread
                self._loop.close()
            for future in list(self._calls):  # nothing tells these any more
                future.cancel()
            self._ended.set()

    def _report(self, error: BaseException) -> None:
        if not threading.main_thread().is_alive():
            # The interpreter starts no thread any more, which a backend may have needed to close
            # politely. Sockets and the detector's process end with the program.
            logger.debug("a service could not be closed at the program's end", exc_info=error)
        elif self._entered.done():
            logger.error("a service could not be closed", exc_info=error)
        elif isinstance(error, RuntimeError) and asyncio._get_running_loop() is not None:
            msg = (
                "no event loop can run in a new thread, because another one runs in it: with "
                "gevent's monkey.patch_all() threads are no threads, so use patch_all(thread=False)"
            )
            self._entered.set_exception(ConfigurationError(msg))
        else:
            self._entered.set_exception(error)

    async def _live(self) -> None:
        try:
            async with self._context:
                self.accepts = True
                self._entered.set_result(None)
                await self._until_stopped()
                with self._lock:
                    self.accepts = False
        finally:
            await self._cancel_the_rest()
            await self._loop.shutdown_asyncgens()

    async def _until_stopped(self) -> None:
        """Wait until this is closed, or the program ends: then the main thread has ended."""
        while threading.main_thread().is_alive():
            with suppress(TimeoutError):
                async with asyncio.timeout(EXIT_POLL_S):
                    await self._stopping.wait()
                    return

    async def _cancel_the_rest(self) -> None:
        await asyncio.sleep(0)  # what was submitted last becomes a task
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=EXIT_LIMIT_S)


def _report_bug(future: concurrent.futures.Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.error("a call that was not waited for has failed", exc_info=error)


async def _awaited(function: Callable[[], Awaitable[T]]) -> T:
    return await function()


_open: weakref.WeakSet[_Run] = weakref.WeakSet()
"""The runs that were not closed."""


@atexit.register
def _end_all() -> None:
    """End what the program left open."""
    runs = [run for run in _open if run.owner == os.getpid()]
    for run in runs:
        run.ask_to_stop()
    for run in runs:
        run.stop(EXIT_LIMIT_S)
