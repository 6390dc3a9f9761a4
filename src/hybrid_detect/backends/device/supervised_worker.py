"""A detector that an event loop supervises: the one thread that asks it, and the end of a hang.

The device backend has one of these, and the server one for each of its detectors. They decide which
picture is next, how long it may take and what becomes of its answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeAlias, TypeVar

from hybrid_detect.backends.device.detector_thread import DetectorThread
from hybrid_detect.backends.device.in_process import InProcessDetector
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.errors import BackendUnavailableError, ClosedError
from hybrid_detect.types import BackendKind

__all__ = ["Detector", "SupervisedWorker", "outcome", "retried_once"]

logger = logging.getLogger("hybrid_detect.device")

Detector: TypeAlias = InProcessDetector | DetectorWorker
_DetectorT = TypeVar("_DetectorT", bound=Detector)
_Result = TypeVar("_Result")

KILL_EVERY_S = 0.1
"""Seconds between two tries to end a detector that does not stop: a process that is being started
can be killed only once it is there."""

KILL_LIMIT_S = 5.0
"""Seconds after which a detector that cannot be killed, because it lives in the app's own process,
is left behind with its thread."""


THREAD_END_S = 1.0
"""The most that the event loop waits for a thread whose last call has returned."""


class SupervisedWorker(Generic[_DetectorT]):
    """One detector and the thread that asks it. Belongs to one event loop.

    A call counts as hung, and the detector's process is killed, when the process still owes an
    answer `grace_s` after the call's due time, whether or not its caller still waits. The start of
    a process has a limit of its own and does not count, or it would never end on a slow device.

    Args:
        detector: The detector; from now on only to be called through this.
        thread_name: The thread's name.
        grace_s: Gives the seconds that a call may take beyond its due time; asked at each look.
    """

    def __init__(
        self, detector: _DetectorT, *, thread_name: str, grace_s: Callable[[], float]
    ) -> None:
        self.detector = detector
        self._thread_name = thread_name
        self._grace_s = grace_s
        self._thread: DetectorThread | None = None
        self._due_s = -math.inf
        """When the call that runs now is due, on the monotonic clock."""
        self.is_closed = False
        """Whether `aclose` was called."""

    def submit(
        self, work: Callable[..., _Result], *args: object, due_s: float = math.inf
    ) -> asyncio.Future[_Result]:
        """Do `work` in the thread, after what was submitted before.

        Cancelling the future would not stop the thread: wait for it with `run`, or with
        `asyncio.wait`.

        Args:
            work: What to call.
            *args: Its arguments.
            due_s: When it should be done, on the monotonic clock; infinite for work with a limit of
                its own.

        Raises:
            BackendUnavailableError: If there is no thread to be had.
            ClosedError: If this is closed.
        """
        if self.is_closed:
            msg = "the detector is closed"
            raise ClosedError(msg)
        if self._thread is None:
            try:
                self._thread = DetectorThread(self._thread_name)
            except RuntimeError as exc:  # A limit of processes counts threads as well.
                msg = f"the detector has no thread to run in: {exc}"
                raise BackendUnavailableError(
                    msg, backend=BackendKind.DEVICE, retryable=True
                ) from exc
        loop = asyncio.get_running_loop()
        job = asyncio.wrap_future(self._thread.submit(self._do, work, args, due_s), loop=loop)
        if self.detector.has_process and math.isfinite(due_s):
            self._watch(job, due_s)
        return job

    async def run(
        self, work: Callable[..., _Result], *args: object, due_s: float = math.inf
    ) -> _Result:
        """`submit`, and wait for what it returns.

        A caller that is cancelled leaves the work running; its answer is dropped.

        Raises:
            Exception: What `submit` and `work` raise.
        """
        return await outcome(self.submit(work, *args, due_s=due_s))

    def kill(self) -> None:
        """End the detector's process at once; a call that waits for it fails."""
        self.detector.kill()

    async def aclose(self, *, timeout_s: float) -> None:
        """Close the detector once the running call has ended. May be called more than once.

        Args:
            timeout_s: Seconds until the process of a call that has not ended is killed. A detector
                in the app's own process cannot be killed: `KILL_LIMIT_S` later it is left behind,
                and its thread ends when its call does.
        """
        self.is_closed = True
        thread, self._thread = self._thread, None
        if thread is None:
            self.kill()  # There is no thread that could end it in good order.
            return
        # The thread takes its work in order, so this runs after what is going on there.
        last = asyncio.wrap_future(thread.submit(self.detector.close))
        try:
            await asyncio.wait([last], timeout=timeout_s)
            give_up_s = time.monotonic() + KILL_LIMIT_S
            while not last.done() and time.monotonic() < give_up_s:
                self.kill()
                await asyncio.wait([last], timeout=KILL_EVERY_S)
        finally:
            if not last.done():
                self.kill()
            # After its last work the thread ends at once, so that waiting for it does not block.
            thread.end(timeout_s=THREAD_END_S if last.done() else 0.0)

    def _do(self, work: Callable[..., _Result], args: tuple[object, ...], due_s: float) -> _Result:
        self._due_s = due_s
        return work(*args)

    def _watch(self, job: asyncio.Future[Any], due_s: float) -> None:
        """End the process if it still owes the answer of `job` well after that was due."""
        wait_s = max(due_s - time.monotonic(), 0.0) + self._grace_s()
        watch = asyncio.get_running_loop().call_later(wait_s, self._end_if_hung, job)
        job.add_done_callback(lambda _: watch.cancel())

    def _end_if_hung(self, job: asyncio.Future[Any]) -> None:
        """Kill the process if it owes an answer for too long, and look again when it might."""
        if job.done():
            return
        left_s = KILL_EVERY_S
        if (asked_s := self.detector.asked_since_s) is not None:
            # The thread may be busy with an earlier call, whose due time counts then.
            left_s = max(asked_s, self._due_s) + self._grace_s() - time.monotonic()
            if left_s <= 0:
                logger.warning("a detector's process hangs and is killed")
                self.kill()
                left_s = KILL_EVERY_S
        asyncio.get_running_loop().call_later(left_s, self._end_if_hung, job)


async def outcome(job: asyncio.Future[_Result]) -> _Result:
    """Wait for `job`; a caller that is cancelled leaves it running, and its answer is dropped."""
    try:
        # `await job` would mark a job as done that is still running, when the caller is cancelled.
        await asyncio.wait([job])
        return job.result()
    finally:
        if not job.done():
            job.add_done_callback(_drop_answer)
        del job  # its error holds this frame: each would hold the other, and who has asked


async def retried_once(
    turn: Callable[[], Awaitable[_Result]],
    *,
    may_retry: Callable[[BackendUnavailableError], bool],
) -> _Result:
    """What `turn` gives; what a second turn gives if the first found no detector, or a dying one.

    A crash that was not a picture's own fault should not cost its answer. One picture is never
    tried a third time, since it may be what the detectors die of.

    Args:
        turn: Asks a detector.
        may_retry: Whether there is time, and a reason, for a second turn after that error.

    Raises:
        Exception: What the last turn raised.
    """
    try:
        return await turn()
    except BackendUnavailableError as error:
        if not may_retry(error):
            raise
    return await turn()


def _drop_answer(job: asyncio.Future[_Result]) -> None:
    if not job.cancelled():
        job.exception()  # Marks it as seen; asyncio would complain else.
