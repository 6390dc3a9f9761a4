"""Pictures that a busy server refuses by their first bytes: the answer, and what comes after it."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from hybrid_detect.exchange.wire import (
    AWAITS_HEADER,
    CONTENT_TYPE,
    RESUME_HEADER,
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_reply,
    encode_request,
)
from hybrid_detect.server import (
    admission,
    bodies,
    early_refusals,
    http_connection,
    resumption,
    tracing,
)
from hybrid_detect.server.api_keys import ApiKeyFile
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.early_refusals import EarlyRefusals, Undecided, Verdict
from hybrid_detect.server.http1 import RequestHead
from hybrid_detect.server.listening import Server
from hybrid_detect.server.replies import SECURITY_HEADERS
from hybrid_detect.types import QualityLevel

from ..otlp import recorded_traces, trace_id_of
from ..waiting import LIMIT_S, until
from .either_loop import anyio_backend  # noqa: F401 - a fixture
from .loopback import Busy, Served, jpeg, served
from .test_connections import limits

pytestmark = pytest.mark.anyio

TOKEN = "a-token-nobody-may-see"
CONFIG = ServerConfig(rate_per_s=0)
LARGE = os.urandom(1_500_000)
"""More than a socket holds, so that its sender cannot send it unless it is taken."""


@asynccontextmanager
async def busy(
    config: ServerConfig = CONFIG, *, caller: str = "peer 127.0.0.1"
) -> AsyncIterator[tuple[Served, Busy]]:
    """A server that lets no picture in until its detector's `go` is set."""
    detector = Busy()
    async with served(
        config, limits=limits(), detector=detector, admission=detector.admission
    ) as server:
        await detector.hold(caller)
        yield server, detector


def message(image: bytes = b"", **fields: object) -> bytes:
    return encode_request(DetectRequest(request_id=77, image=image or jpeg(), **fields))  # type: ignore[arg-type]


