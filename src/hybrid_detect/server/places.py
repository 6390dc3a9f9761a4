"""A place: one picture at a time, looked at by the detector of its level."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias, TypeVar

from hybrid_detect.backends.device.supervised_worker import SupervisedWorker
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.levels import ServedLevel
from hybrid_detect.types import QualityLevel

__all__ = ["IsAbandoned", "Place"]

IsAbandoned: TypeAlias = Callable[[], Awaitable[bool]]
"""Tells whether the client of a picture has gone."""

ABANDONED_EVERY_S = 0.05
"""Seconds between two questions whether the client of a look that goes on is still there: most
looks have ended before the first."""

_Answer = TypeVar("_Answer")


class Place:
    """A detector for each level, each in a process of its own.

    Args:
        levels: The levels; those that are looked at in batches are left out.
        config: The configuration of their processes.
        grace_s: Gives the seconds that a look may take beyond its due time.
    """

    def __init__(
        self, levels: Iterable[ServedLevel], config: ServerConfig, *, grace_s: Callable[[], float]
    ) -> None:
        self.workers = {
            level.quality: SupervisedWorker(
                level.worker(config), thread_name=f"detector-{level.quality}", grace_s=grace_s
            )
            for level in levels
            if level.most == 1
        }

    async def answer(
        self,
        level: QualityLevel,
        ask: Callable[[DetectorWorker], _Answer],
        *,
        due_s: float,
        is_abandoned: IsAbandoned | None,
    ) -> _Answer:
        """What `ask`, called in the thread of a level's detector, returns.

        Once the client has gone, or the caller is cancelled, the detector is told to drop the
        picture before its next look. The place is kept until the thread is free.

        Raises:
            DroppedError: If the picture was dropped.
            Exception: What `ask` raises.
        """
        worker = self.workers[level]
        job = worker.submit(ask, worker.detector, due_s=due_s)
        every_s = None if is_abandoned is None else ABANDONED_EVERY_S
        try:
            while not job.done():
                await asyncio.wait([job], timeout=every_s)
                if is_abandoned is not None and not job.done() and await is_abandoned():
                    worker.detector.drop()
            return job.result()
        except asyncio.CancelledError:
            while not job.done():
                worker.detector.drop()
                with contextlib.suppress(asyncio.CancelledError):  # once is enough
                    await asyncio.wait([job], timeout=ABANDONED_EVERY_S)
            job.exception()  # marks it as seen
            raise
