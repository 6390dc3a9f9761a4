"""Streams: pictures that come over one WebSocket, a few of them looked at at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from hybrid_detect.exchange.model_info import MODEL_INFO_HEADER, ModelInfo
from hybrid_detect.exchange.wire import (
    HAS_HEADER,
    IN_FLIGHT_HEADER,
    PREAMBLE_BYTES,
    SUBPROTOCOL,
    ErrorReply,
    announced_request_id,
    encode_reply,
    peek_request_id,
    with_request_id,
)
from hybrid_detect.server.admission import OverloadedError
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.connections import IS_GONE
from hybrid_detect.server.direct_messages import DIRECT, DirectLink
from hybrid_detect.server.early_refusals import RefusedMessage
from hybrid_detect.server.live import PRESENCE, LiveSessions
from hybrid_detect.server.look_refusals import look_refusal
from hybrid_detect.server.observation import note_reply
from hybrid_detect.server.rate_limit import RateLimiter
from hybrid_detect.server.replies import too_fast
from hybrid_detect.server.resumption import (
    Resumption,
    Stream,
    StreamKey,
    awaited_by,
    stream_key,
)
from hybrid_detect.server.retention import owner_of

__all__ = ["SERVICE_RESTART", "Answering", "Streams"]

SERVICE_RESTART = 1012
"""The close code of a server that stops (IANA's registry for RFC 6455). It comes as the code of an
ASGI disconnect, too, while the peer still takes answers."""

GOODBYES = frozenset({1000, 1001})
"""Close codes of a client that is done: ours, and a browser's page that is left."""

BROKEN = 1006
"""The code of a link that ended without a close frame (RFC 6455, 7.1.5)."""

BURST_S = 2.0
"""Seconds of a stream's rate that may come at once, as after an outage."""


class Answering(Protocol):
    """Makes the message that answers one of a stream."""

    def __call__(
        self,
        data: bytes,
        receive_s: float | None,
        connection: WebSocket,
        *,
        is_abandoned: Callable[[], Awaitable[bool]],
    ) -> Coroutine[Any, Any, bytes]:
        """The reply to `data`, which took `receive_s` to arrive."""
        ...


class Streams:
    """Answers what comes over streams.

    Args:
        config: The limits of each.
        answer: Makes the answers.
        live: Is told which sessions each brings.
        info: What clients are told of the model, at the time of asking; `None` for nothing.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        answer: Answering,
        live: LiveSessions,
        info: Callable[[], ModelInfo | None],
    ) -> None:
        self._config = config
        self._answer = answer
        self._live = live
        self._info = info
        self._resumption = Resumption(max_lost=config.max_streams)
        self._closing: set[asyncio.Task[None]] = set()

    async def serve(self, websocket: WebSocket) -> None:
        """Answer the messages of `websocket` until it ends."""
        owner = owner_of(websocket)
        key = stream_key(websocket, owner)

        def make() -> Stream:
            return Stream(
                places=self._config.stream_in_flight,
                presence=self._live.presence(owner),
                is_resumable=key is not None,
                take=self._limit(),
            )

        stream = make() if key is None else self._resumption.taken_up(key, make)
        websocket.scope[PRESENCE] = stream.presence
        link = _Link(websocket, stream, self._answer)
        code: int | None = BROKEN
        try:
            await self._open(link, stream, key)
            code = await link.converse()
        finally:
            if stream.detach(link) and not link.is_left:
                await self._leave(stream, key, code)

    def close(self) -> None:
        """Give up the streams that have lost their links."""
        self._resumption.close()
        for closing in self._closing:
            closing.cancel()

    async def _open(self, link: _Link, stream: Stream, key: StreamKey | None) -> None:
        """Accept the link, and send what its client still waits for."""
        websocket = link.websocket
        awaited = awaited_by(websocket)
        told = {IN_FLIGHT_HEADER: str(self._config.stream_in_flight)}
        if (info := self._info()) is not None:
            told[MODEL_INFO_HEADER] = info.to_header()
        if key is not None:
            told[HAS_HEADER] = " ".join(str(each) for each in awaited if stream.has(each))
        await websocket.accept(
            subprotocol=SUBPROTOCOL if SUBPROTOCOL in websocket["subprotocols"] else None,
            headers=[(name.lower().encode(), text.encode()) for name, text in told.items()],
        )
        if isinstance(older := stream.link, _Link):
            # Its client has left it, though it may be long until that is noticed. Apart, because
            # what it does not take would be waited for.
            older.is_left = True
            closing = asyncio.create_task(older.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        answers = stream.attach(link, awaited)
        if key is not None:
            self._resumption.found(key)  # the older link may have broken while this one opened
        for reply in answers:
            await link.send(reply)

    async def _leave(self, stream: Stream, key: StreamKey | None, code: int | None) -> None:
        """The last link of a stream has ended with `code`."""
        if key is not None and code == BROKEN:
            self._resumption.lost(key)
            return
        is_for_good = code in GOODBYES
        if key is not None:
            self._resumption.given_up(key, for_good=is_for_good)
        else:
            stream.end(for_good=is_for_good)  # what waits is not looked at any more
        await stream.finished()

    def _limit(self) -> Callable[[], float] | None:
        """Counts one more picture of a stream; gives the seconds to wait if it came too early."""
        rate_per_s = self._config.stream_rate_per_s
        if not rate_per_s:
            return None
        burst = max(1, math.ceil(rate_per_s * BURST_S))
        bucket = RateLimiter(rate_per_s=rate_per_s, burst=burst)
        return lambda: bucket.take("")


class _Link:
    """One link of a stream: its messages are taken here, directly or as they are received."""

    def __init__(self, websocket: WebSocket, stream: Stream, answer: Answering) -> None:
        self.websocket = websocket
        self.is_left = False
        """Whether the stream went on over another: however this one ends, it ends nothing then."""
        self._stream = stream
        self._answer = answer
        self._announced: tuple[int, float] | None = None
        self._is_gone: Callable[[], bool] = websocket.scope.get(IS_GONE, _never)
        self._direct: DirectLink | None = websocket.scope.get(DIRECT)
        self.is_ready = stream.is_ready
        self.send_at_once = _not_at_once if self._direct is None else self._direct.send
        """Sends a reply if that needs no wait; returns whether it was sent."""

    async def converse(self) -> int | None:
        """Answer until the link ends; the code that it ended with."""
        stream = self._stream
        if self._direct is not None:
            self._direct.serve(self)
        while True:
            message = await self.websocket.receive()
            if message["type"] == "websocket.disconnect":
                code: int | None = message.get("code")
                if code == SERVICE_RESTART and not self._is_gone():
                    await stream.finished()
                return code
            data = message.get("bytes") or b""
            asked = self._asked(data)
            if isinstance(asked, _Asked):
                # Not reading further while the places are taken lets TCP hold the sender back.
                await stream.place()
                reply = self._known(asked.request_id)
                if reply is None:
                    reply = self._begin(data, asked)
            else:
                reply = asked
            if reply:
                await self.send(reply)

    def take(self, message: bytes) -> None:
        """Take a message while there is a place for its picture."""
        asked = self._asked(message)
        reply = self._begin(message, asked) if isinstance(asked, _Asked) else asked
        if reply:
            self.send_at_once(reply)

    async def send(self, reply: bytes) -> None:
        """Send `reply`, if the link still stands."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            # The client may have gone meanwhile; Starlette then raises either of the two.
            await self.websocket.send_bytes(reply)

    async def close(self) -> None:
        """Close it for another link."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
            await self.websocket.close(1001, "the stream goes on over another link")

    def _asked(self, data: bytes) -> _Asked | bytes:
        """The picture to be looked at; or what is to be answered to another message, if anything.

        A picture that is not looked at is one that came too early, or over another link before.
        """
        now_s = time.monotonic()
        # Of another length than a preamble's, as most are, it announces nothing.
        if len(data) == PREAMBLE_BYTES and (announced_id := announced_request_id(data)) is not None:
            self._announced = (announced_id, now_s)
            return b""
        request_id = peek_request_id(data)
        if self._stream.is_resumable and (reply := self._known(request_id)) is not None:
            return reply
        take = self._stream.take
        if take is not None and (wait_s := take()):
            refusal = too_fast(request_id, wait_s)
            note_reply(self.websocket, refusal, data)
            return encode_reply(refusal)
        receive_s = None
        if self._announced is not None and self._announced[0] == request_id:
            receive_s = now_s - self._announced[1]
        return _Asked(request_id, receive_s)

    def _known(self, request_id: int) -> bytes | None:
        """The answer to a picture that has come before, empty if there is none yet; else `None`."""
        if not self._stream.has(request_id):
            return None
        return self._stream.answer_to(request_id) or b""

    def _begin(self, data: bytes, asked: _Asked) -> bytes:
        """Have a picture looked at, for which there is a place; or the answer, if it is refused."""
        if isinstance(data, RefusedMessage):
            refusal, encoded = _refusal(math.ceil(data.retry_after_s * 1000))
            note_reply(self.websocket, refusal, data)
            reply = with_request_id(encoded, asked.request_id)
            if self._stream.is_resumable:
                self._stream.remember(asked.request_id, reply)
            return reply
        work = self._answer(data, asked.receive_s, self.websocket, is_abandoned=self._is_abandoned)
        self._stream.begin(asked.request_id, work)
        return b""

    async def _is_abandoned(self) -> bool:
        """Whether the client will take no answer any more."""
        return self._stream.is_over or (not self._stream.is_resumable and self._is_gone())


@lru_cache(maxsize=256)
def _refusal(retry_after_ms: int) -> tuple[ErrorReply, bytes]:
    """What a picture is told that is refused by its first bytes: a flood has few others."""
    reply = look_refusal(0, OverloadedError(retry_after_ms / 1000))
    return reply, encode_reply(reply)


class _Asked(NamedTuple):
    """A picture that is to be looked at."""

    request_id: int
    receive_s: float | None


def _never() -> bool:
    return False


def _not_at_once(reply: bytes) -> bool:
    return False
