"""The engine of on-device detection: the detector's life, from its first load to its end.

The detector is a process of its own (`worker`), or, where there can be none, MediaPipe in this
process (`face_detector`). Everything it is asked, its loading included, is asked by one thread,
off the event loop. It is loaded when it is needed, and ended when it hangs, is idle or takes
memory that is short. Whose turn it is, and what becomes of an answer, is decided in `device`.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector
from hybrid_detect.backends.device.memory_guard import MemoryGuard
from hybrid_detect.backends.device.models import Progress
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.errors import BackendUnavailableError, ClosedError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import BackendKind, Face

__all__ = ["Detector", "Engine", "Look", "closed_error"]

Detector: TypeAlias = MediaPipeFaceDetector | DetectorWorker
_Result = TypeVar("_Result")

LOAD_RETRY_S = 30.0
"""After a failed load, frames are refused at once for so long: fetching takes seconds to fail."""

LOADING_GRACE_S = 2.0
"""A load from disk takes about one second; one that takes longer is fetching the model."""

CLOSE_TIMEOUT_S = 5.0
"""A detection takes milliseconds; one that has not ended after this is hung."""

HANG_FACTOR = 10.0
HANG_GRACE_MIN_S = 0.3
HANG_GRACE_MAX_S = 1.0
"""The detector's process counts as hung, and is killed, when it owes an answer past the frame's
deadline for ten times what a detection usually takes, but within these bounds: a slow device may
miss a deadline, it does not miss it by a second; and less than 0.3 s is a hiccup of the machine."""

MEMORY_EVERY_S = 1.0
"""Seconds between two looks at the memory, each of 0.3 ms; a leak of 30 MB/s is seen in time."""

_RESTARTED = "the detector's process died and was started again"


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a frame found."""

    faces: tuple[Face, ...]
    detect_s: float
    note: str
    """What came between, for the result's reason; empty if nothing did."""


