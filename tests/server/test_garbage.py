"""A picture leaves no garbage in cycles: it would keep credentials, and cost a collector's time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import pytest
from websockets.asyncio.client import connect

from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DETECT_PATH,
    STREAM_PATH,
    DetectRequest,
    encode_request,
)
from hybrid_detect.server.admission import Admission, OverloadedError, StoppingError, TooLateError
from hybrid_detect.server.admitted_messages import AdmittedMessages
from hybrid_detect.server.config import ServerConfig

from ..waiting import until
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


class Held:
    """Lives as long as the frame of who waits."""


async def refused_later(admission: Admission, held: list[weakref.ref[Held]]) -> None:
    picture = Held()
    held.append(weakref.ref(picture))
    with contextlib.suppress(OverloadedError, StoppingError, TooLateError):
        async with admission.place(caller="one"):
            pytest.fail("it was let in")


@pytest.mark.parametrize("end", ["stopped", "displaced"])
async def test_a_picture_that_is_refused_after_it_has_waited_is_let_go(end: str) -> None:
    """Its error would hold the frames of who waits, and so the picture, by a traceback."""
    admission, held = Admission(max_waiting=2), []
    admission.open(1)
    gc.disable()
    try:
        async with admission.place(caller="one"):
            first, last = (asyncio.create_task(refused_later(admission, held)) for _ in range(2))
            await asyncio.sleep(0)
            assert admission.waiting == 2
            other = admission.enter(admission.place(caller="another"))
            rest = [first, asyncio.create_task(other)]
            if end == "displaced":
                await asyncio.sleep(0)
                assert held[-1]() is not None
            else:
                admission.close()
            await last
            assert held[-1]() is None
            admission.close()
            await asyncio.gather(*rest, return_exceptions=True)
    finally:
        gc.enable()


async def test_a_stream_s_messages_are_let_go_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """With them the scope, which has the credential."""
    held = []
    make = AdmittedMessages.__init__

    def noted(self: AdmittedMessages, *given: object, **options: object) -> None:
        held.append(weakref.ref(self))
        make(self, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(AdmittedMessages, "__init__", noted)
    async with served(ServerConfig(rate_per_s=0)) as server:
        gc.disable()
        try:
            await over_a_stream(server.port, 2)
            await until(lambda: not server.connections)
            assert [each() for each in held] == [None]
        finally:
            gc.enable()
