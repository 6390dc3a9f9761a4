"""The detector in a process of its own, so that its memory and its crashes stay there.

MediaPipe's 60 to 130 MB leave the system when the process ends, and only then. A crash, a hang
or an exhausted memory cap in it is one typed error here, and a fresh process for the next
picture. Pixels cross in shared memory, results as small messages; one picture is under way.

Everything here blocks; it is meant for a worker thread.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Never

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.backends.device.face_detector import check_pixels
from hybrid_detect.backends.device.shared_slot import CAPACITY
from hybrid_detect.backends.device.worker_messages import DETECT, FOUND, PING, READY, unpack_faces
from hybrid_detect.backends.device.worker_process import WorkerProcess, can_start_processes
from hybrid_detect.errors import BackendUnavailableError, ClosedError, ConfigurationError
from hybrid_detect.system.memory_probe import process_private_bytes
from hybrid_detect.types import BackendKind, Face

__all__ = ["DetectorWorker", "require_child_processes"]

MEMORY_CAP_BYTES = 256 * 2**20
"""Heap limit of the process (``RLIMIT_DATA``, Linux). A warm detector's data segment measures
130 MB, 186 MB after 4K pictures. A leak that meets the limit ends in a MemoryError or, in native
code, in a crash; either way it costs one picture. Source: `docs/explanation/memory.md`."""

RECYCLE_BYTES = 128 * 2**20
"""Private memory at which the process is replaced between two pictures: a warm one holds 34 MB,
86 MB after 4K pictures with the full-range model. It comes before the heap limit does, and is the
only cap where the operating system offers none."""

CHECK_MEMORY_EVERY = 32
"""Pictures between two looks at the process's memory: about one a second on a slow device."""

BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 5.0
"""Pause before the second restart in a row, doubling up to the cap. The first is immediate: a lone
crash costs one picture. Without a pause a model that always crashes would eat a core."""


def require_child_processes() -> None:
    """Refuse where no Python child process can be started.

    Raises:
        ConfigurationError: In an embedded interpreter, as on phones, and in a frozen app that was
            built without this package's hooks.
    """
    if not can_start_processes():
        msg = (
            "isolation: 'process' needs a Python interpreter to start, and this app has none "
            "(it is embedded, or frozen without hybrid_detect's PyInstaller hooks); pass "
            "isolation='none'"
        )
        raise ConfigurationError(msg)


