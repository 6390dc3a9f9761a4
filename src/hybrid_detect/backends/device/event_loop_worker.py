"""A detector's process that an event loop asks itself, without a thread that waits for the answer.

A thread costs a fast look more than it takes to ask: on two cores, 0.3 ms of the processor for each
picture, of which a look takes 6. So an idle process that runs is asked by the loop. Everything else
waits, and is left to a thread: a start, a busy process, one that failed and has to be ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.shared_slot import CAPACITY
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.backends.device.worker_messages import DROPPED, FOUND, REFUSED
from hybrid_detect.backends.device.worker_process import WorkerProcess
from hybrid_detect.types import QualityLevel

__all__ = ["BegunLook", "EventLoopWorker"]


class BegunLook:
    """A look that the process has been asked for.

    Args:
        running: The process.
        reply_fd: What its reply comes from.
        end: Waits for the answer, and lets others ask the process again.
    """

    def __init__(
        self, running: WorkerProcess, reply_fd: int, end: Callable[[WorkerProcess], PictureFaces]
    ) -> None:
        self.running = running
        """The process."""
        self.reply_fd = reply_fd
        """Readable when `read_on` has something to read."""
        self._end = end

    def read_on(self) -> bool:
        """Read what has come of the answer; whether `faces` would not have to wait for it."""
        return self.running.read_on()

    @property
    def is_answered(self) -> bool:
        """Whether `faces` takes no time: the process is well, and has answered."""
        return self.running.reply_kind in {FOUND, REFUSED, DROPPED}

    def faces(self) -> PictureFaces:
        """What was found. To be called once; else the process is never free again.

        Raises:
            Exception: What `DetectorWorker.detect_encoded` raises.
        """
        return self._end(self.running)


class EventLoopWorker(DetectorWorker):
    """A `DetectorWorker` that can be asked without waiting."""

    def begin_encoded(
        self,
        data: bytes,
        *,
        max_pixels: int,
        min_confidence: float | None = None,
        level: QualityLevel = QualityLevel.FAST,
    ) -> BegunLook | None:
        """Ask as `detect_encoded` does, and do not wait.

        Returns:
            What to wait for; `None` where this would have to wait even so, or refuse the picture.

        Raises:
            BackendUnavailableError: If the process died; the next picture gets a new one. To reap
                it takes a moment, at most `worker_process.STOP_TIMEOUT_S`.
        """
        running = self._process.running
        reply_fd = None if running is None else running.reply_fd
        if (
            reply_fd is None
            or len(data) > CAPACITY
            or not self._process.decodes
            or self._is_check_due  # one look after the other would never leave the thread its turn
            or self._closed
            or os.getpid() != self._owner
            or not self._lock.acquire(blocking=False)
        ):
            return None
        try:
            if self._process.running is running:  # no thread has ended it just now
                asked = self._send_encoded(data, max_pixels, min_confidence, level)
                return BegunLook(asked, reply_fd, self._end_look)
        except BaseException:
            self._lock.release()
            raise
        self._lock.release()
        return None

    @property
    def is_check_due(self) -> bool:
        """Whether `recycle_if_due` is to be called, by a thread that may wait.

        Before the next look it is called without waiting.
        """
        return self._is_check_due

    def recycle_if_due(self) -> None:
        """End the process if it holds too much; the next picture gets a new one."""
        with self._lock:
            self._recycle_if_due()

    def _end_look(self, running: WorkerProcess) -> PictureFaces:
        try:
            return self._found(running)
        finally:
            self._lock.release()
