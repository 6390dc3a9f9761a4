"""Providers end to end: the service, a provider's protocol and a server on loopback."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.remote.providers.json_endpoint import JsonEndpoint
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import AllBackendsFailedError, ConfigurationError, ProtocolError
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, BoundingBox, DetectionStatus, Face

from ..foreign_server import Request, foreign_server, json_answer
from ..server.loopback import served

pytestmark = pytest.mark.anyio

IMAGE = np.random.default_rng(3).integers(0, 255, (96, 128, 3), dtype=np.uint8)
DEADLINE_S = 20.0


async def one_face(_: Request) -> tuple[int, bytes, str]:
    return json_answer({"found": [{"x": 16, "y": 8, "w": 32, "h": 24, "p": 0.9}]})


MAPPING = {"faces": "found", "box": "x,y,w,h", "box_format": "xywh", "score": "p"}


def config_for(url: str, **options: Any) -> ServiceConfig:
    values: dict[str, Any] = {
        "endpoint": url,
        "mode": "cloud",
        "deadline_s": DEADLINE_S,
        "provider": "json_endpoint",
        "provider_options": MAPPING,
    }
    return ServiceConfig(**(values | options))


OWN_AS_JSON = {"path": "/v1/detect", "box": "box.x_min,box.y_min,box.x_max,box.y_max"}


async def test_our_own_server_is_a_provider_like_any_other() -> None:
    async with served(ServerConfig(auth_token="a-token")) as server:
        url = f"http://127.0.0.1:{server.port}"
        for options in (
            {"provider": "custom_backend", "provider_options": None, "api_key": "a-token"},
            {"provider_options": OWN_AS_JSON, "auth_token": "a-token"},
        ):
            async with HybridDetectionService(config=config_for(url, **options)) as service:
                result = await service.process_image(IMAGE)
            assert result.status is DetectionStatus.OK
            assert result.faces
            assert result.backend is BackendKind.CLOUD
            assert result.bytes_sent > 0


@pytest.mark.parametrize("send", ["body", "multipart", "base64"])
async def test_a_foreign_endpoint_gets_the_picture_and_its_answer_becomes_faces(send: str) -> None:
    async with foreign_server(one_face) as server:
        config = config_for(
            server.url, provider_options={**MAPPING, "send": send}, api_key="the-key"
        )
        async with HybridDetectionService(config=config) as service:
            result = await service.process_image(IMAGE)
            link = service.status().traffic
    (request,) = server.requests
    assert result.faces[0].box == BoundingBox(16, 8, 48, 32)
    assert request.headers["x-api-key"] == "the-key"
    assert "authorization" not in request.headers
    body = base64.b64decode(json.loads(request.body)["image"]) if send == "base64" else request.body
    assert b"\xff\xd8\xff" in body
    assert result.bytes_sent == len(request.body) == link.sent_bytes


async def test_the_environment_reaches_a_foreign_endpoint() -> None:
    async with foreign_server(one_face) as server:
        config = ServiceConfig.from_env(
            {
                "HYBRID_DETECT_ENDPOINT": server.url,
                "HYBRID_DETECT_MODE": "cloud",
                "HYBRID_DETECT_DEADLINE_S": "20",
                "HYBRID_DETECT_PROVIDER": "json_endpoint",
                "HYBRID_DETECT_PROVIDER_OPTIONS": json.dumps({**MAPPING, "path": "/find"}),
                "HYBRID_DETECT_AUTH_TOKEN": "a-token",
            }
        )
        async with HybridDetectionService(config=config) as service:
            assert (await service.process_image(IMAGE)).faces
    assert server.requests[0].path == "/find"
    assert server.requests[0].headers["authorization"] == "bearer a-token"


async def test_a_function_of_the_users_maps_the_answer() -> None:
    def faces(answer: Any, picture: Any) -> list[Face]:
        assert (picture.width, picture.height) == (128, 96)
        return [Face(BoundingBox(f["x"], f["y"], 64, 64), f["p"]) for f in answer["found"]]

    async with foreign_server(one_face) as server:
        config = config_for(server.url, provider=JsonEndpoint(faces), provider_options=None)
        async with HybridDetectionService(config=config) as service:
            result = await service.process_image(IMAGE)
    assert result.faces == (Face(BoundingBox(16, 8, 64, 64), 0.9),)


async def test_faces_below_the_least_confidence_are_left_out_though_the_server_gives_them() -> None:
    async with foreign_server(one_face) as server:
        config = config_for(server.url, min_confidence=0.95)
        async with HybridDetectionService(config=config) as service:
            result = await service.process_image(IMAGE)
    assert (result.status, result.faces) == (DetectionStatus.OK, ())


async def test_a_picture_is_compressed_to_what_the_endpoint_takes() -> None:
    async with foreign_server(one_face) as server:
        options = {**MAPPING, "max_picture_bytes": 2500}
        config = config_for(server.url, provider_options=options)
        async with HybridDetectionService(config=config) as service:
            await service.process_image(IMAGE)
    assert len(server.requests[0].body) <= 2500


async def test_an_answer_that_does_not_fit_is_a_typed_error_without_its_words() -> None:
    async def other(_: Request) -> tuple[int, bytes, str]:
        return json_answer({"canary": "words of theirs"})

    async with (
        foreign_server(other) as server,
        HybridDetectionService(config=config_for(server.url)) as service,
    ):
        with pytest.raises(AllBackendsFailedError) as caught:
            await service.process_image(IMAGE)
    (attempt,) = caught.value.attempts
    assert isinstance(attempt, ProtocolError)
    assert "'found'" in str(attempt)
    assert "words of theirs" not in f"{attempt} {caught.value}"


async def test_while_the_health_path_fails_no_frame_is_sent() -> None:
    is_up = False

    async def sometimes(request: Request) -> tuple[int, bytes, str]:
        if request.path == "/up":
            return json_answer({}, status=200 if is_up else 503)
        return await one_face(request)

    async with foreign_server(sometimes) as server:
        options = {**MAPPING, "health_path": "/up"}
        config = config_for(server.url, provider_options=options)
        async with HybridDetectionService(config=config) as service:
            with pytest.raises(AllBackendsFailedError, match="503"):
                await service.process_image(IMAGE, deadline_s=0.2)
            assert all(request.path == "/up" for request in server.requests)
            is_up = True
            await service.wait_ready()


async def test_a_foreign_answer_never_reaches_the_stream() -> None:
    """The stream speaks our own protocol: with another provider there is none."""
    async with foreign_server(one_face) as server:
        config = config_for(server.url, mode="prefer_cloud")
        service = HybridDetectionService(config=config)
        statuses = {status.kind: status for status in service.status().backends}
        await service.aclose()
    assert "our own server's protocol" in statuses[BackendKind.STREAMING].unavailable_reason
    with pytest.raises(ConfigurationError, match="our own server's protocol"):
        HybridDetectionService(config=config_for("https://a.example", mode="streaming"))


def test_pictures_are_sealed_for_our_own_server_alone() -> None:
    from datetime import UTC, datetime

    from hybrid_detect.backends.remote.cloud import CloudDetectionService
    from hybrid_detect.exchange.trust import TrustedKey

    key = PrivateKey.generate(Suite.X25519_CHACHA20, datetime(2099, 1, 1, tzinfo=UTC)).public
    with pytest.raises(ConfigurationError, match="custom_backend"):
        config_for("https://a.example", server_public_key=key.text)
    with pytest.raises(ConfigurationError, match="only our own server"):
        CloudDetectionService(
            "json_endpoint", endpoint="https://a.example", encryption=TrustedKey(key)
        )


def test_a_protocol_without_jpeg_and_bad_options_are_refused_at_construction() -> None:
    from hybrid_detect.backends.remote.cloud import CloudDetectionService
    from hybrid_detect.backends.remote.protocol import Capabilities

    class PngOnly(JsonEndpoint):
        def __init__(self) -> None:
            super().__init__(lambda *_: [])
            self.capabilities = Capabilities(formats=frozenset({"png"}))

    with pytest.raises(ConfigurationError, match="takes JPEG"):
        CloudDetectionService(PngOnly(), endpoint="https://a.example")
    for options in ({"nose": 1}, {"send": "pigeon"}, {"box": "a,b"}):
        with pytest.raises(ConfigurationError):
            CloudDetectionService(
                "json_endpoint", endpoint="https://a.example", provider_options=options
            )


async def test_the_device_stands_in_where_the_foreign_endpoint_fails() -> None:
    async def broken(_: Request) -> tuple[int, bytes, str]:
        return 200, b"<html>", "text/html"

    from hybrid_detect.backends.remote.cloud import CloudDetectionService

    async with foreign_server(broken) as server:
        backends = [
            CloudDetectionService("json_endpoint", endpoint=server.url, provider_options=MAPPING),
            FakeBackend(),
        ]
        async with HybridDetectionService(mode="prefer_cloud", backends=backends) as service:
            result = await service.process_image(IMAGE, deadline_s=DEADLINE_S)
    assert result.backend is BackendKind.DEVICE
    assert result.attempts[0].error == "ProtocolError"