def request(body: bytes, *headers: str, version: str = "1.1", length: int | None = None) -> bytes:
    lines = [
        f"POST /v1/detect HTTP/{version}",
        "Host: x",
        f"Content-Type: {CONTENT_TYPE}",
        f"Accept: {CONTENT_TYPE}",
        *headers,
    ]
    if not any(header.startswith("Transfer-Encoding") for header in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Answers:
    """Reads one answer after the other off a connection."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.headers: dict[str, str] = {}

    async def next(self) -> tuple[int, bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        self.headers = {name.lower(): value for name, value in pairs}
        body = await self._reader.readexactly(int(self.headers.get("content-length", 0)))
        return int(first.split()[1]), body

    async def refusal(self) -> ErrorReply:
        """The next answer, which must be the whole refusal of an overloaded server."""
        status, body = await self.next()
        assert status == 503
        assert {name.lower() for name in SECURITY_HEADERS} <= self.headers.keys()
        reply = decode_reply(body)
        assert isinstance(reply, ErrorReply)
        assert (reply.status, reply.code) == (503, "overloaded")
        assert reply.retry_after_s is not None
        assert reply.retry_after_s > 0
        assert int(self.headers["retry-after"]) >= reply.retry_after_s
        return reply


HEALTH = b"GET /v1/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_picture_is_refused_before_it_has_come() -> None:
    async with busy() as (server, detector), server.dialled() as (reader, writer):
        whole = message(LARGE)
        start = request(whole[:200], length=len(whole))
        writer.write(start)
        answers = Answers(reader)
        assert (await answers.refusal()).request_id == 77
        assert "connection" not in answers.headers
        # What is still on its way is taken, and the connection goes on behind it.
        writer.write(whole[200:] + HEALTH)
        await writer.drain()
        assert (await answers.next())[0] == 200
        detector.go.set()
        await until(lambda: not detector.admission.is_pressed)
        writer.write(request(message()))
        status, body = await answers.next()
        assert status == 200
        assert isinstance(decode_reply(body), ResultReply)


async def test_one_is_let_in_for_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all whose first bytes come before the first of them is there."""
    monkeypatch.setattr(admission, "EXPECTED_S", LIMIT_S)
    async with busy() as (server, detector), contextlib.AsyncExitStack() as stack:
        links = [await stack.enter_async_context(server.dialled()) for _ in range(3)]
        whole = message()
        links[0][1].write(request(whole))
        await Answers(links[0][0]).refusal()
        await detector.let_one_go()
        waits = {}
        for reader, writer in links:
            writer.write(request(whole[:200], length=len(whole)))
            waits[asyncio.create_task(Answers(reader).next())] = writer
        await until(lambda: sum(wait.done() for wait in waits) == 2)
        ((wait, writer),) = ((wait, writer) for wait, writer in waits.items() if not wait.done())
        assert [other.result()[0] for other in waits if other is not wait] == [503, 503]
        writer.write(whole[200:])
        await until(lambda: detector.admission.waiting == 2)
        detector.go.set()
        assert (await wait)[0] == 200


@pytest.mark.parametrize("size", [1, 7, 50, 4096, 70_000])
async def test_it_comes_in_pieces_and_pictures_come_behind_it(size: int) -> None:
    async with busy() as (server, _), server.dialled() as (reader, writer):
        sent = request(message(LARGE[:90_000])) * 3 + HEALTH
        small = sent[:600] if size < 100 else b""
        for at in range(0, len(small), size):
            writer.write(small[at : at + size])
            await asyncio.sleep(0)
        for at in range(len(small), len(sent), max(size, 4096)):
            writer.write(sent[at : at + max(size, 4096)])
            await asyncio.sleep(0)
        answers = Answers(reader)
        for _ in range(3):
            await answers.refusal()
        assert (await answers.next())[0] == 200


async def test_a_body_in_chunks_is_refused_too_and_the_connection_goes_on() -> None:
    async with busy() as (server, _), server.dialled() as (reader, writer):
        body = message(LARGE[:90_000])
        chunks = b"".join(
            b"%x\r\n%b\r\n" % (len(part), part)
            for part in (body[at : at + 9000] for at in range(0, len(body), 9000))
        )
        writer.write(request(chunks + b"0\r\n\r\n", "Transfer-Encoding: chunked"))
        answers = Answers(reader)
        await answers.refusal()
        writer.write(HEALTH)
        assert (await answers.next())[0] == 200


async def test_a_client_that_asks_first_sends_nothing() -> None:
    """RFC 9110, 10.1.1: a final status in the place of 100."""
    async with busy() as (server, detector), server.dialled() as (reader, writer):
        body = message()
        writer.write(request(b"", "Expect: 100-continue", length=len(body)))
        answers = Answers(reader)
        await answers.refusal()
        # It may have begun to send before it saw that.
        writer.write(body + HEALTH)
        assert (await answers.next())[0] == 200
        detector.go.set()
        await until(lambda: not detector.admission.is_pressed)
        writer.write(request(b"", "Expect: 100-continue", length=len(body)))
        assert (await answers.next())[0] == 100
        writer.write(body)
        assert (await answers.next())[0] == 200


async def test_a_client_that_asks_first_may_have_more_time_than_one_without_a_deadline() -> None:
    async with busy() as (server, detector), server.dialled() as (reader, writer):
        detector.admission.offer({QualityLevel.FAST: 4.0})
        await detector.let_one_go()  # one is looked at, one waits: the next one is done after 12 s
        answers = Answers(reader)
        for _ in range(2):  # the second by its first bytes
            writer.write(request(message()))
            await answers.refusal()
        body = message(deadline_s=60.0)
        writer.write(request(b"", "Expect: 100-continue", length=len(body)))
        assert (await answers.next())[0] == 100
        writer.write(body)
        await until(lambda: detector.admission.waiting == 2)


@pytest.mark.parametrize(
    ("version", "header"),
    [("1.0", "X: y"), ("1.0", "Connection: keep-alive"), ("1.1", "Connection: close")],
)
async def test_the_connection_ends_where_its_client_wants_it(version: str, header: str) -> None:
    async with busy() as (server, _), server.dialled() as (reader, writer):
        writer.write(request(message(LARGE), header, version=version))
        answers = Answers(reader)
        await answers.refusal()
        assert answers.headers["connection"] == "close"
        assert await reader.read() == b""


async def test_dropping_does_not_wait_where_the_app_lets_its_sockets_wait() -> None:
    async with busy() as (server, _), server.dialled() as (reader, writer):
        whole = message(LARGE)
        socket.setdefaulttimeout(2 * LIMIT_S)
        try:
            writer.write(request(whole[:200], length=len(whole)))
            async with asyncio.timeout(LIMIT_S):
                await Answers(reader).refusal()
        finally:
            socket.setdefaulttimeout(None)


@pytest.mark.parametrize("behind", [b"", b"\r\n", HEALTH])
async def test_what_comes_behind_the_last_picture_does_not_cost_its_answer(behind: bytes) -> None:
    """A connection that is closed over unread bytes is reset, answers and all."""
    async with busy() as (server, _), server.dialled() as (reader, writer):
        writer.write(request(message(LARGE[:9000]), "Connection: close") + behind)
        await Answers(reader).refusal()
        assert await reader.read() == b""


async def test_a_message_like_the_last_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like it but for its request id and its picture."""
    read: list[bytes] = []
    request_in = early_refusals.request_in

    def noted(start: bytes) -> DetectRequest | None:
        read.append(start)
        return request_in(start)

    monkeypatch.setattr(early_refusals, "request_in", noted)
    async with busy() as (server, _), server.dialled() as (reader, writer):
        answers = Answers(reader)
        for number, deadline_s in [(1, 0.5), (2, 0.5), (3, 0.25), (4, 0.5), (5, 0.5)]:
            asked = DetectRequest(request_id=number, image=LARGE[:9000], deadline_s=deadline_s)
            writer.write(request(encode_request(asked)))
            assert (await answers.refusal()).request_id == number
        # One that is malformed is no other's.
        writer.write(request(encode_request(asked).replace(b"HD", b"HX")))
        assert (await answers.next())[0] == 400
    assert len(read) == 4


async def test_a_message_with_more_time_than_the_last_is_let_in() -> None:
    detector = Busy()
    detector.admission.times[QualityLevel.FAST].observe(0.4)
    async with served(
        CONFIG, limits=limits(), detector=detector, admission=detector.admission
    ) as server:
        held = asyncio.create_task(detector.detect(DetectRequest(request_id=0, image=jpeg())))
        await until(lambda: detector.admission.looking == 1)
        async with server.dialled() as (reader, writer):
            answers = Answers(reader)
            for _ in range(2):
                writer.write(request(message(deadline_s=0.1)))
                await answers.refusal()
            writer.write(request(message(deadline_s=90.0)))
            await until(lambda: detector.admission.waiting == 1)
            detector.go.set()
            assert (await answers.next())[0] == 200
        await held


async def test_a_bare_picture_has_no_number() -> None:
    """Though its client takes answers that have one."""
    async with busy() as (server, _), server.dialled() as (reader, writer):
        sent = request(jpeg()).replace(f"Content-Type: {CONTENT_TYPE}".encode(), b"X: y")
        writer.write(sent)
        assert (await Answers(reader).refusal()).request_id == 0


@pytest.mark.parametrize("accept", ["application/json", "*/*"])
async def test_a_bare_picture_is_refused_in_json(accept: str) -> None:
    async with busy() as (server, _), server.dialled() as (reader, writer):
        sent = request(jpeg()).replace(CONTENT_TYPE.encode(), b"image/jpeg", 1)
        writer.write(sent.replace(CONTENT_TYPE.encode(), accept.encode()))
        answers = Answers(reader)
        status, body = await answers.next()
        assert status == 503
        told = json.loads(body)
        assert told["code"] == "overloaded"
        assert int(answers.headers["retry-after"]) >= told["retry_after_s"] > 0


@pytest.mark.parametrize("headers", [(), ("Authorization: Bearer wrong",), ("Origin: http://a.b",)])
@pytest.mark.parametrize("start", [0, 3])
async def test_who_may_not_come_in_learns_nothing_and_does_not_wait(
    headers: tuple[str, ...], start: int
) -> None:
    async with (
        busy(replace(CONFIG, auth_token=TOKEN)) as (server, _),
        server.dialled() as (reader, writer),
    ):
        body = message()
        writer.write(request(body[:start], *headers, length=len(body)))
        status, _ = await Answers(reader).next()
        assert status == (403 if headers[:1] == ("Origin: http://a.b",) else 401)


async def test_what_comes_too_fast_is_told_so() -> None:
    async with (
        busy(ServerConfig(rate_per_s=0.001, burst=2)) as (server, _),
        server.dialled() as (reader, writer),
    ):
        writer.write(request(message(LARGE[:90_000])) * 3)
        answers = Answers(reader)
        await answers.refusal()
        await answers.refusal()
        status, body = await answers.next()
        assert status == 429
        reply = decode_reply(body)
        assert isinstance(reply, ErrorReply)
        assert reply.code == "too_fast"


async def test_what_goes_on_coming_too_fast_is_read_at_a_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where many come at once, too: none is looked at before the pause behind another is over."""
    monkeypatch.setattr(http_connection, "REFUSAL_PAUSE_S", 0.001)
    was_resting = []

    def read_head(self: http_connection.HttpConnection, data: bytes) -> bytes:
        was_resting.append(self._is_resting)
        return read_on(self, data)

    read_on = http_connection.HttpConnection._read_head
    monkeypatch.setattr(http_connection.HttpConnection, "_read_head", read_head)
    async with (
        busy(ServerConfig(rate_per_s=0.001, burst=1)) as (server, _),
        server.dialled() as (reader, writer),
    ):
        writer.write(request(message()) * 9)
        answers = Answers(reader)
        await answers.refusal()
        for _ in range(8):
            assert (await answers.next())[0] == 429
        assert was_resting == [False] * 9


async def test_who_takes_no_answers_is_written_no_more_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[http_connection.HttpConnection] = []

    def connection_made(
        self: http_connection.HttpConnection, transport: asyncio.BaseTransport
    ) -> None:
        made.append(self)
        begin(self, transport)

    begin = http_connection.HttpConnection.connection_made
    monkeypatch.setattr(http_connection.HttpConnection, "connection_made", connection_made)
    async with busy() as (server, detector), server.dialled() as (_, writer):
        writer.transport.pause_reading()
        await until(lambda: bool(made))
        flood = request(message(b"xx")) * 50
        while made[0]._is_reading:  # until TCP holds the client back
            writer.write(flood)
            await asyncio.sleep(0)
            assert made[0]._transport.get_write_buffer_size() < 1024 * 1024
        detector.go.set()
        writer.transport.abort()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"HD\x01\x01" + b"\xff" * 40, 400),
        (b"no message at all", 400),
        (encode_request(DetectRequest(request_id=1, image=b"x")).replace(b"jpeg", b"jp\x00g"), 400),
        (b"HS" + b"\x09" * 60, 400),
    ],
)
async def test_what_is_malformed_is_told_so(body: bytes, status: int) -> None:
    async with busy() as (server, _), server.dialled() as (reader, writer):
        writer.write(request(body))
        assert (await Answers(reader).next())[0] == status


