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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Protocol

from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.supervised_worker import SupervisedWorker, retried_once
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.backends.device.worker_messages import DroppedError
from hybrid_detect.config import quality_level
from hybrid_detect.errors import (
    BackendUnavailableError,
    ConfigurationError,
    HybridDetectError,
)
from hybrid_detect.exchange.model_info import ModelInfo
from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.frames.announced_size import announced_size
from hybrid_detect.frames.decoding import check_pixels
from hybrid_detect.server.admission import Admission, TooLateError
from hybrid_detect.server.batch_detector import BatchDetector
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.extra_levels import ExtraLevels
from hybrid_detect.server.levels import ServedLevel, model_info, served_levels, usual_level
from hybrid_detect.server.looks import Look
from hybrid_detect.server.places import Place
from hybrid_detect.server.served_worker import IsAbandoned
from hybrid_detect.system.memory_probe import MemoryProbe
from hybrid_detect.types import Face, QualityLevel

__all__ = ["Detection", "Detector", "DetectorPool"]

logger = logging.getLogger("hybrid_detect.server")

DETECT_LIMIT_S = 5.0
"""Seconds for decoding and detecting in a picture without a deadline, and the most for one with:
16 megapixels take less than one."""

HANG_GRACE_S = 2.0
"""Seconds after that until the detector's process counts as hung and is killed. A client must not
be able to kill one with a short deadline, nor a busy machine by being slow."""

KNOWN_SIZES = 64
"""Sizes of pictures of which it is remembered how small a face a level finds: a camera has one."""

TURNED_LOOKS = 4
"""Looks at a picture that is turned as well: upright, and by 90, 180 and 270 degrees."""

