"""A detector of the server: asked by the event loop where that need not wait, else by a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypedDict, Unpack

from hybrid_detect.backends.device.event_loop_worker import BegunLook, EventLoopWorker
from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.supervised_worker import SupervisedWorker
from hybrid_detect.types import QualityLevel

__all__ = ["LookOptions", "ServedWorker"]


class LookOptions(TypedDict):
    """What `DetectorWorker.detect_encoded` is given with a picture."""

    max_pixels: int
    min_confidence: float
    level: QualityLevel


class ServedWorker(SupervisedWorker[EventLoopWorker]):
    """A `SupervisedWorker` that looks at one encoded picture at a time."""

    def look(
        self, picture: bytes, *, due_s: float, **options: Unpack[LookOptions]
    ) -> asyncio.Future[PictureFaces]:
        """Find the faces in `picture`; see `submit`.

        Args:
            picture: The encoded picture.
            due_s: When it should be done, on the monotonic clock.
            **options: See `DetectorWorker.detect_encoded`.

        Raises:
            BackendUnavailableError: If the process died, or there is no thread to be had.
            ClosedError: If this is closed.
        """
        begun = None if self.is_closed else self.detector.begin_encoded(picture, **options)
        if begun is None:
            ask = partial(self.detector.detect_encoded, picture, **options)
            return self.submit(ask, due_s=due_s)
        loop = asyncio.get_running_loop()
        job: asyncio.Future[PictureFaces] = loop.create_future()
        self._due_s = due_s
        self._watch(job, due_s)
        loop.add_reader(begun.reply_fd, self._read_on, begun, job)
        return job

    def _read_on(self, begun: BegunLook, job: asyncio.Future[PictureFaces]) -> None:
        if not begun.read_on():
            return
        asyncio.get_running_loop().remove_reader(begun.reply_fd)
        if begun.is_answered or self.is_closed:
            _settle(job, begun.faces)
            if self.detector.is_check_due and not self.is_closed:
                self.submit(self.detector.recycle_if_due)
        else:  # the process has to be ended, and that takes a moment
            ended = self.submit(begun.faces)
            ended.add_done_callback(lambda _: _settle(job, ended.result))


def _settle(job: asyncio.Future[PictureFaces], faces: Callable[[], PictureFaces]) -> None:
    try:
        found = faces()
    except Exception as error:
        job.set_exception(error)
    else:
        job.set_result(found)
