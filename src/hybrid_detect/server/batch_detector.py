"""A detector that looks at several pictures at once, for all places of the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybrid_detect.backends.device.batch_worker import BatchWorker
from hybrid_detect.backends.device.batches import Answer
from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.supervised_worker import SupervisedWorker
from hybrid_detect.server.batching import Batcher

__all__ = ["BatchDetector"]


@dataclass(frozen=True, slots=True)
class _Picture:
    data: bytes
    min_confidence: float
    due_s: float


class BatchDetector:
    """One process, and what waits for its next batch.

    Args:
        worker: The process.
        most: Pictures in one batch at most.
        max_pixels: The most pixels that a picture may have.
        grace_s: Gives the seconds that a batch may take beyond its due time.
    """

    def __init__(
        self, worker: BatchWorker, *, most: int, max_pixels: int, grace_s: Callable[[], float]
    ) -> None:
        self.worker = SupervisedWorker(worker, thread_name="detector-batches", grace_s=grace_s)
        self._max_pixels = max_pixels
        self._batcher: Batcher[_Picture, PictureFaces] = Batcher(self._look, most=most)

    async def detect(self, data: bytes, *, min_confidence: float, due_s: float) -> PictureFaces:
        """Find the faces in a picture, together with those that come at the same time.

        Args:
            data: The encoded picture.
            min_confidence: Faces below this score are left out.
            due_s: When it should be done, on the monotonic clock.

        Raises:
            InvalidFrameError: If it is no readable picture, or too large.
            BackendUnavailableError: If the process died or failed.
        """
        return await self._batcher.submit(_Picture(data, min_confidence, due_s))

    async def aclose(self, *, timeout_s: float) -> None:
        """Fail what waits, let a batch end within `timeout_s`, then end the process."""
        await self.worker.aclose(timeout_s=timeout_s)
        await self._batcher.aclose()

    async def _look(self, pictures: Sequence[_Picture]) -> Sequence[Answer]:
        # The one with the most time: the batch must not be ended for the sake of the others.
        due_s = max((picture.due_s for picture in pictures), default=time.monotonic())
        wanted = [(picture.data, picture.min_confidence) for picture in pictures]
        detector = self.worker.detector
        return await self.worker.run(self._ask, detector, wanted, due_s=due_s)

    def _ask(self, detector: BatchWorker, wanted: Sequence[tuple[bytes, float]]) -> list[Answer]:
        return detector.detect_batch(wanted, max_pixels=self._max_pixels)
