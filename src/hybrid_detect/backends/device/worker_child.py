"""What runs inside the detector's process: read a command, detect, write the faces.

It imports what detecting needs, and decoding if it is told to, and nothing else: on LiteRT it runs
the network alone, without NumPy, and the steps around it are the app's (`worker`). Once it is ready
it can open neither a file nor a socket, so nothing that a runtime or a decoder does can leave this
process. It ends when its standard input ends, which is when the process that started it
ends, and never through MediaPipe's own ``close()``.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import threading
import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NoReturn

from hybrid_detect.backends.device.litert_network import Network, open_network
from hybrid_detect.backends.device.looks import enough_for, faces_at, least_seconds
from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.runtimes import (
    LITERT,
    DetectsBatches,
    FaceDetector,
    factory_of,
    make_detector,
)
from hybrid_detect.backends.device.worker_messages import (
    DETECT,
    DETECT_BATCH,
    DETECT_ENCODED,
    DETECT_WRITTEN,
    DROPPED,
    FAILED,
    LEVELS,
    PING,
    READY,
    REQUEST,
    RUN,
    DroppedError,
    Started,
    pack_found,
    pack_refusal,
    pack_reply,
    pack_started,
    pack_written,
)
from hybrid_detect.errors import BackendUnavailableError, HybridDetectError, InvalidFrameError
from hybrid_detect.types import BackendKind, QualityLevel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hybrid_detect.backends.device.batch_looks import BatchLooks
    from hybrid_detect.frames.decoding import EncodedPicture
    from hybrid_detect.types import Face

__all__ = ["main"]

ORPHAN_POLL_S = 1.0
"""Seconds between two looks whether the parent still lives, for a process that may be stuck in
native code and would not notice the end of its input."""

WARM_SIDE_PX = 1280
"""Longer side of the black picture that is looked at first, and whose second look is timed."""

DECODING_BYTES_PER_PIXEL = 24
"""What decoding a picture may take on top of the heap limit: the file's pixels, the same with
transparency and the same over black, four bytes each, then two copies of three bytes as RGB, and
room for the coefficients of a progressive JPEG, which are six bytes a pixel."""


def main(options: dict[str, Any]) -> NoReturn:
    """Serve until standard input ends.

    Args:
        options: What `worker_process.WorkerProcess` writes.
    """
    if options["niceness"] and hasattr(os, "nice"):  # not on Windows
        os.nice(options["niceness"])  # here, since a thread keeps what it began with
    reply_fd = _private_stdout()
    try:
        worker = _Child(options)
        first = pack_started(worker.started())
    except Exception as error:
        worker, first = None, pack_reply(FAILED, _text_of(error))
    # The word before the first reply tells replies from anything that was printed before them.
    os.write(reply_fd, options["word"].encode() + first)
    try:
        while worker is not None:
            header = _read_exactly(0, REQUEST.size)
            os.write(reply_fd, worker.answer(header))
    finally:
        os._exit(1)  # An error's ordinary path out would close MediaPipe.


def _text_of(error: Exception) -> bytes:
    if isinstance(error, HybridDetectError):
        return str(error).encode()
    return f"{type(error).__name__}: {error}".removesuffix(": ").encode()


class _Child:
    def __init__(self, options: dict[str, Any]) -> None:
        self._memory = _map(options["slot"], options["capacity"])
        self._unwanted_at: int = options["capacity"]
        _leave_no_core_file()
        _end_with(options["parent"])
        self._model = self._memory[: options["model_bytes"]]
        self._min_confidence: float = options["min_confidence"]
        self._lowest_confidence: float = options["lowest_confidence"]
        self._enough_px: int | None = options["enough_px"]
        self._runtime: str = options["runtime"]
        self._side_px: int | None = options["side_px"]
        self._network: Network | None = None
        self._detector: FaceDetector | None = None
        self._threshold_moves_boxes: bool = options["threshold_moves_boxes"]
        self._lowest_detector: FaceDetector | None = None
        self._look_s = 0.0
        self._batches: BatchLooks | None = None
        if self._runtime == factory_of(LITERT):
            self._network = open_network(self._model, memory=self._memory)
            self._network.run()  # The first run allocates what the later ones use.
            self._look_s = least_seconds(self._network.run, clock=time.process_time)
        if options["decodes"]:
            _load_decoders()
        if self._network is None or options["decodes"]:
            import numpy as np

            self._detector = self._made(
                self._min_confidence if self._threshold_moves_boxes else self._lowest_confidence
            )
            if not self._threshold_moves_boxes or self._lowest_confidence >= self._min_confidence:
                self._model = b""  # No second detector will be made.
            # The first detection allocates what the later ones use, and opens what they need: it is
            # a picture that has to be shrunk.
            longer_px = max(2 * (self._side_px or 0), WARM_SIDE_PX)
            black = np.zeros((longer_px * 9 // 16, longer_px, 3), np.uint8)
            self._detector.detect(black)
            self._look_s = least_seconds(
                partial(self._detector.detect, black), clock=time.process_time
            )
            if options["decodes"] and isinstance(self._detector, DetectsBatches):
                from hybrid_detect.backends.device.batch_looks import BatchLooks

                self._batches = BatchLooks(self._detector, enough_px=self._enough_px)
        self._heap = _HeapLimit(options["memory_cap_bytes"])
        _open_nothing_more()

    def _made(self, min_confidence: float) -> FaceDetector:
        if self._network is not None:
            from hybrid_detect.backends.device.litert_detector import LiteRtFaceDetector

            return LiteRtFaceDetector(self._network, min_confidence=min_confidence)
        return make_detector(
            self._runtime,
            self._model,
            min_confidence=min_confidence,
            side_px=self._side_px,
            slim=True,
        )

    def started(self) -> Started:
        """What the app is told of this process."""
        if self._network is not None:
            return Started(self._network.runs_on, self._network.shapes, self._look_s)
        runs_on = "" if self._detector is None else self._detector.runs_on
        return Started(runs_on, (), self._look_s)

    def answer(self, header: bytes) -> bytes:
        """The reply to one command."""
        command, first, second, min_confidence, number = REQUEST.unpack(header)
        try:
            level = LEVELS[number]
            if command == PING:
                return pack_reply(READY, b"")
            if command == RUN and self._network is not None:
                self._heap.allow(0)
                self._network.run()
                return pack_reply(READY, b"")
            if command == DETECT:
                self._heap.allow(0)
                pixels = self._pixels(first, second)
                faces = self._faces(pixels, min_confidence, level)
                return pack_found(PictureFaces(first, second, faces))
            if command == DETECT_ENCODED:
                data = self._memory[:first]
                return pack_found(self._in_encoded(data, second, min_confidence, level))
            if command == DETECT_WRITTEN:
                data = self._memory[:first]
                return pack_written(self._in_encoded(data, second, min_confidence, level))
            if command == DETECT_BATCH and self._batches is not None:
                self._heap.allow(DECODING_BYTES_PER_PIXEL * second * first)
                return self._batches.answer(self._memory, first, second)
        except InvalidFrameError as error:
            return pack_refusal(error)
        except DroppedError:
            return pack_reply(DROPPED, b"")
        except (HybridDetectError, MemoryError) as error:
            return pack_reply(FAILED, _text_of(error))
        return pack_reply(FAILED, b"unknown command")

    def _pixels(self, width: int, height: int) -> NDArray[np.uint8]:
        import numpy as np

        pixels = np.frombuffer(self._memory, np.uint8, width * height * 3)
        return pixels.reshape(height, width, 3)

    def _in_encoded(
        self, data: bytes, max_pixels: int, min_confidence: float, level: QualityLevel
    ) -> PictureFaces:
        began_s = time.monotonic()
        picture = _encoded_pictures().of(data, max_pixels=max_pixels)
        self._heap.allow(DECODING_BYTES_PER_PIXEL * picture.width * picture.height)
        pixels = picture.rgb(enough_px=enough_for(level, self._enough_px))
        decode_s = time.monotonic() - began_s
        faces = self._faces(pixels, min_confidence, level)
        return PictureFaces.seen_in(
            pixels, faces, width=picture.width, height=picture.height, decode_s=decode_s
        )

    def _faces(
        self, pixels: NDArray[np.uint8], min_confidence: float, level: QualityLevel
    ) -> tuple[Face, ...]:
        if level is QualityLevel.FAST:
            return self._seen_in(pixels, min_confidence)
        return faces_at(level, lambda part: self._seen_in(part, min_confidence), pixels)

    def _seen_in(self, pixels: NDArray[np.uint8], min_confidence: float) -> tuple[Face, ...]:
        """The faces in `pixels` with at least that score, or the usual one if it is NaN.

        Where boxes depend on the threshold, a detector that reports lower scores merges more
        candidates into each box and moves it by some pixels, so the usual one answers wherever it
        can.

        Raises:
            DroppedError: If the picture is not wanted any more.
        """
        if self._memory[self._unwanted_at]:
            raise DroppedError
        detector = self._detector
        if detector is None:
            msg = "this process runs a network, and does not detect by itself"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE)
        if math.isnan(min_confidence):
            if self._threshold_moves_boxes:
                return detector.detect(pixels)
            min_confidence = self._min_confidence
        if min_confidence < self._min_confidence and self._threshold_moves_boxes:
            if self._lowest_detector is None:
                self._lowest_detector = self._made(self._lowest_confidence)
            detector = self._lowest_detector
        found = detector.detect(pixels)
        return tuple(f for f in found if f.score is None or f.score >= min_confidence)


class _HeapLimit:
    """The heap limit of this process (``RLIMIT_DATA``), as high as what it does next may need.

    The limit stays until a look needs another one: a camera's pictures have one size, so most looks
    need no system call. Between two commands the process does nothing that could use it.

    Not ``RLIMIT_AS``, which counts the mapped library as well and ends in a crash instead of a
    MemoryError.
    """

    def __init__(self, cap_bytes: int) -> None:
        self._cap_bytes = cap_bytes if sys.platform == "linux" else 0
        self._extra_bytes: int | None = None
        self.allow(0)

    def allow(self, extra_bytes: int) -> None:
        """Let the heap grow to the cap and by `extra_bytes` beyond it."""
        if extra_bytes == self._extra_bytes or sys.platform == "win32" or not self._cap_bytes:
            return
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        cap = self._cap_bytes + extra_bytes
        resource.setrlimit(
            resource.RLIMIT_DATA, (cap if most == resource.RLIM_INFINITY else min(cap, most), most)
        )
        self._extra_bytes = extra_bytes


def _load_decoders() -> None:
    from hybrid_detect.frames.formats import load_decoders

    load_decoders()
    _encoded_pictures()


@cache
def _encoded_pictures() -> type[EncodedPicture]:
    """What decodes, loaded once: a process that runs a network alone does without."""
    from hybrid_detect.frames.decoding import EncodedPicture

    return EncodedPicture


def _map(slot: object, capacity: int) -> mmap.mmap:
    if isinstance(slot, int):
        return mmap.mmap(slot, capacity + 1)
    return mmap.mmap(-1, capacity + 1, tagname=slot)  # type: ignore[call-arg]


def _private_stdout() -> int:
    """Keep standard output for replies, and discard what else is printed."""
    reply_fd = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return reply_fd


def _read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            os._exit(0)  # sys.exit would run MediaPipe's code on the way out.
        data += part
    return data


def _leave_no_core_file() -> None:
    """If this process crashes, the picture in its memory must not reach a disk."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with(parent: int) -> None:
    """End when the parent does, even while native code keeps the main thread from noticing."""
    if sys.platform == "win32":
        return  # A parent's id stays the same there after its death; the pipe has to do.

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_POLL_S)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _open_nothing_more() -> None:
    """Let no further file or socket be opened."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
