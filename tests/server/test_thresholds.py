"""The lowest score that faces are reported with: asked for, or left to the model that looks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from hybrid_detect.backends import create_backend
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.exchange.wire import CONTENT_TYPE, DetectRequest, decode_reply, encode_request
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server.detectors import Detection
from hybrid_detect.types import BackendKind, Plan

from ..waiting import LIMIT_S
from .loopback import FACE, OneFace, jpeg, served

pytestmark = pytest.mark.anyio

OWN = 0.45
"""The threshold of the model behind `Thresholds`."""

SCORES = (0.9, 0.5, 0.47)


class Thresholds(OneFace):
    """A detector whose model has a threshold of its own, and faces on both sides of 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float | None] = []

    async def detect(
        self,
        request: DetectRequest,
        *,
        caller: str = "",
        is_abandoned: Callable[[], Awaitable[bool]] | None = None,
    ) -> Detection:
        self.asked.append(request.min_confidence)
        lowest = OWN if request.min_confidence is None else request.min_confidence
        faces = tuple(replace(FACE, score=score) for score in SCORES if score >= lowest)
        return Detection(
            width=32, height=24, faces=faces, queue_s=0.0, detect_s=0.0, min_confidence=lowest
        )


@pytest.mark.parametrize("kind", [BackendKind.CLOUD, BackendKind.STREAMING])
@pytest.mark.parametrize(
    ("options", "asked", "found"),
    [
        ({}, None, 3),
        ({"min_confidence": None}, None, 3),
        ({"min_confidence": 0.5}, 0.5, 2),
        ({"min_confidence": 0.0}, 0.0, 3),
        ({"min_confidence": 0.8}, 0.8, 1),
    ],
)
async def test_a_client_leaves_the_threshold_to_the_server_s_model_unless_it_has_one(
    kind: BackendKind, options: dict[str, Any], asked: float | None, found: int
) -> None:
    detector = Thresholds()
    async with served(detector=detector) as server:
        config = ServiceConfig(endpoint=f"http://127.0.0.1:{server.port}", **options)
        async with create_backend(kind, config) as backend:
            plan = Plan(backend=backend.kind, deadline_s=LIMIT_S, reason="a test")
            result = await backend.detect(Frame.of(jpeg()), plan)
    assert detector.asked == [asked]
    assert len(result.faces) == found


@pytest.mark.parametrize("make", [CloudDetectionService, StreamingService])
async def test_backends_made_by_hand_leave_it_as_well(make: type[RemoteBackend]) -> None:
    detector = Thresholds()
    async with served(detector=detector) as server:
        backend = make(endpoint=f"http://127.0.0.1:{server.port}")  # type: ignore[call-arg]
        async with backend:
            plan = Plan(backend=backend.kind, deadline_s=LIMIT_S, reason="a test")
            assert len((await backend.detect(Frame.of(jpeg()), plan)).faces) == 3
    assert detector.asked == [None]


@pytest.mark.parametrize(
    ("given", "told", "found"), [({}, OWN, 3), ({"min_confidence": 0.5}, 0.5, 2)]
)
async def test_a_client_that_knows_of_no_such_default_sends_half_and_gets_it(
    given: dict[str, float], told: float, found: int
) -> None:
    body = encode_request(DetectRequest(request_id=7, image=jpeg(), **given))
    headers = {"Content-Type": CONTENT_TYPE, "Accept": CONTENT_TYPE}
    async with served(detector=Thresholds()) as server, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{server.port}/v1/detect"
        reply = decode_reply((await client.post(url, content=body, headers=headers)).content)
    assert (reply.min_confidence, len(reply.faces)) == (told, found)  # type: ignore[union-attr]


async def test_a_bare_picture_is_looked_at_with_the_model_s_own_and_the_reply_tells_it() -> None:
    detector = Thresholds()
    async with served(detector=detector) as server, httpx.AsyncClient() as client:
        reply = await client.post(f"http://127.0.0.1:{server.port}/v1/detect", content=jpeg())
    assert detector.asked == [None]
    assert reply.json()["min_confidence"] == OWN
    assert len(reply.json()["faces"]) == 3