class DetectorWorker:
    """A face detector that lives in a child process.

    The process is started by the first picture (or `start`) and again whenever it is needed and
    not there. It has the methods of `MediaPipeFaceDetector`, and like that one it is usable from
    any thread, one picture at a time.

    Args:
        load_model: Gives the verified model file's bytes; called at every start, so that the
            app's own process need not hold them.
        min_confidence: Faces below this score are left out, 0 to 1.
        memory_cap_bytes: Heap limit of the process on Linux, for pictures up to 4K; larger ones
            add their own size. 0 for none.
        recycle_bytes: Private memory at which it is replaced between two pictures; larger ones
            than 4K add their own size.
        before_start: Called before every start with the bytes that it takes more than usual, for
            pictures above 4K, less what the process before it gives back; what it raises keeps the
            process from starting.
    """

    def __init__(
        self,
        load_model: Callable[[], bytes],
        *,
        min_confidence: float = 0.5,
        memory_cap_bytes: int = MEMORY_CAP_BYTES,
        recycle_bytes: int = RECYCLE_BYTES,
        before_start: Callable[[int], None] | None = None,
    ) -> None:
        self._load_model = load_model
        self._min_confidence = min_confidence
        self._memory_cap_bytes = memory_cap_bytes
        self._recycle_bytes = recycle_bytes
        self._before_start = before_start
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._running: WorkerProcess | None = None
        self._closed = False
        self._pictures = 0
        self._largest_bytes = 0
        self._failures = 0
        self._start_after_s = float("-inf")
        self.starting = False
        """Whether a process is on its way up, which takes what it takes."""
        self.asked_since_s: float | None = None
        """Since when, on the monotonic clock, the process owes an answer; `None` if it does not."""
        self.restarts = 0
        """How often a process died, or did not get up, and had to be replaced."""

    @property
    def pid(self) -> int | None:
        """The process's id; `None` while there is none."""
        running = self._running
        return running.pid if running else None

    def start(self) -> None:
        """Start the process if there is none, and wait until its detector stands.

        Raises:
            BackendUnavailableError: If it could not, or it is too soon after it died.
            ModelError: If the model cannot be had.
            ClosedError: If this is closed.
        """
        with self._usable():
            self._started()

    def ping(self) -> None:
        """Start the process if there is none; prove that it answers if there is one.

        Raises:
            BackendUnavailableError: If it does not.
            ModelError: If the model cannot be had.
            ClosedError: If this is closed.
        """
        with self._usable():
            if self._running is None:
                self._started()
            else:
                self._ask(self._running, READY, PING)

    def detect(self, image_rgb: NDArray[np.uint8]) -> tuple[Face, ...]:
        """Find the faces in a picture.

        Args:
            image_rgb: Shape (height, width, 3), uint8, RGB, C-contiguous. Copied once.

        Raises:
            InvalidFrameError: If the array is anything else.
            BackendUnavailableError: If the process died or failed; the next picture gets a new one.
            ModelError: If the model cannot be had.
            ClosedError: If this is closed.
        """
        check_pixels(image_rgb)
        height, width = image_rgb.shape[:2]
        with self._usable():
            running = self._started(image_rgb.nbytes)
            running.slot.put(image_rgb)
            body = self._ask(running, FOUND, DETECT, width, height)
            try:
                faces = unpack_faces(body)
            except (struct.error, ValueError) as error:
                self._fail(running, f"it sent no faces ({error})")
            self._failures = 0
            self._recycle_if_grown(running, image_rgb.nbytes)
        return faces

    def _started(self, size_bytes: int = 0) -> WorkerProcess:
        """The process, with room for `size_bytes`; a larger slot takes a new process."""
        old = self._running
        if old is not None and old.slot.capacity >= size_bytes:
            return old
        wait_s = self._start_after_s - time.monotonic()
        if wait_s > 0:
            msg = f"the detector's process died {self._failures} times; next try in {wait_s:.1f} s"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE)
        capacity = max(size_bytes, CAPACITY)
        if self._before_start is not None:
            # In the slot, and twice in the process.
            needed = capacity - CAPACITY + _extra(capacity)
            given_back = process_private_bytes(old.pid) if old else 0
            self._before_start(needed - (given_back or 0))
        if old is not None:
            self._end(old)
        self.starting = True
        try:
            model = self._load_model()
            self._running = running = self._launched(model, capacity)
            kind, body = self._answered(running, running.ready)
        finally:
            self.starting = False
        if kind != READY:
            self._end(running, died=True)
            msg = f"the detector's process did not start: {body.decode(errors='replace')}"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE)
        return running

    def _launched(self, model: bytes, capacity: int) -> WorkerProcess:
        cap_bytes = self._memory_cap_bytes
        try:
            return WorkerProcess(
                model,
                capacity=capacity,
                min_confidence=self._min_confidence,
                memory_cap_bytes=cap_bytes and cap_bytes + _extra(capacity),
            )
        except OSError as exc:
            # No memory, no file descriptor or no process to be had: none of it lasts.
            self._count_death()
            msg = f"the detector's process cannot be started: {exc}"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True) from exc

    def _ask(
        self, running: WorkerProcess, expected: int, command: int, width: int = 0, height: int = 0
    ) -> bytes:
        """Send a command and wait for the body of its reply."""
        self.asked_since_s = time.monotonic()
        try:
            kind, body = self._answered(running, lambda: running.ask(command, width, height))
        finally:
            self.asked_since_s = None
        if kind != expected:
            self._fail(running, body.decode(errors="replace"))
        return body

    def _answered(
        self, running: WorkerProcess, wait: Callable[[], tuple[int, bytes]]
    ) -> tuple[int, bytes]:
        """What `wait` gives; if it gives nothing, the process is ended."""
        try:
            return wait()
        except EOFError:
            code = self._end(running, died=True)
            how = f"signal {-code}" if code < 0 else f"status {code}"
            when = "at its start " if self.starting else ""
            msg = f"the detector's process died {when}({how})"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True) from None
        except BaseException:
            # Interrupted half way: the rest would be taken for the answer to the next picture.
            self._end(running, died=True)
            raise

    def _fail(self, running: WorkerProcess, why: str) -> Never:
        """Whatever went wrong in there, a fresh process is the one state known to be good."""
        self._end(running, died=True)
        msg = f"the detector's process failed: {why}"
        raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True)

    def _recycle_if_grown(self, running: WorkerProcess, size_bytes: int) -> None:
        """End the process if it holds too much, or was made for pictures that no longer come."""
        self._largest_bytes = max(self._largest_bytes, size_bytes)
        self._pictures += 1
        if self._pictures % CHECK_MEMORY_EVERY:
            return
        capacity = running.slot.capacity
        is_too_large = capacity > CAPACITY >= self._largest_bytes
        self._largest_bytes = 0
        held = process_private_bytes(running.pid) or 0
        if is_too_large or held > self._recycle_bytes + _extra(capacity):
            self._end(running)

    def kill(self) -> None:
        """End the process at once; whoever waits for it gets a `BackendUnavailableError`.

        Unlike the other methods it waits for nobody.
        """
        running = self._running
        if running is not None and os.getpid() == self._owner:
            running.kill()

    def stop(self) -> None:
        """End the process, which gives its memory back; the next picture starts a new one.

        A picture that another thread is asking about is answered first.
        """
        if os.getpid() != self._owner:
            return
        with self._lock:
            if self._running is not None:
                self._end(self._running)

    def close(self) -> None:
        """`stop` for good. May be called more than once."""
        self._closed = True
        self.stop()

    def _end(self, running: WorkerProcess, *, died: bool = False) -> int:
        """End the process; its exit status."""
        self._running = None
        if died:
            self._count_death()
        return running.end(at_once=died)

    def _count_death(self) -> None:
        self.restarts += 1
        self._failures += 1
        if self._failures > 1:
            pause_s = min(BACKOFF_BASE_S * 2 ** (self._failures - 2), BACKOFF_CAP_S)
            self._start_after_s = time.monotonic() + pause_s

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """The one turn there is, if this is open and the process did not come by a fork."""
        if os.getpid() != self._owner:
            # Before the lock: a fork may have copied it locked.
            msg = "this detector was made before the process forked: make a new one in the child"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE)
        with self._lock:
            if self._closed:
                msg = "the detector's process is closed: make a new worker"
                raise ClosedError(msg)
            yield


def _extra(capacity: int) -> int:
    """What pictures above 4K add to the limits: MediaPipe copies a picture twice."""
    return 2 * (capacity - CAPACITY)
