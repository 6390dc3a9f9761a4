import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.routing import Route, WebSocketRoute

from hybrid_detect.exchange.wire import CONTENT_TYPE
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.openapi import openapi

from .loopback import OneFace, jpeg

pytestmark = pytest.mark.anyio

CONFIG = ServerConfig(max_body_bytes=12345)
DOCUMENT = openapi(CONFIG)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


async def test_every_route_is_described_and_nothing_else_is() -> None:
    routes: dict[str, set[str]] = {}
    for route in create_app(CONFIG, OneFace()).routes:
        assert isinstance(route, Route | WebSocketRoute)
        methods = route.methods if isinstance(route, Route) else {"GET"}
        routes[route.path.replace(":path", "")] = {m.lower() for m in methods or ()} - {"head"}
    assert {path: set(item) for path, item in DOCUMENT["paths"].items()} == routes


async def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert found
    for reference in found:
        node: Any = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            node = node[name]


async def test_the_limit_is_the_configured_one() -> None:
    content = DOCUMENT["paths"]["/v1/detect"]["post"]["requestBody"]["content"]
    assert content["image/jpeg"]["schema"]["maxLength"] == 12345
    assert CONTENT_TYPE in content


async def test_it_is_served_and_answers_are_as_described() -> None:
    transport = httpx.ASGITransport(create_app(CONFIG, OneFace()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        served = await client.get("/v1/openapi.json")
        assert served.json() == json.loads(json.dumps(DOCUMENT))
        for method, path, body, schema in (
            ("post", "/v1/detect", jpeg(), "Result"),
            ("post", "/v1/detect", b"garbage", "Error"),
            ("get", "/v1/health", b"", "Health"),
            ("get", "/v1/keys", b"", "Keys"),
        ):
            reply = await client.request(method, path, content=body)
            described = DOCUMENT["paths"][path][method]["responses"][str(reply.status_code)]
            assert described["content"]["application/json"]["schema"]["$ref"].endswith(schema)
            expected = DOCUMENT["components"]["schemas"][schema]
            assert set(expected["required"]) <= set(reply.json()) <= set(expected["properties"])
