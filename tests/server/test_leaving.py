"""What becomes of pictures under way when the server stops, or their client hangs up."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_reply,
    encode_request,
)
from hybrid_detect.server.admission import Admission
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.listening import Server

from ..waiting import LIMIT_S, until
from .either_loop import anyio_backend  # noqa: F401 - a fixture
from .loopback import OneFace, answer_of, jpeg

pytestmark = pytest.mark.anyio


class Pool(OneFace):
    """One detector, behind the real admission, that looks until it is let go."""

    instance: "Pool"

    def __init__(self, config: ServerConfig, admission: Admission) -> None:
        super().__init__(config.max_pixels)
        self.admission = admission
        self.go = asyncio.Event()
        Pool.instance = self

    async def start(self) -> None:
        self.admission.open(1)

    async def detect(
        self,
        request: DetectRequest,
        *,
        caller: str = "",
        is_abandoned: Callable[[], Awaitable[bool]] | None = None,
    ) -> Detection:
        async with self.admission.place(request.deadline_s, is_abandoned=is_abandoned):
            found = await super().detect(request)
            await self.go.wait()
            return found


@pytest.fixture(autouse=True)
def pool(monkeypatch: pytest.MonkeyPatch) -> type[Pool]:
    monkeypatch.setattr("hybrid_detect.server.app.DetectorPool", Pool)
    return Pool


@asynccontextmanager
async def running(*, grace_s: float = LIMIT_S) -> AsyncIterator[tuple[Server, Pool]]:
    config = ServerConfig(port=0, rate_per_s=0)
    async with Server(create_app(config), config, grace_s=grace_s) as server:
        yield server, Pool.instance


@asynccontextmanager
async def linked(server: Server) -> AsyncIterator[ClientConnection]:
    async with (
        asyncio.timeout(LIMIT_S),
        connect(f"ws://127.0.0.1:{server.port}/v1/stream", compression=None) as link,
    ):
        yield link


async def until_closed(link: ClientConnection) -> AsyncIterator[bytes]:
    with contextlib.suppress(ConnectionClosed):
        while True:
            yield await link.recv()  # type: ignore[misc]


def message(number: int) -> bytes:
    return encode_request(DetectRequest(request_id=number, image=jpeg()))


# -- the server stops ------------------------------------------------------------------------


async def test_a_stop_answers_the_look_under_way_and_refuses_what_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wire = {"Content-Type": CONTENT_TYPE, "Accept": CONTENT_TYPE}
    async with contextlib.AsyncExitStack() as ends, httpx.AsyncClient(timeout=LIMIT_S) as client:
        server, pool = await ends.enter_async_context(running())
        url = f"{server.url}/v1/detect"
        looked_at = asyncio.create_task(client.post(url, content=jpeg()))
        await until(lambda: pool.looks == 1)
        plain = [asyncio.create_task(client.post(url, content=jpeg())) for _ in range(3)]
        ours = asyncio.create_task(client.post(url, content=message(7), headers=wire))
        await until(lambda: pool.admission.waiting == 4)
        stop = asyncio.create_task(ends.aclose())
        for refused in await asyncio.gather(*plain):
            assert refused.status_code == 503
            assert refused.json()["code"] == "stopping"
            assert int(refused.headers["Retry-After"]) >= 1
        reply = decode_reply((await ours).content)
        assert isinstance(reply, ErrorReply)
        assert (reply.request_id, reply.status, reply.code) == (7, 503, "stopping")
        pool.go.set()
        assert (await looked_at).json()["faces"]
        await stop
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_stop_answers_a_stream_s_pictures_and_then_closes_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with contextlib.AsyncExitStack() as ends:
        server, pool = await ends.enter_async_context(running())
        async with linked(server) as link:
            for number in range(1, 5):  # looked at, waiting, two with the server
                await link.send(message(number))
            await until(lambda: pool.admission.waiting == 1)
            (connection,) = server._context.connections.each()  # type: ignore[union-attr]
            await until(lambda: connection._events.waiting)  # type: ignore[attr-defined]
            stop = asyncio.create_task(ends.aclose())
            await until(lambda: pool.admission.waiting == 0)
            pool.go.set()
            found = [decode_reply(reply) async for reply in until_closed(link)]
            assert link.close_code == 1012
            await stop
        replies = {reply.request_id: reply for reply in found}
        assert isinstance(replies.pop(1), ResultReply)
        assert {number: reply.code for number, reply in replies.items()} == dict.fromkeys(  # type: ignore[union-attr]
            (2, 3, 4), "stopping"
        )
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_look_that_outlasts_the_grace_is_refused_in_our_form(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with contextlib.AsyncExitStack() as ends, httpx.AsyncClient(timeout=LIMIT_S) as client:
        server, pool = await ends.enter_async_context(running(grace_s=0.05))
        hung = asyncio.create_task(client.post(f"{server.url}/v1/detect", content=jpeg()))
        async with linked(server) as link:
            await link.send(message(1))
            await until(lambda: pool.looks + pool.admission.waiting == 2)
            await ends.aclose()
            answer = await hung
            assert (answer.status_code, answer.json()["code"]) == (503, "stopping")
            await link.wait_closed()
            assert link.close_code == 1012
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_silent_and_half_open_connections_do_not_keep_a_server_from_stopping() -> None:
    opening = b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    async with contextlib.AsyncExitStack() as ends:
        server, _ = await ends.enter_async_context(running())
        links = []
        for sent in (b"", b"GET / HT", opening + b"X: " + b"x" * 9000, opening + b"\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(sent)
            links.append((reader, writer))
        await until(lambda: server.connections >= 3)
        async with asyncio.timeout(LIMIT_S):
            await ends.aclose()
        for reader, writer in links:
            answer = await answer_of(reader)  # a reset is as good
            assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 503 "))
            writer.close()


async def test_after_a_stop_no_request_on_an_open_connection_is_taken() -> None:
    async with contextlib.AsyncExitStack() as ends:
        server, pool = await ends.enter_async_context(running())
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        post = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        writer.write(post % (len(jpeg()), jpeg()))
        await until(lambda: pool.looks == 1)
        stop = asyncio.create_task(ends.aclose())
        await asyncio.sleep(0)
        writer.write(post % (len(jpeg()), jpeg()))
        pool.go.set()
        answer = await reader.read()
        assert answer.count(b"HTTP/1.1 ") == 1
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["faces"]
        writer.close()
        await stop
        assert pool.looks == 1


# -- clients hang up -------------------------------------------------------------------------


async def test_pictures_of_clients_that_have_hung_up_are_not_looked_at() -> None:
    post = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
    picture = post % (len(jpeg()), jpeg())
    async with running() as (server, pool), httpx.AsyncClient(timeout=LIMIT_S) as client:
        url = f"{server.url}/v1/detect"
        first = asyncio.create_task(client.post(url, content=jpeg()))
        await until(lambda: pool.looks == 1)
        count = 0
        for behind in (b"", picture, picture * 20, post % (80_000, bytes(80_000))):
            for _ in range(3):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(picture + behind)
                await writer.drain()
                count += 1
                await until(lambda: pool.admission.waiting == count)  # noqa: B023 - now
                writer.close()
                await writer.wait_closed()
        pool.go.set()
        await first
        await until(lambda: pool.admission.waiting == 0)
        assert pool.looks == 1
        assert (await client.post(url, content=jpeg())).json()["faces"]


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_pictures_of_streams_that_have_ended_are_not_looked_at(how: str) -> None:
    async with running() as (server, pool), httpx.AsyncClient(timeout=LIMIT_S) as client:
        url = f"{server.url}/v1/detect"
        first = asyncio.create_task(client.post(url, content=jpeg()))
        await until(lambda: pool.looks == 1)
        for count in (1, 2, 4):  # one waits; two; two, and two more behind them
            async with linked(server) as link:
                for number in range(count):
                    await link.send(message(number))
                await until(lambda: pool.admission.waiting == min(count, 2))  # noqa: B023 - now
                if how == "abort":
                    link.transport.abort()
            await until(lambda: server.connections == 1)
        pool.go.set()
        await first
        await until(lambda: pool.admission.waiting == 0)
        assert pool.looks == 1
        assert (await client.post(url, content=jpeg())).json()["faces"]
