"""A picture leaves no garbage in cycles: it would keep credentials, and cost a collector's time."""

from __future__ import annotations

import asyncio
import gc

import pytest
from websockets.asyncio.client import connect

from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DETECT_PATH,
    STREAM_PATH,
    DetectRequest,
    encode_request,
)
from hybrid_detect.server.config import ServerConfig

from .loopback import jpeg, served

pytestmark = pytest.mark.anyio

COUNT = 60
MESSAGE = encode_request(DetectRequest(request_id=1, image=jpeg(), deadline_s=10.0))
HEAD = (
    f"POST {DETECT_PATH} HTTP/1.1\r\nHost: x\r\nAccept: {CONTENT_TYPE}\r\n"
    f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(MESSAGE)}\r\n\r\n"
).encode()


async def over_http(port: int, count: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(count):
        writer.write(HEAD + MESSAGE)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))
    writer.close()
    await writer.wait_closed()


async def over_a_stream(port: int, count: int) -> None:
    async with connect(f"ws://127.0.0.1:{port}{STREAM_PATH}", compression=None) as link:
        for _ in range(count):
            await link.send(MESSAGE)
            await link.recv()


@pytest.mark.parametrize("ask", [over_http, over_a_stream])
async def test_a_picture_leaves_nothing_for_the_collector(ask: object) -> None:
    assert callable(ask)
    found = []
    async with served(ServerConfig(rate_per_s=0)) as server:
        await ask(server.port, 5)  # what is made once is made
        for count in (1, COUNT):
            gc.collect()
            gc.disable()
            try:
                await ask(server.port, count)
                found.append(gc.collect())
            finally:
                gc.enable()
    of_a_connection, of_all = found
    assert of_all - of_a_connection < COUNT // 2
