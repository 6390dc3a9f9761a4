"""The life of the on-device detector, from its first load to its end.

The detector is a process of its own (`worker`) or, where there can be none, a runtime in this
process (`in_process`). It is loaded when it is needed, off the event loop, and ended when it is
idle or takes memory that is short; `supervised_worker` ends it when it hangs. `on_device` decides
which frame is next and what becomes of an answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence

from hybrid_detect.backends.device.detection import Detection
from hybrid_detect.backends.device.looks import affordable
from hybrid_detect.backends.device.memory_guard import MemoryGuard
from hybrid_detect.backends.device.models import Progress
from hybrid_detect.backends.device.supervised_worker import (
    Detector,
    SupervisedWorker,
    outcome,
    retried_once,
)
from hybrid_detect.errors import (
    BackendUnavailableError,
    ClosedError,
    ModelError,
    ModelIntegrityError,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import BackendKind, QualityLevel

__all__ = ["Engine", "closed_error"]

logger = logging.getLogger("hybrid_detect.device")

LOAD_RETRY_S = 30.0
"""Seconds after a failed load during which frames are refused at once: a fetch takes seconds to
fail."""

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

LOOK_GUESS_S = 0.03
"""Seconds of one look before any was measured: a Raspberry Pi 4's at the full-range model."""

RESTARTED = "the detector's process died and was started again"


