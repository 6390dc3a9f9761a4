"""Amazon Rekognition: requests, answers, refusals, and the whole way through the cloud backend."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from hybrid_detect.backends.remote.aws_keys import AwsKeys
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.protocol import DetectParams, HttpResponse
from hybrid_detect.backends.remote.providers.aws import AwsRekognition
from hybrid_detect.backends.remote.target_settings import target_of
from hybrid_detect.errors import (
    BackendResponseError,
    BackendUnavailableError,
    ConfigurationError,
    ProtocolError,
    Refusal,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.testing.provider_servers import AwsServer
from hybrid_detect.types import BackendKind, DetectionResult, Plan

from .protocol_contract import PICTURE, ProtocolContract, json_response

KEYS = AwsKeys(access_key_id="AKIDEXAMPLE", secret_access_key="canary-secret")

BOX = {"Left": 0.125, "Top": 8 / 48, "Width": 0.25, "Height": 16 / 48}
LANDMARKS = [
    {"Type": "eyeLeft", "X": 0.25, "Y": 0.25},
    {"Type": "eyeRight", "X": 0.375, "Y": 0.25},
    {"Type": "nose", "X": 0.3125, "Y": 0.5},
    {"Type": "mouthLeft", "X": 0.25, "Y": 0.75},
    {"Type": "mouthRight", "X": 0.375, "Y": 0.75},
    {"Type": "chinBottom", "X": 0.375, "Y": 0.75},
]


def aws() -> AwsRekognition:
    return AwsRekognition(region="eu-west-1")


class TestAwsRekognition(ProtocolContract):
    make = staticmethod(aws)

    def good(self) -> HttpResponse:
        detail = {"BoundingBox": BOX, "Confidence": 75.0, "Landmarks": LANDMARKS}
        return json_response({"FaceDetails": [detail]})


def test_the_request_asks_for_the_default_attributes_alone() -> None:
    request = aws().encode((PICTURE,), DetectParams())
    assert json.loads(request.body) == {
        "Image": {"Bytes": base64.b64encode(PICTURE.data).decode()},
        "Attributes": ["DEFAULT"],
    }
    assert request.headers["X-Amz-Target"] == "RekognitionService.DetectFaces"
    assert request.url == "/"


def test_landmarks_are_named_by_where_they_lie() -> None:
    response = json_response({"FaceDetails": [{"BoundingBox": BOX, "Landmarks": LANDMARKS}]})
    ((face,),) = (reply.faces for reply in aws().decode(response, (PICTURE,)))
    assert face.score is None  # never invented
    places = {point.name: (point.x, point.y) for point in face.keypoints}
    assert places == {
        "right_eye": (16, 12),
        "left_eye": (24, 12),
        "nose_tip": (20, 24),
        "mouth_center": (20, 36),
    }


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ({"BoundingBox": {**BOX, "Left": -0.25, "Width": 0.5}}, (0, 8, 16, 24)),
        ({"BoundingBox": {**BOX, "Height": 1.25}}, (8, 8, 24, 48)),
        ({"BoundingBox": {"Width": 0.5, "Height": 0.5}}, (0, 0, 32, 24)),
    ],
)
def test_boxes_beyond_the_picture_are_cut(detail: object, expected: tuple[float, ...]) -> None:
    (reply,) = aws().decode(json_response({"FaceDetails": [detail]}), (PICTURE,))
    assert [face.box.xyxy for face in reply.faces] == [expected]


@pytest.mark.parametrize("detail", [{}, {"BoundingBox": None}, {"BoundingBox": {"Left": 1.5}}])
def test_a_face_without_a_place_is_no_face(detail: object) -> None:
    (reply,) = aws().decode(json_response({"FaceDetails": [detail]}), (PICTURE,))
    assert reply.faces == ()


@pytest.mark.parametrize("answer", [{}, [], {"FaceDetails": None}, {"FaceDetails": [1]}])
def test_a_200_without_faces_in_it_is_no_answer(answer: object) -> None:
    with pytest.raises(ProtocolError):
        aws().decode(json_response(answer), (PICTURE,))


@pytest.mark.parametrize(
    ("body", "refusal", "code"),
    [
        ({"__type": "ThrottlingException"}, Refusal.THROTTLED, "ThrottlingException"),
        (
            {"__type": "com.amazonaws.rekognition#ThrottlingException:http://x/"},
            Refusal.THROTTLED,
            "ThrottlingException",
        ),
        ({"Code": "AccessDeniedException"}, Refusal.FORBIDDEN, "AccessDeniedException"),
        (
            {
                "__type": "InvalidSignatureException",
                "message": "Signature expired: 20261122T000000Z is now earlier than 2026",
            },
            Refusal.CLOCK,
            "InvalidSignatureException",
        ),
        (
            {"__type": "InvalidSignatureException", "message": "The request signature we"},
            Refusal.FORBIDDEN,
            "InvalidSignatureException",
        ),
        ({"__type": "ExpiredTokenException"}, Refusal.UNAUTHENTICATED, "ExpiredTokenException"),
        ({"__type": "OddException"}, Refusal.CONTRACT, "OddException"),
        ({"__type": 7}, Refusal.CONTRACT, ""),
        ("canary", Refusal.CONTRACT, ""),
    ],
)
def test_the_code_says_why_it_was_refused(body: object, refusal: Refusal, code: str) -> None:
    with pytest.raises(BackendResponseError) as caught:
        aws().decode(json_response(body, 400), (PICTURE,))
    assert (caught.value.refusal, caught.value.code) == (refusal, code)
    assert "Signature expired" not in str(caught.value)


@pytest.mark.parametrize("region", ["", "EU", "eu-west-1.evil.example/", "eu west 1", "eu-west"])
def test_what_is_no_region_is_refused(region: str) -> None:
    with pytest.raises(ConfigurationError):
        AwsRekognition(region=region)


def test_the_region_names_the_address() -> None:
    cloud = CloudDetectionService("aws", provider_options={"region": "eu-west-1"}, credentials=KEYS)
    (target,) = cloud.targets
    assert target.host == "rekognition.eu-west-1.amazonaws.com"
    assert target.region == "eu-west-1"
    assert "canary" not in repr(target) + repr(target.credentials)


def test_the_region_that_rules_are_held_to_is_the_one_that_is_asked() -> None:
    settings = {"provider": "aws", "region": "eu-west-1", "credentials": KEYS}
    assert target_of(settings).host == "rekognition.eu-west-1.amazonaws.com"
    with pytest.raises(ConfigurationError, match="'us-east-1'"):
        target_of({**settings, "provider_options": {"region": "us-east-1"}})


def test_the_environment_names_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    with pytest.raises(ConfigurationError, match="AWS_REGION"):
        CloudDetectionService("aws", credentials=KEYS)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-2")
    assert CloudDetectionService("aws").host == "rekognition.us-east-2.amazonaws.com"
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert CloudDetectionService("aws").host == "rekognition.eu-central-1.amazonaws.com"


@pytest.mark.parametrize("wrong", [{"auth_token": "t"}, {"api_key": "k"}, {"credentials": 7}])
def test_credentials_of_another_kind_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="AwsKeys"):
        CloudDetectionService("aws", provider_options={"region": "eu-west-1"}, **wrong)


# ---- through the cloud backend, against a server that checks signatures


def cloud(server: AwsServer, credentials: object) -> CloudDetectionService:
    return CloudDetectionService(
        "aws",
        endpoint=server.url,
        provider_options={"region": "eu-west-1"},
        credentials=credentials,
    )


async def look(service: CloudDetectionService, width: int = 200) -> DetectionResult:
    picture = np.random.default_rng(5).integers(0, 255, (100, width, 3), np.uint8)
    plan = Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=20.0, retries=2)
    return await service.detect(Frame.of(picture), plan)


@pytest.mark.anyio
async def test_a_signed_request_is_answered_with_faces_in_the_frames_pixels() -> None:
    with AwsServer(secret_access_key="canary-secret") as server:
        async with cloud(server, KEYS) as service:
            result = await look(service)
    (face,) = result.faces
    assert face.box.xyxy == pytest.approx((50, 25, 100, 75))
    assert face.score == pytest.approx(0.75)
    assert len(face.keypoints) == 3
    (seen,) = server.pictures
    assert (seen.format, seen.has_metadata, seen.is_complete) == ("jpeg", False, True)
    assert "canary" not in server.requests[0].target + str(server.requests[0].headers)


@pytest.mark.anyio
async def test_a_wrong_secret_is_a_refusal_for_good() -> None:
    with AwsServer(secret_access_key="another") as server:
        async with cloud(server, KEYS) as service:
            with pytest.raises(BackendResponseError) as caught:
                await look(service)
    assert caught.value.is_configuration
    assert caught.value.request_id
    assert len(server.requests) == 1


class Sessions:
    """Gives the keys of one session after the other, as a function of the user's would."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.asked = 0

    def __call__(self) -> AwsKeys:
        self.asked += 1
        token = self.tokens[min(self.asked, len(self.tokens)) - 1]
        return AwsKeys(
            access_key_id="AKIDEXAMPLE", secret_access_key="canary-secret", session_token=token
        )


