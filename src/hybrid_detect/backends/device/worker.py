"""The detector in a process of its own, so that its memory and its crashes stay there.

Its memory, 17 to 85 MB with MediaPipe's models, goes back to the system when the process ends, and
only then. A crash, a hang or an exhausted memory limit in it becomes one typed error here, and the
next picture gets a fresh process. Pixels and encoded pictures cross in shared memory, results as
small messages. The process decodes encoded pictures itself, so that one that is dear to decode can
be ended with it.

A process that runs a network alone, as on LiteRT, is given the network's input instead of pixels,
and its output is read here: shrinking a picture and decoding boxes are a few lines of NumPy that
can neither crash nor hang, and without NumPy the process takes a third less memory.

One picture is under way at a time. Every method blocks; they are meant for a thread of their own.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.backends.device.face_detector import check_pixels
from hybrid_detect.backends.device.litert_detector import FaceSteps
from hybrid_detect.backends.device.looks import enough_for, faces_at
from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.restarted_process import RestartedProcess
from hybrid_detect.backends.device.runtimes import MEDIAPIPE, RUNTIMES, factory_of
from hybrid_detect.backends.device.shared_slot import CAPACITY
from hybrid_detect.backends.device.worker_messages import (
    DETECT,
    DETECT_ENCODED,
    FOUND,
    LEVELS,
    PING,
    READY,
    RUN,
    UNPACKED,
)
from hybrid_detect.backends.device.worker_process import WorkerOptions, WorkerProcess
from hybrid_detect.errors import (
    BackendUnavailableError,
    ClosedError,
    InvalidFrameError,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.frames.raster import Interleaved
from hybrid_detect.frames.scaling import fitted_size
from hybrid_detect.system.memory_probe import process_private_bytes
from hybrid_detect.types import BackendKind, Face, QualityLevel

__all__ = ["DetectorWorker"]

MEMORY_CAP_BYTES = 256 * 2**20
"""Heap limit of a process whose model is not in the table; see `InputSize.memory_cap_bytes`."""

RECYCLE_BYTES = 128 * 2**20
"""Private memory at which such a process is replaced; see `InputSize.recycle_bytes`."""

CHECK_MEMORY_EVERY = 32
"""Pictures between two looks at the process's memory: about one a second on a slow device. After a
picture above 4K there is a look in any case."""

LARGE_SIDE_PX = 1920
"""Longer side that pixels are shrunk to if there are more than the shared memory holds (4K): ten
times what the larger model sees."""


class DetectorWorker:
    """A face detector that lives in a child process.

    `start` or the first picture starts the process, and every later call that finds none starts
    another. Usable from any thread, one picture at a time.

    Args:
        load_model: Gives the verified model file's bytes. It is called at every start, so that the
            app's own process need not hold them.
        min_confidence: Faces below this score are left out, 0 to 1.
        lowest_confidence: The lowest score that `detect_encoded` may be asked for; `None` for
            `min_confidence`.
        enough_px: Pixels of an encoded picture's longer side that suffice (`EncodedPicture.rgb`);
            `None` for all of them.
        decodes: Whether the process loads the decoders of encoded pictures at its first start. If
            not, the first encoded picture ends it, and it has them from then on.
        runtime: As `runtimes.choose_runtime` gives it.
        side_px: Longer side of the picture that the network is given, as `InputSize` has it; `None`
            for a model with one size.
        memory_cap_bytes: Heap limit of the process on Linux, without what decoding a large picture
            takes. 0 for none.
        recycle_bytes: Private memory at which it is replaced between two pictures.
        start_limit_s: Seconds that the start of the process may take; `None` for the usual limit.
        niceness: By how much the process gives way to this one where they share a core; 0 to 19.
        before_start: Called before every start; what it raises keeps the process from starting.
    """

    has_process: ClassVar[bool] = True
    """Whether the detector lives outside of the app, where it can be killed and started again."""

    _encoded: ClassVar[tuple[int, int]] = (DETECT_ENCODED, FOUND)
    """The command for an encoded picture, and the kind of its reply."""

    def __init__(
        self,
        load_model: Callable[[], bytes],
        *,
        min_confidence: float = 0.5,
        lowest_confidence: float | None = None,
        enough_px: int | None = None,
        decodes: bool = False,
        runtime: str = MEDIAPIPE,
        side_px: int | None = None,
        memory_cap_bytes: int = MEMORY_CAP_BYTES,
        recycle_bytes: int = RECYCLE_BYTES,
        start_limit_s: float | None = None,
        niceness: int = 0,
        before_start: Callable[[], None] | None = None,
    ) -> None:
        self._options = WorkerOptions(
            runtime=factory_of(runtime),
            threshold_moves_boxes=(
                runtime not in RUNTIMES or RUNTIMES[runtime].threshold_moves_boxes
            ),
            side_px=side_px,
            min_confidence=min_confidence,
            lowest_confidence=min_confidence if lowest_confidence is None else lowest_confidence,
            enough_px=enough_px,
            decodes=decodes,
            memory_cap_bytes=memory_cap_bytes,
            start_limit_s=start_limit_s,
            niceness=niceness,
        )
        self._process = RestartedProcess(load_model, self._options, before_start=before_start)
        self._recycle_bytes = recycle_bytes
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._pictures = 0
        self.is_check_due = False
        """Whether it is time to look at the process's memory."""
        self._steps: FaceSteps | None = None

    @property
    def pid(self) -> int | None:
        """The process's id; `None` while there is none."""
        running = self._process.running
        return running.pid if running else None

    @property
    def runs_on(self) -> str:
        """What runs the model, as the process told at its last start; empty before the first."""
        return self._process.told.runs_on

    @property
    def look_s(self) -> float:
        """Seconds of one look, as the process measured at its last start; 0 before the first."""
        return self._process.told.look_s

    @property
    def asked_since_s(self) -> float | None:
        """Since when, on the monotonic clock, the process owes an answer; `None` if it does not.

        A process that is starting owes none: its start has a limit of its own.
        """
        return self._process.asked_since_s

    @property
    def restarts(self) -> int:
        """How often a process died, or did not start, and had to be replaced."""
        return self._process.pauses.deaths

    def start(self) -> None:
        """Start the process if there is none, and wait until its detector is ready.

        Raises:
            BackendUnavailableError: If it could not, or it is too soon after it died.
            ModelError: If the model cannot be had.
            ClosedError: If this is closed.
        """
        with self._usable():
            self._process.started()

    def ping(self) -> None:
        """Start the process if there is none; prove that it answers if there is one.

        Raises:
            BackendUnavailableError: If it does not.
            ModelError: If the model cannot be had.
            ClosedError: If this is closed.
        """
        with self._usable():
            self._process.ask(READY, PING)

    def detect(
        self, image_rgb: NDArray[np.uint8], level: QualityLevel = QualityLevel.FAST
    ) -> tuple[Face, ...]:
        """Find the faces in a picture's pixels.

        Args:
            image_rgb: Shape (height, width, 3), uint8, RGB, C-contiguous. Copied once; more than
                4K pixels are shrunk first.
            level: How thoroughly to look; see `looks`.

        Raises:
            InvalidFrameError: If the array is anything else.
            BackendUnavailableError: If the process died or failed; the next picture gets a new one.
            ModelError: If the model cannot be had.
            ClosedError: If this is closed.
        """
        check_pixels(image_rgb)
        height, width = image_rgb.shape[:2]
        with self._usable():
            running = self._process.started()
            if shapes := self._process.told.shapes:
                look = partial(self._found_around, running.slot.memory, shapes)
                faces = faces_at(level, look, image_rgb)
                self._count(is_large=False)
                self._recycle_if_due()
                return faces
            pixels = _fitting(image_rgb)
            rows, columns = pixels.shape[:2]
            running.slot.put(pixels)
            self._process.send(DETECT, columns, rows, math.nan, LEVELS.index(level))
            found = self._found(running, FOUND)
            self._recycle_if_due()
        return tuple(PictureFaces.seen_in(pixels, found.faces, width=width, height=height).faces)

    def detect_encoded(
        self,
        data: bytes,
        *,
        max_pixels: int,
        min_confidence: float | None = None,
        level: QualityLevel = QualityLevel.FAST,
    ) -> PictureFaces:
        """Decode a picture in the process and find the faces in it.

        Args:
            data: The encoded picture, at most `CAPACITY` bytes.
            max_pixels: The most pixels it may have; checked before it is decoded.
            min_confidence: Faces below this score are left out. Not below `lowest_confidence`;
                `None` for the worker's own `min_confidence`.
            level: How thoroughly to look; see `looks`.

        Raises:
            InvalidFrameError: If it is no readable picture, or too large.
            BackendUnavailableError: If the process died or failed; the next picture gets a new one.
            DroppedError: If it was dropped.
            ModelError: If the model cannot be had.
            ClosedError: If this is closed.
        """
        if len(data) > CAPACITY:
            raise InvalidFrameError(
                expected=f"an encoded picture of at most {CAPACITY} bytes", actual=f"{len(data)}"
            )
        with self._usable():
            self._process.load_decoders()
            running = self._process.started()
            self._send_encoded(running, data, max_pixels, min_confidence, level)
            found = self._found(running, self._encoded[1])
            self._recycle_if_due()
            return found

    def detect_frame(
        self, frame: Frame, level: QualityLevel = QualityLevel.FAST
    ) -> tuple[Face, ...]:
        """Find the faces in `frame`, in its pixels. An encoded one is decoded in the process.

        A file of more than `CAPACITY` bytes is decoded in this thread.

        Raises:
            Exception: What `detect` and `detect_encoded` raise.
        """
        encoded = frame.encoded
        if encoded is not None and len(encoded.data) <= CAPACITY:
            most = frame.width * frame.height
            return tuple(self.detect_encoded(encoded.data, max_pixels=most, level=level).faces)
        pixels = frame.rgb(enough_px=enough_for(level, self._options.enough_px))
        faces = self.detect(pixels, level)
        found = PictureFaces.seen_in(pixels, faces, width=frame.width, height=frame.height)
        return tuple(found.faces)

    def _send_encoded(
        self,
        running: WorkerProcess,
        data: bytes,
        max_pixels: int,
        min_confidence: float | None,
        level: QualityLevel,
    ) -> None:
        """Ask for the faces in an encoded picture."""
        if min_confidence is None:
            min_confidence = math.nan
        elif min_confidence < self._options.lowest_confidence:
            min_confidence = self._options.lowest_confidence
        running.slot.put(data)
        most = min(max_pixels, 2**32 - 1)
        number = LEVELS.index(level)
        self._process.send(self._encoded[0], len(data), most, min_confidence, number)

    def _found(self, running: WorkerProcess, expected: int) -> PictureFaces:
        """The faces that the process finds in what lies in the slot."""
        process = self._process
        body = process.answer(running, expected)
        try:
            found = UNPACKED[expected](body)
        except (struct.error, ValueError) as error:
            process.fail(f"it sent no faces ({error})")
        if process.pauses.failures:
            process.pauses.forget_failures()
        self._count(is_large=3 * found.width * found.height > CAPACITY)
        return found

    def _found_around(
        self, memory: mmap.mmap, shapes: tuple[tuple[int, ...], ...], image_rgb: NDArray[np.uint8]
    ) -> tuple[Face, ...]:
        """Have the process run its network, and take the steps around it here."""
        if self._steps is None or self._steps.shapes != shapes:
            self._steps = FaceSteps(shapes)
        box = self._steps.fill(memory, image_rgb)
        self._process.ask(READY, RUN)
        faces = self._steps.faces(memory, box, min_confidence=self._options.min_confidence)
        self._process.pauses.forget_failures()
        return faces

    def _count(self, *, is_large: bool) -> None:
        """Count a picture, and remember whether its decoder may have taken much."""
        self._pictures += 1
        self.is_check_due = is_large or self._pictures % CHECK_MEMORY_EVERY == 0

    def _recycle_if_due(self) -> None:
        """End the process if it is time to look at its memory and it holds too much."""
        if not self.is_check_due or self.pid is None:
            return
        self.is_check_due = False
        if (process_private_bytes(self.pid) or 0) > self._recycle_bytes:
            self._process.end()

    def drop(self) -> None:
        """Have the picture that is being looked at dropped before its next look, if it has one.

        The thread that asks for it gets a `DroppedError`. Like `kill`, this never waits.
        """
        self._process.drop()

    def kill(self) -> None:
        """End the process at once; a thread that waits for it gets a `BackendUnavailableError`.

        Unlike most methods this one never waits.
        """
        self._process.kill()

    def stop(self) -> None:
        """End the process, which gives its memory back; the next picture starts a new one.

        A picture that another thread is asking about is answered first.
        """
        if os.getpid() == self._owner:
            with self._lock:
                self._process.end()

    def close(self) -> None:
        """`stop` for good. May be called more than once."""
        self._closed = True
        self.stop()

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """The turn of one caller, if this is open and was not copied by a fork."""
        if os.getpid() != self._owner:
            # Before the lock, which a fork may have copied locked.
            msg = "this detector was made before the process forked: make a new one in the child"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE)
        with self._lock:
            if self._closed:
                msg = "the detector's process is closed: make a new worker"
                raise ClosedError(msg)
            yield


def _fitting(image_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`image_rgb`, or a smaller form of it that the shared memory holds."""
    if image_rgb.nbytes <= CAPACITY:
        return image_rgb
    height, width = image_rgb.shape[:2]
    size = fitted_size(width, height, max_side_px=LARGE_SIDE_PX)
    return Interleaved(image_rgb, "RGB").resized(size).pixels
