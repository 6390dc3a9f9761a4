"""How a detector's process looks at several pictures: decoded side by side, looked at together."""

from __future__ import annotations

import mmap
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.backends.device.batches import Answer, pack_answers, unpacked
from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.runtimes import DetectsBatches
from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.decoding import EncodedPicture

__all__ = ["BatchLooks"]

DECODING_THREADS = 4
"""Threads that decode: 2 ms a picture of 1280x720, beside a graphics processor that should look at
eight in less than ten. They start with the process, which can load nothing later."""

Decoded: TypeAlias = tuple[NDArray[np.uint8], int, int, float]
"""Pixels, width and height of the whole picture, and seconds of decoding."""


class BatchLooks:
    """Answers the batches of one process.

    Args:
        detector: Looks at several pictures at once.
        enough_px: Pixels of a picture's longer side that suffice; `None` for all of them.
    """

    def __init__(self, detector: DetectsBatches, *, enough_px: int | None) -> None:
        self._detector = detector
        self._enough_px = enough_px
        self._threads = ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="decoding")

    def answer(self, slot: mmap.mmap, count: int, max_pixels: int) -> bytes:
        """The reply to the batch of `count` pictures in `slot`.

        Raises:
            BackendUnavailableError: If the detector failed.
        """
        pictures = tuple(unpacked(slot, count))

        def decoded(data: bytes) -> Decoded | InvalidFrameError:
            try:
                began_s = time.monotonic()
                picture = EncodedPicture.of(data, max_pixels=max_pixels)
                pixels = picture.rgb(enough_px=self._enough_px)
            except InvalidFrameError as error:
                return error
            return pixels, picture.width, picture.height, time.monotonic() - began_s

        seen = list(self._threads.map(decoded, (data for data, _ in pictures)))
        whole = [each[0] for each in seen if not isinstance(each, InvalidFrameError)]
        found = iter(self._detector.detect_batch(whole) if whole else ())
        answers: list[Answer] = []
        for (_, lowest), each in zip(pictures, seen, strict=True):
            if isinstance(each, InvalidFrameError):
                answers.append(each)
                continue
            pixels, width, height, decode_s = each
            faces = tuple(face for face in next(found) if (face.score or 0.0) >= lowest)
            answers.append(
                PictureFaces.seen_in(pixels, faces, width=width, height=height, decode_s=decode_s)
            )
        return pack_answers(answers)
