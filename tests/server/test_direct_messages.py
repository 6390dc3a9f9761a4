"""Messages that a stream takes as they come: no different from those that have to wait."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from hybrid_detect.exchange.wire import (
    STREAM_PATH,
    DetectRequest,
    ResultReply,
    decode_reply,
    encode_announcement,
    encode_request,
)
from hybrid_detect.server import websocket_connection
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.live import LiveSessions
from hybrid_detect.server.resumption import Stream
from hybrid_detect.server.websocket_messages import Inbox

from ..waiting import LIMIT_S, until
from .loopback import Served, jpeg, served
from .test_connections import limits

pytestmark = pytest.mark.anyio


def message(number: int) -> bytes:
    return encode_request(DetectRequest(request_id=number, image=jpeg()))


def url_of(server: Served) -> str:
    return f"ws://127.0.0.1:{server.port}{STREAM_PATH}"


class Taken:
    """Takes what it is ready for."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.ready = True
        self.fails = False

    def is_ready(self) -> bool:
        return self.ready

    def take(self, message: bytes) -> None:
        if self.fails:
            msg = "a bug"
            raise LookupError(msg)
        self.messages.append(message)


@pytest.fixture
async def inbox() -> Inbox:
    made = Inbox()
    assert (await made.next())["type"] == "websocket.connect"
    return made


async def test_a_message_is_taken_only_while_the_app_waits(inbox: Inbox) -> None:
    """Else one could come before another that the app has not seen to."""
    taker = Taken()
    inbox.serve(taker)
    inbox.put(b"1")
    assert (await inbox.next())["bytes"] == b"1"
    waiting = asyncio.create_task(inbox.next())
    await asyncio.sleep(0)
    inbox.put(b"2")
    assert taker.messages == [b"2"]
    taker.ready = False
    inbox.put(b"3")
    taker.ready = True
    inbox.put(b"4")  # the app has not yet woken to see the third
    assert (await waiting)["bytes"] == b"3"
    assert (await inbox.next())["bytes"] == b"4"
    assert taker.messages == [b"2"]


async def test_a_bug_meets_the_app_as_if_it_had_received_the_message(inbox: Inbox) -> None:
    taker = Taken()
    taker.fails = True
    inbox.serve(taker)
    waiting = asyncio.create_task(inbox.next())
    await asyncio.sleep(0)
    inbox.put(b"1")
    with pytest.raises(LookupError, match="a bug"):
        await waiting


@pytest.mark.parametrize("is_direct", [True, False])
async def test_a_stream_is_the_same_without_the_direct_way(
    is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under another ASGI server, which has none."""
    if not is_direct:
        monkeypatch.setattr(websocket_connection, "DIRECT", "of no one")
    received: list[str] = []
    tell = Inbox.tell

    def noted(self: Inbox, event: Message) -> None:
        received.append(event["type"])
        tell(self, event)

    monkeypatch.setattr(Inbox, "tell", noted)
    config = ServerConfig(rate_per_s=0.001, burst=5, stream_rate_per_s=1.0)
    async with (
        served(config, limits=limits()) as server,
        connect(url_of(server), compression=None) as link,
        asyncio.timeout(LIMIT_S),
    ):
        codes = []
        for number in range(1, 8):  # two for the stream's burst, five for the caller's
            await link.send(encode_announcement(number))
            await link.send(message(number))
            reply = decode_reply(await link.recv())
            assert reply.request_id == number
            if isinstance(reply, ResultReply):
                assert reply.receive_s is not None
                codes.append("")
            else:
                codes.append(reply.code)
        assert codes == ["", "", *["too_fast"] * 5]
        assert server.detector.looks == 2
        assert ("websocket.receive" in received) is not is_direct


async def test_pictures_keep_a_stream_open_and_their_end_does_not() -> None:
    config = ServerConfig(stream_idle_s=1.0, rate_per_s=0)
    async with (
        served(config, limits=limits()) as server,
        connect(url_of(server), compression=None) as link,
        asyncio.timeout(LIMIT_S),
    ):
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + 1.5 * config.stream_idle_s
        while loop.time() < ends_s:
            await link.send(message(1))
            decode_reply(await link.recv())
        with pytest.raises(ConnectionClosed) as caught:
            await link.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001


async def test_an_answer_that_is_not_taken_keeps_its_place() -> None:
    class Blocked:
        def __init__(self) -> None:
            self.go = asyncio.Event()
            self.sent: list[bytes] = []

        def send_at_once(self, reply: bytes) -> bool:
            return False

        async def send(self, reply: bytes) -> None:
            await self.go.wait()
            self.sent.append(reply)

    async def look() -> bytes:
        return b"answer"

    presence = LiveSessions(max_watchers=1, max_per_session=1).presence("")
    stream, link = Stream(places=1, presence=presence, is_resumable=True), Blocked()
    stream.attach(link, ())
    stream.begin(1, look())
    await until(lambda: stream.answer_to(1) is not None)
    assert not stream.is_ready()
    place = asyncio.create_task(stream.place())
    await asyncio.sleep(0)
    assert not place.done()
    link.go.set()
    await place
    assert (stream.is_ready(), link.sent) == (True, [b"answer"])