async def test_too_much_is_told_so() -> None:
    async with busy() as (server, _), server.dialled() as (reader, writer):
        writer.write(request(message()[:100], length=2**40))
        assert (await Answers(reader).next())[0] == 413


async def test_a_picture_that_never_begins_is_the_app_s_to_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_connection, "FIRST_BYTES_S", 0.01)
    monkeypatch.setattr(bodies, "RECEIVE_LIMIT_S", 0.01)
    async with busy() as (server, _), server.dialled() as (reader, writer):
        body = message()
        writer.write(request(body[:5], length=len(body)))
        assert (await Answers(reader).next())[0] == 408


async def test_a_server_that_stops_refuses_what_has_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdicts: list[Verdict] = []

    def verdict(self: EarlyRefusals, head: RequestHead, peer: str, start: bytes) -> Verdict:
        verdicts.append(decide(self, head, peer, start))
        return verdicts[-1]

    decide = EarlyRefusals.verdict
    monkeypatch.setattr(EarlyRefusals, "verdict", verdict)
    async with busy() as (server, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(b"HD", length=1000))
        await until(lambda: verdicts == [Undecided.MORE])
    status, body = await Answers(reader).next()
    assert (status, json.loads(body)["code"]) == (503, "stopping")
    writer.close()


class SaysWhoAsks:
    """Middleware behind a proxy, which names the address that it speaks for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = [value for name, value in scope.get("headers", ()) if name == b"x-forwarded-for"]
        if named:
            scope = {**scope, "client": (named[0].decode(), 0)}
        await self._app(scope, receive, send)


async def test_nobody_is_taken_for_the_proxy_before_him() -> None:
    detector, config = Busy(), replace(CONFIG, port=0)
    app = create_app(config, detector, admission=detector.admission)
    app.add_middleware(SaysWhoAsks)
    async with Server(app, config, limits=limits()) as server:
        await detector.hold("peer 127.0.0.1")
        assert detector.admission.is_pressed
        async with Served(server.port, detector, server).dialled() as (reader, writer):
            writer.write(request(message(), "X-Forwarded-For: 192.0.2.7"))
            await until(lambda: detector.displaced == 1)
            detector.go.set()
            assert (await Answers(reader).next())[0] == 200


async def test_a_flood_is_refused_and_another_key_let_in(tmp_path: Path) -> None:
    keys = ApiKeyFile(tmp_path / "keys.json")
    flood, other = keys.add("flood"), keys.add("other")
    config = replace(CONFIG, api_keys=tmp_path / "keys.json")
    async with (
        busy(config, caller=f"key {flood.split('_')[1]}") as (server, detector),
        server.dialled() as (reader, writer),
    ):
        for _ in range(3):
            writer.write(request(message(LARGE), f"Authorization: Bearer {flood}"))
            await Answers(reader).refusal()
        writer.write(request(message(), f"X-API-Key: {other}"))
        await until(lambda: detector.displaced == 1)
        detector.go.set()
        assert (await Answers(reader).next())[0] == 200


async def test_it_is_counted_logged_and_traced(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hybrid_detect.server.requests")
    config = replace(CONFIG, metrics_token="m" * 16, request_log="refused")
    detector, (traces, tracer) = Busy(), recorded_traces()
    async with served(
        config, limits=limits(), detector=detector, admission=detector.admission, tracer=tracer
    ) as server:
        await detector.hold()
        async with server.dialled() as (reader, writer):
            parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            body = message(LARGE[:90_000], traceparent=parent)
            writer.write(request(body, f"traceparent: {parent}"))
            answers = Answers(reader)
            await answers.refusal()
            identity = answers.headers["x-request-id"]
            writer.write(
                b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
                + b"m" * 16
                + b"\r\n\r\n"
            )
            _, page = await answers.next()
    (line,) = [each.getMessage() for each in caplog.records]
    assert f"request_id={identity}" in line
    assert "trace_id=0af7651916cd43dd8448eb211c80319c" in line
    assert "route=/v1/detect status=503 cause=overloaded" in line
    assert "refused=1" in line
    counted = page.decode()
    assert 'hybrid_detect_server_refusals_total{cause="overloaded"} 1.0' in counted
    assert 'hybrid_detect_server_requests_total{route="/v1/detect",status="503"} 1.0' in counted
    (span,) = [each for each in traces() if each.name == "picture" and each.parent]
    assert trace_id_of(span) == parent.split("-")[1]
    assert span.attributes
    assert span.attributes["error.type"] == "OverloadedError"


async def test_a_flood_leaves_few_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "REFUSALS_PER_S", 0.001)
    monkeypatch.setattr(tracing, "REFUSALS_AT_ONCE", 3)
    detector, (traces, tracer) = Busy(), recorded_traces()
    async with served(
        CONFIG, limits=limits(), detector=detector, admission=detector.admission, tracer=tracer
    ) as server:
        await detector.hold()
        before = len(traces())
        async with server.dialled() as (reader, writer):
            for _ in range(9):
                writer.write(request(message()))
                await Answers(reader).refusal()
        assert len(traces()) - before == 3


async def test_a_refused_client_that_goes_leaves_nothing() -> None:
    async with busy() as (server, _):
        before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
        for cut in (300, 5000, 200_000):
            async with server.dialled() as (reader, writer):
                whole = message(LARGE)
                writer.write(request(whole[:cut], length=len(whole)))
                await Answers(reader).refusal()
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                )
        await until(lambda: server.connections == 0)
        if sys.platform == "linux":
            await until(lambda: len(os.listdir("/proc/self/fd")) == before)


async def test_what_is_not_sent_is_not_waited_for_for_ever() -> None:
    detector = Busy()
    async with served(
        CONFIG, limits=limits(body_s=0.05), detector=detector, admission=detector.admission
    ) as server:
        await detector.hold()
        async with server.dialled() as (reader, writer):
            whole = message(LARGE)
            writer.write(request(whole[:300], length=len(whole)))
            await Answers(reader).refusal()
            async with asyncio.timeout(LIMIT_S):
                assert await reader.read() == b""


# -- streams -----------------------------------------------------------------------------------


def frame_of(payload: bytes) -> bytes:
    """A binary message in one frame, masked with zeros."""
    size = len(payload)
    assert size > 65535
    return b"\x82\xff" + size.to_bytes(8, "big") + bytes(4) + payload


async def opened(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *headers: str) -> None:
    lines = [
        "GET /v1/stream HTTP/1.1",
        "Host: x",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")


async def reply_on(reader: asyncio.StreamReader) -> ErrorReply | ResultReply:
    head = await reader.readexactly(2)
    assert head[0] == 0x82
    size = head[1]
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    return decode_reply(await reader.readexactly(size))


async def test_a_stream_s_picture_is_refused_before_it_has_come() -> None:
    async with busy() as (server, detector), server.dialled() as (reader, writer):
        await opened(reader, writer)
        whole = frame_of(message(LARGE))
        for cut in (4096, 5000, 700_000):
            writer.write(whole[:cut])
            reply = await reply_on(reader)
            assert isinstance(reply, ErrorReply)
            assert (reply.request_id, reply.code) == (77, "overloaded")
            assert reply.retry_after_s
            writer.write(whole[cut:])
            await writer.drain()
        detector.go.set()
        await until(lambda: detector.admission.looking == 0)
        writer.write(frame_of(message(jpeg() + bytes(90_000))))
        assert isinstance(await reply_on(reader), ResultReply)


async def test_a_stream_that_is_refused_in_pieces_goes_on() -> None:
    async with busy() as (server, _), server.dialled() as (reader, writer):
        await opened(reader, writer)
        ping = b"\x89\x81" + bytes(4) + b"p"
        sent = (frame_of(message(LARGE[:200_000])) + ping) * 3
        for at in range(0, len(sent), 7001):
            writer.write(sent[at : at + 7001])
            await asyncio.sleep(0)
        seen = []
        while len(seen) < 6:
            head = await reader.readexactly(2)
            size = head[1]
            if size == 126:
                size = int.from_bytes(await reader.readexactly(2), "big")
            await reader.readexactly(size)
            seen.append(head[0])
        assert sorted(seen) == [0x82] * 3 + [0x8A] * 3


async def test_what_comes_behind_a_refused_message_does_not_end_in_its_stead() -> None:
    detector = Busy()
    async with (
        served(
            CONFIG, limits=limits(message_s=1.0), detector=detector, admission=detector.admission
        ) as server,
        server.dialled() as (reader, writer),
    ):
        await detector.hold()
        await opened(reader, writer)
        whole = frame_of(message(LARGE[:200_000]))
        writer.write(whole[:-10])
        await reply_on(reader)
        (connection,) = server.server._context.connections.each()  # type: ignore[union-attr]
        frame = connection._frame  # type: ignore[attr-defined]
        await until(lambda: frame.left_bytes == 10)
        small = message(jpeg())
        small = b"\x82\xfe" + len(small).to_bytes(2, "big") + bytes(4) + small
        writer.write(whole[-10:] + small)
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + 1.5
        while loop.time() < ends_s:
            assert isinstance(await reply_on(reader), ErrorReply)
            writer.write(small)


async def test_a_stream_s_rate_holds_for_what_is_refused() -> None:
    config = replace(CONFIG, stream_rate_per_s=0.001)
    async with busy(config) as (server, _), server.dialled() as (reader, writer):
        await opened(reader, writer)
        codes = []
        for _ in range(2):
            writer.write(frame_of(message(LARGE[:200_000])))
            reply = await reply_on(reader)
            assert isinstance(reply, ErrorReply)
            codes.append(reply.code)
        assert codes == ["overloaded", "too_fast"]


async def test_a_stream_s_refusal_that_is_lost_comes_over_the_next_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resumption, "RESUME_S", LIMIT_S)
    name = f"{RESUME_HEADER}: {'0' * 32}"
    whole = frame_of(message(LARGE[:200_000]))
    async with busy() as (server, _):
        async with server.dialled() as (reader, writer):
            await opened(reader, writer, name)
            writer.write(whole)
            first = await reply_on(reader)
        async with server.dialled() as (reader, writer):
            await opened(reader, writer, name, f"{AWAITS_HEADER}: 77")
            assert await reply_on(reader) == first
            writer.write(whole)  # which is not refused anew
            assert await reply_on(reader) == first


async def test_a_refused_message_of_a_stream_that_goes_leaves_nothing() -> None:
    async with busy() as (server, _), server.dialled() as (reader, writer):
        await opened(reader, writer)
        writer.write(frame_of(message(LARGE))[:5000])
        await reply_on(reader)
        writer.close()
        await until(lambda: server.connections == 0)
