"""A detector's process that looks at several pictures at once."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from hybrid_detect.backends.device.batches import Answer, Picture, packed, unpack_answers
from hybrid_detect.backends.device.shared_slot import CAPACITY
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.backends.device.worker_messages import DETECT_BATCH, FOUND_BATCH
from hybrid_detect.errors import InvalidFrameError

__all__ = ["BatchWorker"]


class BatchWorker(DetectorWorker):
    """A `DetectorWorker` on a runtime that `runtimes.DetectsBatches`."""

    def detect_batch(self, pictures: Sequence[Picture], *, max_pixels: int) -> list[Answer]:
        """Decode several pictures in the process and find the faces in them at once.

        Args:
            pictures: The encoded pictures, each with the lowest score to report. More bytes than
                the shared memory holds cross in several parts.
            max_pixels: The most pixels that each may have; checked before it is decoded.

        Returns:
            For each what was found, or why it was refused.

        Raises:
            BackendUnavailableError: If the process died or failed, or its detector does not look at
                batches; the next pictures get a new one.
            ModelError: If the model cannot be had.
            ClosedError: If this is closed.
        """
        data = packed(pictures)
        if len(data) > CAPACITY and len(pictures) > 1:
            half = len(pictures) // 2
            first = self.detect_batch(pictures[:half], max_pixels=max_pixels)
            return first + self.detect_batch(pictures[half:], max_pixels=max_pixels)
        if len(data) > CAPACITY:
            return [
                InvalidFrameError(
                    expected=f"an encoded picture of less than {CAPACITY} bytes",
                    actual=f"{len(data)}",
                )
            ]
        with self._usable():
            self._process.load_decoders()
            self._process.started().slot.put(data)
            most = min(max_pixels, 2**32 - 1)
            body = self._process.ask(FOUND_BATCH, DETECT_BATCH, len(pictures), most)
            try:
                answers = unpack_answers(body, len(pictures))
            except (struct.error, ValueError) as error:
                self._process.fail(f"it sent no faces ({error})")
            self._process.pauses.forget_failures()
            self._count(is_large=False)
            self._recycle_if_due()
            return answers
