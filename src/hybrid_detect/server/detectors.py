"""Detectors off the event loop: a bounded queue in front of several processes.

Pictures are decoded in those processes as well, so that one that is dear to decode falls under the
same limit as one that is dear to look at: it is ended with its process, holds up neither the other
detectors nor the server's end, and never reaches a decoder in the server's own process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from hybrid_detect.backends.device.model_registry import model_spec
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.runtimes import choose_runtime
from hybrid_detect.backends.device.supervised_worker import SupervisedWorker, outcome, retried_once
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.config import DEFAULT_MIN_CONFIDENCE
from hybrid_detect.errors import BackendUnavailableError
from hybrid_detect.exchange.model_info import ModelInfo
from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.server.admission import Admission
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.system.memory_probe import DEVICE_DETECTOR_BYTES, MemoryProbe
from hybrid_detect.types import Face, QualityLevel

__all__ = ["Detection", "Detector", "DetectorPool"]

logger = logging.getLogger("hybrid_detect.server")

DETECT_LIMIT_S = 5.0
"""Seconds for decoding and detecting in a picture without a deadline, and the most for one with:
16 megapixels take less than one."""

HANG_GRACE_S = 2.0
"""Seconds after that until the detector's process counts as hung and is killed. A client must not
be able to kill one with a short deadline, nor a busy machine by being slow."""

CLOSE_TIMEOUT_S = 1.0
"""Seconds that pictures under way have to end when the pool is closed: the server has waited for
their clients before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """The faces in a picture, in its pixels."""

    width: int
    height: int
    faces: tuple[Face, ...]
    queue_s: float
    """Seconds of waiting for a free detector."""
    detect_s: float
    """Seconds of decoding and detecting."""
    min_confidence: float | None = None
    """The lowest score that was reported; `None` if the detector does not say."""
    model: str = ""
    """The model that looked; empty for the detector's own."""
    quality: QualityLevel | None = None
    """The level that was used; `None` for a detector without levels."""
    min_face_px: float | None = None
    """Height of the smallest face that could have been found; `None` if unknown."""


class Detector(Protocol):
    """What the server needs of the object that detects."""

    model: str
    """The name of its model, or of the usual one of several."""
    info: ModelInfo | None
    """What clients are told of the model; `None` for nothing."""

    async def start(self) -> None:
        """Get ready."""
        ...

    async def detect(
        self, request: DetectRequest, *, is_abandoned: Callable[[], Awaitable[bool]] | None = None
    ) -> Detection:
        """Find the faces in a picture."""
        ...

    async def aclose(self) -> None:
        """Stop; called after a failed `start`, too."""
        ...


