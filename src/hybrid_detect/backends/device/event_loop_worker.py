"""A detector's process that an event loop asks itself, without a thread that waits for the answer.

A thread costs a fast look more than it takes to ask: on two cores, 0.3 ms of the processor for each
picture, of which a look takes 6. So an idle process that runs is asked by the loop. Everything else
waits, and is left to a thread: a start, a busy process, one that failed and has to be ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.shared_slot import CAPACITY
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.backends.device.worker_messages import (
    DETECT_WRITTEN,
    DROPPED,
    REFUSED,
    WRITTEN,
)
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
        self.read_on = running.read_on
        """Reads what has come of the answer; whether `faces` would not have to wait for it."""
        self.faces = partial(end, running)
        """What was found. To be called once; else the process is never free again. Raises what
        `DetectorWorker.detect_encoded` raises."""

    @property
    def is_answered(self) -> bool:
        """Whether `faces` takes no time: the process is well, and has answered."""
        return self.running.reply_kind in {WRITTEN, REFUSED, DROPPED}


class EventLoopWorker(DetectorWorker):
    """A `DetectorWorker` that can be asked without waiting, and whose faces go on as text."""

    _encoded = (DETECT_WRITTEN, WRITTEN)

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
            BackendUnavailableError: If the process was ended just now; the next picture gets a new
                one. To reap it takes a moment, at most `worker_process.STOP_TIMEOUT_S`.
        """
        running = self._process.running
        if (
            running is None
            or running.reply_fd is None
            or len(data) > CAPACITY
            or not self._process.decodes
            or self.is_check_due  # one look after the other would never leave the thread its turn
            or self._closed
            or os.getpid() != self._owner
            or not self._lock.acquire(blocking=False)
        ):
            return None
        try:
            if self._process.running is running:  # no thread has ended it just now
                self._send_encoded(running, data, max_pixels, min_confidence, level)
                return BegunLook(running, running.reply_fd, self._end_look)
        except BaseException:
            self._lock.release()
            raise
        self._lock.release()
        return None

    def recycle_if_due(self) -> None:
        """End the process if it holds too much; the next picture gets a new one.

        To be called where `is_check_due`, by a thread that may wait: no look is begun before.
        """
        with self._lock:
            self._recycle_if_due()

    def _end_look(self, running: WorkerProcess) -> PictureFaces:
        try:
            return self._found(running, WRITTEN)
        finally:
            self._lock.release()
