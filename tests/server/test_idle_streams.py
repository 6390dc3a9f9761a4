"""A picture that comes in the very step of the event loop that ends its stream as idle."""

from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from hybrid_detect.exchange.wire import (
    STREAM_PATH,
    DetectRequest,
    ResultReply,
    decode_reply,
    encode_announcement,
    encode_request,
)
from hybrid_detect.server import websocket_connection
from hybrid_detect.server.admitted_messages import AdmittedMessages
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.websocket_connection import WebSocketConnection

from ..waiting import LIMIT_S
from .loopback import jpeg, served

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

IDLE_S = 10.0


def framed(message: bytes) -> bytes:
    return Frame(Opcode.BINARY, message).serialize(mask=True)


def read(connection: WebSocketConnection, data: bytes) -> None:
    """As if `data` had been read from its socket."""
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


@pytest.mark.parametrize("is_direct", [True, False], ids=["direct", "by ASGI"])
@pytest.mark.parametrize("order", ["read, then woken", "woken, then read"])
async def test_it_is_answered_and_the_stream_has_its_time_again(
    order: str, is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_direct:
        monkeypatch.setattr(websocket_connection, "DIRECT", "of no one")
    message = encode_request(DetectRequest(request_id=7, image=jpeg()))
    late = [framed(encode_announcement(7)) + framed(message)]
    wake, opened = AdmittedMessages._wake, WebSocketConnection.open
    connections: list[WebSocketConnection] = []

    def noted(self: WebSocketConnection, rest: bytes) -> None:
        connections.append(self)
        opened(self, rest)

    def wakes(self: AdmittedMessages) -> None:
        if order == "woken, then read":
            wake(self)
        if late:
            read(connections[0], late.pop())
        if order == "read, then woken":
            wake(self)

    monkeypatch.setattr(WebSocketConnection, "open", noted)
    monkeypatch.setattr(AdmittedMessages, "_wake", wakes)
    async with (
        asyncio.timeout(LIMIT_S),
        served(ServerConfig(stream_idle_s=IDLE_S, rate_per_s=0)) as server,
        connect(
            f"ws://127.0.0.1:{server.port}{STREAM_PATH}", compression=None, ping_interval=None
        ) as link,
    ):
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        reply = await link.recv()
        assert loop.time() - began_s < 1.5 * IDLE_S
        assert isinstance(reply, bytes)
        answered = decode_reply(reply)
        assert isinstance(answered, ResultReply)
        assert answered.request_id == 7
        with pytest.raises(ConnectionClosed) as caught:
            await link.recv()
        assert loop.time() - began_s >= 2 * IDLE_S
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1001, "idle")
