"""Who comes in, how often, and what every answer carries."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.errors import BackendResponseError, ConfigurationError, ModelError
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DetectRequest,
    ErrorReply,
    decode_reply,
    encode_request,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server import gate, shared_state
from hybrid_detect.server.api_keys import ApiKeyFile
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.credentials import Credentials, peer_of
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.gate import Gate
from hybrid_detect.server.replies import SECURITY_HEADERS
from hybrid_detect.server.tokens import JwtConfig
from hybrid_detect.types import BackendKind, Plan

from ..waiting import LIMIT_S
from .loopback import OneFace, jpeg, served

pytestmark = pytest.mark.anyio

TOKEN = "s3cret-token"
OPEN_TO_ALL = {"/v1/health", "/v1/health/live", "/v1/live", "/v1/openapi.json"}
"""``/v1/live`` is a page without data: it asks for the token that its links need."""


def app_of(config: ServerConfig, detector: OneFace | None = None) -> Starlette:
    return create_app(config, detector or OneFace())


@asynccontextmanager
async def client_of(
    app: Starlette, host: str = "203.0.113.7", **headers: str
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, client=(host, 1), raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=headers
    ) as client:
        yield client


# -- credentials -----------------------------------------------------------------------------


async def test_every_path_but_the_public_ones_asks_for_a_credential() -> None:
    app = app_of(ServerConfig(auth_token=TOKEN))
    paths = {getattr(route, "path", "") for route in app.routes} | {"/", "/nowhere"}
    for number, path in enumerate(sorted(paths)):
        async with client_of(app, host=f"203.0.113.{number}") as client:
            for method in ("GET", "POST", "PUT", "OPTIONS", "HEAD"):
                if path not in OPEN_TO_ALL:
                    reply = await client.request(method, path)
                    assert reply.status_code == 401, (method, path)
            if path in OPEN_TO_ALL:
                assert (await client.get(path)).status_code == 200


@pytest.fixture
def api_keys(tmp_path: Path) -> ApiKeyFile:
    keys = ApiKeyFile(tmp_path / "keys.json")
    keys.add("somebody else")
    return keys


async def test_an_api_key_may_come_in_either_header_until_it_is_revoked(
    api_keys: ApiKeyFile,
) -> None:
    key = api_keys.add("Ann")
    app = app_of(ServerConfig(auth_token=TOKEN, api_keys=api_keys._path))
    async with client_of(app) as client:
        for headers in (
            {"Authorization": f"Bearer {key}"},
            {"X-API-Key": key},
            {"X-API-Key": TOKEN},
        ):
            reply = await client.post("/v1/detect", content=jpeg(), headers=headers)
            assert reply.status_code == 200, headers
        api_keys.revoke(key[4:16])
        reply = await client.post("/v1/detect", content=jpeg(), headers={"X-API-Key": key})
        assert reply.status_code == 401


async def test_api_keys_alone_are_enough_for_the_network(api_keys: ApiKeyFile) -> None:
    config = ServerConfig(host="0.0.0.0", api_keys=api_keys._path)
    async with client_of(app_of(config)) as client:
        assert (await client.post("/v1/detect", content=jpeg())).status_code == 401
        headers = {"X-API-Key": TOKEN}
        assert (await client.post("/v1/detect", headers=headers)).status_code == 401


async def test_a_json_web_token_comes_in(tmp_path: Path) -> None:
    jwt = pytest.importorskip("jwt")
    from .test_tokens import AUDIENCE, ISSUER, key_set, token

    path = tmp_path / "jwks.json"
    path.write_text(jwt.api_jwk.json.dumps(key_set("ec")))
    config = ServerConfig(jwt=JwtConfig(issuer=ISSUER, audience=AUDIENCE, jwks=str(path)))
    async with client_of(app_of(config)) as client:
        for given, status in ((token(), 200), (token(exp=time.time() - 99), 401), ("a.b.c", 401)):
            headers = {"Authorization": f"Bearer {given}"}
            reply = await client.post("/v1/detect", content=jpeg(), headers=headers)
            assert reply.status_code == status


async def test_a_key_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the API keys"):
        app_of(ServerConfig(api_keys=tmp_path / "none.json"))


async def test_a_token_that_can_be_guessed_is_not_for_the_network() -> None:
    with pytest.raises(ConfigurationError, match="at least 16 characters"):
        ServerConfig(host="0.0.0.0", auth_token="short")
    ServerConfig(host="0.0.0.0", auth_token="long enough".replace(" ", "-") * 2)


@pytest.mark.parametrize(
    ("client", "peer"),
    [
        (("203.0.113.7", 5), "203.0.113.7"),
        (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"),
        (("::ffff:203.0.113.7", 5), "203.0.113.7"),
        (("::1", 5), "::1"),
        (("a-socket", 5), "a-socket"),
        (None, ""),
    ],
)
async def test_a_network_with_ipv6_counts_as_one_peer(client: Any, peer: str) -> None:
    headers = [(b"x-forwarded-for", b"198.51.100.1"), (b"forwarded", b"for=198.51.100.1")]
    assert peer_of(HTTPConnection({"type": "http", "client": client, "headers": headers})) == peer


# -- limits ----------------------------------------------------------------------------------


async def test_too_many_pictures_are_refused_with_a_time_to_wait() -> None:
    app = app_of(ServerConfig(auth_token=TOKEN, rate_per_s=0.01, burst=2))
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": CONTENT_TYPE}
    async with client_of(app, **headers) as client:
        for _ in range(2):
            assert (await client.post("/v1/detect", content=jpeg())).status_code == 200
        refused = await client.post("/v1/detect", content=jpeg())
    answer = decode_reply(refused.content)
    assert isinstance(answer, ErrorReply)
    assert (refused.status_code, answer.code) == (429, "too_fast")
    assert answer.retry_after_s is not None
    assert 90 < answer.retry_after_s <= 100
    assert int(refused.headers["Retry-After"]) >= answer.retry_after_s
    async with client_of(app, host="198.51.100.1", **headers) as another:
        # A shared token says nothing about who uses it: each address has a rate of its own.
        assert (await another.post("/v1/detect", content=jpeg())).status_code == 200


async def test_a_forged_address_gains_nothing() -> None:
    """Uvicorn would believe it from loopback, as from a proxy beside it."""
    async with (
        served(ServerConfig(auth_token=TOKEN, rate_per_s=0.01, burst=1)) as server,
        httpx.AsyncClient(headers={"X-API-Key": TOKEN}) as client,
    ):
        statuses = []
        for number in range(3):
            headers = {"X-Forwarded-For": f"198.51.100.{number}", "X-Forwarded-Proto": "https"}
            url = f"http://127.0.0.1:{server.port}/v1/detect"
            statuses.append((await client.post(url, content=jpeg(), headers=headers)).status_code)
    assert statuses == [200, 429, 429]


async def test_each_api_key_has_its_rate_wherever_it_comes_from(api_keys: ApiKeyFile) -> None:
    ann, bob = api_keys.add("Ann"), api_keys.add("Bob")
    app = app_of(ServerConfig(api_keys=api_keys._path, rate_per_s=0.01, burst=1))
    statuses = []
    for key, host in ((ann, "203.0.113.1"), (ann, "203.0.113.2"), (bob, "203.0.113.1")):
        async with client_of(app, host=host) as client:
            reply = await client.post("/v1/detect", content=jpeg(), headers={"X-API-Key": key})
            statuses.append(reply.status_code)
    assert statuses == [200, 429, 200]


class Noting(OneFace):
    """Notes whose pictures it looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.callers: list[str] = []

    async def detect(self, request: DetectRequest, **options: Any) -> Detection:
        self.callers.append(options["caller"])
        return await super().detect(request, **options)


