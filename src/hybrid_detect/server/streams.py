"""Streams: pictures that come over one WebSocket, a few of them looked at at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from hybrid_detect.exchange.model_info import MODEL_INFO_HEADER, ModelInfo
from hybrid_detect.exchange.wire import (
    HAS_HEADER,
    IN_FLIGHT_HEADER,
    SUBPROTOCOL,
    announced_request_id,
    encode_reply,
    peek_request_id,
)
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.gate import too_fast
from hybrid_detect.server.hang_ups import hang_up_of
from hybrid_detect.server.live import PRESENCE, LiveSessions
from hybrid_detect.server.observation import note_reply
from hybrid_detect.server.rate_limit import RateLimiter
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

    async def __call__(
        self,
        data: bytes,
        receive_s: float | None,
        connection: WebSocket,
        *,
        is_abandoned: Callable[[], Awaitable[bool]],
    ) -> bytes:
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
        code: int | None = BROKEN
        try:
            await self._open(websocket, stream, key)
            code = await self._converse(websocket, stream)
        finally:
            if stream.detach(websocket):
                await self._leave(stream, key, code)

    def close(self) -> None:
        """Give up the streams that have lost their links."""
        self._resumption.close()
        for closing in self._closing:
            closing.cancel()

    async def _open(self, websocket: WebSocket, stream: Stream, key: StreamKey | None) -> None:
        """Accept the link, and send what its client still waits for."""
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
        if (older := stream.link) is not None:
            # Its client has left it, though it may be long until that is noticed. Apart, because
            # what it does not take would be waited for.
            closing = asyncio.create_task(_close(older))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        answers = stream.attach(websocket, awaited)
        if key is not None:
            self._resumption.found(key)  # the older link may have broken while this one opened
        for reply in answers:
            await _send(websocket, reply)

    async def _converse(self, websocket: WebSocket, stream: Stream) -> int | None:
        """Answer until the link ends; the code that it ended with."""
        announced: tuple[int, float] | None = None
        is_gone = hang_up_of(websocket)
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                code: int | None = message.get("code")
                if code == SERVICE_RESTART and not await is_gone():
                    await stream.finished()
                return code
            data = message.get("bytes") or b""
            now_s = time.monotonic()
            if (request_id := announced_request_id(data)) is not None:
                announced = (request_id, now_s)
                continue
            request_id = peek_request_id(data)
            if await self._has(websocket, stream, request_id):
                continue
            if wait_s := stream.take():
                refusal = too_fast(request_id, wait_s)
                note_reply(websocket, refusal, data)
                await _send(websocket, encode_reply(refusal))
                continue
            receive_s = None
            if announced is not None and announced[0] == request_id:
                receive_s = now_s - announced[1]
            # Not reading further while the places are taken lets TCP hold the sender back.
            await stream.places.acquire()
            if await self._has(websocket, stream, request_id):
                stream.places.release()
                continue
            answer = partial(
                self._answer,
                data,
                receive_s,
                websocket,
                is_abandoned=_abandonment(stream, websocket),
            )
            stream.begin(request_id, answer, _send)

    async def _has(self, websocket: WebSocket, stream: Stream, request_id: int) -> bool:
        """Whether that picture has come over another link; its answer is sent over this one."""
        if not stream.has(request_id):
            return False
        if (reply := stream.answer_to(request_id)) is not None:
            await _send(websocket, reply)
        return True

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

    def _limit(self) -> Callable[[], float]:
        """Counts one more picture of a stream; gives the seconds to wait if it came too early."""
        rate_per_s = self._config.stream_rate_per_s
        if not rate_per_s:
            return lambda: 0.0
        burst = max(1, math.ceil(rate_per_s * BURST_S))
        bucket = RateLimiter(rate_per_s=rate_per_s, burst=burst)
        return lambda: bucket.take("")


async def _send(websocket: WebSocket, reply: bytes) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        # The client may have gone meanwhile; Starlette then raises either of the two.
        await websocket.send_bytes(reply)


async def _close(link: WebSocket) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
        await link.close(1001, "the stream goes on over another link")


def _abandonment(stream: Stream, websocket: WebSocket) -> Callable[[], Awaitable[bool]]:
    """Tells whether the client of a stream will take no answer any more."""
    is_gone = hang_up_of(websocket)

    async def is_abandoned() -> bool:
        return stream.is_over or (not stream.is_resumable and await is_gone())

    return is_abandoned