class Engine:
    """One detector that is given one frame at a time. Belongs to one event loop.

    Args:
        model: The model's name.
        make: Makes the detector, which is not loaded yet. It is given the model's name, a function
            to report the progress of a fetch of the model to, and one to call before every start of
            a process; both may raise.
        idle_s: Seconds without use after which the process is ended; `None` for never.
        guard: Judges whether there is memory for it.
        quality: How thoroughly to look at a frame whose deadline leaves the time (`looks`).
        instead: Models to take, in order, if `model` cannot be had or is too slow here.
        is_quick_enough: Whether a model whose look takes that many seconds is not.
        expendable: Models that give way to others where what runs them is broken.
    """

    def __init__(
        self,
        model: str,
        make: Callable[[str, Progress, Callable[[], None]], Detector],
        *,
        idle_s: float | None,
        guard: MemoryGuard,
        quality: QualityLevel = QualityLevel.FAST,
        instead: Sequence[str] = (),
        is_quick_enough: Callable[[str, float], bool] = lambda *_: True,
        expendable: Collection[str] = (),
    ) -> None:
        self.model = model
        self._idle_s = idle_s
        self._idle_timer: asyncio.TimerHandle | None = None
        self._guard = guard
        self._quality = quality
        self._instead = list(instead)
        self._slow: list[str] = []  # of the models, those that were too slow here
        self._is_quick_enough = is_quick_enough
        self._expendable = expendable
        self._make = make
        self._memory_timer: asyncio.TimerHandle | None = None
        self._shortage = ""
        self._worker: SupervisedWorker[Detector] = SupervisedWorker(
            self._made(model),
            thread_name="hybrid-detect-device",
            grace_s=self._hang_grace_s,
        )
        self._load: asyncio.Future[None] | None = None
        self._load_started_s = 0.0
        self._load_error: BaseException | None = None
        self._load_failed_s = 0.0
        self.is_loaded = False
        """Whether the detector was loaded, even if its process has to be started again."""
        self._usual_s = 0.0
        """Seconds a look takes, slow to forget a slow one; 0 before the first."""

    def _made(self, model: str) -> Detector:
        return self._make(model, self._stop_fetching, self._require_memory)

    @property
    def unavailable_reason(self) -> str:
        """Why it should be given no frame now; empty when it may be given one."""
        if self._worker.is_closed:
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

    @property
    def is_loading(self) -> bool:
        """Whether a load is under way."""
        return self._load is not None

    @property
    def runs_on(self) -> str:
        """What runs the model, as the detector told at its last start; empty before the first."""
        return self._worker.detector.runs_on

    def require_open(self) -> None:
        """Refuse once it is closed.

        Raises:
            ClosedError: If it is.
        """
        if self._worker.is_closed:
            raise closed_error()

    def start(self) -> None:
        """Begin to load the detector, and to watch the memory, without waiting for anything."""
        self.require_open()
        self._begin_load()

    async def ready(self, *, due_s: float = math.inf) -> None:
        """Wait until the detector answers, beginning to load it if need be.

        A load goes on when its caller stops waiting, and the next call waits for the same one.

        Args:
            due_s: When it should have answered, on the monotonic clock.

        Raises:
            BackendUnavailableError: If it does not answer, or must not be started now.
            ConfigurationError: If the runtime cannot run here.
            ModelError: If the model cannot be had.
            ClosedError: If it is closed.
        """
        self.require_open()
        try:
            await self._loaded()
            await self._run(self._worker.detector.ping, due_s=due_s)
        finally:
            self._await_idleness()

    async def detect(
        self, frame: Frame, ends_s: float, *, when_done: Callable[[], None]
    ) -> Detection:
        """Find the faces in `frame`, loading the detector if need be.

        Args:
            frame: The picture.
            ends_s: The frame's deadline on the monotonic clock: after it there is no second try,
                and soon after it a detector that still owes an answer is hung.
            when_done: Called once, when the next frame may be given: at once, unless a detection
                still runs that its caller has given up. It ends by itself, or is ended as hung.

        Raises:
            InvalidFrameError: If the frame turns out not to be a readable image.
            Exception: What `ready` raises.
        """
        job: asyncio.Future[Detection] | None = None
        note = ""

        async def turn() -> Detection:
            nonlocal job
            self.require_open()
            job = self._worker.submit(self._detect, frame, note, ends_s, due_s=ends_s)
            return await outcome(job)

        def may_retry(error: BackendUnavailableError) -> bool:
            nonlocal note
            note = RESTARTED
            has_time = time.monotonic() < ends_s and not self._worker.is_closed
            return error.retryable and has_time and self._worker.detector.has_process

        try:
            if not self.is_loaded and self._load is None and (failure := self._last_failure()):
                raise BackendUnavailableError(str(failure), backend=BackendKind.DEVICE)
            await self._loaded()
            return await retried_once(turn, may_retry=may_retry)
        finally:
            if job is None or job.done():
                when_done()
            else:
                job.add_done_callback(lambda _: when_done())
            self._await_idleness()

    async def unload(self) -> None:
        """End the detector's process, which gives its memory back; the next frame starts it."""
        if self.is_loaded and not self._worker.is_closed:
            await self._run(self._worker.detector.stop)

    async def aclose(self) -> None:
        """Stop; a running detection ends first. May be called more than once.

        One that hangs for `CLOSE_TIMEOUT_S` is killed with its process; without a process of its
        own it is left behind, and its thread ends when it does.
        """
        for timer in (self._idle_timer, self._memory_timer):
            if timer is not None:
                timer.cancel()
        self.is_loaded = False
        await self._worker.aclose(timeout_s=CLOSE_TIMEOUT_S)

    async def _run(self, work: Callable[[], None], *, due_s: float = math.inf) -> None:
        self.require_open()  # It may have been closed while the caller waited for its turn.
        await self._worker.run(work, due_s=due_s)

    def _hang_grace_s(self) -> float:
        usual_s = self._usual_s or HANG_GRACE_MAX_S
        return min(max(HANG_FACTOR * usual_s, HANG_GRACE_MIN_S), HANG_GRACE_MAX_S)

    # ---- idleness and memory

    def _await_idleness(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._idle_s is not None and not self._worker.is_closed:
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        if not self._worker.is_closed:
            self._worker.submit(self._worker.detector.stop)

    def _await_memory_look(self) -> None:
        if not self._worker.is_closed:
            loop = asyncio.get_running_loop()
            self._memory_timer = loop.call_later(MEMORY_EVERY_S, self._look_at_memory)

    def _look_at_memory(self) -> None:
        if not self._worker.is_closed:
            job = self._worker.submit(self._heed_memory)
            job.add_done_callback(lambda _: self._await_memory_look())

    # ---- loading

    async def _loaded(self) -> None:
        if not self.is_loaded:
            load = self._begin_load()
            await asyncio.wait([load])
            load.result()

    def _begin_load(self) -> asyncio.Future[None]:
        if self._load is None:
            self.require_open()
            self._load_started_s = time.monotonic()
            self._load = self._worker.submit(self._load_detector)
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

    # ---- in the thread

    def _load_detector(self) -> None:
        if self.is_loaded:
            return
        failed: list[str] = []
        while True:
            detector = self._worker.detector
            if not detector.has_process:
                self._require_memory()  # A process asks before each of its starts.
            try:
                detector.start()
            except ModelError as error:
                # A wrong file that the user named is no reason to hide it behind another model.
                if isinstance(error, ModelIntegrityError):
                    raise
                failed.append(self.model)
                if self._take_another(str(error)):
                    continue
                if len(failed) > 1:  # What a network brings may be had later.
                    self._instead = failed
                    self._take_another("none is to be had, and the next load begins anew")
                raise
            except BackendUnavailableError as error:
                is_broken = not (error.retryable or self._shortage)
                if is_broken and self.model in self._expendable and self._others():
                    self._take_another(str(error))
                    continue
                # A process that was killed, for example, is started again by the next frame.
                self.is_loaded = error.retryable and detector.has_process
                raise
            if not self._others() or self._is_quick_enough(self.model, detector.look_s):
                break
            self._slow.append(self.model)
            self._instead.append(self.model)  # If no quicker one is to be had.
            self._take_another(f"a look takes {detector.look_s * 1000:.0f} ms here")
        self._instead.clear()
        self.is_loaded = True

    def _others(self) -> set[str]:
        return {*self._instead} - {*self._slow}

    def _take_another(self, reason: str) -> bool:
        """Go on with the next model; False if there is none."""
        if not self._instead:
            return False
        self._worker.detector.close()
        logger.info("the model %s instead of %s: %s", self._instead[0], self.model, reason)
        self.model = self._instead.pop(0)
        self._worker.detector = self._made(self.model)
        return True

    def _stop_fetching(self, _source: str, _done_bytes: int, _total_bytes: int | None) -> None:
        self.require_open()

    def _require_memory(self) -> None:
        self._shortage = self._guard.reason_not_to_start()
        if self._shortage:
            raise BackendUnavailableError(self._shortage, backend=BackendKind.DEVICE)

    def _heed_memory(self) -> None:
        """Unload before the memory is short, and take frames again once it is not."""
        detector = self._worker.detector
        if self.is_loaded and not detector.has_process:
            return  # The detector's memory could not be given back inside the app.
        if (pid := detector.pid) is None:
            self._shortage = self._guard.reason_not_to_start()
            return
        self._shortage = self._guard.reason_to_stop(pid)
        if self._shortage:
            detector.stop()

    def _detect(self, frame: Frame, note: str, ends_s: float) -> Detection:
        started_s = time.monotonic()
        detector = self._worker.detector
        level = self._quality
        if level is not QualityLevel.FAST:
            look_s = self._usual_s or detector.look_s or LOOK_GUESS_S
            left_s = ends_s - started_s
            level = affordable(level, frame.width, frame.height, look_s=look_s, left_s=left_s)
        try:
            faces = detector.detect_frame(frame, level)
        except MemoryError as exc:
            msg = f"there is not enough memory for a picture of {frame.width}x{frame.height} pixels"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE) from exc
        detect_s = time.monotonic() - started_s
        if level is QualityLevel.FAST:
            self._usual_s = max(detect_s, 0.9 * self._usual_s)
        return Detection(faces, detect_s, level, note)


def closed_error() -> ClosedError:
    """The error of a call that comes after the closing."""
    return ClosedError("on-device detection is closed: make a new OnDeviceDetectionService")
