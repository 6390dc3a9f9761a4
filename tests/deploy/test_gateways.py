"""Our client and server with a real gateway between them: the examples of `examples/deploy`."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from hybrid_detect import (
    BackendKind,
    BackendResponseError,
    CloudDetectionService,
    Frame,
    HybridDetectionService,
    Plan,
    StreamingService,
    watch_session,
)
from hybrid_detect.exchange.wire import DETECT_PATH, HEALTH_PATH
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.serving import ServerProcess
from hybrid_detect.testing import FakeBackend

from ..conftest import SERVER_TOKEN
from ..otlp import recorded_traces, trace_id_of
from ..server.loopback import FACE, Busy, Served, jpeg, served
from ..waiting import LIMIT_S, until
from .gateways import EXAMPLES, Gateway, caddy, errors_of, free_port, nginx

pytestmark = pytest.mark.anyio

TOKEN = "a-token-nobody-may-see"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
CONFIG = ServerConfig(auth_token=TOKEN, rate_per_s=0)

MakeGateway = Callable[[Path, int], AbstractContextManager[Gateway]]


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def make_gateway(request: pytest.FixtureRequest) -> MakeGateway:
    made: MakeGateway = request.param
    return made


@pytest.fixture
async def fake() -> AsyncIterator[Served]:
    async with served(CONFIG) as fake:
        yield fake


@pytest.fixture
def gateway(make_gateway: MakeGateway, fake: Served, tmp_path: Path) -> Iterator[Gateway]:
    with make_gateway(tmp_path, fake.port) as gateway:
        yield gateway


def trust_in(gateway: Gateway) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(gateway.ca_file))


def client(gateway: Gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=gateway.url, verify=trust_in(gateway), timeout=LIMIT_S)


def cloud_of(gateway: Gateway) -> CloudDetectionService:
    return CloudDetectionService(
        endpoint=gateway.url, auth_token=TOKEN, ssl_context=trust_in(gateway)
    )


def plan(kind: str, *, deadline_s: float = LIMIT_S) -> Plan:
    return Plan(backend=BackendKind(kind), deadline_s=deadline_s, retries=0, reason="a test")


def frame() -> Frame:
    return Frame.of(np.zeros((48, 64, 3), np.uint8))


@pytest.mark.parametrize("backend", [CloudDetectionService, StreamingService])
async def test_faces_come_back_through_it(
    gateway: Gateway, backend: type[CloudDetectionService | StreamingService]
) -> None:
    async with backend(
        endpoint=gateway.url, auth_token=TOKEN, ssl_context=trust_in(gateway)
    ) as remote:
        for _ in range(3):
            result = await remote.detect(frame(), plan(remote.kind.value))
    assert [face.box for face in result.faces] == [FACE.box]
    assert result.timings.detect_s is not None


@pytest.mark.parametrize("mode", ["cloud", "streaming"])
async def test_a_frame_and_what_the_server_did_are_one_trace(
    make_gateway: MakeGateway, tmp_path: Path, mode: str
) -> None:
    spans, tracer = recorded_traces()
    async with contextlib.AsyncExitStack() as ends:
        server = await ends.enter_async_context(served(CONFIG, tracer=tracer))
        gateway = ends.enter_context(make_gateway(tmp_path, server.port))
        options = {"auth_token": TOKEN, "ssl_context": trust_in(gateway)}
        backend = {"cloud": CloudDetectionService, "streaming": StreamingService}[mode]
        remote = backend(endpoint=gateway.url, **options)
        async with HybridDetectionService(backends=[remote], mode=mode, tracer=tracer) as service:
            result = await service.process_image(np.zeros((48, 64, 3), np.uint8))
    found = {span.name: span for span in spans() if trace_id_of(span) == result.trace_id}
    exchange = found["POST /v1/detect" if mode == "cloud" else "send /v1/stream"]
    assert found["picture"].parent is not None
    assert found["picture"].parent.span_id == exchange.context.span_id
    assert {"frame", "capture", "decide", "compress", "queue", "detect"} <= set(found)


async def test_a_wrong_credential_is_refused_by_the_server_behind_it(
    gateway: Gateway, fake: Served
) -> None:
    async with client(gateway) as http:
        refused = await http.post(DETECT_PATH, content=jpeg())
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        let_in = await http.post(DETECT_PATH, content=jpeg(), headers=HEADERS)
        assert let_in.status_code == 200
    assert fake.detector.looks == 1


@asynccontextmanager
async def dying_server(taken: list[str]) -> AsyncIterator[int]:
    """Takes a whole request, and closes without a word; notes the request's method."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if length := head.partition(b"content-length: ")[2]:
                await reader.readexactly(int(length.split()[0]))
            taken.append(head.split()[0].decode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_with_two_servers_nginx_asks_the_other_what_one_died_over_but_no_picture(
    fake: Served, tmp_path: Path
) -> None:
    taken: list[str] = []
    async with dying_server(taken) as port:
        # Without `max_fails` nginx would leave it out for ten seconds after a failure.
        servers = f"server 127.0.0.1:{port} max_fails=0; server 127.0.0.1:{fake.port};"
        with nginx(tmp_path, port, (f"server 127.0.0.1:{port};", servers)) as gateway:
            async with client(gateway) as http:
                while "get" not in taken:
                    asked = await http.get("/v1/openapi.json", headers=HEADERS)
                    assert asked.status_code == 200
                looks = 0
                while "post" not in taken:
                    answer = await http.post(DETECT_PATH, content=jpeg(), headers=HEADERS)
                    looks += answer.status_code == 200
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert fake.detector.looks == looks, "no picture was asked about twice"


async def test_a_body_beyond_the_limit_does_not_reach_the_server(
    gateway: Gateway, fake: Served
) -> None:
    status = 413
    async with client(gateway) as http:
        # Go, in which Caddy is written, closes half a second after a refusal, whatever comes still.
        with contextlib.suppress(httpx.ReadError, httpx.WriteError):
            body = bytes(5 * 1024 * 1024)
            status = (await http.post(DETECT_PATH, content=body, headers=HEADERS)).status_code
    assert status == 413
    assert fake.detector.looks == 0


async def test_a_picture_that_is_refused_before_it_has_come_is_told_so(
    make_gateway: MakeGateway, tmp_path: Path
) -> None:
    """The server answers before a gateway has passed all of the picture on."""
    detector = Busy()
    picture = jpeg() + bytes(1_500_000)
    async with served(CONFIG, detector=detector, admission=detector.admission) as server:
        await detector.hold("token 127.0.0.1")
        with make_gateway(tmp_path, server.port) as gateway:
            async with client(gateway) as http:
                for _ in range(5):
                    refused = await http.post(DETECT_PATH, content=picture, headers=HEADERS)
                    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
                    assert int(refused.headers["Retry-After"]) >= 1
                assert (await http.get(HEALTH_PATH, headers=HEADERS)).status_code == 200
                detector.go.set()
                await until(lambda: detector.admission.looking == 0)
                looked = await http.post(DETECT_PATH, content=picture, headers=HEADERS)
                assert looked.status_code == 200


async def test_the_server_sees_a_slow_uplink_as_the_client_has_it(gateway: Gateway) -> None:
    """A gateway that takes the whole picture first would make it arrive at once."""
    picture = jpeg()
    has_begun = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield picture[:100]
        has_begun.set()
        await asyncio.sleep(0.3)  # what is measured, not what is waited for
        yield picture[100:]

    headers = {**HEADERS, "Content-Length": str(len(picture))}
    async with client(gateway) as http:
        answer = await http.post(DETECT_PATH, content=slowly(), headers=headers)
    assert answer.status_code == 200
    parts = dict(part.strip().split(";dur=") for part in answer.headers["Server-Timing"].split(","))
    assert float(parts["receive"]) >= 250


async def test_without_a_server_it_tells_when_to_come_back(
    make_gateway: MakeGateway, tmp_path: Path
) -> None:
    with make_gateway(tmp_path, free_port()) as gateway:
        async with client(gateway) as http:
            answer = await http.post(DETECT_PATH, content=jpeg(), headers=HEADERS)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        async with HybridDetectionService(
            backends=[cloud_of(gateway), FakeBackend("device")], mode="prefer_cloud"
        ) as service:
            result = await service.process_image(np.zeros((48, 64, 3), np.uint8))
    assert result.backend is BackendKind.DEVICE


async def test_a_stream_hears_that_the_server_restarts(
    make_gateway: MakeGateway, tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as ends:
        server = await ends.enter_async_context(served(CONFIG))
        gateway = ends.enter_context(make_gateway(tmp_path, server.port))
        url = f"wss://localhost:{gateway.port}/v1/stream"
        stream = await ends.enter_async_context(
            connect(url, ssl=trust_in(gateway), additional_headers=HEADERS)
        )
        stopping = asyncio.ensure_future(server.server.__aexit__(None, None, None))
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(stream.recv(), LIMIT_S)
        await stopping
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012


async def test_a_session_is_watched_as_it_goes_on(gateway: Gateway, fake: Served) -> None:
    live = fake.server._app.state.live
    watch = watch_session(gateway.url, "a visit/1", auth_token=TOKEN, ssl_context=trust_in(gateway))
    path = "/v1/sessions/a%20visit%2F1/live"
    async with (
        asyncio.timeout(LIMIT_S),
        aclosing(watch),  # type: ignore[type-var]
        client(gateway) as http,
        http.stream("GET", path, headers=HEADERS) as events,
    ):
        first = asyncio.create_task(anext(watch))
        lines = events.aiter_lines()
        assert await anext(lines) == ": watching"
        await until(lambda: live.watchers == 2)
        sent = {**HEADERS, "X-Session-ID": "a visit/1"}
        (await http.post(DETECT_PATH, content=jpeg(), headers=sent)).raise_for_status()
        assert (await first).faces == (FACE,)
        while not (line := await anext(lines)).startswith("data:"):  # at once, not in a block
            pass
        assert json.loads(line.removeprefix("data: "))["number"] == 1
    await until(lambda: live.watchers == 0)  # both have been seen to go


async def test_a_hang_up_reaches_the_server(gateway: Gateway, fake: Served) -> None:
    """Or it would look at pictures for callers who have gone."""
    gone = asyncio.Event()

    async def detect(request: object, *, is_abandoned: Callable[[], object], **_: object) -> None:
        while not await is_abandoned():  # type: ignore[misc]
            await asyncio.sleep(0.01)
        gone.set()
        raise asyncio.CancelledError

    fake.detector.detect = detect  # type: ignore[assignment,method-assign]
    async with client(gateway) as http:
        with pytest.raises(httpx.TimeoutException):
            await http.post(
                DETECT_PATH, content=jpeg(), headers=HEADERS, timeout=httpx.Timeout(0.5, connect=9)
            )
    await asyncio.wait_for(gone.wait(), LIMIT_S)


async def test_nothing_but_the_api_is_behind_it(gateway: Gateway) -> None:
    async with client(gateway) as http:
        assert (await http.get(HEALTH_PATH)).status_code == 200
        assert (await http.get("/")).status_code == 404
        assert (await http.get("/metrics")).status_code == 404


async def test_nginx_limits_an_address_with_429_and_a_time(fake: Served, tmp_path: Path) -> None:
    few = ("rate=100r/s", "rate=1r/s"), ("burst=200 nodelay", "burst=2 nodelay")
    with nginx(tmp_path, fake.port, *few) as gateway:
        async with client(gateway) as http:
            posts = [http.post(DETECT_PATH, content=jpeg(), headers=HEADERS) for _ in range(8)]
            answers = await asyncio.gather(*posts)
        refused = [answer for answer in answers if answer.status_code == 429]
        assert 1 <= len(refused) <= 6
        assert all(answer.headers["Retry-After"] == "1" for answer in refused)
        assert all(answer.json()["code"] == "too_fast" for answer in refused)
        async with cloud_of(gateway) as cloud:
            with pytest.raises(BackendResponseError) as told:
                await asyncio.gather(*(cloud.detect(frame(), plan("cloud")) for _ in range(8)))
        assert (told.value.status_code, told.value.retry_after_s) == (429, 1.0)


async def test_nginx_writes_no_picture_and_no_secret_to_the_disk(
    fake: Served, tmp_path: Path
) -> None:
    with nginx(tmp_path, fake.port) as gateway:
        picture = jpeg(640, 480) + bytes(1_000_000)
        async with client(gateway) as http:
            await http.post(
                DETECT_PATH, content=picture, headers={**HEADERS, "X-Session-ID": "visit-81"}
            )
            await http.post(f"{DETECT_PATH}?secret=canary", content=jpeg(), headers=HEADERS)
            for path in ("export", "live"):
                await http.head(f"/v1/sessions/visit-81/{path}", headers=HEADERS)
        await until(lambda: (tmp_path / "access.log").read_text().count(" /v1/") == 4)
        log = (tmp_path / "access.log").read_text()
        assert not any(word in log for word in (TOKEN, "canary", "visit-81"))
        kept = [file for file in tmp_path.rglob("*") if file.is_file()]
        assert all(file.stat().st_size < 100_000 for file in kept), kept
    assert "a client request body is buffered" not in errors_of(tmp_path)


def test_the_examples_are_valid_json_where_they_answer_in_json() -> None:
    text = (EXAMPLES / "nginx.conf").read_text(encoding="utf-8")
    bodies = [part.split("'")[1] for part in text.split("return ")[1:]]
    assert len(bodies) == 4
    for body in bodies:
        assert json.loads(body.replace("\\n", ""))["code"]


def test_the_body_limit_of_nginx_is_the_server_s() -> None:
    assert ServerConfig().max_body_bytes == 4 * 1024 * 1024
    assert "client_max_body_size  4m;" in (EXAMPLES / "nginx.conf").read_text(encoding="utf-8")
    assert "max_size 4MiB" in (EXAMPLES / "Caddyfile").read_text(encoding="utf-8")


@pytest.mark.server
async def test_no_frame_is_lost_when_a_replica_is_killed_under_load(
    server: ServerProcess, tmp_path: Path
) -> None:
    """A machine that is taken away: our retries come back through nginx to the other one."""
    answered = 0
    patient = Plan(backend=BackendKind.CLOUD, deadline_s=LIMIT_S, retries=9, reason="a test")
    with ServerProcess(auth_token=SERVER_TOKEN, options=["--detectors", "1"]) as second:
        ports = [process.url.rpartition(":")[2] for process in (server, second)]
        two = ("keepalive 64;", f"server 127.0.0.1:{ports[1]};\nkeepalive 64;")
        with nginx(tmp_path, int(ports[0]), two) as gateway:
            async with CloudDetectionService(
                endpoint=gateway.url, auth_token=SERVER_TOKEN, ssl_context=trust_in(gateway)
            ) as cloud:

                async def camera() -> None:
                    nonlocal answered
                    for _ in range(12):
                        await cloud.detect(frame(), patient)
                        answered += 1

                async def disaster() -> None:
                    await until(lambda: answered >= 8)
                    second.kill()

                await asyncio.gather(disaster(), *(camera() for _ in range(4)))
    assert answered == 48
