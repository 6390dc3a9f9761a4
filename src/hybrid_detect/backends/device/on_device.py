"""Detection on this device: nothing is sent anywhere.

This module decides which frame is next, how long it may take and what its result says; `engine` has
the detector and the thread that asks it. One frame is being looked at and at most one waits: the
newest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from hybrid_detect.backends.base import Backend
from hybrid_detect.backends.device.child_program import require_child_processes
from hybrid_detect.backends.device.engine import Engine, closed_error
from hybrid_detect.backends.device.in_process import InProcessDetector
from hybrid_detect.backends.device.memory_guard import MemoryGuard
from hybrid_detect.backends.device.model_choice import (
    candidates,
    is_quick_enough,
    load_candidate,
)
from hybrid_detect.backends.device.models import Progress, load_model, model_spec
from hybrid_detect.backends.device.runtimes import RUNTIMES, choose_runtime
from hybrid_detect.backends.device.supervised_worker import Detector
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.backends.newest_wins import NewestWinsSlots
from hybrid_detect.config import AUTO_MODEL, quality_level
from hybrid_detect.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    ConfigurationError,
    ModelError,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.system.memory_probe import MemoryReading
from hybrid_detect.types import (
    BackendKind,
    DetectionResult,
    DetectionStatus,
    Plan,
    QualityLevel,
    Timings,
)

__all__ = ["OnDeviceDetectionService"]

IDLE_S = 300.0
"""Seconds without a frame after which the detector's process is ended, which gives its memory
back. The next frame starts it again in about 0.2 s."""


class OnDeviceDetectionService(Backend):
    """A face model in a process of its own.

    Its memory and its crashes stay in that process. A frame that meets a crash is looked at again
    by a fresh process if its deadline allows, and its result is ``degraded``. Encoded pictures are
    decoded in that process as well, no larger than the model needs them.

    Args:
        model: A name from the models' table: ``short_range``, ``full_range`` or ``centerface``; or
            ``auto`` for full range where it is quick enough, else short range; on a desktop with
            time to spare that has ONNX Runtime, CenterFace (`model_choice`).
        side_px: Longer side of the picture that the model's network is given, one of its
            `ModelSpec.inputs`; `None` for its default.
        model_path: The model's file, instead of looking for it.
        model_fetch: Whether a missing model may be fetched from the network.
        min_confidence: Faces below this score are left out, 0 to 1; `None` for the threshold at
            which the model was found to be at its best.
        runtime: What runs the model: ``mediapipe`` or ``litert``, for CenterFace ``onnxruntime`` or
            ``opencv``; ``auto`` for the first of the model's that is installed and runs on this
            processor.
        quality: How thoroughly to look at a frame whose deadline leaves the time: ``fast`` once;
            ``high`` again, turned by 90, 180 and 270 degrees, where nothing was found; ``max`` also
            in tiles, which find faces a third as high at nine times the cost. The result says which
            it was.
        isolation: ``process``, or ``none`` for platforms without child processes: the runtime then
            lives in the app's own process, memory, crashes and all.
        memory_cap_bytes: Heap limit of that process, where the system has one (Linux); `None` for
            what suits the model, 0 for none.
        idle_s: Seconds without a frame after which the process is ended; `None` for never.
        memory_budget_bytes: The most that the app and its children may hold; `None` for all that
            the system or the cgroup has. Before memory is short the detector is unloaded, or not
            started, and `unavailable_reason` says so.
        read_memory: Reads the memory instead of `MemoryProbe`, for tests.

    Raises:
        MissingExtraError: If no runtime is installed.
        ConfigurationError: If there is no such model, no child process can be started here, or
            MediaPipe does not run on this processor.
    """

    kind = BackendKind.DEVICE

    def __init__(
        self,
        *,
        model: str = AUTO_MODEL,
        side_px: int | None = None,
        model_path: Path | None = None,
        model_fetch: bool = True,
        min_confidence: float | None = None,
        runtime: str = "auto",
        quality: QualityLevel | str = QualityLevel.FAST,
        isolation: str = "process",
        memory_cap_bytes: int | None = None,
        idle_s: float | None = IDLE_S,
        memory_budget_bytes: int | None = None,
        read_memory: Callable[[], MemoryReading] | None = None,
    ) -> None:
        specs = candidates(
            model, model_path, runtime=runtime, memory_budget_bytes=memory_budget_bytes
        )
        self._side_px = side_px
        for spec in specs:
            spec.input(side_px)  # refuses a side that it does not have
        self._runtimes = {
            spec.name: choose_runtime(runtime, runtimes=spec.runtimes) for spec in specs
        }
        if min_confidence is not None and not 0 <= min_confidence <= 1:
            msg = f"min_confidence: expected 0 to 1, got {min_confidence!r}"
            raise ConfigurationError(msg)
        if isolation not in {"process", "none"}:
            msg = f"isolation: expected 'process' or 'none', got {isolation!r}"
            raise ConfigurationError(msg)
        if isolation == "process":
            require_child_processes()

        def make(name: str, progress: Progress, before_start: Callable[[], None]) -> Detector:
            spec = model_spec(name)
            size = spec.input(side_px)
            runs_on = self._runtimes[name].name
            guard.expect(
                needed_bytes=size.needed_bytes - RUNTIMES[runs_on].saves_bytes,
                recycle_bytes=size.recycle_bytes,
            )
            load = partial(
                load_candidate,
                spec,
                specs[specs.index(spec) + 1 :],
                path=model_path,
                fetch=model_fetch,
                progress=progress,
                load=load_model,
            )
            lowest = size.threshold if min_confidence is None else min_confidence
            if isolation == "none":
                return InProcessDetector(
                    load,
                    min_confidence=lowest,
                    enough_px=size.enough_px,
                    runtime=runs_on,
                    side_px=size.side_px,
                )
            return DetectorWorker(
                load,
                min_confidence=lowest,
                enough_px=size.enough_px,
                runtime=runs_on,
                side_px=size.side_px,
                memory_cap_bytes=(
                    size.memory_cap_bytes if memory_cap_bytes is None else memory_cap_bytes
                ),
                recycle_bytes=size.recycle_bytes,
                before_start=before_start,
            )

        guard = MemoryGuard(memory_budget_bytes=memory_budget_bytes, read=read_memory)
        self._engine = Engine(
            specs[0].name,
            make,
            idle_s=idle_s,
            guard=guard,
            quality=quality_level(quality),
            instead=[spec.name for spec in specs[1:]],
            is_quick_enough=is_quick_enough,
            expendable=[
                name
                for name, choice in self._runtimes.items()
                if choice.name != self._runtimes[specs[-1].name].name
            ],
        )
        self._slots = NewestWinsSlots(self.kind, places=1)

    @property
    def runtime(self) -> str:
        """What runs the model here, and why."""
        return self._runtimes[self._engine.model].told(self._engine.runs_on)

    @property
    def recall_by_height(self) -> tuple[tuple[float, float], ...]:
        """The share of the faces that its model finds, by their height."""
        return model_spec(self._engine.model).input(self._side_px).recall_by_height

    @property
    def unavailable_reason(self) -> str:
        """Why no frame should be given to this backend now; empty when one may be."""
        return self._engine.unavailable_reason

    @property
    def is_starting(self) -> bool:
        """Whether the model is being fetched or the detector loaded."""
        return self._engine.is_loading

    async def start(self) -> None:
        """Begin to load the detector, without waiting for it."""
        self._engine.start()

    async def check(self, *, deadline_s: float) -> None:
        """Prove that the detector answers, beginning to load it if need be.

        A load that takes longer goes on, and the next check waits for the same one.

        Args:
            deadline_s: Seconds to wait.

        Raises:
            BackendTimeoutError: If it is not loaded by then.
            BackendUnavailableError: If the runtime cannot run here.
            ModelError: If the model cannot be had.
            ClosedError: If this service is closed.
        """
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(deadline_s) as scope:
                await self._engine.ready(due_s=started_s + deadline_s)
        except TimeoutError as exc:
            if not scope.expired():
                raise
            within = f"within {deadline_s:.3f} s"
            msg = f"the model {self._engine.model!r} was not loaded {within}; loading goes on"
            if self._engine.is_loaded:
                msg = f"the detector's process did not answer {within}"
            raise _timed_out(msg, started_s, deadline_s) from exc
        except ConfigurationError as exc:
            raise _unavailable(exc, started_s) from exc

    async def detect(self, frame: Frame, plan: Plan) -> DetectionResult:
        """Look for faces in `frame` inside ``plan.deadline_s`` seconds from now.

        Past its deadline a detection goes on, its answer is dropped, and the next frame waits for
        it inside its own deadline. One that takes a second more than that deadline is hung, and is
        ended with its process.

        Raises:
            BackendTimeoutError: If there was no answer by then.
            SupersededError: If a newer frame came while this one waited for its turn.
            BackendUnavailableError: If the model or the runtime cannot be had.
            InvalidFrameError: If the frame turns out not to be a readable image.
            ClosedError: If this service is closed.
        """
        self._engine.require_open()
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(plan.deadline_s) as scope:
                await self._slots.take(frame.frame_id)
                detection = await self._engine.detect(
                    frame, started_s + plan.deadline_s, when_done=self._slots.leave
                )
        except TimeoutError as exc:
            if not scope.expired():
                raise
            msg = f"no answer from the device within {plan.deadline_s:.3f} s"
            raise _timed_out(msg, started_s, plan.deadline_s) from exc
        except (ModelError, ConfigurationError) as exc:
            raise _unavailable(exc, started_s) from exc
        except BackendError as exc:
            exc.elapsed_s = time.monotonic() - started_s
            raise
        timings = Timings(total_s=time.monotonic() - started_s, detect_s=detection.detect_s)
        result = self.answer(
            frame,
            plan,
            detection.faces,
            model=self._engine.model,
            timings=timings,
            quality=detection.level.value,
            min_face_px=model_spec(self._engine.model).min_face_px(
                frame.width, frame.height, side_px=self._side_px, level=detection.level
            ),
        )
        if not detection.note:
            return result
        reason = f"{result.reason}; {detection.note}"
        return replace(result, status=DetectionStatus.DEGRADED, reason=reason)

    async def unload(self) -> None:
        """End the detector's process, which gives its memory back; the next frame starts it."""
        await self._engine.unload()

    async def aclose(self) -> None:
        """Stop: a waiting frame gets `ClosedError`, a running detection ends first.

        One that hangs is killed with its process; without a process of its own it is left
        behind, and its thread ends when it does.
        """
        self._slots.refuse_waiting(closed_error())
        await self._engine.aclose()


def _unavailable(exc: Exception, started_s: float) -> BackendUnavailableError:
    elapsed_s = time.monotonic() - started_s
    return BackendUnavailableError(str(exc), backend=BackendKind.DEVICE, elapsed_s=elapsed_s)


def _timed_out(message: str, started_s: float, deadline_s: float) -> BackendTimeoutError:
    return BackendTimeoutError(
        message,
        backend=BackendKind.DEVICE,
        elapsed_s=time.monotonic() - started_s,
        deadline_s=deadline_s,
    )
