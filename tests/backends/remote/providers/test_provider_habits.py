"""What one provider alone does, through the cloud backend and over HTTP."""

from __future__ import annotations

import base64
import threading
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from hybrid_detect import CloudDetectionService, HybridDetectionService, ServiceConfig
from hybrid_detect.backends.remote.protocol import DetectParams, HttpRequest
from hybrid_detect.backends.remote.providers import protocol_of
from hybrid_detect.backends.remote.providers.kserve import KServe
from hybrid_detect.errors import (
    BackendResponseError,
    ProtocolError,
    Refusal,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.testing.provider_servers import (
    AzureServer,
    CodeProjectServer,
    KServeServer,
    RoboflowServer,
)
from hybrid_detect.types import BackendKind, Plan

from .protocol_contract import CANARY, PICTURE
from .scripted_cases import CASES, SURE, Case, each_case, look

pytestmark = pytest.mark.anyio


async def test_azure_gets_a_file_of_a_kilobyte_and_more() -> None:
    with AzureServer() as server:
        async with CASES["azure"].cloud(server) as service:
            plan = Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=20.0)
            black = Frame.of(np.zeros((48, 64, 3), np.uint8))
            assert len((await service.detect(black, plan)).faces) == 1
    (seen,) = server.pictures
    assert seen.size_bytes >= 1024
    assert (seen.has_metadata, seen.is_complete) == (False, True)


async def test_azure_refuses_a_face_id_and_what_is_too_small_or_too_large() -> None:
    """The scripted server itself: what a client that is not ours would meet."""
    headers = {"Ocp-Apim-Subscription-Key": "key", "Content-Type": "application/octet-stream"}
    with AzureServer() as server, httpx.Client(base_url=server.url, headers=headers) as client:

        def said(query: str, body: bytes) -> tuple[int, str]:
            answer = client.post(f"/face/v1.2/detect{query}", content=body)
            return answer.status_code, answer.json()["error"]["code"]

        assert said("", b"x" * 2000) == (403, "UnsupportedFeature")
        off = "?returnFaceId=false"
        assert said(off, b"x" * 1023) == (400, "InvalidImageSize")
        assert said(off, b"x" * (6 * 1024 * 1024 + 1)) == (400, "InvalidImageSize")
        assert said(off, b"x" * 2000) == (400, "InvalidImage")
        assert said(f"{off}&returnFaceLandmarks=True", b"x" * 2000) == (400, "BadArgument")
        points = "&returnFaceLandmarks=true&detectionModel=detection_02"
        assert said(off + points, b"x" * 2000) == (400, "BadArgument")


async def test_azure_s_landmarks_come_back() -> None:
    with AzureServer() as server:
        async with CASES["azure"].cloud(server) as service:
            (face,) = (await look(service)).faces
    found = {point.name: (point.x, point.y) for point in face.keypoints}
    assert found["right_eye"] == (62.5, 37.5)
    assert found["left_eye"] == (87.5, 37.5)


async def test_azure_takes_a_token_of_entra() -> None:
    with AzureServer() as server:
        async with CASES["azure"].cloud(server, api_key=None, auth_token="token") as service:
            assert len((await look(service)).faces) == 1


@pytest.mark.parametrize(
    ("error", "requests"),
    [
        ("Unable to load the face detector", 3),
        ("An Error occurred during processing", 3),
        ("The image provided was of an unknown type", 1),
    ],
)
@pytest.mark.parametrize("name", ["codeproject", "deepstack"])
async def test_a_200_without_success_is_a_refusal(name: str, error: str, requests: int) -> None:
    case = CASES[name]
    with case.server() as server:
        server.fail_always(CodeProjectServer.unsuccessful(error))
        async with case.cloud(server) as service:
            with pytest.raises(BackendResponseError):
                await look(service)
    assert len(server.requests) == requests


async def test_thresholds_are_those_of_the_call_and_not_of_the_server() -> None:
    unsure = replace(SURE, score=0.375)
    for name, case in CASES.items():
        if case.provider in ("azure", "kserve"):
            continue
        with case.server(faces=[unsure]) as server:
            async with case.cloud(server, min_confidence=0.25) as service:
                assert len((await look(service)).faces) == 1, name


@each_case
async def test_without_a_threshold_it_is_half_at_every_provider(case: Case) -> None:
    """Their own differ by version, and raw outputs of a network have none."""
    scores = (0.25, 0.49, 0.51, 0.875)
    with case.server(faces=[replace(SURE, score=score) for score in scores]) as server:
        async with case.cloud(server) as service:
            found = [face.score for face in (await look(service)).faces]
    if case.score is None:
        assert found == [None] * len(scores), "without a score nothing is left out"
    else:
        assert sorted(found) == pytest.approx([0.51, 0.875], abs=0.001)


