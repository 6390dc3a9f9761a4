"""Pictures that are looked at together: what comes while the engine is busy is its next batch.

A graphics processor looks at eight pictures in little more time than at one. Nothing waits for
company: an engine that is free takes what is there, be it a single picture.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from hybrid_detect.errors import BackendUnavailableError, ClosedError

__all__ = ["Batcher"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Batcher(Generic[_Item, _Result]):
    """Gives an engine batches of what is submitted one by one. Belongs to one event loop.

    Args:
        look: Looks at a batch; gives for each item its result, or the error that is its own.
            What it raises concerns the whole batch.
        most: Items in one batch at most.
    """

    def __init__(
        self,
        look: Callable[[Sequence[_Item]], Awaitable[Sequence[_Result | Exception]]],
        *,
        most: int,
    ) -> None:
        self._look = look
        self._most = most
        self._waiting: deque[tuple[_Item, asyncio.Future[_Result]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    async def submit(self, item: _Item) -> _Result:
        """The result of `item`, which is in one of the next batches.

        Raises:
            ClosedError: If this is closed.
            Exception: The item's own error, or what its batch failed with.
        """
        if self._is_closed:
            msg = "the detector is closed"
            raise ClosedError(msg)
        answer: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        try:
            return await answer
        finally:
            del answer  # its error holds this frame: each would hold the other, and the item

    async def aclose(self) -> None:
        """Fail what waits. The engine's owner ends a batch that is under way."""
        self._is_closed = True
        while self._waiting:
            _, answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(ClosedError("the detector is closed"))
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        """Batch after batch, until nothing waits."""
        while batch := self._next():
            await self._answer(batch)
        self._task = None

    def _next(self) -> list[tuple[_Item, asyncio.Future[_Result]]]:
        batch: list[tuple[_Item, asyncio.Future[_Result]]] = []
        while self._waiting and len(batch) < self._most:
            item, answer = self._waiting.popleft()
            if not answer.done():  # its caller may have gone
                batch.append((item, answer))
        return batch

    async def _answer(self, batch: list[tuple[_Item, asyncio.Future[_Result]]]) -> None:
        """Answer each item of `batch`."""
        error = await self._look_at(batch)
        if error is None:
            return
        for single in batch:
            # One picture may be what the engine died of. Looked at alone, it costs no other
            # its answer; a batch of one is not looked at again.
            again: Exception | None = error
            if len(batch) > 1 and not self._is_closed:
                again = await self._look_at([single])
            if again is not None and not single[1].done():
                single[1].set_exception(again)

    async def _look_at(
        self, batch: list[tuple[_Item, asyncio.Future[_Result]]]
    ) -> Exception | None:
        """Answer each item of `batch`, or tell what the whole of it failed with."""
        try:
            results = await self._look([item for item, _ in batch])
            if len(results) != len(batch):
                msg = f"{len(batch)} pictures were given {len(results)} answers"
                raise BackendUnavailableError(msg)
        except Exception as error:
            del batch  # the error holds this frame: each would hold the other, and the pictures
            return error
        for (_, answer), result in zip(batch, results, strict=True):
            if answer.done():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)
        return None