class DetectorPool:
    """Detectors in processes of their own, and a bounded number of pictures waiting for one.

    Each is asked by a thread of its own, which does nothing but wait. The one that was idle longest
    is next, so that one that keeps failing does not get every picture.
    """

    def __init__(self, config: ServerConfig, admission: Admission | None = None) -> None:
        self.model = config.model
        self.info: ModelInfo | None = None
        self._admission = admission or Admission(max_waiting=config.max_waiting)
        self._config = config
        self._workers: list[SupervisedWorker[DetectorWorker]] = []
        self._idle: deque[SupervisedWorker[DetectorWorker]] = deque()
        self._closing = False

    async def start(self) -> None:
        """Load the model and build the detectors: as many as configured, or as memory allows.

        Raises:
            MissingExtraError: If no runtime is installed.
            ConfigurationError: If the runtime does not run on this processor.
            ModelError: If the model cannot be had from any source.
            BackendUnavailableError: If a detector's process cannot start. The others are ended by
                `aclose`.
        """
        config = self._config
        spec = model_spec(config.model)
        size = spec.input()
        # Before the model, which could not be used without one, is fetched.
        runtime = choose_runtime(runtimes=spec.runtimes)
        logger.info("the detectors run on %s", runtime.told())
        load = partial(load_model, config.model, path=config.model_path)
        await asyncio.to_thread(load)  # Here, so that a download is waited for once.
        for _ in range(_affordable(config.detectors)):
            worker = DetectorWorker(
                load,
                min_confidence=max(DEFAULT_MIN_CONFIDENCE, config.min_confidence),
                lowest_confidence=config.min_confidence,
                enough_px=size.enough_px,
                runtime=runtime.name,
                side_px=size.side_px,
                memory_cap_bytes=size.memory_cap_bytes,
                recycle_bytes=size.recycle_bytes,
                decodes=True,
            )
            self._workers.append(
                SupervisedWorker(worker, thread_name="detector", grace_s=lambda: HANG_GRACE_S)
            )
        starts = (worker.run(worker.detector.start) for worker in self._workers)
        for result in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        self._idle.extend(self._workers)
        self._admission.open(len(self._workers))

    async def detect(
        self, request: DetectRequest, *, is_abandoned: Callable[[], Awaitable[bool]] | None = None
    ) -> Detection:
        """Find the faces in the picture of `request` as soon as a detector is free.

        Args:
            request: The picture and how long its answer is of use.
            is_abandoned: Asked once a detector is free, because work for a client that has gone
                would only delay the others.

        Raises:
            OverloadedError: If it could not be looked at in time.
            TooLateError: If its deadline passed, or its client went, while it waited.
            StoppingError: If the server is being stopped.
            InvalidFrameError: If it is not an image.
            BackendUnavailableError: If the detector's process died, or hung and was killed, and
                there was no time for another, or that one failed as well.
        """
        place = self._admission.place(request.deadline_s, is_abandoned=is_abandoned)
        async with place as look:
            return await self._run(request, look.queue_s)

    async def _run(self, request: DetectRequest, queue_s: float) -> Detection:
        limit_s = DETECT_LIMIT_S
        if request.deadline_s is not None:
            limit_s = min(request.deadline_s - queue_s, limit_s)
        due_s = time.monotonic() + limit_s

        async def turn() -> Detection:
            return await self._turn(request, queue_s, due_s)

        def may_retry(error: BackendUnavailableError) -> bool:
            # It died, or may not be started again yet. The next in line may well be fine.
            has_time = time.monotonic() < due_s and not self._closing
            if has_time:
                logger.warning("a picture is given to another detector: %s", error)
            return has_time

        return await retried_once(turn, may_retry=may_retry)

    async def _turn(self, request: DetectRequest, queue_s: float, due_s: float) -> Detection:
        """Let the detector that was idle longest look at a picture."""
        worker = self._idle.popleft()
        try:
            job = worker.submit(self._detect, worker.detector, request, queue_s, due_s=due_s)
            try:
                return await outcome(job)
            except asyncio.CancelledError:
                # A thread cannot be stopped. If the caller goes away, the place is kept until the
                # thread is free, so that each detector has one picture at most.
                await asyncio.wait([job])
                raise
        finally:
            self._idle.append(worker)

    def _detect(
        self, detector: DetectorWorker, request: DetectRequest, queue_s: float
    ) -> Detection:
        started_s = time.monotonic()
        applied = max(request.min_confidence, self._config.min_confidence)
        found = detector.detect_encoded(
            request.image, max_pixels=self._config.max_pixels, min_confidence=applied
        )
        return Detection(
            width=found.width,
            height=found.height,
            faces=found.faces,
            queue_s=queue_s,
            detect_s=time.monotonic() - started_s,
            min_confidence=applied,
        )

    async def aclose(self) -> None:
        """Let running detections end, within `CLOSE_TIMEOUT_S`, then end every detector."""
        self._closing = True
        closings = (worker.aclose(timeout_s=CLOSE_TIMEOUT_S) for worker in self._workers)
        await asyncio.gather(*closings)


def _affordable(wanted: int) -> int:
    """How many detectors of `wanted` there is memory for; at least one, which may yet fit."""
    left_bytes = MemoryProbe(children=False).read().available_bytes
    if left_bytes is None:
        return wanted
    count = max(min(wanted, left_bytes // DEVICE_DETECTOR_BYTES), 1)
    if count < wanted:
        logger.warning("memory for %d of %d detectors is left", count, wanted)
    return count