@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_session_that_has_ended_is_renewed_once(is_async: bool) -> None:
    sessions = Sessions("one", "two")

    async def ask() -> AwsKeys:
        return sessions()

    with AwsServer(secret_access_key="canary-secret", session_token="two") as server:
        server.ended_tokens = {"one"}
        async with cloud(server, ask if is_async else sessions) as service:
            assert (await look(service)).faces
            assert (await look(service)).faces
    assert (len(server.requests), sessions.asked) == (3, 2)


@pytest.mark.anyio
async def test_a_session_that_cannot_be_renewed_costs_one_request_more() -> None:
    sessions = Sessions("one")
    with AwsServer(secret_access_key="canary-secret") as server:
        server.ended_tokens = {"one"}
        async with cloud(server, sessions) as service:
            with pytest.raises(BackendResponseError) as caught:
                await look(service)
    assert caught.value.refusal is Refusal.UNAUTHENTICATED
    assert len(server.requests) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("ahead_s", [-3600.0, 7200.0])
async def test_a_wrong_clock_is_learned_from_one_refusal(ahead_s: float) -> None:
    with AwsServer(secret_access_key="canary-secret") as server:
        server.ahead_s = ahead_s
        async with cloud(server, KEYS) as service:
            assert (await look(service)).faces
            assert (await look(service)).faces
    assert len(server.requests) == 3


