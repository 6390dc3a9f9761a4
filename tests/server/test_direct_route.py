"""Pictures that are answered without ASGI between: by the same rules as those that are not."""

import asyncio
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from hybrid_detect.exchange.wire import CONTENT_TYPE, DetectRequest, encode_request
from hybrid_detect.server import gate, shared_state
from hybrid_detect.server.api_keys import ApiKeyFile
from hybrid_detect.server.app import create_app
from hybrid_detect.server.bodies import HAS_COME
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.listening import Server
from hybrid_detect.server.shared_state import Limit, LocalState

from ..waiting import until
from .loopback import OneFace, Served, jpeg, served

pytestmark = pytest.mark.anyio

TOKEN = "a-token-nobody-may-see"
CONFIG = ServerConfig(rate_per_s=0, max_body_bytes=100_000, auth_token=TOKEN)
WIRE = {"Content-Type": CONTENT_TYPE, "Accept": CONTENT_TYPE}
ALLOWED = {"Authorization": f"Bearer {TOKEN}"}


def message(image: bytes = b"") -> bytes:
    return encode_request(DetectRequest(request_id=7, image=image or jpeg()))


def request(body: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/detect HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def answers(server: Served, *requests: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """The answers on one connection, each request sent once the one before was answered."""
    found = []
    async with server.dialled() as (reader, writer):
        for sent in requests:
            writer.write(sent)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            names = {n.lower(): v for n, v in (line.split(": ", 1) for line in lines)}
            body = await reader.readexactly(int(names["content-length"]))
            found.append((int(first.split()[1]), names, body))
    return found


CASES: dict[str, tuple[dict[str, str], bytes, int]] = {
    "a message": ({**WIRE, **ALLOWED}, message(), 200),
    "a bare picture": (ALLOWED, jpeg(), 200),
    "no credential": (WIRE, message(), 401),
    "a wrong credential": ({**WIRE, "Authorization": "Bearer wrong"}, message(), 401),
    "two credentials": ({**WIRE, **ALLOWED, "X-API-Key": TOKEN}, message(), 401),
    "an origin": ({**WIRE, **ALLOWED, "Origin": "http://a.b"}, message(), 403),
    "a form": ({**ALLOWED, "Content-Type": "multipart/form-data"}, b"--", 415),
    "too much": ({**WIRE, **ALLOWED}, message(b"x" * 110_000), 413),
    "no message": ({**WIRE, **ALLOWED}, b"no message at all", 400),
    "no picture": ({**WIRE, **ALLOWED}, message(b"no picture"), 422),
    "no body": ({**WIRE, **ALLOWED}, b"", 400),
    "a seal of no version": ({**WIRE, **ALLOWED}, b"HS" + b"\x09" * 60, 400),
    "a wrong option": ({**ALLOWED, "X-Quality": "best"}, jpeg(), 400),
}


@pytest.mark.parametrize("case", CASES)
async def test_the_answer_is_that_of_the_app(case: str) -> None:
    headers, body, status = CASES[case]
    async with served(CONFIG) as server:
        sent = request(body, *(f"{name}: {value}" for name, value in headers.items()))
        (direct,) = await answers(server, sent)
    app = create_app(CONFIG, OneFace())

    async def at_once(scope: Scope, receive: Receive, send: Send) -> None:
        scope[HAS_COME] = lambda: True  # or the answer would tell how long it took
        await app(scope, receive, send)

    transport = httpx.ASGITransport(at_once)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        reply = await client.post("/v1/detect", content=body, headers=headers)
    assert reply.status_code == status
    names = dict(reply.headers)
    assert direct[1].pop("date")
    assert (direct[0], direct[2]) == (status, reply.content)
    assert direct[1] == names


class Doorkeeper:
    """Middleware that lets nothing in."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: Any = self._app if scope["type"] == "lifespan" else Response("no", 418)
        await app(scope, receive, send)


async def test_middleware_that_was_added_sees_each_picture() -> None:
    """A replica of a cluster adds one that asks who is behind its gateway."""
    detector = OneFace()
    app = create_app(replace(CONFIG, port=0), detector)
    app.add_middleware(Doorkeeper)
    async with Server(app, replace(CONFIG, port=0)) as server:
        sent = request(message(), f"Authorization: Bearer {TOKEN}")
        found = await answers(Served(server.port, detector, server), sent, sent)
    assert [status for status, _, _ in found] == [418, 418]
    assert not detector.looks


class TokenOfACookie:
    """Middleware that says in one header what came in another."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            values = dict(scope["headers"])
            added = (b"authorization", b"Bearer " + values.pop(b"cookie", b""))
            scope = {**scope, "headers": [*values.items(), added]}
        await self._app(scope, receive, send)


async def test_headers_are_those_that_middleware_has_left() -> None:
    app = create_app(replace(CONFIG, port=0), OneFace())
    app.add_middleware(TokenOfACookie)
    async with Server(app, replace(CONFIG, port=0)) as server:
        sent = [request(jpeg(), f"Cookie: {token}") for token in ("wrong", TOKEN, "wrong")]
        found = await answers(Served(server.port, OneFace(), server), *sent)
    assert [status for status, _, _ in found] == [401, 200, 401]


async def test_an_app_that_is_mounted_in_another_answers_pictures() -> None:
    detector = OneFace()
    app = Starlette(routes=[Mount("/faces", create_app(CONFIG, detector))])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        right = await client.post("/faces/v1/detect", content=jpeg(), headers=ALLOWED)
        wrong = await client.post("/faces/v1/detect", content=jpeg())
    assert (right.status_code, wrong.status_code) == (200, 401)
    assert detector.looks == 1


async def test_an_equal_head_is_let_in_only_while_its_key_is_there(tmp_path: Path) -> None:
    keys = ApiKeyFile(tmp_path / "keys.json")
    key = keys.add("a camera")
    config = ServerConfig(rate_per_s=0, api_keys=tmp_path / "keys.json")
    async with served(config) as server, server.dialled() as (reader, writer):
        statuses = []
        for number in range(3):
            if number == 2:
                keys.revoke(key.split("_")[1])
            writer.write(request(jpeg(), f"X-API-Key: {key}"))
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = [
                line.split(b": ")[1]
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            ]
            await reader.readexactly(int(length))
            statuses.append(int(head.split()[1]))
    assert statuses == [200, 200, 401]


async def test_a_rate_counts_equal_heads() -> None:
    async with served(ServerConfig(rate_per_s=0.001, burst=2)) as server:
        found = await answers(server, *[request(jpeg())] * 3)
    assert [status for status, _, _ in found] == [200, 200, 429]


async def test_places_are_given_back() -> None:
    async with served(ServerConfig(rate_per_s=0, max_per_caller=1)) as server:
        refused = request(b"no picture")
        found = await answers(server, *[request(jpeg()), refused] * 2, request(jpeg()))
    assert [status for status, _, _ in found] == [200, 422, 200, 422, 200]


async def test_a_bug_is_told_and_the_connection_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        msg = "a secret cause"
        raise RuntimeError(msg)

    async with served(CONFIG) as server:
        with monkeypatch.context() as patched:
            patched.setattr(gate, "peer_of", bug)
            wrong = request(message(), "Authorization: Bearer wrong")
            (told, again) = await answers(server, wrong, wrong)
    for status, headers, body in (told, again):
        assert status == 500
        assert json.loads(body)["code"] == "internal"
        assert b"secret" not in body
        assert headers["cache-control"] == "no-store"


class SlowState(LocalState):
    """State that tells of a rate once it is let."""

    def __init__(self, config: ServerConfig) -> None:
        super().__init__(config)
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def take(self, limit: Limit, name: str) -> float:
        self.asked.set()
        await self.go.wait()
        return await super().take(limit, name)


async def test_a_picture_whose_client_goes_at_the_gate_is_let_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who is let in slowly, or held back, holds no picture for a client that has gone."""
    caplog.set_level(logging.INFO)
    detector, config = OneFace(), replace(CONFIG, port=0, request_log="all")
    state = SlowState(config)
    app = create_app(config, detector, state=state)
    async with Server(app, config) as server:
        served = Served(server.port, detector, server)
        async with served.dialled() as (_, writer):
            writer.write(request(message(), f"Authorization: Bearer {TOKEN}"))
            await state.asked.wait()
        await until(lambda: server.connections == 0)
        state.go.set()
        await until(lambda: "status=499" in caplog.text)
    assert not detector.looks


async def test_no_more_are_held_back_than_there_may_be_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that have gone leave room, else they would pile up without an end."""
    monkeypatch.setattr(gate, "FAILURE_PAUSE_S", 1000.0)
    monkeypatch.setattr(shared_state, "FAILURES_AT_ONCE", 1)
    wrong = request(jpeg(), "X-API-Key: wrong")
    async with served(replace(CONFIG, max_connections=2)) as server:
        assert (await answers(server, wrong))[0][0] == 401
        for _ in range(2):
            async with server.dialled() as (_, writer):
                writer.write(wrong)
                await until(lambda: server.connections == 1)
            await until(lambda: server.connections == 0)
        assert (await answers(server, wrong))[0][0] == 429
