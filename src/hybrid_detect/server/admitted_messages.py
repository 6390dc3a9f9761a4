"""The messages of a stream that the gate has let in: each is counted, and some end the stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Send

from hybrid_detect.exchange.wire import (
    CREDENTIAL_ENDED,
    PREAMBLE_BYTES,
    announced_request_id,
    encode_reply,
    peek_request_id,
)
from hybrid_detect.server.connections import Timer
from hybrid_detect.server.direct_messages import DIRECT, DirectLink, Taker
from hybrid_detect.server.observation import note_reply
from hybrid_detect.server.replies import too_fast

__all__ = ["AdmittedMessages"]


class AdmittedMessages:
    """Ends a stream without pictures or whose credential has ended; refuses what is too fast.

    It is `receive` of the stream's app and, where its scope has a `DirectLink`, stands for that in
    the scope, so that no message comes to the app without it.

    Args:
        connection: The stream.
        receive: Of the connection.
        send: To the connection.
        is_welcome: Whether it still may come in, to be asked each `recheck_s`.
        take: Counts one more picture; gives the seconds to wait if it came too early.
        take_at_once: The same without a wait; `None` where that needs one.
        idle_s: Seconds that it may be without a picture.
        recheck_s: Seconds that a credential is taken for granted.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        connection: HTTPConnection,
        receive: Receive,
        send: Send,
        *,
        is_welcome: Callable[[HTTPConnection], Awaitable[bool]],
        take: Callable[[], Awaitable[float]],
        take_at_once: Callable[[], float] | None,
        idle_s: float,
        recheck_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._receive_any = receive
        self._send_any = send
        self._is_welcome = is_welcome
        self._take = take
        self._take_at_once = take_at_once
        self._idle_s = idle_s
        self._recheck_s = recheck_s
        self._clock = clock
        self._checked_s = self._picture_s = clock()
        self._was_announced = False
        self._task = asyncio.current_task()
        self._timer = Timer()
        self._is_waiting = self._is_idle = False
        self._taker: Taker | None = None
        link: DirectLink | None = connection.scope.pop(DIRECT, None)
        if link is not None and take_at_once is not None:
            self._link = link
            self.send = link.send
            connection.scope[DIRECT] = self

    def end(self) -> None:
        """Nothing more is received; the event loop and the scope let go of this."""
        self._timer.end()
        self._connection.scope.pop(DIRECT, None)
        self._taker = None

    async def receive(self) -> Message:
        """The next message that may come in."""
        while True:
            message = await self._next()
            if message is None:
                return await self._closed(1001, "idle")
            if self._clock() - self._checked_s >= self._recheck_s:
                self._checked_s = self._clock()
                if not await self._is_welcome(self._connection):
                    return await self._closed(1008, CREDENTIAL_ENDED)
            if message["type"] != "websocket.receive":
                return message
            data = message.get("bytes") or b""
            if self._is_free(data) or not (wait_s := await self._take()):
                return message
            with _client_may_be_gone():  # `receive` says so next
                await self._send_any(
                    {"type": "websocket.send", "bytes": self._refusal(data, wait_s)}
                )

    # -- as a `DirectLink`, and the one who takes of another ---------------------------------

    def serve(self, taker: Taker) -> None:
        """Have `taker` take what may come in."""
        self._taker = taker
        self._link.serve(self)

    def is_ready(self) -> bool:
        """Whether the next message needs no wait, here or behind."""
        is_check_due = self._clock() - self._checked_s >= self._recheck_s
        return not is_check_due and self._taker is not None and self._taker.is_ready()

    def take(self, message: bytes) -> None:
        """Pass on a message that may come in."""
        assert self._take_at_once is not None  # noqa: S101 - or this would serve no taker
        assert self._taker is not None  # noqa: S101 - or this would not be ready
        if self._is_free(message) or not (wait_s := self._take_at_once()):
            self._taker.take(message)
        else:
            self.send(self._refusal(message, wait_s))

    # ----------------------------------------------------------------------------------------

    def _is_free(self, data: bytes) -> bool:
        """Whether a message is not counted; when the last picture came is noted."""
        was_announced, self._was_announced = self._was_announced, False
        # Of another length than a preamble's, as most are, it needs no look.
        if len(data) != PREAMBLE_BYTES or announced_request_id(data) is None:
            self._picture_s = self._clock()
            return False
        # Each picture has one announcement for nothing; more count as pictures.
        self._was_announced = True
        return not was_announced

    def _refusal(self, data: bytes, wait_s: float) -> bytes:
        reply = too_fast(peek_request_id(data), wait_s)
        note_reply(self._connection, reply, data)
        return encode_reply(reply)

    async def _next(self) -> Message | None:
        """The next message that is received; `None` if there was no picture for too long."""
        # As `asyncio.timeout` does it, which would take longer than the rest of this. And a timer
        # is not set anew for each message: one that wakes too early asks when the last one came.
        if not self._timer.is_running:
            self._timer.start(self._left_s, self._wake)
        self._is_waiting = True
        try:
            return await self._receive_any()
        except asyncio.CancelledError:
            if not self._is_idle or self._task is None or self._task.uncancel():
                raise
            self._is_idle = False
            return self._there_already()
        finally:
            self._is_waiting = False

    def _there_already(self) -> Message | None:
        """What came in the very step of the event loop that ended the wait; `None` for nothing."""
        wait = self._receive_any().__await__()
        try:
            next(wait)
        except StopIteration as ended:
            message: Message = ended.value
            return message
        wait.close()  # it would have to wait
        return None

    @property
    def _left_s(self) -> float:
        return self._idle_s - (self._clock() - self._picture_s)

    def _wake(self) -> None:
        if self._left_s > 0:
            self._timer.start(self._left_s, self._wake)
        elif self._is_waiting and self._task is not None:
            self._is_idle = True
            self._task.cancel()

    async def _closed(self, code: int, reason: str) -> Message:
        with _client_may_be_gone():
            await self._send_any({"type": "websocket.close", "code": code, "reason": reason})
        return {"type": "websocket.disconnect", "code": code}


def _client_may_be_gone() -> contextlib.suppress:
    """What a server raises for a message to a stream that has been closed meanwhile."""
    return contextlib.suppress(OSError, RuntimeError)