class Engine:
    """One detector and its thread. Belongs to one event loop, and looks at one frame at a time.

    Args:
        model: The model's name, for what is told of it.
        make: Makes the detector, in the thread. It is given what to tell how a fetch of the model
            goes, and what to call before every start of a process, with what it takes more than
            usual in bytes; both may raise.
        idle_s: Seconds without use after which the process is ended; `None` for never.
        guard: Judges whether there is memory for it.
    """

    def __init__(
        self,
        model: str,
        make: Callable[[Progress, Callable[[int], None]], Detector],
        *,
        idle_s: float | None,
        guard: MemoryGuard,
    ) -> None:
        self.model = model
        self._make = make
        self._idle_s = idle_s
        self._idle_timer: asyncio.TimerHandle | None = None
        self._guard = guard
        self._memory_timer: asyncio.TimerHandle | None = None
        self._shortage = ""
        self._executor: ThreadPoolExecutor | None = None
        self._stopping = threading.Event()
        self._detector: Detector | None = None
        self._worker: DetectorWorker | None = None
        self._load: asyncio.Future[None] | None = None
        self._load_started_s = 0.0
        self._load_error: BaseException | None = None
        self._load_failed_s = 0.0
        self._due_s = -math.inf
        """The deadline, on the monotonic clock, of the frame that is being looked at."""
        self._usual_s = 0.0
        """Seconds a detection takes, slow to forget a slow one; 0 before the first."""

    @property
    def is_loaded(self) -> bool:
        """Whether there is a detector, even if its process has to be started again."""
        return self._detector is not None

    @property
    def unavailable_reason(self) -> str:
        """Why it should be given no frame now; empty when it may be given one."""
        if self._stopping.is_set():
            return "on-device detection is closed"
        if self._shortage:
            return self._shortage
        if self._load is not None:
            seconds = time.monotonic() - self._load_started_s
            if seconds > LOADING_GRACE_S:
                return f"the model {self.model!r} is being fetched, for {seconds:.0f} s now"
        if not self.is_loaded and (failure := self._last_failure()):
            return str(failure)
        return ""

    def require_open(self) -> None:
        """Refuse once it is closed.

        Raises:
            ClosedError: If it is.
        """
        if self._stopping.is_set():
            raise closed_error()

    def start(self) -> None:
        """Begin to load the detector, and to watch the memory, without waiting for anything."""
        self.require_open()
        self._begin_load()

    async def ready(self) -> None:
        """Wait until the detector answers, beginning to load it if need be.

        A load goes on when nobody waits for it any more, and the next call waits for the same one.

        Raises:
            BackendUnavailableError: If it does not answer, or must not be started now.
            ConfigurationError: If MediaPipe cannot run here.
            ModelError: If the model cannot be had.
            ClosedError: If it is closed.
        """
        self.require_open()
        try:
            await self._loaded()
            if self._worker is not None:
                await self._outcome(self._in_thread(self._worker.ping))
        finally:
            self._await_idleness()

    async def look(self, frame: Frame, ends_s: float, *, when_done: Callable[[], None]) -> Look:
        """Look for faces in `frame`, loading the detector if need be.

        Args:
            frame: The picture.
            ends_s: The frame's deadline on the monotonic clock: after it there is no second try,
                and soon after it a detector that still owes an answer is hung.
            when_done: Called once, when the next frame may be given: at once, unless a look that
                nobody waits for any more still runs. It ends by itself, or is ended as hung.

        Raises:
            InvalidFrameError: If the frame turns out not to be a readable image.
            Exception: What `ready` raises.
        """
        job: asyncio.Future[Look] | None = None
        try:
            if not self.is_loaded and self._load is None and (failure := self._last_failure()):
                raise BackendUnavailableError(str(failure), backend=BackendKind.DEVICE)
            await self._loaded()
            job = self._in_thread(self._detect, frame, ends_s)
            return await self._outcome(job)
        finally:
            if job is None or job.done():
                when_done()
            else:
                job.add_done_callback(lambda _: when_done())
            self._await_idleness()

    async def unload(self) -> None:
        """End the detector's process, which gives its memory back; the next frame starts it."""
        if self._worker is not None and not self._stopping.is_set():
            await self._in_thread(self._worker.stop)

    async def aclose(self) -> None:
        """Stop; a running detection ends first. May be called more than once.

        One that hangs for `CLOSE_TIMEOUT_S` is killed with its process; without a process of its
        own it is left behind, and its thread ends when it does.
        """
        self._stopping.set()
        for timer in (self._idle_timer, self._memory_timer):
            if timer is not None:
                timer.cancel()
        executor, self._executor = self._executor, None
        if executor is None:
            return
        # The one thread takes its work in order, so this runs after whatever is going on there.
        last = asyncio.get_running_loop().run_in_executor(executor, self._close_detector)
        try:
            await asyncio.wait([last], timeout=CLOSE_TIMEOUT_S)
            if not last.done():
                self._kill()
                await asyncio.wait([last], timeout=CLOSE_TIMEOUT_S)
        finally:
            if not last.done():
                self._kill()  # or the thread would wait, and the app's end for the thread
            # Once its last work is done the thread ends at once, and waiting for it blocks nobody.
            executor.shutdown(wait=last.done())

    def _in_thread(self, work: Callable[..., _Result], *args: object) -> asyncio.Future[_Result]:
        self.require_open()  # it may have been closed while the caller waited for its turn
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="hybrid-detect-device")
        try:
            return asyncio.get_running_loop().run_in_executor(self._executor, work, *args)
        except RuntimeError as exc:  # a limit of processes counts threads, too
            # There is no thread yet, and what is queued must not run in a later one.
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None
            msg = f"on-device detection has no thread to run in: {exc}"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True) from exc

    async def _outcome(self, job: asyncio.Future[_Result]) -> _Result:
        try:
            # Not `await job`: being cancelled must not mark a job done that is still running.
            await asyncio.wait([job])
            return job.result()
        finally:
            if not job.done():
                # Nobody waits for it any more: let it end, or end it.
                self._end_if_hung(job)
                job.add_done_callback(_drop_answer)

    def _end_if_hung(self, job: asyncio.Future[_Result]) -> None:
        """Kill the process if it owes an answer for too long; else look again when it might."""
        worker = self._worker
        if job.done() or worker is None:
            return
        usual_s = self._usual_s or HANG_GRACE_MAX_S
        grace_s = min(max(HANG_FACTOR * usual_s, HANG_GRACE_MIN_S), HANG_GRACE_MAX_S)
        # A start has a limit of its own; killed now it would never end on a slow device. Nor is
        # the process to blame for a picture that takes long to decode before it is handed over.
        asked_s = worker.asked_since_s
        left_s = grace_s
        if asked_s is not None:
            left_s += max(asked_s, self._due_s) - time.monotonic()
        if left_s > 0:
            asyncio.get_running_loop().call_later(left_s, self._end_if_hung, job)
        else:
            worker.kill()

    def _kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    def _await_idleness(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._idle_s is not None and not self._stopping.is_set():
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        if self._worker is not None and not self._stopping.is_set():
            self._in_thread(self._worker.stop)

    def _await_memory_look(self) -> None:
        if not self._stopping.is_set():
            loop = asyncio.get_running_loop()
            self._memory_timer = loop.call_later(MEMORY_EVERY_S, self._look_at_memory)

    def _look_at_memory(self) -> None:
        if not self._stopping.is_set():
            job = self._in_thread(self._heed_memory)
            job.add_done_callback(lambda _: self._await_memory_look())

    async def _loaded(self) -> None:
        if not self.is_loaded:
            load = self._begin_load()
            await asyncio.wait([load])
            load.result()

    def _begin_load(self) -> asyncio.Future[None]:
        if self._load is None:
            self._load_started_s = time.monotonic()
            self._load = self._in_thread(self._build_detector)
            self._load.add_done_callback(self._end_load)
        if self._memory_timer is None:
            self._await_memory_look()
        return self._load

    def _end_load(self, load: asyncio.Future[None]) -> None:
        self._load = None
        error = None if load.cancelled() else load.exception()
        # A shortage ends without a new load, and is watched on its own.
        self._load_error = None if self._shortage else error
        self._load_failed_s = time.monotonic()

    def _last_failure(self) -> BaseException | None:
        """Why the last load failed, while it is too soon for another."""
        may_load_again = time.monotonic() - self._load_failed_s > LOAD_RETRY_S
        return None if may_load_again else self._load_error

    # What follows runs in the thread.

    def _build_detector(self) -> None:
        if self.is_loaded:
            return
        self._require_memory()
        detector = self._make(self._stop_fetching, self._require_memory)
        if isinstance(detector, DetectorWorker):
            self._worker = detector
            try:
                detector.start()
            except BackendUnavailableError as error:
                if error.retryable:
                    self._detector = detector  # it was killed, say: the next frame starts it again
                raise
        self._detector = detector

    def _stop_fetching(self, _source: str, _done_bytes: int, _total_bytes: int | None) -> None:
        self.require_open()

    def _require_memory(self, extra_bytes: int = 0) -> None:
        shortage = self._guard.why_not_start(extra_bytes)
        if not extra_bytes or not shortage:
            self._shortage = shortage  # else it is about this picture alone
        if shortage:
            raise BackendUnavailableError(shortage, backend=BackendKind.DEVICE)

    def _heed_memory(self) -> None:
        """Unload before the memory is short, and take frames again once it is not."""
        worker = self._worker
        if worker is None and self.is_loaded:
            return  # inside the app, MediaPipe's memory could not be given back anyway
        if worker is None or (pid := worker.pid) is None:
            self._shortage = self._guard.why_not_start()
            return
        self._shortage = self._guard.why_not_go_on(pid)
        if self._shortage:
            worker.stop()

    def _detect(self, frame: Frame, ends_s: float) -> Look:
        detector = self._detector
        if detector is None:
            raise closed_error()
        started_s = time.monotonic()
        pixels = frame.rgb()
        self._due_s = ends_s
        try:
            faces, note = detector.detect(pixels), ""
        except BackendUnavailableError as error:
            in_vain = not error.retryable or time.monotonic() >= ends_s or self._stopping.is_set()
            if in_vain or detector is not self._worker:
                raise
            # A crash that was not this frame's fault must not cost its answer.
            faces, note = detector.detect(pixels), _RESTARTED
        finally:
            self._due_s = -math.inf
        detect_s = time.monotonic() - started_s
        self._usual_s = max(detect_s, 0.9 * self._usual_s)
        return Look(faces, detect_s, note)

    def _close_detector(self) -> None:
        # One that did not get up has a process, perhaps, and is no detector yet.
        detector = self._detector or self._worker
        if detector is not None:
            detector.close()
        self._detector = self._worker = None


def _drop_answer(job: asyncio.Future[_Result]) -> None:
    if not job.cancelled():
        job.exception()  # seen; asyncio would complain


def closed_error() -> ClosedError:
    """What whoever comes after the closing gets."""
    return ClosedError("on-device detection is closed: make a new OnDeviceDetectionService")
