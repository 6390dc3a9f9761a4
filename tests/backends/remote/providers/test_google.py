"""Google Cloud Vision: requests, answers, refusals, and the whole way through the backend."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.protocol import DetectParams, HttpResponse
from hybrid_detect.backends.remote.providers.google import (
    MAX_PICTURES,
    MAX_REQUEST_BYTES,
    GoogleVision,
)
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    ConfigurationError,
    ProtocolError,
    Refusal,
)
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.frames.frame import Frame
from hybrid_detect.testing.provider_servers import Failure, GoogleServer
from hybrid_detect.types import BackendKind, BoundingBox, DetectionResult, Face, Plan

from .protocol_contract import CANARY, PICTURE, ProtocolContract, json_response


def polygon(*corners: tuple[int, int]) -> dict[str, Any]:
    """Zeros are left out, as Google leaves them out."""
    vertices = [{k: v for k, v in (("x", x), ("y", y)) if v} for x, y in corners]
    return {"vertices": vertices}


ANNOTATION = {
    "boundingPoly": polygon((0, 0), (60, 0), (60, 40), (0, 40)),
    "fdBoundingPoly": polygon((8, 8), (24, 8), (24, 24), (8, 24)),
    "detectionConfidence": 0.75,
    "landmarks": [
        {"type": "LEFT_EYE", "position": {"x": 12.0, "y": 12.0, "z": -0.5}},
        {"type": "RIGHT_EYE", "position": {"x": 20.0, "y": 12.0}},
        {"type": "NOSE_TIP", "position": {"x": 16.0, "y": 16.0}},
        {"type": "MOUTH_LEFT", "position": {"x": 12.0, "y": 20.0}},
        {"type": "MOUTH_RIGHT", "position": {"x": 20.0, "y": 20.0}},
        {"type": "CHIN_GNATHION", "position": {}},
    ],
}


def answer(*responses: object) -> HttpResponse:
    return json_response({"responses": list(responses)})


def one(response: object) -> ResultReply:
    (reply,) = GoogleVision().decode(answer(response), (PICTURE,))
    assert isinstance(reply, ResultReply)
    return reply


class TestGoogleVision(ProtocolContract):
    make = GoogleVision

    def good(self) -> HttpResponse:
        return answer({"faceAnnotations": [ANNOTATION]})


def test_the_request_asks_for_faces_alone_and_says_how_many() -> None:
    request = GoogleVision(max_faces=50).encode((PICTURE, PICTURE), DetectParams())
    one = {
        "image": {"content": base64.b64encode(PICTURE.data).decode()},
        "features": [{"type": "FACE_DETECTION", "maxResults": 50, "model": "builtin/stable"}],
    }
    assert json.loads(request.body) == {"requests": [one, one]}
    assert request.url.startswith("/v1/images:annotate?")
    assert "fdBoundingPoly" in request.url


def test_the_largest_batch_fits_into_the_largest_request() -> None:
    protocol = GoogleVision(max_faces=1000, model="builtin/latest")
    limits = protocol.capabilities
    assert limits.max_picture_bytes is not None
    size = limits.max_picture_bytes // MAX_PICTURES
    picture = CompressedImage(
        data=b"x" * size,
        width=1,
        height=1,
        original_width=1,
        original_height=1,
        quality=1,
        encodes=1,
    )
    request = protocol.encode((picture,) * MAX_PICTURES, DetectParams())
    assert len(request.body) <= MAX_REQUEST_BYTES


def test_a_request_above_the_limit_is_not_sent() -> None:
    target = Target(url="https://a.example", protocol=GoogleVision())
    large = CompressedImage(
        data=b"x" * 8_000_000,
        width=1,
        height=1,
        original_width=1,
        original_height=1,
        quality=1,
        encodes=1,
    )
    with pytest.raises(BackendError, match="10000000 bytes"):
        target.encoded((large,), DetectParams())


def test_landmarks_are_named_by_where_they_lie() -> None:
    (face,) = one({"faceAnnotations": [ANNOTATION]}).faces
    assert {point.name: (point.x, point.y) for point in face.keypoints} == {
        "right_eye": (12, 12),
        "left_eye": (20, 12),
        "nose_tip": (16, 16),
        "mouth_center": (16, 20),
    }


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"fdBoundingPoly": polygon((0, 0), (32, 0), (32, 24), (0, 24))}, (0, 0, 32, 24)),
        ({"fdBoundingPoly": polygon((-9, -9), (99, -9), (99, 99), (-9, 99))}, (0, 0, 64, 48)),
        ({"fdBoundingPoly": polygon((16, 8), (24, 16), (16, 24), (8, 16))}, (8, 8, 24, 24)),
        ({"boundingPoly": polygon((4, 4), (8, 4), (8, 8), (4, 8))}, (4, 4, 8, 8)),
        ({"fdBoundingPoly": {}, "boundingPoly": polygon((4, 4), (8, 8))}, (4, 4, 8, 8)),
    ],
)
def test_each_polygon_becomes_its_box(found: object, expected: tuple[int, ...]) -> None:
    (face,) = one({"faceAnnotations": [found]}).faces
    assert face.box.xyxy == expected
    assert face.score == 0.0  # a zero is left out, too


@pytest.mark.parametrize(
    "response", [{}, {"faceAnnotations": []}, {"error": {}}, {"faceAnnotations": [{}]}]
)
def test_no_face_is_an_empty_result(response: object) -> None:
    assert one(response).faces == ()


def test_one_picture_fails_and_the_others_keep_their_answers() -> None:
    bad = {"error": {"code": 3, "message": CANARY}}
    busy = {"error": {"code": 14, "message": CANARY}}
    beside = {"error": {"code": 13, "message": CANARY}, "faceAnnotations": [ANNOTATION]}
    replies = GoogleVision().decode(
        answer({"faceAnnotations": [ANNOTATION]}, bad, {}, busy, beside), (PICTURE,) * 5
    )
    first, second, third, fourth, fifth = replies
    assert isinstance(first, ResultReply)
    assert len(first.faces) == 1
    assert isinstance(second, BackendResponseError)
    assert (second.refusal, second.retryable) == (Refusal.PICTURE, False)
    assert isinstance(third, ResultReply)
    assert not third.faces
    assert isinstance(fourth, BackendResponseError)
    assert (fourth.refusal, fourth.retryable) == (Refusal.TRANSIENT, True)
    assert isinstance(fifth, ResultReply)
    assert len(fifth.faces) == 1
    assert CANARY not in f"{second} {fourth}"


def test_an_answer_that_cannot_be_read_is_one_pictures_own() -> None:
    bad = {"faceAnnotations": [{"fdBoundingPoly": {"vertices": "canary"}}]}
    told = json_response({"responses": [{}, bad, {}]})
    first, second, third = GoogleVision().decode(told, [PICTURE] * 3)
    assert isinstance(second, ProtocolError)
    assert "canary" not in str(second)
    assert isinstance(first, ResultReply)
    assert isinstance(third, ResultReply)
    with pytest.raises(ProtocolError):
        GoogleVision().decode(json_response({"responses": [bad]}), [PICTURE])


@pytest.mark.parametrize(
    "response",
    [
        json_response({}),
        json_response([]),
        answer(),
        answer({}, {}),
        answer(1),
        answer({"faceAnnotations": {}}),
        answer({"faceAnnotations": [{"fdBoundingPoly": {"vertices": [{"x": "8"}]}}]}),
        answer({"faceAnnotations": [{**ANNOTATION, "detectionConfidence": 9}]}),
    ],
)
def test_what_is_not_one_answer_for_each_picture_is_a_protocol_error(
    response: HttpResponse,
) -> None:
    with pytest.raises(ProtocolError):
        GoogleVision().decode(response, (PICTURE,))


@pytest.mark.parametrize(
    ("status", "error", "refusal", "retry_after_s"),
    [
        (
            429,
            {
                "status": "RESOURCE_EXHAUSTED",
                "details": [
                    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.5s"}
                ],
            },
            Refusal.THROTTLED,
            1.5,
        ),
        (
            400,
            {
                "status": "INVALID_ARGUMENT",
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "API_KEY_INVALID",
                    }
                ],
            },
            Refusal.UNAUTHENTICATED,
            None,
        ),
        (400, {"status": "INVALID_ARGUMENT"}, Refusal.CONTRACT, None),
        (403, {"status": "PERMISSION_DENIED"}, Refusal.FORBIDDEN, None),
        (503, {"status": "UNAVAILABLE", "details": 7}, Refusal.TRANSIENT, None),
        (500, CANARY, Refusal.TRANSIENT, None),
        (413, None, Refusal.SIZE, None),
    ],
)
def test_the_status_and_the_reason_say_why_it_was_refused(
    status: int, error: object, refusal: Refusal, retry_after_s: float | None
) -> None:
    with pytest.raises(BackendResponseError) as caught:
        GoogleVision().decode(json_response({"error": error}, status), (PICTURE,))
    assert (caught.value.refusal, caught.value.retry_after_s) == (refusal, retry_after_s)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"max_faces": 0}, {"model": "other"}, {"project": "a b"}, {"max_faces": "9"}, {"odd": 1}],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        GoogleVision.from_options(options)


def test_the_project_that_is_charged_goes_into_its_header() -> None:
    request = GoogleVision(project="my-project").encode((PICTURE,), DetectParams())
    assert request.headers["X-Goog-User-Project"] == "my-project"


# ---- through the cloud backend


def cloud(server: GoogleServer, **options: Any) -> CloudDetectionService:
    return CloudDetectionService("google", endpoint=server.url, **{"api_key": "key"} | options)


async def look(service: CloudDetectionService) -> DetectionResult:
    picture = np.random.default_rng(5).integers(0, 255, (100, 200, 3), np.uint8)
    plan = Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=20.0, retries=2)
    return await service.detect(Frame.of(picture), plan)


def test_it_has_a_public_address() -> None:
    assert CloudDetectionService("google", api_key="k").host == "vision.googleapis.com"


@pytest.mark.anyio
async def test_the_key_goes_into_a_header_and_the_faces_come_back() -> None:
    with GoogleServer() as server:
        async with cloud(server) as service:
            result = await look(service)
    (face,) = result.faces
    assert face.box.xyxy == pytest.approx((50, 25, 100, 75))
    assert (face.score, len(face.keypoints)) == (0.75, 3)
    (request,) = server.requests
    assert request.headers["x-goog-api-key"] == "key"
    assert "key=" not in request.target


@pytest.mark.anyio
async def test_more_faces_than_googles_default_come_back() -> None:
    faces = [Face(BoundingBox(i / 32, 0, (i + 1) / 32, 0.5), 0.9) for i in range(30)]
    with GoogleServer(faces=faces) as server:
        async with cloud(server) as service:
            assert len((await look(service)).faces) == 30


@pytest.mark.anyio
async def test_a_token_that_is_refused_is_asked_for_again() -> None:
    tokens = iter(["old", "token"])
    with GoogleServer() as server:
        async with cloud(server, api_key=None, auth_token=lambda: next(tokens)) as service:
            assert (await look(service)).faces
    assert [r.headers["authorization"] for r in server.requests] == ["Bearer old", "Bearer token"]


@pytest.mark.anyio
@pytest.mark.parametrize(("code", "requests"), [(14, 3), (3, 1)])
async def test_a_picture_that_fails_is_sent_again_only_if_that_can_help(
    code: int, requests: int
) -> None:
    with GoogleServer() as server:
        server.picture_errors = {0: code}
        async with cloud(server) as service:
            with pytest.raises(BackendResponseError):
                await look(service)
    assert len(server.requests) == requests


@pytest.mark.anyio
async def test_a_page_of_a_gateway_is_an_error_without_its_words() -> None:
    with GoogleServer() as server:
        server.fail_always(Failure(413, body=f"<html>{CANARY}".encode()))
        async with cloud(server) as service:
            with pytest.raises(BackendResponseError) as caught:
                await look(service)
    assert caught.value.refusal is Refusal.SIZE
    assert not caught.value.by_server
    assert CANARY not in str(caught.value)
