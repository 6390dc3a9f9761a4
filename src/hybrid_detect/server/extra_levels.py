"""Levels above the usual one: their processes start when a request asks, and end when idle.

They take several times the memory of the usual ones, and most servers never need them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from hybrid_detect.errors import HybridDetectError
from hybrid_detect.types import QualityLevel

__all__ = ["ExtraLevels"]

logger = logging.getLogger("hybrid_detect.server")

IDLE_S = 60.0
"""Seconds without a request for a level after which its processes are ended. They take 0.3 s to
start again."""

PATIENCE_S = 2.0
"""A request with more time left than this waits for the level to start; the others are looked at
at a lower level meanwhile."""

RETRY_S = 30.0
"""Seconds after a failed start, such as for want of memory, before the next one."""


class ExtraLevels:
    """Starts and ends the processes of levels that are not always there.

    Args:
        levels: The levels.
        start: Starts the processes of a level, and offers it.
        stop: Withdraws a level, and ends its processes.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        levels: Iterable[QualityLevel],
        *,
        start: Callable[[QualityLevel], Awaitable[None]],
        stop: Callable[[QualityLevel], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start_level = start
        self._stop_level = stop
        self._clock = clock
        self._asked_s = dict.fromkeys(levels, 0.0)
        self.levels = self._asked_s.keys()
        """The levels."""
        self._failed_s: dict[QualityLevel, float] = {}
        self._tasks: dict[QualityLevel, asyncio.Task[None]] = {}
        self._is_up: dict[QualityLevel, asyncio.Event] = {}
        self._wanted: set[QualityLevel] = set()
        """Levels that were asked for since they began to end."""

    async def want(self, level: QualityLevel, deadline_s: float | None) -> None:
        """Have `level` started if it is one of these, and wait for it if there is time.

        Args:
            level: The level that a request asks for.
            deadline_s: Seconds that the request has; `None` if unknown.
        """
        if level not in self._asked_s:
            return
        now_s = self._clock()
        self._asked_s[level] = now_s
        self._wanted.add(level)
        if level not in self._tasks:
            if now_s - self._failed_s.get(level, -RETRY_S) < RETRY_S:
                return
            self._is_up[level] = asyncio.Event()
            self._tasks[level] = asyncio.create_task(self._life(level, self._is_up[level]))
        task, is_up = self._tasks[level], self._is_up[level]
        if not is_up.is_set() and (deadline_s is None or deadline_s > PATIENCE_S):
            waiting = asyncio.ensure_future(is_up.wait())
            try:
                await asyncio.wait(
                    {task, waiting}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                waiting.cancel()

    async def aclose(self) -> None:
        """Stop watching. The processes are ended with all the others."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _life(self, level: QualityLevel, is_up: asyncio.Event) -> None:
        """From the start of a level to its end, and again if it was asked for while it ended."""
        try:
            while level in self._wanted:
                try:
                    await self._start_level(level)
                except HybridDetectError as error:
                    self._failed_s[level] = self._clock()
                    logger.warning("the level %r cannot be had now: %s", level.value, error)
                    return
                is_up.set()
                left_s = IDLE_S
                while left_s > 0:
                    await asyncio.sleep(left_s)
                    left_s = self._asked_s[level] + IDLE_S - self._clock()
                is_up.clear()
                self._wanted.discard(level)
                await self._stop_level(level)
        finally:
            del self._tasks[level]