CLOSE_TIMEOUT_S = 1.0
"""Seconds that pictures under way have to end when the pool is closed: the server has waited for
their clients before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """The faces in a picture, in its pixels."""

    width: int
    height: int
    faces: Sequence[Face]
    queue_s: float
    """Seconds of waiting for a free detector."""
    detect_s: float
    """Seconds of decoding and detecting."""
    decode_s: float | None = None
    """Seconds of these that decoding took; `None` if the detector does not say."""
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
        self, request: DetectRequest, *, caller: str = "", is_abandoned: IsAbandoned | None = None
    ) -> Detection:
        """Find the faces in a picture."""
        ...

    async def aclose(self) -> None:
        """Stop; called after a failed `start`, too."""
        ...


class DetectorPool:
    """Detectors in processes of their own, and a bounded number of pictures waiting for one.

    There are as many places as detectors are configured, with a process for each level of quality;
    one of them looks at a time. The event loop asks it; a thread of its own does where that would
    mean waiting (`served_worker`). The place that was idle longest is next, so that one that keeps
    failing does not get every picture.
    """

    def __init__(self, config: ServerConfig, admission: Admission | None = None) -> None:
        self.model = config.model
        self.info: ModelInfo | None = None
        self._admission = admission or Admission(max_waiting=config.max_waiting)
        self._config = config
        self._levels: dict[QualityLevel, ServedLevel] = {}
        self._offered: dict[QualityLevel, float] = {}
        self._usual = quality_level(config.quality)
        self._batches: dict[QualityLevel, BatchDetector] = {}
        self._min_face_px: dict[QualityLevel, Callable[[int, int], float]] = {}
        self._places: list[Place] = []
        self._idle: deque[Place] = deque()
        self._extra = ExtraLevels((), start=self._start_level, stop=self._stop_level)
        self._closing = False

    async def start(self) -> None:
        """Load the models and start the detectors; see `_start`.

        Where a graphics processor is configured and cannot be used, the processor takes its place
        if the configuration allows that, and the log says so.

        Raises:
            Exception: What `_start` raises.
        """
        try:
            await self._start()
        except (BackendUnavailableError, ConfigurationError) as error:
            if self._config.provider == "cpu" or not self._config.provider_fallback:
                raise
            logger.warning("looking on the processor: %s", error)
            await self._close_detectors()
            self._config = replace(self._config, provider="cpu")
            await self._start()

    async def _start(self) -> None:
        """Load the models and start the detectors: as many as configured, or as memory allows.

        The usual level's processes are started, and those of the quicker ones, which stand in for
        it when time is short. More thorough ones start when they are asked for.

        Raises:
            MissingExtraError: If no runtime is installed.
            ConfigurationError: If the runtime does not run on this processor.
            ModelError: If no model can be had from any source.
            BackendUnavailableError: If a detector's process cannot start. The others are ended by
                `aclose`.
        """
        config = self._config
        levels = await asyncio.to_thread(served_levels, config)
        usual = usual_level(levels, self._usual)
        self._levels = {level.quality: level for level in levels}
        self._min_face_px = {
            level.quality: lru_cache(KNOWN_SIZES)(level.min_face_px) for level in levels
        }
        self._usual = usual.quality
        self.model, self.info = usual.spec.name, model_info(levels, usual)
        begun = levels[: levels.index(usual) + 1]
        extra = levels[len(begun) :]
        self._batches = {
            level.quality: BatchDetector(
                level.batch_worker(config),
                most=level.most,
                max_pixels=config.max_pixels,
                grace_s=_grace_s,
            )
            for level in levels
            if level.most > 1
        }
        if self._batches:
            places = 2 * usual.most  # one batch is looked at, the next one comes
        else:
            needed_bytes = sum(level.size.needed_bytes for level in begun)
            places = _affordable(config.detectors_at(usual.quality), needed_bytes)
        self._places = [Place(levels, config, grace_s=_grace_s) for _ in range(places)]
        await asyncio.gather(*(self._start_level(level.quality) for level in begun))
        self._extra = ExtraLevels(
            (level.quality for level in extra), start=self._start_extra, stop=self._stop_level
        )
        self._idle.extend(self._places)
        self._admission.open(len(self._places))
        logger.info(
            "looking with %s (level %s; also %s) in %d places",
            self.model,
            usual.quality,
            ", ".join(level.quality for level in levels if level is not usual) or "none",
            len(self._places),
        )

    async def _start_level(self, quality: QualityLevel) -> None:
        """Start a level's process in each place, and offer it."""
        workers = self._workers(quality)
        starts = (worker.run(worker.detector.start) for worker in workers)
        for result in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        self._offered[quality] = self._levels[quality].level.guess_s
        self._admission.offer(self._offered)

    def _workers(self, quality: QualityLevel) -> list[SupervisedWorker[Any]]:
        if quality in self._batches:
            return [self._batches[quality].worker]
        return [place.workers[quality] for place in self._places]

    async def _start_extra(self, quality: QualityLevel) -> None:
        needed_bytes = self._levels[quality].size.needed_bytes
        places = len(self._workers(quality))
        if _affordable(places, needed_bytes, at_least=0) < places:
            msg = f"there is no memory for {places} more detectors"
            raise BackendUnavailableError(msg)
        try:
            await self._start_level(quality)
        except HybridDetectError:
            await self._end_processes(quality)
            raise

    async def _stop_level(self, quality: QualityLevel) -> None:
        """Offer a level no longer, and end its processes once a picture under way is answered."""
        del self._offered[quality]
        self._admission.offer(self._offered)
        await self._end_processes(quality)

    async def _end_processes(self, quality: QualityLevel) -> None:
        workers = self._workers(quality)
        await asyncio.gather(*(worker.run(worker.detector.stop) for worker in workers))

    async def detect(
        self, request: DetectRequest, *, caller: str = "", is_abandoned: IsAbandoned | None = None
    ) -> Detection:
        """Find the faces in the picture of `request` as soon as a detector is free.

        Args:
            request: The picture, how long its answer is of use, and how thoroughly to look.
            caller: Who sent it; callers take turns.
            is_abandoned: Asked once a detector is free, and during a long look, because work for a
                client that has gone would only delay the others.

        Raises:
            OverloadedError: If it could not be looked at in time.
            TooLateError: If its deadline passed, or its client went, while it waited.
            StoppingError: If the server is being stopped.
            InvalidFrameError: If it is not an image, or has too many pixels.
            BackendUnavailableError: If the detector's process died, or hung and was killed, and
                there was no time for another, or that one failed as well.
        """
        if (size := announced_size(request.image)) is not None:
            check_pixels(*size, max_pixels=self._config.max_pixels)  # before it takes a place
        asked, deadline_s = request.quality or self._usual, request.deadline_s
        if asked in self._extra.levels:
            came_s = time.monotonic()
            await self._extra.want(asked, deadline_s)
            if deadline_s is not None:
                deadline_s -= time.monotonic() - came_s
        place = self._admission.place(
            deadline_s, asked=asked, caller=caller, is_abandoned=is_abandoned
        )
        async with place as look:
            limit_s = DETECT_LIMIT_S
            if deadline_s is not None:
                limit_s = min(deadline_s - look.queue_s, limit_s)
            due_s = time.monotonic() + limit_s
            if look.level in self._batches:  # which looks at a picture again itself
                return await self._batch_turn(request, look, due_s)
            turn = partial(self._turn, request, look, due_s, is_abandoned)
            return await retried_once(turn, may_retry=partial(self._may_retry, due_s))

    def _may_retry(self, due_s: float, error: BackendUnavailableError) -> bool:
        # It died, or may not be started again yet. The next in line may well be fine.
        has_time = time.monotonic() < due_s and not self._closing
        if has_time:
            logger.warning("a picture is given to another detector: %s", error)
        return has_time

    async def _batch_turn(self, request: DetectRequest, look: Look, due_s: float) -> Detection:
        """Have a picture looked at with those that come at the same time."""
        started_s = time.monotonic()
        applied = self._lowest_score(request, look)
        detector = self._batches[look.level]
        found = await detector.detect(request.image, min_confidence=applied, due_s=due_s)
        return self._detection(found, look, started_s, applied)

    async def _turn(
        self,
        request: DetectRequest,
        look: Look,
        due_s: float,
        is_abandoned: IsAbandoned | None,
    ) -> Detection:
        """Let the place that was idle longest look at a picture."""
        place = self._idle.popleft()
        try:
            # To look at the turned picture as well is, to a worker, another level.
            turns = request.second_look and self._admission.may_look_again(look, TURNED_LOOKS)
            level = QualityLevel.HIGH if turns else QualityLevel.FAST
            started_s = time.monotonic()
            applied = self._lowest_score(request, look)
            found = await place.workers[look.level].look(
                request.image,
                due_s=due_s,
                is_abandoned=is_abandoned,
                max_pixels=self._config.max_pixels,
                min_confidence=applied,
                level=level,
            )
            return self._detection(found, look, started_s, applied)
        except DroppedError:
            raise TooLateError from None
        finally:
            self._idle.append(place)

    def _lowest_score(self, request: DetectRequest, look: Look) -> float:
        """The score below which faces are left out: the one asked for, or the model's own.

        The operator's limit holds for both. The model is that of the level that looks, which may be
        below the one that was asked for.
        """
        asked, lowest = request.min_confidence, self._config.min_confidence
        if asked is None:
            asked = self._levels[look.level].size.threshold
        return asked if asked > lowest else lowest

    def _detection(
        self, found: PictureFaces, look: Look, started_s: float, applied: float
    ) -> Detection:
        level = self._levels[look.level]
        return Detection(
            width=found.width,
            height=found.height,
            faces=found.faces,
            queue_s=look.queue_s,
            detect_s=time.monotonic() - started_s,
            decode_s=found.decode_s,
            min_confidence=applied,
            model=level.spec.name,
            quality=level.quality,
            min_face_px=self._min_face_px[look.level](found.width, found.height),
        )

    def detectors(self) -> Iterator[tuple[ServedLevel, DetectorWorker]]:
        """Every detector with its level, those included that have no process now."""
        for quality, level in self._levels.items():
            for worker in self._workers(quality):
                yield level, worker.detector

    async def aclose(self) -> None:
        """Let running detections end, within `CLOSE_TIMEOUT_S`, then end every detector."""
        self._closing = True
        await self._extra.aclose()
        await self._close_detectors()

    async def _close_detectors(self) -> None:
        workers = [worker for place in self._places for worker in place.workers.values()]
        everything: list[SupervisedWorker[Any] | BatchDetector]
        everything = [*workers, *self._batches.values()]
        await asyncio.gather(*(each.aclose(timeout_s=CLOSE_TIMEOUT_S) for each in everything))


def _grace_s() -> float:
    return HANG_GRACE_S


def _affordable(wanted: int, needed_bytes: int, *, at_least: int = 1) -> int:
    """How many places of `wanted` there is memory for; one in any case, which may yet fit."""
    left_bytes = MemoryProbe(children=False).read().available_bytes
    if left_bytes is None:
        return wanted
    count = max(min(wanted, left_bytes // needed_bytes), at_least)
    if count < wanted:
        logger.warning("memory for %d of %d detectors is left", count, wanted)
    return count
