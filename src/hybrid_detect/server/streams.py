"""Streams: pictures that come over one WebSocket, a few of them looked at at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from hybrid_detect.exchange.model_info import MODEL_INFO_HEADER, ModelInfo
from hybrid_detect.exchange.wire import (
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
from hybrid_detect.server.retention import owner_of

__all__ = ["SERVICE_RESTART", "Answering", "Streams"]

SERVICE_RESTART = 1012
"""The close code of a server that stops (IANA's registry for RFC 6455). It comes as the code of an
ASGI disconnect, too, while the peer still takes answers."""

GOODBYES = frozenset({1000, 1001})
"""Close codes of a client that is done: ours, and a browser's page that is left."""

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

    async def serve(self, websocket: WebSocket) -> None:
        """Answer the messages of `websocket` until it ends."""
        info = self._info()
        told = {IN_FLIGHT_HEADER: str(self._config.stream_in_flight)}
        if info is not None:
            told[MODEL_INFO_HEADER] = info.to_header()
        await websocket.accept(
            subprotocol=SUBPROTOCOL if SUBPROTOCOL in websocket["subprotocols"] else None,
            headers=[(name.lower().encode(), text.encode()) for name, text in told.items()],
        )
        presence = websocket.scope[PRESENCE] = self._live.presence(owner_of(websocket))
        code = None
        try:
            code = await self._converse(websocket)
        finally:
            presence.leave(for_good=code in GOODBYES)

    async def _converse(self, websocket: WebSocket) -> int | None:
        """Answer until the stream ends; the code that it ended with."""
        is_abandoned = hang_up_of(websocket)
        under_way: set[asyncio.Task[None]] = set()
        places = asyncio.Semaphore(self._config.stream_in_flight)
        take = self._limit()
        announced: tuple[int, float] | None = None
        async with asyncio.TaskGroup() as answers:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    if message.get("code") != SERVICE_RESTART or await is_abandoned():
                        for answer in under_way:
                            answer.cancel()  # what waits is not looked at any more
                    return message.get("code")
                data = message.get("bytes") or b""
                now_s = time.monotonic()
                if (request_id := announced_request_id(data)) is not None:
                    announced = (request_id, now_s)
                    continue
                request_id = peek_request_id(data)
                if wait_s := take():
                    refusal = too_fast(request_id, wait_s)
                    note_reply(websocket, refusal)
                    await _send(websocket, encode_reply(refusal))
                    continue
                receive_s = None
                if announced is not None and announced[0] == request_id:
                    receive_s = now_s - announced[1]
                # Not reading further while the places are taken lets TCP hold the sender back.
                await places.acquire()
                answer = answers.create_task(self._reply(websocket, data, receive_s, is_abandoned))
                under_way.add(answer)
                answer.add_done_callback(under_way.discard)
                answer.add_done_callback(lambda _: places.release())

    async def _reply(
        self,
        websocket: WebSocket,
        data: bytes,
        receive_s: float | None,
        is_abandoned: Callable[[], Awaitable[bool]],
    ) -> None:
        reply = await self._answer(data, receive_s, websocket, is_abandoned=is_abandoned)
        await _send(websocket, reply)

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
