import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from hybrid_detect.exchange.wire import CONTENT_TYPE, STREAM_PATH, ErrorReply, decode_reply
from hybrid_detect.server import bodies, gate
from hybrid_detect.server.admission import OverloadedError
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.look_refusals import look_refusal

from ..waiting import LIMIT_S
from .loopback import served

pytestmark = pytest.mark.anyio


class NoDetector:
    """Nothing here gets so far."""

    model = "none"
    info = None

    async def start(self) -> None:
        pass

    async def detect(self, *_: object, **__: object) -> None:
        raise AssertionError

    async def aclose(self) -> None:
        pass


def client_of(config: ServerConfig) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(config, NoDetector()))  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://test")


class HalfSent:
    """A body of which one byte comes, and the rest when `ends` is set."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ends = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"x"
        self.began.set()
        await self.ends.wait()
        yield b"garbage"


async def test_a_body_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "RECEIVE_LIMIT_S", 0.01)
    headers = {"Accept": CONTENT_TYPE}
    async with client_of(ServerConfig(max_uploads=1)) as client, asyncio.timeout(LIMIT_S):
        for _ in range(2):  # the first gives its place back
            reply = await client.post("/v1/detect", content=HalfSent(), headers=headers)
            answer = decode_reply(reply.content)
            assert isinstance(answer, ErrorReply)
            assert (reply.status_code, answer.code) == (408, "too_slow")


async def test_a_link_whose_body_does_not_come_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "RECEIVE_LIMIT_S", 0.01)
    async with served(ServerConfig()) as server, asyncio.timeout(LIMIT_S):
        answer = await server.raw(
            b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nhalf"
        )  # to the end of the link
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_only_so_many_bodies_are_received_at_the_same_time() -> None:
    async with client_of(ServerConfig(max_uploads=2)) as client, asyncio.timeout(LIMIT_S):
        bodies = [HalfSent(), HalfSent()]
        halves = [asyncio.create_task(client.post("/v1/detect", content=body)) for body in bodies]
        await asyncio.gather(*(body.began.wait() for body in bodies))
        refused = await client.post("/v1/detect", content=b"garbage")
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        for body in bodies:
            body.ends.set()
        assert {reply.status_code for reply in await asyncio.gather(*halves)} == {500}
        assert (await client.post("/v1/detect", content=b"garbage")).status_code == 500


async def test_a_client_that_goes_half_way_gives_its_place_back() -> None:
    async with client_of(ServerConfig(max_uploads=1)) as client, asyncio.timeout(LIMIT_S):
        body = HalfSent()
        half = asyncio.create_task(client.post("/v1/detect", content=body))
        await body.began.wait()
        half.cancel()
        await asyncio.wait([half])
        assert (await client.post("/v1/detect", content=b"garbage")).status_code == 500


@pytest.mark.parametrize(("wait_s", "told_s"), [(0.0, 0.001), (0.0002, 0.001), (0.0344, 0.035)])
@pytest.mark.parametrize("of", ["the rate", "the queue"])
def test_no_one_is_told_to_come_again_too_early(of: str, wait_s: float, told_s: float) -> None:
    """Least of all at once, which would be one refusal after the other."""
    rate = gate.too_fast(1, wait_s)
    reply = rate if of == "the rate" else look_refusal(1, OverloadedError(wait_s))
    assert reply.retry_after_s == told_s


async def test_a_stream_that_fails_at_the_gate_gives_its_place_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise LookupError("a bug")

    config = ServerConfig(max_per_caller=1, max_streams=1)
    async with served(config) as server, asyncio.timeout(LIMIT_S):
        url = f"ws://127.0.0.1:{server.port}{STREAM_PATH}"
        with monkeypatch.context() as patched:
            patched.setattr(gate, "AdmittedMessages", fails)
            with pytest.raises(InvalidStatus):
                async with connect(url):
                    pass
        async with connect(url):
            pass
