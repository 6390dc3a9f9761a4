"""What the server counts, where that is served, and who may read it."""

import ast
import asyncio
import contextlib
import dataclasses
import socket
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.exchange.batch import BATCH_CONTENT_TYPE, encode_batch
from hybrid_detect.exchange.wire import CONTENT_TYPE, DetectRequest, encode_request
from hybrid_detect.server import metrics as metrics_module
from hybrid_detect.server import serving
from hybrid_detect.server.admission import Admission, OverloadedError
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.connections import ConnectionLimits
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.observation import ROUTES
from hybrid_detect.server.tls import TlsConfig

from ..waiting import LIMIT_S, until
from .loopback import OneFace, jpeg, served

pytestmark = pytest.mark.anyio

SERVER = Path(metrics_module.__file__).parent
METRICS_TOKEN = "a-token-for-metrics"
CANARY = "canary-7f3a"
OWN_PORT = ServerConfig(metrics_port=0)


def values(text: str) -> dict[str, float]:
    """Samples by name and labels, such as ``requests_total{route=/v1/detect,status=200}``."""
    found = {}
    for family in prometheus_text(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix("hybrid_detect_server_")
            found[f"{name}{{{labels}}}" if labels else name] = sample.value
    return found


class Scraped:
    """A server with metrics at a port of their own, and clients of both ports."""

    def __init__(self, pictures: httpx.AsyncClient, operator: httpx.AsyncClient) -> None:
        self.pictures = pictures
        self.operator = operator

    async def values(self) -> dict[str, float]:
        return values((await self.operator.get("/metrics")).text)


@contextlib.asynccontextmanager
async def scraped(
    config: ServerConfig = OWN_PORT,
    detector: OneFace | None = None,
    limits: ConnectionLimits | None = None,
):
    async with contextlib.AsyncExitStack() as ends:
        server = await ends.enter_async_context(served(config, detector=detector, limits=limits))
        management = server.server.management
        assert management is not None
        clients = [
            await ends.enter_async_context(httpx.AsyncClient(base_url=url, timeout=LIMIT_S))
            for url in (server.server.url, management.url)
        ]
        yield server, Scraped(*clients)


def wire(request_id: int = 1, **options: object) -> bytes:
    return encode_request(DetectRequest(request_id=request_id, image=jpeg(), **options))


async def test_pictures_of_all_routes_are_counted() -> None:
    async with scraped() as (server, scrape):
        assert (await scrape.pictures.post("/v1/detect", content=jpeg())).status_code == 200
        batch = await scrape.pictures.post(
            "/v1/detect/batch",
            content=encode_batch([wire(1), wire(2)]),
            headers={"Content-Type": BATCH_CONTENT_TYPE},
        )
        assert batch.status_code == 200
        async with connect(f"ws://127.0.0.1:{server.port}/v1/stream") as stream:
            await stream.send(wire(3))
            await stream.recv()
            assert (await scrape.values())["streams_open{route=/v1/stream}"] == 1
        await until(lambda: server.server.connections < 2)
        found = await scrape.values()
    for route, pictures in (("/v1/detect", 1), ("/v1/detect/batch", 2), ("/v1/stream", 1)):
        assert found[f"answers_total{{level=none,model=fake,route={route}}}"] == pictures
        assert found[f"picture_duration_seconds_count{{route={route}}}"] == pictures
        assert found[f"sent_bytes_total{{route={route}}}"] > 0
    assert found["requests_total{route=/v1/detect,status=200}"] == 1
    assert found["requests_total{route=/v1/detect/batch,status=200}"] == 1
    assert found["requests_total{route=/v1/stream,status=101}"] == 1
    assert found["received_bytes_total{route=/v1/detect}"] == len(jpeg())
    assert found["received_bytes_total{route=/v1/stream}"] == len(wire(3))
    assert found["faces_total{level=none,model=fake}"] == 4
    assert found["queue_duration_seconds_count"] == 4
    assert found["detect_duration_seconds_bucket{le=0.2,level=none}"] == 4
    assert found["streams_open{route=/v1/stream}"] == found["requests_in_progress"] == 0


async def test_the_time_of_a_look_is_told_apart() -> None:
    class Decodes(OneFace):
        async def detect(self, request, *, is_abandoned=None, **_) -> Detection:
            seen = await super().detect(request)
            return dataclasses.replace(seen, queue_s=0.3, decode_s=0.04, detect_s=0.1)

    async with scraped(detector=Decodes()) as (_, scrape):
        await scrape.pictures.post("/v1/detect", content=jpeg())
        found = await scrape.values()
    assert found["queue_duration_seconds_sum"] == pytest.approx(0.3)
    assert found["decode_duration_seconds_sum"] == pytest.approx(0.04)
    assert found["detect_duration_seconds_sum{level=none}"] == pytest.approx(0.06)
    assert found["picture_duration_seconds_sum{route=/v1/detect}"] == pytest.approx(0.4, abs=0.1)
    assert found["picture_duration_seconds_bucket{le=0.3,route=/v1/detect}"] == 0


@pytest.mark.parametrize("flags", ["01", "00"])
async def test_a_look_leads_to_its_trace_if_that_is_sampled(flags: str) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with scraped() as (_, clients):
        headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-{flags}"}
        await clients.pictures.post("/v1/detect", content=jpeg(), headers=headers)
        accepted = {"Accept": "application/openmetrics-text"}
        text = (await clients.operator.get("/metrics", headers=accepted)).text
    told = {
        family.name.removeprefix("hybrid_detect_server_"): sample.exemplar.labels
        for family in open_metrics(text)
        for sample in family.samples
        if sample.exemplar is not None
    }
    seen = {"queue_duration_seconds", "detect_duration_seconds"}
    assert told == ({name: {"trace_id": trace} for name in seen} if flags == "01" else {})


async def test_those_who_watch_a_session_are_streams_of_their_own() -> None:
    async with scraped() as (server, scrape):
        url = f"ws://127.0.0.1:{server.port}/v1/sessions/{CANARY}/live"
        async with connect(url):
            found = await scrape.values()
    assert found["streams_open{route=/v1/sessions/{session}/live}"] == 1
    assert found["streams_open{route=/v1/stream}"] == 0
    assert CANARY not in "".join(found)


async def test_a_stream_to_nowhere_is_counted_as_refused() -> None:
    async with scraped() as (server, scrape):
        with pytest.raises(InvalidStatus):
            async with connect(f"ws://127.0.0.1:{server.port}/nowhere"):
                pass
        found = await scrape.values()
    assert found["requests_total{route=other,status=403}"] == 1
    assert found["refusals_total{cause=refused}"] == 1


async def test_every_refusal_is_counted_once_by_its_cause() -> None:
    config = dataclasses.replace(OWN_PORT, auth_token="a-token", stream_rate_per_s=0.001)
    detector = OneFace()
    good = {"Authorization": "Bearer a-token"}
    async with scraped(config, detector) as (server, scrape):
        before = await scrape.values()
        await scrape.pictures.post("/v1/detect", content=jpeg())
        await scrape.pictures.post("/v1/detect", content=b"no picture", headers=good)
        await scrape.pictures.get("/nothing", headers=good)
        async with connect(
            f"ws://127.0.0.1:{server.port}/v1/stream", additional_headers=good
        ) as stream:
            for request_id in (1, 2):
                await stream.send(wire(request_id))
                await stream.recv()
        await server.raw(b"no HTTP\r\n\r\n")
        after = await scrape.values()
    counted = {
        name: after[name] - before[name]
        for name in after
        if name.startswith("refusals_total") and after[name] != before[name]
    }
    assert counted == {
        "refusals_total{cause=unauthorized}": 1,
        "refusals_total{cause=invalid_image}": 1,
        "refusals_total{cause=refused}": 1,
        "refusals_total{cause=too_fast}": 1,
        "refusals_total{cause=bad_request}": 1,
    }
    assert after["requests_total{route=/v1/detect,status=401}"] == 1
    assert after["requests_total{route=/v1/detect,status=422}"] == 1
    assert after["requests_total{route=other,status=404}"] == 1


async def test_every_code_of_an_error_reply_is_a_known_cause() -> None:
    codes = set()
    for path in SERVER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            given = [each.value for each in node.keywords if each.arg == "code"]
            name = getattr(node.func, "id", "")
            if name in {"error_reply", "_refused"} and len(node.args) > 2:
                given.append(node.args[2])
            codes |= {
                each.value
                for each in given
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
    assert len(codes) > 15
    assert codes - set(metrics_module.CAUSES) == set()


async def test_counters_are_there_before_anything_happens() -> None:
    async with scraped() as (_, scrape):
        found = await scrape.values()
    for cause in ("overloaded", "too_late", "unauthorized", "detector_failed", "other"):
        assert found[f"refusals_total{{cause={cause}}}"] == 0
    for status in (200, 429, 500, 503, 504):
        assert found[f"requests_total{{route=/v1/detect,status={status}}}"] == 0
    assert found["answers_total{level=none,model=fake,route=/v1/stream}"] == 0
    assert found["queue_length"] == found["pictures_in_flight"] == 0
    assert found["queue_limit"] == ServerConfig().max_waiting
    assert found["ready"] == 1
    assert found["process_resident_memory_bytes"] > 1_000_000
    assert found["process_open_fds"] > 3
    assert any(name.startswith("build_info{python=") for name in found)


async def test_nothing_of_a_caller_becomes_a_series_and_none_is_added() -> None:
    async with scraped() as (_, scrape):
        await scrape.pictures.post("/v1/detect", content=jpeg())
        before = set(await scrape.values())
        for path in (f"/{CANARY}", f"/v1/sessions/{CANARY}", f"/v1/detect?{CANARY}=1"):
            headers = {
                "Authorization": f"Bearer {CANARY}",
                "X-Session-ID": CANARY,
                "X-Quality": CANARY,
                "User-Agent": CANARY,
                "traceparent": CANARY,
                "X-Request-ID": CANARY,
            }
            for method in ("GET", "POST", "CANARY"):
                await scrape.pictures.request(method, path, headers=headers, content=b"canary-7f3a")
        session = wire(session_id=CANARY)
        await scrape.pictures.post(
            "/v1/detect", content=session, headers={"Content-Type": CONTENT_TYPE}
        )
        text = (await scrape.operator.get("/metrics")).text
    assert CANARY not in text
    assert "CANARY" not in text
    assert set(values(text)) == before


async def test_text_and_open_metrics_are_both_served() -> None:
    async with scraped() as (_, scrape):
        await scrape.pictures.post("/v1/detect", content=jpeg())
        text = await scrape.operator.get("/metrics")
        wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
        openly = await scrape.operator.get("/metrics", headers=wanted)
    assert text.headers["Content-Type"].startswith("text/plain")
    assert openly.headers["Content-Type"].startswith("application/openmetrics-text")
    names = {family.name for family in open_metrics(openly.text)}
    assert "hybrid_detect_server_requests" in names
    assert {f.name for f in prometheus_text(text.text)} >= {n for n in names if "requests" in n}


async def test_metrics_beside_the_pictures_have_a_token_of_their_own() -> None:
    config = ServerConfig(auth_token="a-token", metrics_token=METRICS_TOKEN)
    async with served(config) as server, httpx.AsyncClient(base_url=server.server.url) as http:
        statuses = []
        for token in (None, "a-token", METRICS_TOKEN):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            statuses.append((await http.get("/metrics", headers=headers)).status_code)
        wrong_place = await http.post(
            "/v1/detect", content=jpeg(), headers={"Authorization": f"Bearer {METRICS_TOKEN}"}
        )
    assert statuses == [401, 401, 200]
    assert wrong_place.status_code == 401


async def test_a_token_is_asked_for_at_the_own_port_as_well() -> None:
    async with scraped(dataclasses.replace(OWN_PORT, metrics_token=METRICS_TOKEN)) as (_, scrape):
        assert (await scrape.operator.get("/metrics")).status_code == 401
        good = {"Authorization": f"Bearer {METRICS_TOKEN}"}
        assert (await scrape.operator.get("/metrics", headers=good)).status_code == 200
        assert (await scrape.operator.get("/v1/health")).status_code == 200


async def test_without_a_port_or_a_token_there_are_no_metrics() -> None:
    async with served() as server, httpx.AsyncClient(base_url=server.server.url) as http:
        assert (await http.get("/metrics")).status_code == 404
        assert server.server.management is None


async def test_pictures_are_not_taken_at_the_metrics_port_nor_metrics_at_theirs() -> None:
    async with scraped() as (_, scrape):
        assert (await scrape.operator.post("/v1/detect", content=jpeg())).status_code == 404
        assert (await scrape.pictures.get("/metrics")).status_code == 404


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"metrics_port": 0, "metrics_host": "0.0.0.0"}, "set metrics_token"),
        (
            {"metrics_port": 0, "metrics_host": "0.0.0.0", "metrics_token": "short"},
            "at least 16 characters",
        ),
        (
            {"host": "0.0.0.0", "auth_token": "x" * 16, "metrics_token": "short"},
            "at least 16 characters",
        ),
        ({"metrics_token": "a-token", "auth_token": "a-token"}, "another token"),
        ({"metrics_port": 8000}, "another port"),
        ({"metrics_port": 70000}, "0 to 65535"),
        ({"request_log": "some"}, "expected one of none, refused, all"),
        ({"metrics_token": "no good\n"}, "token"),
    ],
)
async def test_metrics_that_would_be_open_or_nowhere_are_refused(
    options: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        ServerConfig(**options)


@pytest.mark.parametrize(("host", "has_tls"), [("127.0.0.1", False), ("192.0.2.1", True)])
async def test_metrics_on_the_network_have_the_tls_of_the_pictures(
    host: str, has_tls: bool
) -> None:
    tls = TlsConfig(cert=Path("cert.pem"), key=Path("key.pem"))
    config = ServerConfig(metrics_port=0, metrics_host=host, metrics_token="x" * 16, tls=tls)
    own = create_app(config, OneFace()).state.management.own_port()
    assert (own[1].host, own[1].tls) == (host, tls if has_tls else None)
    assert (own[1].auth_token, own[1].api_keys, own[1].jwt) == ("x" * 16, None, None)


def test_a_port_for_metrics_that_is_taken_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "create_app", lambda config: create_app(config, OneFace()))
    monkeypatch.setattr("prometheus_client.disable_created_metrics", lambda: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not serving.serve(ServerConfig(port=0, metrics_port=port))
    assert f"and for metrics on 127.0.0.1:{port}" in caplog.text


async def test_the_metrics_token_is_not_shown() -> None:
    assert METRICS_TOKEN not in repr(ServerConfig(metrics_token=METRICS_TOKEN))


# -- probes, apart from the pictures' limits ---------------------------------------------------


class Busy(OneFace):
    """Looks at nothing until it is let, through an admission with one place."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def detect(self, request, *, is_abandoned=None, **_) -> Detection:
        self.looks += 1
        await self.go.wait()
        return await super().detect(request)


async def answers_of_probes(scrape: Scraped) -> list[int]:
    return [
        (await client.get(path)).status_code
        for client in (scrape.pictures, scrape.operator)
        for path in ("/v1/health", "/v1/health/live")
    ]


async def test_probes_are_answered_while_every_detector_is_busy() -> None:
    detector = Busy()
    config = dataclasses.replace(OWN_PORT, max_uploads=1)
    async with scraped(config, detector) as (_, scrape):
        first = asyncio.create_task(scrape.pictures.post("/v1/detect", content=jpeg()))
        await until(lambda: detector.looks)
        assert await answers_of_probes(scrape) == [200] * 4
        assert (await scrape.values())["requests_in_progress"] == 1
        detector.go.set()
        assert (await first).status_code == 200


async def test_probes_are_answered_under_overload() -> None:
    class Overloaded(OneFace):
        async def detect(self, request, *, is_abandoned=None, **_) -> Detection:
            raise OverloadedError(1.0)

    config = dataclasses.replace(OWN_PORT, rate_per_s=0.001, burst=10)
    async with scraped(config, Overloaded()) as (_, scrape):
        refused = [await scrape.pictures.post("/v1/detect", content=jpeg()) for _ in range(12)]
        assert {each.status_code for each in refused} == {503, 429}
        assert await answers_of_probes(scrape) == [200] * 4
        found = await scrape.values()
    assert found["refusals_total{cause=overloaded}"] == 10
    assert found["refusals_total{cause=too_fast}"] == 2


async def test_probes_at_their_own_port_are_answered_when_no_connection_is_left() -> None:
    limits = ConnectionLimits(connections=1, connections_per_peer=1)
    async with scraped(limits=limits) as (server, scrape), server.dialled():
        await until(lambda: server.connections == 1)
        assert b" 503 " in await server.raw(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await scrape.operator.get("/v1/health")).status_code == 200
        assert (await scrape.values())["refusals_total{cause=overloaded}"] == 1


async def test_a_draining_server_lives_but_is_not_ready() -> None:
    detector = Busy()
    async with scraped(OWN_PORT, detector) as (server, scrape):
        last = asyncio.create_task(scrape.pictures.post("/v1/detect", content=jpeg()))
        await until(lambda: detector.looks)
        await scrape.operator.get("/metrics")  # its connection is open from now on
        stopping = asyncio.create_task(server.server.__aexit__(None, None, None))
        await asyncio.sleep(0)
        readiness = await scrape.operator.get("/v1/health")
        liveness = await scrape.operator.get("/v1/health/live")
        found = await scrape.values()
        detector.go.set()
        assert (await last).status_code == 200
        await stopping
    assert (readiness.status_code, readiness.json()["code"]) == (503, "stopping")
    assert readiness.headers["Retry-After"]
    assert liveness.status_code == 200
    assert found["ready"] == 0


async def test_liveness_needs_no_credential_and_readiness_tells_the_same_in_a_plain_app() -> None:
    app = create_app(ServerConfig(auth_token="a-token"), OneFace())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/v1/health/live")).json() == {"status": "ok"}
        app.state.drain()
        assert (await http.get("/v1/health")).status_code == 503
        assert (await http.get("/v1/health/live")).status_code == 200


async def test_what_waits_and_is_looked_at_can_be_read() -> None:
    admission = Admission(max_waiting=3)
    admission.open(1)
    go = asyncio.Event()

    async def look() -> None:
        async with admission.place(None):
            await go.wait()

    tasks = [asyncio.create_task(look()) for _ in range(3)]
    await until(lambda: admission.waiting == 2)
    assert admission.looking == 1
    go.set()
    await asyncio.gather(*tasks)
    assert admission.looking == admission.waiting == 0


def test_routes_are_those_of_the_app(tmp_path: Path) -> None:
    config = ServerConfig(metrics_token=METRICS_TOKEN, history_path=tmp_path / "kept.db")
    paths = {route.path for route in create_app(config, OneFace()).routes}
    known = {path for path in paths if not path.startswith("/v1/sessions/")}
    sessions = {"/v1/sessions/{session}", "/v1/sessions/{session}/live"}
    assert known | sessions | {"other"} == set(ROUTES)
