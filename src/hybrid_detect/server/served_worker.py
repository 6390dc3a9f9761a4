"""A detector of the server: asked by the event loop where that need not wait, else by a thread."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias, TypedDict, TypeVar, Unpack

from hybrid_detect.backends.device.event_loop_worker import BegunLook, EventLoopWorker
from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.supervised_worker import SupervisedWorker
from hybrid_detect.backends.device.worker_process import WorkerProcess
from hybrid_detect.server.connections import Timer
from hybrid_detect.types import QualityLevel

__all__ = ["IsAbandoned", "LookJob", "LookOptions", "ServedWorker"]

_Result = TypeVar("_Result")

IsAbandoned: TypeAlias = Callable[[], Awaitable[bool]]
"""Tells whether the client of a picture has gone."""

ASKED_EVERY_S = 0.05
"""Seconds between two questions whether the client of a look that goes on is still there, and
between two times that its detector is told if it is not: most looks have ended before the first."""


class LookOptions(TypedDict):
    """What `DetectorWorker.detect_encoded` is given with a picture."""

    max_pixels: int
    min_confidence: float
    level: QualityLevel


class LookJob(asyncio.Future[PictureFaces]):
    """A look under way, which ends once the detector is free again.

    So it can be awaited as it is: who is cancelled meanwhile has its picture dropped, and is woken
    when this ends.

    Args:
        drop: Has the picture dropped before its next look.
    """

    def __init__(self, drop: Callable[[], None]) -> None:
        super().__init__()
        self._drop = drop

    def cancel(self, msg: object = None) -> bool:
        """Drop the picture; the look goes on until that has been heard."""
        self.add_done_callback(lambda job: job.exception())  # who is cancelled looks at none
        self._drop_on()
        return False

    def _drop_on(self) -> None:
        if not self.done():
            self._drop()
            # A thread that begins the look only now takes it as wanted.
            self.get_loop().call_later(ASKED_EVERY_S, self._drop_on)


class ServedWorker(SupervisedWorker[EventLoopWorker]):
    """A `SupervisedWorker` that looks at one encoded picture at a time.

    The event loop waits for what the process writes all the time: to begin and to end that with
    each picture would cost as much as the asking itself. It waits at a file descriptor of its own,
    since a thread may end the process, and close the other one, at any time.

    Args:
        detector: See `SupervisedWorker`.
        thread_name: See `SupervisedWorker`.
        grace_s: See `SupervisedWorker`.
    """

    def __init__(
        self, detector: EventLoopWorker, *, thread_name: str, grace_s: Callable[[], float]
    ) -> None:
        super().__init__(detector, thread_name=thread_name, grace_s=grace_s)
        self._until_long = Timer()  # and then until it counts as hung
        self._watching_client: asyncio.Future[None] | None = None  # held, or it might be collected
        self._begun: BegunLook | None = None
        self._job: LookJob | None = None  # the last that was asked for here
        self._watched: WorkerProcess | None = None
        """The process whose replies the event loop waits for."""
        self._watched_fd = -1
        self._queued = 0
        """Calls of `run` that the thread has not ended: a look begun here would hold them up."""

    def look(
        self,
        picture: bytes,
        *,
        due_s: float,
        is_abandoned: IsAbandoned | None = None,
        **options: Unpack[LookOptions],
    ) -> LookJob:
        """Find the faces in `picture`.

        Args:
            picture: The encoded picture.
            due_s: When it should be done, on the monotonic clock.
            is_abandoned: Asked during a long look. Once its client has gone, the picture is dropped
                before its next look.
            **options: See `DetectorWorker.detect_encoded`.

        Raises:
            BackendUnavailableError: If the process died, or there is no thread to be had.
            ClosedError: If this is closed.
        """
        begun = None
        if not (self.is_closed or self._queued):
            begun = self.detector.begin_encoded(picture, **options)
        if begun is None:
            ask = partial(self.detector.detect_encoded, picture, **options)
            return self._look_by_thread(ask, due_s, is_abandoned)
        if begun.running is not self._watched:
            try:
                self._wait_for(begun)
            except OSError:  # there is no file descriptor to be had
                self._wait_no_more()  # or the next look would take it as waited for
                return self._look_by_thread(begun.faces, due_s, is_abandoned)
        self._begun, self._due_s = begun, due_s
        self._job = job = LookJob(self.detector.drop)
        self._until_long.start(ASKED_EVERY_S, partial(self._begun_long, job, is_abandoned))
        return job

    def _look_by_thread(
        self, ask: Callable[[], PictureFaces], due_s: float, is_abandoned: IsAbandoned | None
    ) -> LookJob:
        """Have the thread ask, or wait for, the detector."""
        job = LookJob(self.detector.drop)
        done = self.submit(ask, due_s=due_s)
        done.add_done_callback(partial(_settle, job, done.result))
        self._until_long.start(ASKED_EVERY_S, partial(self._watch_client, job, is_abandoned))
        return job

    def _begun_long(self, job: LookJob, is_abandoned: IsAbandoned | None) -> None:
        self._watch_client(job, is_abandoned)
        wait_s = max(self._due_s - time.monotonic(), 0.0) + self._grace_s()
        self._until_long.start(wait_s, partial(self._end_if_hung, job))

    def _watch_client(self, job: LookJob, is_abandoned: IsAbandoned | None) -> None:
        if is_abandoned is not None:
            self._watching_client = asyncio.ensure_future(_drop_if_abandoned(job, is_abandoned))

    async def run(
        self, work: Callable[..., _Result], *args: object, due_s: float = math.inf
    ) -> _Result:
        """As in `SupervisedWorker`, behind a look that the event loop has asked for.

        The thread would wait for that look, and be missing where its process has to be ended.
        """
        while self._job is not None and not self._job.done():
            await asyncio.wait([self._job])
        self._queued += 1
        try:
            return await super().run(work, *args, due_s=due_s)
        finally:
            self._queued -= 1

    async def aclose(self, *, timeout_s: float) -> None:
        """See `SupervisedWorker.aclose`."""
        try:
            await super().aclose(timeout_s=timeout_s)
        finally:
            self._wait_no_more()
            self._until_long.end()

    def _wait_for(self, begun: BegunLook) -> None:
        self._wait_no_more()
        self._watched_fd = os.dup(begun.reply_fd)
        self._watched = begun.running
        loop = asyncio.get_running_loop()
        loop.add_reader(self._watched_fd, self._read_on, begun.running)

    def _wait_no_more(self) -> None:
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched_fd)
            os.close(self._watched_fd)
            self._watched = None

    def _read_on(self, running: WorkerProcess) -> None:
        """The process has written, or has ended."""
        begun, job = self._begun, self._job
        if begun is None or job is None or begun.running is not running:
            self._wait_no_more()  # it is a thread's answer, or none's
            return
        if not begun.read_on():
            return
        self._begun = None
        self._until_long.stop()
        if begun.is_answered or self.is_closed:
            self._job = None  # it would hold an error, and so the picture, until the next look
            _settle(job, begun.faces)
            del job  # as in `_settle`
            if self.detector.is_check_due and not self.is_closed:
                self.submit(self.detector.recycle_if_due)
        else:  # the process has to be ended, and that takes a moment
            ended = self.submit(begun.faces)
            ended.add_done_callback(partial(_settle, job, ended.result))
            job.add_done_callback(self._forget)

    def _forget(self, job: LookJob) -> None:
        if self._job is job:
            self._job = None


async def _drop_if_abandoned(job: LookJob, is_abandoned: IsAbandoned) -> None:
    while not job.done():
        if await is_abandoned():
            job.cancel()
            return
        await asyncio.wait([job], timeout=ASKED_EVERY_S)


def _settle(job: LookJob, faces: Callable[[], PictureFaces], done: object = None) -> None:
    """End `job` with what `faces` gives, or raises.

    An error holds the frames that it came through, and those that had called them. What holds the
    error must not be left in one: the two would hold each other, and the picture.
    """
    try:
        found = faces()
    except Exception as error:
        job.set_exception(error)
    else:
        job.set_result(found)
    finally:
        del job, faces, done
