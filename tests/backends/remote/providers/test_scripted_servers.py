"""Azure and the servers of one's own, through the service and over HTTP: faces, errors, requests.

Retries are counted in requests that the server got, because each of them costs.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from hybrid_detect import HybridDetectionService, ServiceConfig
from hybrid_detect.backends.remote.providers import protocol_of
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    ProtocolError,
    Refusal,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.testing.provider_servers import (
    Failure,
)
from hybrid_detect.types import BackendKind, BoundingBox, Face, Plan

from .scripted_cases import CASES, NOISE, SURE, Case, each_case, look

pytestmark = pytest.mark.anyio


@each_case
async def test_configuration_reaches_it_and_the_faces_come_back_in_the_frame_s_pixels(
    case: Case,
) -> None:
    with case.server(faces=[SURE]) as server:
        environ = {
            "HYBRID_DETECT_ENDPOINT": server.url,
            "HYBRID_DETECT_MODE": "cloud",
            "HYBRID_DETECT_PROVIDER": case.provider,
            "HYBRID_DETECT_PROVIDER_OPTIONS": json.dumps(dict(case.options)),
            **({"HYBRID_DETECT_API_KEY": case.api_key} if case.api_key else {}),
        }
        config = ServiceConfig.from_env(environ)
        async with HybridDetectionService(config=config) as service:
            result = await service.process_image(NOISE, deadline_s=20)
    (face,) = result.raise_for_status().faces
    assert face.box.xyxy == pytest.approx((50, 25, 100, 75), abs=1)
    assert face.score == case.score
    assert result.model


@each_case
async def test_no_faces_is_an_answer(case: Case) -> None:
    with case.server(faces=[]) as server:
        async with case.cloud(server) as service:
            assert (await look(service)).faces == ()
    assert len(server.requests) == 1


@each_case
async def test_more_faces_than_any_default_come_back(case: Case) -> None:
    """100 is what Azure gives at most."""
    faces = [Face(BoundingBox(i / 128, 0, (i + 1) / 128, 0.5), 0.9) for i in range(100)]
    picture = np.zeros((600, 1280, 3), np.uint8)
    plan = Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=20.0)
    if "compreface" in case.provider:
        faces = [replace(f, box=BoundingBox(f.box.x_min, 0.2, f.box.x_max, 0.5)) for f in faces]
    with case.server(faces=faces) as server:
        async with case.cloud(server) as service:
            found = (await service.detect(Frame.of(picture), plan)).faces
    assert len(found) == 100


@each_case
@pytest.mark.parametrize(
    ("failure", "requests"),
    [
        (Failure(429), 3),
        (Failure(500, body=b"<html>"), 3),
        (Failure(503), 3),
        (Failure(hangs_up=True), 3),
        (Failure(400), 1),
        (Failure(401), 1),
        (Failure(404), 1),
        (Failure(200, body=b""), 1),
        (Failure(200, body=b"<html>sign in"), 1),
    ],
    ids=str,
)
async def test_only_what_can_pass_is_sent_again(
    case: Case, failure: Failure, requests: int
) -> None:
    with case.server(faces=[SURE]) as server:
        server.fail_always(failure)
        async with case.cloud(server) as service:
            with pytest.raises(BackendError) as caught:
                await look(service)
    assert len(server.requests) == requests
    assert caught.value.retryable == (requests > 1)
    assert "html" not in str(caught.value)
    assert isinstance(caught.value, ProtocolError) == (failure.status == 200)


@each_case
async def test_a_picture_that_is_too_large_is_sent_once_more_and_smaller(case: Case) -> None:
    with case.server(faces=[SURE]) as server:
        server.fail_always(Failure(413, body=b"<html>"))
        async with case.cloud(server) as service:
            with pytest.raises(BackendResponseError) as caught:
                await look(service)
        first, second = server.requests
        # Pixels of a smaller JPEG are as many as before, unless it has smaller sides as well.
        sends_pixels = case.options.get("encoding") == "rgb-u8-hwc"
        assert len(second.body) < len(first.body) or sends_pixels
        server.fail_always(None)
        server.fail_next(Failure(413, body=b"<html>"))
        async with case.cloud(server) as service:
            (face,) = (await look(service)).faces
    assert caught.value.refusal is Refusal.SIZE
    assert face.box.xyxy == pytest.approx((50, 25, 100, 75), abs=2)


@each_case
async def test_after_a_failure_that_passes_the_answer_comes(case: Case) -> None:
    with case.server(faces=[SURE]) as server:
        server.fail_next(Failure(503), Failure(429, headers={"Retry-After": "0.01"}))
        async with case.cloud(server) as service:
            assert len((await look(service)).faces) == 1
    assert len(server.requests) == 3
    first, *others = (request.body for request in server.requests)
    assert others == [first, first]


@each_case
async def test_silence_ends_with_the_deadline(case: Case) -> None:
    with case.server(faces=[SURE]) as server:
        server.fail_always(Failure(hangs=True))
        async with case.cloud(server) as service:
            with pytest.raises(BackendTimeoutError):
                await look(service, deadline_s=0.3)


WITH_KEY = {name: case for name, case in CASES.items() if case.api_key}
ANSWERS_401 = {name: case for name, case in WITH_KEY.items() if case.provider != "compreface"}
"""CompreFace answers 404 to a key that it does not know."""


@pytest.mark.parametrize("case", WITH_KEY.values(), ids=WITH_KEY)
async def test_a_wrong_key_is_loud_and_asked_once(case: Case) -> None:
    with case.server(faces=[SURE]) as server:
        async with case.cloud(server, api_key="wrong") as service:
            with pytest.raises(BackendResponseError) as caught:
                await look(service)
    assert caught.value.is_configuration
    assert len(server.requests) == 1
    assert "wrong" not in server.requests[0].target + str(caught.value)


@pytest.mark.parametrize("case", ANSWERS_401.values(), ids=ANSWERS_401)
async def test_a_key_from_a_function_is_asked_for_again_after_a_401(case: Case) -> None:
    keys = iter(["old", "key"])
    with case.server(faces=[SURE]) as server:
        async with case.cloud(server, api_key=lambda: next(keys)) as service:
            assert len((await look(service)).faces) == 1
    assert len(server.requests) == 2


HEALTHY = {
    name: case for name, case in CASES.items() if protocol_of(case.provider, case.options).health()
}


@pytest.mark.parametrize("case", HEALTHY.values(), ids=HEALTHY)
async def test_health_is_cheap_and_tells_another_server(case: Case) -> None:
    with case.server() as server:
        async with case.cloud(server) as service:
            await service.check(deadline_s=10)
            server.fail_next(Failure(200, body=b"<html>sign in"))
            with pytest.raises(BackendError):
                await service.check(deadline_s=10)
    assert {(request.method, request.body) for request in server.requests} == {("GET", b"")}
