"""Requests that carry several pictures, where a protocol takes them (`Capabilities.max_pictures`).

A frame whose picture is ready waits for the frames that are being compressed for the same target at
that moment, and for no later ones, and goes with them in one request: it saves requests, the
server's overhead for each, and round trips. It waits only while that costs no frame its deadline.
A lone frame never waits.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from hybrid_detect.backends.remote.frame_jobs import Answer, FrameJob
from hybrid_detect.backends.remote.sending import Share, ShareRefusedError, is_about_sharing
from hybrid_detect.backends.remote.setbacks import LearnedLimit, Setback
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import BackendError, BackendResponseError, ClosedError, Refusal

__all__ = ["Batches", "only"]

SAFETY_FACTOR = 2.0
"""A request must be expected to be answered in half of the time that its most urgent frame has
left: the expectation is a median, and what a link carries is known to a factor of 2 or so."""

OVERHEAD_BYTES = 1024
"""Of a picture in a request, beside its bytes: JSON keys and part headers; generous."""

BASE64_FACTOR = 4 / 3
"""Growth of a picture that is sent as base64, which most providers with batches want."""

Send = Callable[[Target, Sequence[Share], Sequence[Target]], Awaitable[list[Answer | BackendError]]]


@dataclass(slots=True, eq=False)
class _Waiting:
    share: Share
    out: Sequence[Target]
    awaited: set[object]
    """The frames that were being compressed for its target when it was ready, and still are."""
    answer: asyncio.Future[Answer] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Batches:
    """The requests to one target.

    Args:
        target: The target.
        send: Sends one request.
        expected_s: Seconds that a request of so many bytes and pictures will take from now.
    """

    def __init__(
        self, target: Target, send: Send, *, expected_s: Callable[[int, int], float]
    ) -> None:
        self._target = target
        self._send = send
        self._expected_s = expected_s
        self._capabilities = target.protocol.capabilities
        self._preparing: set[object] = set()
        self._waiting: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._requests: dict[asyncio.Task[None], list[_Waiting]] = {}
        self._refusal = Setback()
        """Of requests with several pictures, however large."""
        self._limit = LearnedLimit()
        """Of requests with several pictures."""

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """A frame for this target is being compressed inside the block."""
        token = object()
        self._preparing.add(token)
        try:
            yield
        finally:
            self._preparing.discard(token)
            for waiting in self._waiting:
                waiting.awaited.discard(token)
            self._decide()

    async def answer(
        self, job: FrameJob, picture: CompressedImage, out: Sequence[Target]
    ) -> Answer:
        """The target's answer to `picture`, in a request of its own or with others.

        Raises:
            BackendError: If there is none to this picture.
        """
        is_alone = not (self._preparing or self._waiting or out)
        if is_alone or job.plan.probe or not self._refusal.is_over:
            return only(await self._send(self._target, [Share(job, picture)], out))
        waiting = _Waiting(Share(job, picture), out, set(self._preparing))
        if self._waiting and not self._fit([*self._waiting, waiting]):
            self._leave()
        self._waiting.append(waiting)
        self._decide()
        try:
            return await waiting.answer
        finally:
            self._let_go(waiting)

    def _let_go(self, waiting: _Waiting) -> None:
        """`waiting` is answered, or its frame was given up."""
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            self._decide()
        for task, batch in self._requests.items():
            if waiting in batch and all(each.answer.done() for each in batch):
                task.cancel()

    def _fit(self, waiting: Sequence[_Waiting]) -> bool:
        """Whether these may share a request and have the time to."""
        limit = self._capabilities.max_request_bytes
        count = len(waiting)
        size_bytes = _size_bytes(waiting)
        if count > self._capabilities.max_pictures or (limit is not None and size_bytes > limit):
            return False
        if size_bytes > self._limit.most_bytes:
            return False
        return SAFETY_FACTOR * self._expected_s(size_bytes, count) <= _left_s(waiting)

    def _decide(self) -> None:
        """Let the frames that wait leave when it is time to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        if len(self._waiting) >= self._capabilities.max_pictures:
            self._leave()
            return
        if not self._waiting[0].awaited:
            # In the next turn: the frames that another target has just failed come together.
            self._timer = loop.call_soon(self._leave)
            return
        sizes = [len(each.share.picture.data) for each in self._waiting]
        expected_s = self._expected_s(sum(sizes), len(sizes))
        slack_s = _left_s(self._waiting) - SAFETY_FACTOR * expected_s
        self._timer = loop.call_later(max(slack_s, 0.0), self._leave)

    def _leave(self) -> None:
        batch, self._waiting = self._waiting, []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if batch:
            task = asyncio.get_running_loop().create_task(self._exchange(batch))
            self._requests[task] = batch
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        batch = self._requests.pop(task)
        error = None if task.cancelled() else task.exception()
        while isinstance(error, BaseExceptionGroup):  # of pictures that were sent one by one
            error = error.exceptions[0]
        for each in batch:
            if each.answer.done():
                continue
            # Closing has cancelled it, and no caller was; anything else is a bug, for each to see.
            each.answer.set_exception(error or _closed())

    async def _exchange(self, batch: list[_Waiting]) -> None:
        """Send `batch` in one request and tell each frame what came of it."""
        batch = [each for each in batch if not each.answer.done()]
        if not batch:
            return
        try:
            answers = await self._send(self._target, [each.share for each in batch], batch[0].out)
        except ShareRefusedError as error:
            for each in batch:
                if (why := error.refused.get(each.share)) is not None:
                    _tell(each, why)
            await self._exchange([each for each in batch if each.share not in error.refused])
        except BackendError as error:
            if len(batch) == 1 or not is_about_sharing(error):
                for each in batch:
                    _tell(each, copy.copy(error))
                return
            if isinstance(error, BackendResponseError) and error.refusal is Refusal.ADDRESS:
                self._refusal.refused()  # an older server, or a gateway that knows one path
            if isinstance(error, BackendResponseError) and error.refusal is Refusal.SIZE:
                self._limit.refused(_size_bytes(batch) - 1)
            async with asyncio.TaskGroup() as alone:
                for each in batch:
                    each.share = Share(each.share.job, each.share.picture)
                    alone.create_task(self._exchange([each]))
        else:
            if len(batch) > 1:
                self._refusal.taken()
                self._limit.taken(_size_bytes(batch))
            for each, answer in zip(batch, answers, strict=True):
                _tell(each, answer)

    async def aclose(self) -> None:
        """Give up what is under way; the frames fail as closed."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            _tell(each, _closed())
        self._decide()  # ends the timer
        tasks = list(self._requests)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _closed() -> ClosedError:
    return ClosedError("the backend is closed")


def _size_bytes(waiting: Sequence[_Waiting]) -> int:
    """The most that a request of these has."""
    return sum(
        int(len(each.share.picture.data) * BASE64_FACTOR) + OVERHEAD_BYTES for each in waiting
    )


def _left_s(waiting: Sequence[_Waiting]) -> float:
    return min(each.share.job.ends_s for each in waiting) - time.monotonic()


def _tell(waiting: _Waiting, answer: Answer | BackendError | ClosedError) -> None:
    if waiting.answer.done():
        return  # its frame was given up
    if isinstance(answer, Answer):
        waiting.answer.set_result(answer)
    else:
        waiting.answer.set_exception(answer)


def only(answers: list[Answer | BackendError]) -> Answer:
    """The answer to a request's one picture.

    Raises:
        BackendError: If it is an error.
    """
    (answer,) = answers
    if isinstance(answer, BackendError):
        raise answer
    return answer
