"""Azure AI Face: what is asked, what is read, and what its errors mean."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from hybrid_detect.backends.remote.credentials import ApiKeyHeader, key_credentials
from hybrid_detect.backends.remote.protocol import DetectParams, HttpRequest, HttpResponse
from hybrid_detect.backends.remote.providers import protocol_of
from hybrid_detect.backends.remote.providers.azure import AzureFace
from hybrid_detect.errors import BackendResponseError, ConfigurationError, ProtocolError, Refusal
from hybrid_detect.types import Keypoint

from .protocol_contract import CANARY, PICTURE, ProtocolContract, json_response

RECTANGLE = {"left": 8, "top": 8, "width": 16, "height": 16}
LANDMARKS = {
    "pupilLeft": {"x": 12.0, "y": 14.0},
    "pupilRight": {"x": 20.0, "y": 14.0},
    "noseTip": {"x": 16.0, "y": 17.0},
    "mouthLeft": {"x": 13.0, "y": 20.0},
    "mouthRight": {"x": 19.0, "y": 20.0},
}


class TestContract(ProtocolContract):
    score = None

    def make(self) -> AzureFace:
        return AzureFace()

    def good(self) -> HttpResponse:
        return json_response([{"faceRectangle": RECTANGLE, "faceLandmarks": LANDMARKS}])


def decoded(value: Any) -> tuple[Any, ...]:
    (reply,) = AzureFace().decode(json_response(value), (PICTURE,))
    return reply.faces


def test_no_face_id_is_ever_asked_for() -> None:
    for made in (AzureFace(), AzureFace(landmarks=False)):
        query = parse_qs(urlsplit(made.encode((PICTURE,), DetectParams()).url).query)
        assert query["returnFaceId"] == ["false"]
        assert query["detectionModel"] == ["detection_03"]
    with pytest.raises(ConfigurationError, match="not an option"):
        protocol_of("azure", {"returnFaceId": True})


def test_the_picture_is_the_body() -> None:
    request = AzureFace().encode((PICTURE,), DetectParams())
    assert request.body == PICTURE.data
    assert request.headers["Content-Type"] == "application/octet-stream"


def test_the_key_has_a_header_of_azure_s() -> None:
    credentials = key_credentials(AzureFace(), "the-key")
    assert isinstance(credentials, ApiKeyHeader)
    signed = credentials.apply(HttpRequest(url="/"), now_s=0.0)
    assert signed.headers == {"Ocp-Apim-Subscription-Key": "the-key"}


def test_landmarks_are_named_by_where_they_lie() -> None:
    (face,) = decoded([{"faceRectangle": RECTANGLE, "faceLandmarks": LANDMARKS}])
    assert face.keypoints == (
        Keypoint("right_eye", 12, 14),
        Keypoint("left_eye", 20, 14),
        Keypoint("nose_tip", 16, 17),
        Keypoint("mouth_center", 16, 20),
    )


def test_no_face_is_an_answer() -> None:
    assert decoded([]) == ()


def test_a_box_across_the_edge_is_cut() -> None:
    (face,) = decoded([{"faceRectangle": {"left": -5, "top": 40, "width": 20, "height": 20}}])
    assert face.box.xyxy == (0, 40, 15, 48)


@pytest.mark.parametrize("value", [{}, {"error": {}}, "[]", [{}], [[]], [{"faceRectangle": [1]}]])
def test_what_is_no_list_of_faces_is_no_answer(value: object) -> None:
    with pytest.raises(ProtocolError):
        decoded(value)


@pytest.mark.parametrize(
    ("status", "code", "refusal", "retryable"),
    [
        (400, "InvalidImage", Refusal.PICTURE, False),
        (400, "InvalidImageSize", Refusal.SIZE, False),
        (400, "BadArgument", Refusal.CONTRACT, False),
        (401, "401", Refusal.UNAUTHENTICATED, False),
        (403, "UnsupportedFeature", Refusal.FORBIDDEN, False),
        (403, "403", Refusal.FORBIDDEN, False),
        (404, "404", Refusal.ADDRESS, False),
        (408, "OperationTimeOut", Refusal.TRANSIENT, True),
        (409, "ConcurrentOperationConflict", Refusal.CONTRACT, False),
        (415, "UnsupportedMediaType", Refusal.PICTURE, False),
        (429, "429", Refusal.THROTTLED, True),
        (500, "InternalServerError", Refusal.TRANSIENT, True),
        (502, "", Refusal.TRANSIENT, True),
        (503, "ServiceUnavailable", Refusal.TRANSIENT, True),
        (504, "", Refusal.TRANSIENT, True),
    ],
)
@pytest.mark.parametrize("place", ["body", "header"])
def test_errors(status: int, code: str, refusal: Refusal, retryable: bool, place: str) -> None:
    body = {"error": {"code": code, "message": CANARY}} if place == "body" else CANARY
    response = json_response(body, status)
    headers = {"apim-request-id": "req-1", **response.headers}
    if place == "header":
        headers["x-ms-error-code"] = code
    response = HttpResponse(status=status, headers=headers, body=response.body)
    with pytest.raises(BackendResponseError) as caught:
        AzureFace().decode(response, (PICTURE,))
    error = caught.value
    assert (error.refusal, error.retryable, error.code) == (refusal, retryable, code)
    assert error.request_id == "req-1"
    assert CANARY not in str(error)


@pytest.mark.parametrize(
    ("message", "wait_s"),
    [
        ("Rate limit is exceeded. Try again in 26 seconds.", 26.0),
        ("Rate limit is exceeded. Try again in 1 second.", 1.0),
        ("Rate limit is exceeded.", None),
        ("Try again in 99999 seconds.", None),
    ],
)
def test_the_wait_may_stand_in_the_sentence_alone(message: str, wait_s: float | None) -> None:
    body = {"error": {"code": "429", "message": message}}
    with pytest.raises(BackendResponseError) as caught:
        AzureFace().decode(json_response(body, 429), (PICTURE,))
    assert caught.value.retry_after_s == wait_s


def test_there_is_nothing_to_ask_for_health() -> None:
    assert AzureFace().health() is None  # type: ignore[func-returns-value]
    assert AzureFace().decode(json_response({}), ()) == ()