async def test_each_api_key_has_turns_of_its_own_at_the_detectors(api_keys: ApiKeyFile) -> None:
    """How callers take turns is tested in test_looks_in_time.py."""
    ann, bob = api_keys.add("Ann"), api_keys.add("Bob")
    detector = Noting()
    config = ServerConfig(api_keys=api_keys._path)
    async with served(config, detector=detector) as server:
        for key in (ann, ann, bob):
            headers = {"X-API-Key": key}
            async with httpx.AsyncClient(headers=headers) as client:
                await client.post(f"http://127.0.0.1:{server.port}/v1/detect", content=jpeg())
            url = f"ws://127.0.0.1:{server.port}/v1/stream"
            async with connect(url, additional_headers=headers) as link:
                await link.send(encode_request(DetectRequest(request_id=1, image=jpeg())))
                await link.recv()
    first, last = f"key {ann[4:16]}", f"key {bob[4:16]}"
    assert detector.callers == [first] * 4 + [last] * 2


async def test_wrong_credentials_of_an_address_are_limited_but_right_ones_come_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = app_of(ServerConfig(auth_token=TOKEN))
    async with client_of(app) as client:
        statuses = [
            (await client.post("/v1/detect", headers={"X-API-Key": f"guess {n}"})).status_code
            for n in range(shared_state.FAILURES_AT_ONCE + 20)
        ]
        assert statuses[: shared_state.FAILURES_AT_ONCE] == [401] * shared_state.FAILURES_AT_ONCE
        assert statuses[-1] == 429
        good = await client.post("/v1/detect", content=jpeg(), headers={"X-API-Key": TOKEN})
        assert good.status_code == 200
    async with client_of(app, host="198.51.100.1") as another:
        assert (await another.post("/v1/detect")).status_code == 401
    assert "guess" not in caplog.text
    assert caplog.text.count("from 203.0.113.7") < shared_state.FAILURES_AT_ONCE + 5


