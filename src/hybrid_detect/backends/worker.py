"""The detector in a process of its own, so that its memory and its crashes stay there.

MediaPipe's 60 to 130 MB leave the system when the process ends, and only then. A crash, a hang
or an exhausted memory cap in it is one typed error here, and a fresh process for the next
picture. Pixels cross in shared memory, results as small messages; one picture is under way.

Everything here blocks; it is meant for a worker thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple, Never

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.backends.face_detector import check_pixels
from hybrid_detect.backends.shared_slot import CAPACITY, SharedSlot
from hybrid_detect.backends.worker_messages import (
    DETECT,
    FOUND,
    PING,
    READY,
    REPLY,
    REQUEST,
    unpack_faces,
)
from hybrid_detect.errors import BackendUnavailableError, ClosedError, ConfigurationError
from hybrid_detect.selection.probes import process_private_bytes
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

START_TIMEOUT_S = 30.0
"""A start takes 0.2 s on a desktop and a few seconds on a Raspberry Pi with a cold disk."""

STOP_TIMEOUT_S = 1.0
"""An idle process ends within milliseconds of its input ending; one that does not is stuck."""

BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 5.0
"""Pause before the second restart in a row, doubling up to the cap. The first is immediate: a lone
crash costs one picture. Without a pause a model that always crashes would eat a core."""

_BOOT = (
    "import json, sys; options = json.loads(sys.argv[1]); sys.path[:] = options['sys_path']; "
    "from hybrid_detect.backends.worker_child import main; main(sys.argv[1])"
)


def require_child_processes() -> None:
    """Refuse where no Python child process can be started.

    Raises:
        ConfigurationError: In a frozen app or an embedded interpreter, as on phones.
    """
    if getattr(sys, "frozen", False) or not sys.executable:
        msg = (
            "isolation: 'process' needs a Python interpreter to start, and this app has none "
            "(it is frozen or embedded); pass isolation='none'"
        )
        raise ConfigurationError(msg)


class _Running(NamedTuple):
    """A process and the memory that it shares with this one: they come and go together."""

    process: subprocess.Popen[bytes]
    slot: SharedSlot


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
        before_start: Called before every start; what it raises keeps the process from starting.
    """

    def __init__(
        self,
        load_model: Callable[[], bytes],
        *,
        min_confidence: float = 0.5,
        memory_cap_bytes: int = MEMORY_CAP_BYTES,
        recycle_bytes: int = RECYCLE_BYTES,
        before_start: Callable[[], None] | None = None,
    ) -> None:
        self._load_model = load_model
        self._min_confidence = min_confidence
        self._memory_cap_bytes = memory_cap_bytes
        self._recycle_bytes = recycle_bytes
        self._before_start = before_start
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._running: _Running | None = None
        self._closed = False
        self._pictures = 0
        self._failures = 0
        self._start_after_s = float("-inf")
        self.starting = False
        """Whether a process is on its way up, which takes what it takes."""
        self.restarts = 0
        """How often a process died, or did not get up, and had to be replaced."""

    @property
    def pid(self) -> int | None:
        """The process's id; `None` while there is none."""
        running = self._running
        return running.process.pid if running else None

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
            self._failures = 0
            self._recycle_if_grown(running)
        return unpack_faces(body)

    def _started(self, size_bytes: int = 0) -> _Running:
        """The process, with room for `size_bytes`; a larger slot takes a new process."""
        if self._running is not None:
            if self._running.slot.capacity >= size_bytes:
                return self._running
            self._end(self._running)
        wait_s = self._start_after_s - time.monotonic()
        if wait_s > 0:
            msg = f"the detector's process died {self._failures} times; next try in {wait_s:.1f} s"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE)
        if self._before_start is not None:
            self._before_start()
        self.starting = True
        try:
            model = self._load_model()
            self._running = running = self._launch(model, max(size_bytes, CAPACITY, len(model)))
            self._await_ready(running)
        finally:
            self.starting = False
        return running

    def _launch(self, model: bytes, capacity: int) -> _Running:
        slot: SharedSlot | None = None
        try:
            slot = SharedSlot(capacity)
            slot.put(model)
            options = {
                "sys_path": [entry for entry in sys.path if isinstance(entry, str)],
                "parent": os.getpid(),
                "slot": slot.handle,
                "capacity": capacity,
                "model_bytes": len(model),
                "min_confidence": self._min_confidence,
                "memory_cap_bytes": self._memory_cap_bytes
                and self._memory_cap_bytes + _extra(slot),
            }
            process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-P", "-c", _BOOT, json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # MediaPipe writes dozens of lines that say nothing to a user.
                stderr=subprocess.DEVNULL,
                pass_fds=slot.inherited,
                env=_environment(),
                bufsize=0,
            )
        except OSError as exc:
            # No memory, no file descriptor or no process to be had: none of it lasts.
            if slot is not None:
                slot.close()
            self._count_death()
            msg = f"the detector's process cannot be started: {exc}"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True) from exc
        return _Running(process, slot)

    def _await_ready(self, running: _Running) -> None:
        # Ending the process ends the wait for its word.
        limit = threading.Timer(START_TIMEOUT_S, running.process.kill)
        limit.daemon = True
        limit.start()
        try:
            kind, body = self._reply(running)
        finally:
            limit.cancel()
            limit.join()
        if kind != READY:
            self._end(running, died=True)
            msg = f"the detector's process did not start: {body.decode(errors='replace')}"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE)

    def _ask(
        self, running: _Running, expected: int, command: int, width: int = 0, height: int = 0
    ) -> bytes:
        """Send a command and wait for the body of its reply."""
        try:
            _pipe(running.process.stdin).write(REQUEST.pack(command, width, height))
        except OSError:
            self._raise_died(running)
        kind, body = self._reply(running)
        if kind != expected:
            # Whatever went wrong in there, a fresh process is the one state known to be good.
            self._end(running, died=True)
            msg = f"the detector's process failed: {body.decode(errors='replace')}"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True)
        return body

    def _reply(self, running: _Running) -> tuple[int, bytes]:
        try:
            kind, length, _ = REPLY.unpack(self._read(running, REPLY.size))
            return kind, self._read(running, length)
        except BaseException:
            # Interrupted half way: the rest would be taken for the answer to the next picture.
            if self._running is running:
                self._end(running, died=True)
            raise

    def _read(self, running: _Running, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = _pipe(running.process.stdout).read(size - len(data))
            if not part:
                self._raise_died(running)
            data += part
        return data

    def _raise_died(self, running: _Running) -> Never:
        code = self._end(running, died=True)
        how = f"signal {-code}" if code < 0 else f"status {code}"
        when = "at its start " if self.starting else ""
        msg = f"the detector's process died {when}({how})"
        raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True)

    def _recycle_if_grown(self, running: _Running) -> None:
        self._pictures += 1
        if self._pictures % CHECK_MEMORY_EVERY:
            return
        held = process_private_bytes(running.process.pid)
        if held is not None and held > self._recycle_bytes + _extra(running.slot):
            self._end(running)

    def kill(self) -> None:
        """End the process at once; whoever waits for it gets a `BackendUnavailableError`.

        Unlike the other methods it waits for nobody.
        """
        running = self._running
        if running is not None and os.getpid() == self._owner:
            running.process.kill()

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

    def _end(self, running: _Running, *, died: bool = False) -> int:
        """Close the pipes, give the slot back and reap the process; its exit status."""
        self._running = None
        process = running.process
        code = process.poll()
        if died:
            process.kill()
            self._count_death()
        for pipe in (process.stdin, process.stdout):
            _pipe(pipe).close()  # the end of its input is what it ends on
        running.slot.close()
        if code is not None:
            return code
        try:
            return process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

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


def _extra(slot: SharedSlot) -> int:
    """What pictures above 4K add to the limits: MediaPipe copies a picture twice."""
    return 2 * (slot.capacity - CAPACITY)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise AssertionError  # for the type checker: both ends were asked for
    return pipe


def _environment() -> dict[str, str]:
    """The app's environment, with every proxy pointing nowhere.

    MediaPipe sends usage data through libcurl when it is closed, which is never done; should
    another version try at another time, before the process can open no socket any more, it
    meets a port where nobody listens.
    """
    nowhere = "http://127.0.0.1:9"  # the discard service, RFC 863
    names = ("http_proxy", "https_proxy", "all_proxy")
    proxies = {name: nowhere for low in names for name in (low, low.upper())}
    kept = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    return {**kept, **proxies}
