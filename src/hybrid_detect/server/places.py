"""A place: one picture at a time, looked at by the detector of its level."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeAlias, Unpack

from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.connections import Timer
from hybrid_detect.server.levels import ServedLevel
from hybrid_detect.server.served_worker import LookJob, LookOptions, ServedWorker
from hybrid_detect.types import QualityLevel

__all__ = ["IsAbandoned", "Place"]

IsAbandoned: TypeAlias = Callable[[], Awaitable[bool]]
"""Tells whether the client of a picture has gone."""

ABANDONED_EVERY_S = 0.05
"""Seconds between two questions whether the client of a look that goes on is still there: most
looks have ended before the first."""


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
            level.quality: ServedWorker(
                level.worker(config), thread_name=f"detector-{level.quality}", grace_s=grace_s
            )
            for level in levels
            if level.most == 1
        }
        self._until_asked = Timer()
        self._asking: asyncio.Future[None] | None = None  # held, or it might be collected

    async def look(
        self,
        served: QualityLevel,
        picture: bytes,
        *,
        due_s: float,
        is_abandoned: IsAbandoned | None,
        **options: Unpack[LookOptions],
    ) -> PictureFaces:
        """What the detector of the level `served` finds in `picture`.

        Once the client has gone, or the caller is cancelled, the detector is told to drop the
        picture before its next look. The place is kept until the detector is free.

        Raises:
            DroppedError: If the picture was dropped.
            Exception: What `ServedWorker.look` and `DetectorWorker.detect_encoded` raise.
        """
        job = self.workers[served].look(picture, due_s=due_s, **options)
        if is_abandoned is not None:
            self._until_asked.start(ABANDONED_EVERY_S, partial(self._watch, job, is_abandoned))
        try:
            return await job
        except asyncio.CancelledError:
            job.exception()  # marks it as seen
            raise
        finally:
            self._until_asked.stop()

    def _watch(self, job: LookJob, is_abandoned: IsAbandoned) -> None:
        self._asking = asyncio.ensure_future(_drop_if_abandoned(job, is_abandoned))


async def _drop_if_abandoned(job: LookJob, is_abandoned: IsAbandoned) -> None:
    """Have the picture of a long look dropped once its client has gone."""
    while not job.done():
        if await is_abandoned():
            job.cancel()
            return
        await asyncio.sleep(ABANDONED_EVERY_S)