class Slow(OneFace):
    """Looks when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.began = asyncio.Semaphore(0)
        self.go = asyncio.Event()

    async def detect(self, *args: Any, **options: Any) -> Detection:
        self.began.release()
        await self.go.wait()
        return await super().detect(*args, **options)


async def test_one_caller_does_not_get_all_places() -> None:
    detector = Slow()
    app = app_of(ServerConfig(max_per_caller=2), detector)
    async with client_of(app) as client, asyncio.timeout(LIMIT_S):
        under_way = [
            asyncio.create_task(client.post("/v1/detect", content=jpeg())) for _ in range(2)
        ]
        for _ in range(2):
            await detector.began.acquire()
        refused = await client.post("/v1/detect", content=jpeg())
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many")
        assert refused.headers["Retry-After"] == "1"
        detector.go.set()
        assert {(await task).status_code for task in under_way} == {200}
        assert (await client.post("/v1/detect", content=jpeg())).status_code == 200


async def test_callers_that_have_gone_are_forgotten() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("here")(scope, receive, send)

    config = ServerConfig()
    made = Gate(
        app,
        config=config,
        credentials=Credentials(config),
        respond=lambda *_: Response("refused", 500),
    )
    for number in range(5):
        transport = httpx.ASGITransport(made, client=(f"203.0.113.{number}", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/")).text == "here"
    assert not made._under_way


@pytest.mark.parametrize(
    ("options", "status"), [({"max_streams": 1}, 503), ({"max_per_caller": 1}, 429)]
)
async def test_only_so_many_streams_are_open(options: dict[str, int], status: int) -> None:
    async with served(ServerConfig(**options)) as server, asyncio.timeout(LIMIT_S):
        url = f"ws://127.0.0.1:{server.port}/v1/stream"
        async with connect(url):
            with pytest.raises(InvalidStatus) as caught:
                await connect(url)
            assert caught.value.response.status_code == status
            assert caught.value.response.headers["Retry-After"] == "1"
        while True:  # the place is given back once the server has seen the close
            try:
                async with connect(url):
                    break
            except InvalidStatus:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("kind", ["cloud", "streaming"])
async def test_our_client_is_told_how_long_to_wait(kind: str) -> None:
    config = ServerConfig(auth_token=TOKEN, rate_per_s=0.01, burst=1)
    make = {"cloud": CloudDetectionService, "streaming": StreamingService}[kind]
    plan = Plan(backend=BackendKind(kind), deadline_s=LIMIT_S, retries=0, reason="a test")
    async with served(config) as server:
        backend: Any = make(endpoint=f"http://127.0.0.1:{server.port}", auth_token=TOKEN)
        try:
            frame = Frame.of(jpeg())
            assert (await backend.detect(frame, plan)).faces
            with pytest.raises(BackendResponseError) as caught:
                await backend.detect(frame, plan)
        finally:
            await backend.aclose()
    assert caught.value.status_code == 429
    assert caught.value.retryable
    assert caught.value.retry_after_s is not None
    assert 90 < caught.value.retry_after_s <= 100


async def test_a_stream_ends_soon_after_its_key_was_revoked(
    api_keys: ApiKeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "RECHECK_S", 0.0)
    key = api_keys.add("Ann")
    message = encode_request(DetectRequest(request_id=1, image=jpeg()))
    async with (
        served(ServerConfig(api_keys=api_keys._path)) as server,
        asyncio.timeout(LIMIT_S),
        connect(
            f"ws://127.0.0.1:{server.port}/v1/stream", additional_headers={"X-API-Key": key}
        ) as link,
    ):
        await link.send(message)
        assert decode_reply(await link.recv()).request_id == 1
        api_keys.revoke(key[4:16])
        await link.send(message)
        await link.wait_closed()
        assert link.close_code == 1008
        assert server.detector.looks == 1


async def test_our_stream_is_told_how_long_to_wait_for_a_place() -> None:
    async with served(ServerConfig(max_streams=1)) as server, asyncio.timeout(LIMIT_S):
        endpoint = f"http://127.0.0.1:{server.port}"
        async with connect(f"ws://127.0.0.1:{server.port}/v1/stream"):
            backend = StreamingService(endpoint=endpoint)
            with pytest.raises(BackendResponseError) as caught:
                await backend.check(deadline_s=LIMIT_S)
            await backend.aclose()
    assert (caught.value.status_code, caught.value.retry_after_s) == (503, 1.0)


# -- browsers --------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "http://127.0.0.1:8000"])
async def test_pages_of_other_origins_may_not_come_in(origin: str) -> None:
    """Nor on a server without a credential, which any page in a local browser could reach."""
    async with served(ServerConfig()) as server:
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{server.port}/v1/detect"
            reply = await client.post(url, content=jpeg(), headers={"Origin": origin})
            assert (reply.status_code, reply.json()["code"]) == (403, "wrong_origin")
            assert "Access-Control-Allow-Origin" not in reply.headers
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://127.0.0.1:{server.port}/v1/stream", origin=origin)  # type: ignore[arg-type]
        assert caught.value.response.status_code == 403
        assert server.detector.looks == 0


def test_any_origin_is_no_origin() -> None:
    with pytest.raises(ConfigurationError, match="allowed_origins"):
        ServerConfig(allowed_origins=("*",))


async def test_an_allowed_origin_comes_in() -> None:
    origin = "https://app.example.com"
    async with served(ServerConfig(allowed_origins=(origin,))) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/v1/stream", origin=origin):  # type: ignore[arg-type]
            pass
        with pytest.raises(InvalidStatus):
            await connect(
                f"ws://127.0.0.1:{server.port}/v1/stream",
                additional_headers=[("Origin", origin), ("Origin", "https://evil.example")],
            )


# -- what every answer carries ---------------------------------------------------------------


class Failing(OneFace):
    error: Exception = RuntimeError("a secret cause")

    async def detect(self, *_: Any, **__: Any) -> Detection:
        raise self.error


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/health", 200),
        ("GET", "/v1/openapi.json", 200),
        ("GET", "/v1/keys", 200),
        ("POST", "/v1/detect", 500),
        ("GET", "/v1/detect", 405),
        ("GET", "/v1/detect/", 404),
        ("GET", "/", 404),
        ("GET", "/v1/stream", 404),
    ],
)
async def test_every_answer_carries_the_headers_and_no_trace(
    method: str, path: str, status: int
) -> None:
    async with served(detector=Failing()) as server, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{server.port}{path}"
        reply = await client.request(method, url, content=jpeg())
    assert reply.status_code == status
    for name, value in SECURITY_HEADERS.items():
        assert reply.headers.get_list(name) == [value]
    assert "server" not in reply.headers
    assert "secret" not in reply.text
    assert "Traceback" not in reply.text
    if status >= 400:
        assert set(reply.json()) == {"status", "code", "detail"}
        assert reply.json()["status"] == status


async def test_a_bug_before_the_app_has_the_same_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any, **__: Any) -> None:
        msg = "a secret cause"
        raise RuntimeError(msg)

    app = app_of(ServerConfig(auth_token=TOKEN))
    monkeypatch.setattr(gate, "peer_of", bug)
    async with client_of(app) as client:
        reply = await client.post("/v1/detect")
    assert (reply.status_code, reply.json()["code"]) == (500, "internal")
    for name, value in SECURITY_HEADERS.items():
        assert reply.headers[name] == value
    assert "secret" not in reply.text


async def test_a_model_that_is_gone_when_a_detector_is_started_anew_is_a_503() -> None:
    detector = Failing()
    detector.error = ModelError("the file has gone", name="full_range")
    async with client_of(app_of(ServerConfig(), detector)) as client:
        reply = await client.post("/v1/detect", content=jpeg())
    assert (reply.status_code, reply.json()["code"]) == (503, "detector_failed")
