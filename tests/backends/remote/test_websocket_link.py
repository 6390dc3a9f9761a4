"""How messages leave and come over a link: few calls to the system, few turns of the loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from hybrid_detect.backends.remote.dialling import Dialler
from hybrid_detect.backends.remote.websocket_link import StreamLink, open_link, send_at_once
from hybrid_detect.endpoint import Endpoint
from hybrid_detect.exchange.wire import SUBPROTOCOL

pytestmark = pytest.mark.anyio


class Written(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, *, is_tls: bool) -> None:
        super().__init__({"ssl_object": object()} if is_tls else {})
        self.calls: list[bytes] = []

    def write(self, data: Any) -> None:
        self.calls.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


@pytest.mark.parametrize(("is_tls", "calls"), [(False, 1), (True, 2)])
async def test_a_picture_leaves_with_its_announcement(is_tls: bool, calls: int) -> None:
    transport = Written(is_tls=is_tls)
    link = StreamLink(ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN))
    link.connection_made(transport)

    send_at_once(link, b"announcement", b"picture" * 1000)

    assert len(transport.calls) == calls
    server = ServerProtocol(state=State.OPEN)
    for data in transport.calls:
        server.receive_data(data)
    frames = [frame for frame in server.events_received() if isinstance(frame, Frame)]
    assert [bytes(frame.data) for frame in frames] == [b"announcement", b"picture" * 1000]


async def test_a_message_is_handed_over_when_it_has_come_and_one_in_pieces_is_received() -> None:
    async def talk(link: ServerConnection) -> None:
        await link.recv()
        await link.send(b"whole")
        await link.send([b"in ", b"pieces"])
        await link.send("text")

    async with serve(talk, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL]) as server:  # type: ignore[list-item]
        port = next(iter(server.sockets)).getsockname()[1]
        endpoint = Endpoint.parse(f"http://127.0.0.1:{port}")
        link, _ = await open_link(
            Dialler(endpoint),
            endpoint.websocket("/"),
            headers={},
            usual_limit_s=5.0,
            max_reply_bytes=1000,
            max_replies=2,
        )
        handed_over: list[bytes] = []
        link.on_message = handed_over.append
        send_at_once(link, b"go")
        assert [message async for message in link] == [b"in pieces", "text"]
        assert handed_over == [b"whole"]
