"""Detectors off the event loop: a bounded queue in front of a process each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.errors import BackendUnavailableError, MissingExtraError
from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.extras import is_installed
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server.admission import Admission
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.system.memory_probe import DEVICE_DETECTOR_BYTES, MemoryProbe
from hybrid_detect.types import Face

__all__ = ["Detection", "Detector", "DetectorPool"]

logger = logging.getLogger("hybrid_detect.server")

LOOK_LIMIT_S = 5.0
"""Seconds for a look at a picture without a deadline, and the most for one with: 16 megapixels
are decoded and looked at in less than one."""

HANG_GRACE_S = 2.0
"""Seconds after that until the detector's process counts as hung and is killed. A client must not
be able to kill one with a short deadline, nor a busy machine by being slow."""

WATCH_EVERY_S = 0.25
"""Seconds between two looks whether a detector hangs: short beside the grace, and costs nothing."""

CLOSE_TIMEOUT_S = 1.0
"""For looks under way when the pool is closed; whoever closes it has waited for their clients."""

KILL_EVERY_S = 0.1
"""Seconds between two tries to end what runs when the pool is closed: a process on its way up can
be killed once it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What a detector saw, in the picture's pixels."""

    width: int
    height: int
    faces: tuple[Face, ...]
    queue_s: float
    detect_s: float


class Detector(Protocol):
    """What the app needs; any object with these will do."""

    model: str

    async def start(self) -> None:
        """Get ready."""
        ...

    async def detect(
        self, request: DetectRequest, *, is_abandoned: Callable[[], Awaitable[bool]] | None = None
    ) -> Detection:
        """Look at a picture."""
        ...

    async def aclose(self) -> None:
        """Stop; called after a failed `start`, too."""
        ...


class DetectorPool:
    """Detectors in processes of their own, and a bounded number of pictures waiting for one.

    A thread each decodes the picture and waits for its process; both leave the GIL to others. The
    one that was idle longest is next, so that one that keeps failing does not get every picture.
    """

    def __init__(self, config: ServerConfig, admission: Admission | None = None) -> None:
        self.model = config.model
        self._admission = admission or Admission(max_waiting=config.max_waiting)
        self._config = config
        self._threads = ThreadPoolExecutor(config.detectors, thread_name_prefix="detector")
        self._workers: list[DetectorWorker] = []
        self._idle: deque[DetectorWorker] = deque()
        self._closing = False

    async def start(self) -> None:
        """Load the model and build the detectors: as many as configured, or as memory allows.

        Raises:
            MissingExtraError: If MediaPipe is not installed.
            ModelError: If the model can be had nowhere.
            BackendUnavailableError: If a detector's process cannot start. The others are ended by
                `aclose`.
        """
        if not is_installed("mediapipe"):
            # Before the model, which nobody could use then, is fetched.
            msg = (
                "the server needs mediapipe, which is not installed: "
                "pip install 'hybrid-detect[device]'"
            )
            raise MissingExtraError(msg, extra="device")
        config = self._config
        load = partial(load_model, config.model, path=config.model_path)
        await asyncio.to_thread(load)  # here, so that a download is waited for once
        for _ in range(_affordable(config.detectors)):
            self._workers.append(DetectorWorker(load, min_confidence=config.min_confidence))
        loop = asyncio.get_running_loop()
        starts = [loop.run_in_executor(self._threads, worker.start) for worker in self._workers]
        for outcome in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        self._idle.extend(self._workers)
        self._admission.open(len(self._workers))

    async def detect(
        self, request: DetectRequest, *, is_abandoned: Callable[[], Awaitable[bool]] | None = None
    ) -> Detection:
        """Look at the picture of `request` as soon as a detector is free.

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
        async with place as queue_s:
            return await self._run(request, queue_s)

    async def _run(self, request: DetectRequest, queue_s: float) -> Detection:
        limit_s = LOOK_LIMIT_S
        if request.deadline_s is not None:
            limit_s = min(request.deadline_s - queue_s, limit_s)
        ends_s = time.monotonic() + limit_s
        try:
            return await self._turn(request, queue_s, limit_s)
        except BackendUnavailableError as error:
            left_s = ends_s - time.monotonic()
            if left_s <= 0 or self._closing:
                raise
            # It died, or may not be started again yet. The next in line may well be fine.
            logger.warning("a picture is given to another detector: %s", error)
        return await self._turn(request, queue_s, left_s)

    async def _turn(self, request: DetectRequest, queue_s: float, limit_s: float) -> Detection:
        """Let the detector that was idle longest look, and kill it if it hangs."""
        worker = self._idle.popleft()
        try:
            # A thread cannot be stopped. If the caller goes away, the place is kept until the
            # thread has ended, so that never more pictures are looked at than there are detectors.
            work = asyncio.get_running_loop().run_in_executor(
                self._threads, self._look, worker, request, queue_s
            )
            self._watch(work, worker, limit_s + HANG_GRACE_S)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])
                raise
        finally:
            self._idle.append(worker)

    @staticmethod
    def _watch(work: asyncio.Future[Detection], worker: DetectorWorker, limit_s: float) -> None:
        """Kill the process of `worker` once `work` takes longer, whether or not anybody waits."""
        loop = asyncio.get_running_loop()
        hung_at_s = loop.time() + limit_s

        def look() -> None:
            nonlocal hung_at_s
            if work.done():
                return
            if worker.asked_since_s is None:
                # A start has a limit of its own; killed now it would never end on a slow device.
                # Nor is it to blame for a picture that takes long to decode.
                hung_at_s = loop.time() + limit_s
            elif loop.time() >= hung_at_s:
                logger.warning("a detector hangs and is killed")
                worker.kill()
            loop.call_later(WATCH_EVERY_S, look)

        loop.call_later(WATCH_EVERY_S, look)

    def _look(self, worker: DetectorWorker, request: DetectRequest, queue_s: float) -> Detection:
        started_s = time.monotonic()
        frame = Frame.of(request.image, max_pixels=self._config.max_pixels)
        faces = worker.detect(frame.rgb())
        return Detection(
            width=frame.width,
            height=frame.height,
            faces=tuple(f for f in faces if (f.score or 0.0) >= request.min_confidence),
            queue_s=queue_s,
            detect_s=time.monotonic() - started_s,
        )

    async def aclose(self) -> None:
        """Let running detections end, within `CLOSE_TIMEOUT_S`, then end every detector."""
        self._closing = True
        threads_end = asyncio.create_task(
            asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        )
        await asyncio.wait([threads_end], timeout=CLOSE_TIMEOUT_S)
        while not threads_end.done():
            self._kill_all()
            await asyncio.wait([threads_end], timeout=KILL_EVERY_S)
        # Idle ones, too: each that is stuck would be waited for otherwise.
        self._kill_all()
        for worker in self._workers:
            worker.close()

    def _kill_all(self) -> None:
        for worker in self._workers:
            worker.kill()


def _affordable(wanted: int) -> int:
    """How many detectors of `wanted` there is memory for; at least one, which may yet fit."""
    left_bytes = MemoryProbe(children=False).read().available_bytes
    if left_bytes is None:
        return wanted
    count = max(min(wanted, left_bytes // DEVICE_DETECTOR_BYTES), 1)
    if count < wanted:
        logger.warning("memory for %d of %d detectors is left", count, wanted)
    return count