@pytest.mark.anyio
async def test_every_attempt_is_signed_anew() -> None:
    from hybrid_detect.testing.provider_servers import Failure

    with AwsServer(secret_access_key="canary-secret") as server:
        server.fail_next(Failure(400, "ThrottlingException"))
        async with cloud(server, KEYS) as service:
            assert (await look(service)).faces
    assert len(server.requests) == 2


@pytest.mark.anyio
async def test_a_frame_below_80_pixels_is_enlarged_for_aws() -> None:
    with AwsServer(secret_access_key="canary-secret") as server:
        async with cloud(server, KEYS) as service:
            result = await look(service, width=40)
    (seen,) = server.pictures
    assert (seen.width, seen.height) == (80, 200)
    assert result.faces[0].box.xyxy == pytest.approx((10, 25, 20, 75))


@pytest.mark.anyio
async def test_without_keys_the_error_says_where_they_were_looked_for(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/credentials")
    monkeypatch.setenv("AWS_CONFIG_FILE", f"{tmp_path}/config")
    with AwsServer() as server:
        async with cloud(server, None) as service:
            with pytest.raises(BackendUnavailableError, match="no profile 'default'"):
                await look(service)
    assert not server.requests


@pytest.mark.parametrize(
    ("endpoint", "is_right"),
    [
        ("https://rekognition.eu-west-1.amazonaws.com", True),
        ("https://rekognition-fips.eu-west-1.api.aws", True),
        ("https://vpce-1.rekognition.eu-west-1.vpce.amazonaws.com", True),
        ("https://gateway.example.com", True),
        ("https://rekognition.us-east-1.amazonaws.com", False),
        ("https://rekognition.us-east-1.api.aws", False),
    ],
)
def test_an_address_in_another_region_is_refused_before_it_gets_a_picture(
    endpoint: str, is_right: bool
) -> None:
    settings = {"provider": "aws", "region": "eu-west-1", "credentials": KEYS}
    if is_right:
        assert target_of(settings | {"endpoint": endpoint}).region == "eu-west-1"
        return
    with pytest.raises(ConfigurationError, match="not in the region 'eu-west-1'"):
        target_of(settings | {"endpoint": endpoint})