async def test_mlserver_s_traceback_with_the_picture_in_it_is_not_repeated() -> None:
    case = CASES["kserve, MLServer"]
    with case.server() as server:
        async with case.cloud(server, provider_options={"model": "faces"}) as service:
            with pytest.raises(BackendResponseError, match="set binary to false") as caught:
                await look(service)
    assert caught.value.refusal is Refusal.CONTRACT
    assert "Traceback" not in str(caught.value)
    assert len(server.requests) == 1


async def test_a_wrong_name_of_a_tensor_is_told_by_the_check() -> None:
    with KServeServer() as server:
        wrong = {"model": "faces", "scores": "probabilities"}
        async with CASES["kserve, Triton"].cloud(server, provider_options=wrong) as service:
            with pytest.raises(ProtocolError, match="no output named 'probabilities'"):
                await service.check(deadline_s=10)
            with pytest.raises(BackendResponseError) as caught:
                await look(service)
    assert caught.value.refusal is Refusal.CONTRACT


async def test_triton_s_words_for_a_request_it_cannot_read() -> None:
    with KServeServer() as server:
        refused = httpx.post(f"{server.url}/v2/models/faces/infer", content=b"{nope")
        assert (refused.status_code, "parse" in refused.json()["error"]) == (500, True)
        refused = httpx.get(f"{server.url}/v2/models/cats")
        assert (refused.status_code, refused.headers["Content-Type"]) == (404, "text/plain")


async def test_roboflow_refuses_a_picture_that_is_none_and_a_schema_that_is_none() -> None:
    protocol = protocol_of("roboflow", {"model": "faces/1"})
    request = protocol.encode((PICTURE,), DetectParams())
    headers = {**request.headers, "Authorization": "Bearer key"}
    with RoboflowServer() as server, httpx.Client(base_url=server.url, headers=headers) as client:
        assert client.post(request.url, content=request.body).status_code == 400
        assert client.post(request.url, content=b"{}").status_code == 422
        text = base64.b64encode(CANARY.encode())
        assert client.post("/cats/1", content=text).status_code == 404


async def test_pixels_are_decoded_off_the_event_loop() -> None:
    """At 1280x720 that takes 13 ms, or 22 ms as text."""
    case, threads = CASES["kserve, Triton and pixels"], []

    class Watched(KServe):
        def encode(self, *given: Any) -> HttpRequest:
            threads.append(threading.current_thread())
            return super().encode(*given)

    with case.server(faces=[SURE]) as server:
        async with CloudDetectionService(Watched(**case.options), endpoint=server.url) as service:
            assert len((await look(service)).faces) == 1
        plain = {"model": "faces", "encoding": "rgb-u8-hwc", "binary": False, "input": "x[]"}
        async with CloudDetectionService(Watched(**plain), endpoint=server.url) as service:
            with pytest.raises(BackendResponseError):
                await look(service)
    assert len(threads) == 2
    assert threading.main_thread() not in threads
    assert server.requests[-1].json()["inputs"][0]["shape"] == [100, 200, 3]


@each_case
async def test_nothing_personal_is_sent(case: Case) -> None:
    with case.server(faces=[SURE]) as server:
        async with case.cloud(server, session_id="canary-session") as service:
            await look(service)
    (request,) = server.requests
    assert "canary" not in request.target + str(request.headers)
    assert b"canary" not in request.body
    assert case.api_key is None or "key" not in request.target.replace("api_key", "")
    assert all(not seen.has_metadata and seen.is_complete for seen in server.pictures)


async def test_pictures_of_a_batch_share_a_request_of_kserve() -> None:
    images = [np.full((100, 200, 3), level, np.uint8) for level in range(0, 240, 20)]
    with KServeServer(max_batch_size=4, faces=[SURE]) as server:
        config = ServiceConfig(
            mode="cloud",
            provider="kserve",
            endpoint=server.url,
            provider_options={"model": "faces", "batched": True, "max_pictures": 4},
        )
        async with HybridDetectionService(config=config) as service:
            for _ in range(20):  # whether pictures meet before a request depends on the machine
                results = [r async for r in service.process_images(images, deadline_s=20)]
                found = [result.faces[0].box.xyxy for result in results]
                assert found == [(50, 25, 100, 75)] * 12
                asked = [request for request in server.requests if request.method == "POST"]
                if len(asked) < len(server.pictures):
                    break
    assert len(asked) < len(server.pictures)
    assert len(server.pictures) % 12 == 0
