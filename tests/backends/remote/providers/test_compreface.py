"""CompreFace: its code for no faces, its margin, its errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.remote.credentials import key_credentials
from hybrid_detect.backends.remote.protocol import DetectParams, HttpRequest, HttpResponse
from hybrid_detect.backends.remote.providers import protocol_of
from hybrid_detect.backends.remote.providers.compreface import CompreFace
from hybrid_detect.errors import BackendResponseError, ConfigurationError, ProtocolError, Refusal

from .protocol_contract import CANARY, PICTURE, ProtocolContract, json_response

LARGE = replace(PICTURE, width=1280, height=960)


def answer(*boxes: tuple[float, ...], detector: str = "", **more: Any) -> dict[str, Any]:
    names = ("x_min", "y_min", "x_max", "y_max")
    faces = [
        {"box": {"probability": 0.75, **dict(zip(names, b, strict=True))}, **more} for b in boxes
    ]
    versions = {"plugins_versions": {"detector": detector}} if detector else {}
    return {"result": faces, **versions}


class TestContract(ProtocolContract):
    def make(self) -> CompreFace:
        return CompreFace()

    def good(self) -> HttpResponse:
        return json_response(answer((8, 8, 24, 24), detector="insightface.FaceDetector"))


def test_the_threshold_is_sent_where_none_is_asked_for() -> None:
    request = CompreFace().encode((PICTURE,), DetectParams())
    assert parse_qs(urlsplit(request.url).query)["det_prob_threshold"] == ["0.5"]


def test_the_request() -> None:
    request = CompreFace().encode((PICTURE,), DetectParams(min_confidence=0.4))
    url = urlsplit(request.url)
    assert url.path == "/api/v1/detection/detect"
    assert parse_qs(url.query) == {
        "limit": ["0"],
        "det_prob_threshold": ["0.4"],
        "face_plugins": ["landmarks"],
        "status": ["true"],
    }
    assert b'name="file"; filename="picture.jpeg"' in request.body
    plain = CompreFace(landmarks=False).encode((PICTURE,), DetectParams())
    assert "face_plugins" not in plain.url
    signed = key_credentials(CompreFace(), "k").apply(HttpRequest(url="/"), now_s=0.0)
    assert signed.headers == {"x-api-key": "k"}


@pytest.mark.parametrize(
    ("detector", "model"),
    [
        ("facenet.FaceDetector", "facenet.FaceDetector"),
        ("", "compreface"),
        (f"{CANARY}\n\x1b[31m", "compreface"),
        ("x" * 101, "compreface"),
    ],
)
def test_the_model_is_the_detector_s_name_and_no_other_text(detector: str, model: str) -> None:
    (reply,) = CompreFace().decode(json_response(answer(detector=detector)), (PICTURE,))
    assert reply.model == model


def test_code_28_is_an_answer_without_faces() -> None:
    body = {"message": "No face is found in the given image", "code": 28}
    (reply,) = CompreFace().decode(json_response(body, 400), (PICTURE,))
    assert (reply.faces, reply.width, reply.height) == ((), 64, 48)


@pytest.mark.parametrize(("status", "code"), [(404, 28), (500, 28), (400, "28"), (400, 28.0)])
def test_code_28_means_it_with_status_400_alone(status: int, code: object) -> None:
    with pytest.raises(BackendResponseError):
        CompreFace().decode(json_response({"code": code}, status), (PICTURE,))


@pytest.mark.parametrize(
    ("status", "code", "refusal", "retryable"),
    [
        (400, 0, Refusal.CONTRACT, False),
        (400, 20, Refusal.UNAUTHENTICATED, False),
        (404, 10, Refusal.FORBIDDEN, False),
        (400, 21, Refusal.PICTURE, False),
        (400, 26, Refusal.CONTRACT, False),
        (400, 34, Refusal.CONTRACT, False),
        (500, 41, Refusal.TRANSIENT, True),
        (502, None, Refusal.TRANSIENT, True),
        (413, None, Refusal.SIZE, False),
        (429, None, Refusal.THROTTLED, True),
    ],
)
def test_errors(status: int, code: int | None, refusal: Refusal, retryable: bool) -> None:
    with pytest.raises(BackendResponseError) as caught:
        CompreFace().decode(json_response({"message": CANARY, "code": code}, status), (PICTURE,))
    assert (caught.value.refusal, caught.value.retryable) == (refusal, retryable)
    assert CANARY not in str(caught.value)


@given(
    st.integers(0, 900), st.integers(0, 700), st.integers(40, 300), st.integers(40, 200),
    st.sampled_from([320, 640, 1280, 4000]),
)  # fmt: skip
def test_the_margin_of_facenet_is_taken_off(x: int, y: int, w: int, h: int, limit: int) -> None:
    """What its source does to a box is undone, but for what it cut off at the edges."""
    scale = max(1280 / limit, 1)
    true = (x, y, min(x + w, 1280), min(y + h, 960))
    small = [side / scale for side in true]
    grown = [
        int(max(small[0] - 16, 0)),
        int(max(small[1] - 16, 0)),
        int(min(small[2] + 16, 1280 / scale)),
        int(min(small[3] + 16, 960 / scale)),
    ]
    told = answer(tuple(round(side * scale) for side in grown), detector="facenet.FaceDetector")
    protocol = CompreFace(max_detect_size=limit)
    (reply,) = protocol.decode(json_response(told), (LARGE,))
    (face,) = reply.faces
    for found, side in zip(face.box.xyxy, true, strict=True):
        at_an_edge = min(side, 1280 - side, 960 - side) < 18 * scale
        assert abs(found - side) < (18 * scale if at_an_edge else 2 * scale + 1)


def test_the_boxes_of_other_detectors_are_as_they_are() -> None:
    for detector in ("insightface.FaceDetector", ""):
        told = answer((100, 100, 200, 200), detector=detector)
        (reply,) = CompreFace().decode(json_response(told), (LARGE,))
        assert reply.faces[0].box.xyxy == (100, 100, 200, 200)


@pytest.mark.parametrize("count", [0, 4, 6])
def test_other_landmarks_than_five_are_left_out(count: int) -> None:
    told = answer((8, 8, 24, 24), landmarks=[[1, 2]] * count)
    (reply,) = CompreFace().decode(json_response(told), (PICTURE,))
    assert reply.faces[0].keypoints == ()


def test_landmarks() -> None:
    points = [[20, 12], [12, 12], [16, 16], [12, 20], [20, 20]]
    (reply,) = CompreFace().decode(
        json_response(answer((8, 8, 24, 24), landmarks=points)), (PICTURE,)
    )
    found = {p.name: (p.x, p.y) for p in reply.faces[0].keypoints}
    assert found["right_eye"] == (12, 12)
    assert found["mouth_center"] == (16, 20)


@pytest.mark.parametrize(
    "value", [[], {}, {"result": {}}, {"result": [{}]}, answer((8, 8, 24, 24), landmarks={"a": 1})]
)
def test_what_is_not_compreface_is_no_answer(value: object) -> None:
    with pytest.raises(ProtocolError):
        CompreFace().decode(json_response(value), (PICTURE,))


@pytest.mark.parametrize("options", [{"max_detect_size": 0}, {"max_detect_size": "640"}, {"x": 1}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        protocol_of("compreface", options)
