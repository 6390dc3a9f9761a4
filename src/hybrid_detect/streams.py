"""Many frames of one source: a few under way at the same time, the results in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from hybrid_detect.frames.sources import OpenSource, Shot
from hybrid_detect.types import DetectionResult

__all__ = ["IN_FLIGHT", "results_in_order"]

IN_FLIGHT = 2
"""Frames of one stream under way at the same time. The second uses the time that the first
spends on the network; a third would only make each result older. Source: measured over emulated
links, `docs/explanation/performance.md`."""


async def results_in_order(
    source: OpenSource,
    look: Callable[[Shot], Awaitable[DetectionResult]],
    *,
    spawn: Callable[[Any], asyncio.Task[Any]],
    in_flight: int = IN_FLIGHT,
) -> AsyncGenerator[DetectionResult]:
    """Yield what `look` makes of each frame of `source`, in the order of the frames.

    An error of the source is raised after the results of the frames that came before it.

    Args:
        source: Where the frames come from.
        look: Gives a result for any frame and raises for none.
        spawn: Runs a coroutine as a task; whoever owns the tasks may cancel them.
        in_flight: Frames that may be under way at the same time.
    """
    pending: deque[asyncio.Task[DetectionResult]] = deque()
    taking: asyncio.Task[Shot | None] | None = None
    error: BaseException | None = None
    exhausted = False
    try:
        while pending or not exhausted:
            if taking is None and not exhausted and len(pending) < in_flight:
                taking = spawn(source.take())
            waited = [task for task in (taking, pending[0] if pending else None) if task]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if taking is not None and taking.done():
                taken, taking = taking, None
                error = taken.exception()
                shot = None if error else taken.result()
                if shot is None:
                    exhausted = True
                else:
                    pending.append(spawn(look(shot)))
            while pending and pending[0].done():
                yield pending.popleft().result()
        if error is not None:
            raise error
    finally:
        left = [task for task in (taking, *pending) if task]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
