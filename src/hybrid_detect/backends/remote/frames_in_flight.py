"""The frames of a stream that wait for their answers, and what becomes of them with their link."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

from websockets.asyncio.client import ClientConnection

from hybrid_detect.backends.remote.link_meter import Upload
from hybrid_detect.errors import BackendError, ProtocolError
from hybrid_detect.exchange.wire import (
    decode_request,
    encode_request,
    peek_request_id,
    with_request_id,
)

__all__ = ["FrameInFlight", "FramesInFlight"]

RESUME_WAIT_S = 0.5
"""How long frames wait for another link. Most are made within 0.2 s; a device that could answer
instead is still in time after half of a frame's usual deadline."""

MAX_LINKS = 3
"""Links that a frame may be on. One that breaks each of them, such as by its size, would go on for
ever."""


@dataclass(eq=False, slots=True)
class FrameInFlight:
    """One frame that was or is being sent."""

    request_id: int
    request: bytes = field(repr=False)
    upload: Upload | None
    reply: asyncio.Future[bytes] = field(repr=False)
    begun_s: float = field(default_factory=time.monotonic)
    link: ClientConnection | None = None
    """The link that it is on."""
    links: int = 0
    """Links that it has been on."""

    def message(self) -> bytes:
        """The message for its link; one that is sent again tells the time that is left by now."""
        request = self.request if self.links <= 1 else self._with_time_left()
        return with_request_id(request, self.request_id)

    def _with_time_left(self) -> bytes:
        try:
            told = decode_request(self.request)
        except ProtocolError:
            return self.request  # sealed: what it says was fixed when it was
        if told.deadline_s is None:
            return self.request
        left_s = max(told.deadline_s - (time.monotonic() - self.begun_s), 0.0)
        return encode_request(replace(told, deadline_s=left_s))

    def fail(self, error: BackendError) -> None:
        """It gets no answer, because of `error`."""
        if not self.reply.done():
            self.reply.set_exception(error)


class FramesInFlight:
    """The frames under way, by request id."""

    def __init__(self) -> None:
        self._frames: dict[int, FrameInFlight] = {}
        self._late: dict[int, Upload] = {}
        self._limit: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: FrameInFlight) -> None:
        """`frame` is about to be sent."""
        self._frames[frame.request_id] = frame

    def discard(self, frame: FrameInFlight) -> None:
        """`frame` has its answer, or waits for it no longer."""
        del self._frames[frame.request_id]
        if frame.reply.done() and not frame.reply.cancelled():
            frame.reply.exception()  # seen, even if sending failed before it could be awaited

    def sent(self, frame: FrameInFlight) -> None:
        """`frame` has been handed over: its upload is measured even if it is given up."""
        if frame.upload is not None:
            self._late[frame.request_id] = frame.upload

    def answered(self, message: bytes) -> None:
        """A message has come; one that answers no frame that waits is dropped."""
        request_id = peek_request_id(message)
        frame = self._frames.get(request_id)
        upload = self._late.pop(request_id, None)
        if frame is not None and not frame.reply.done():
            frame.reply.set_result(message)
        elif upload is not None:
            upload.answered_unread()

    @property
    def awaited(self) -> list[int]:
        """The request ids of the frames that wait."""
        return [each for each, frame in self._frames.items() if not frame.reply.done()]

    def broken(self, lost: Callable[[], BackendError], *, is_resumable: bool) -> None:
        """The link is gone.

        Args:
            lost: Makes the error for one frame.
            is_resumable: Whether frames wait for the next link, for `RESUME_WAIT_S` altogether.
        """
        self._late.clear()
        for frame in self._frames.values():
            if not is_resumable or frame.links >= MAX_LINKS:
                frame.fail(lost())
        if is_resumable and self._limit is None and self._frames:
            loop = asyncio.get_running_loop()
            self._limit = loop.call_later(RESUME_WAIT_S, self._fail_all, lost)
        elif not is_resumable:
            self._stop_limit()

    def resumed(self, known: Collection[int]) -> Iterable[FrameInFlight]:
        """There is another link.

        Args:
            known: Request ids that the server has, and answers over it.

        Returns:
            The frames that must be sent again.
        """
        self._stop_limit()
        return [self._frames[each] for each in self.awaited if each not in known]

    def _fail_all(self, lost: Callable[[], BackendError]) -> None:
        self._limit = None
        for frame in self._frames.values():
            frame.fail(lost())

    def _stop_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
