"""Roboflow: centres, classes, the two forms of its interface."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from hybrid_detect.backends.remote.credentials import BearerToken, key_credentials
from hybrid_detect.backends.remote.protocol import DetectParams, HttpResponse
from hybrid_detect.backends.remote.providers import protocol_of
from hybrid_detect.backends.remote.providers.roboflow import Roboflow
from hybrid_detect.errors import BackendResponseError, ConfigurationError, ProtocolError, Refusal

from .protocol_contract import CANARY, PICTURE, ProtocolContract, json_response

FACE = {"x": 16.0, "y": 16.0, "width": 16.0, "height": 16.0, "confidence": 0.75, "class": "face"}


def answer(*found: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"time": 0.01, "image": {"width": 64, "height": 48}, "predictions": list(found), **more}


class TestV1(ProtocolContract):
    def make(self) -> Roboflow:
        return Roboflow(model="faces/3")

    def good(self) -> HttpResponse:
        return json_response(answer(FACE))


class TestLegacy(ProtocolContract):
    def make(self) -> Roboflow:
        return Roboflow(model="faces/3", api="legacy")

    def good(self) -> HttpResponse:
        return json_response([answer({**FACE, "class": "person"}, FACE)])


def decoded(value: Any, **options: Any) -> Any:
    made = Roboflow(model="faces/3", **options)
    (reply,) = made.decode(json_response(value), (PICTURE,))
    return reply


def test_v1() -> None:
    request = Roboflow(model="faces/3").encode((PICTURE,), DetectParams(min_confidence=0.4))
    assert request.url == "/infer/object_detection"
    sent = json.loads(request.body)
    image = sent.pop("image")
    assert base64.b64decode(image.pop("value")) == PICTURE.data
    assert image == {"type": "base64"}
    assert sent == {
        "model_id": "faces/3",
        "confidence": 0.4,
        "max_detections": 300,
        "visualize_predictions": False,
        "disable_active_learning": True,
    }


def test_the_threshold_is_sent_where_none_is_asked_for() -> None:
    sent = json.loads(Roboflow(model="faces/3").encode((PICTURE,), DetectParams()).body)
    assert sent["confidence"] == 0.5
    url = Roboflow(model="faces/3", api="legacy").encode((PICTURE,), DetectParams()).url
    assert parse_qs(urlsplit(url).query)["confidence"] == ["0.5"]


def test_legacy() -> None:
    made = Roboflow(model="faces/3", api="legacy")
    request = made.encode((PICTURE,), DetectParams(min_confidence=0.4))
    url = urlsplit(request.url)
    assert url.path == "/faces/3"
    assert parse_qs(url.query)["confidence"] == ["0.4"]
    assert "key" not in request.url
    assert base64.b64decode(request.body, validate=True) == PICTURE.data
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert made.health() is None


def test_the_key_is_a_bearer_token() -> None:
    assert isinstance(key_credentials(Roboflow(model="a/1"), "k"), BearerToken)


def test_other_classes_are_left_out_unless_all_are_taken() -> None:
    told = answer(FACE, {**FACE, "class": "person"}, {**FACE, "class": None})
    assert len(decoded(told).faces) == 1
    assert len(decoded(told, face_class="person").faces) == 1
    assert len(decoded(told, face_class="").faces) == 3


def test_boxes_refer_to_the_size_that_the_answer_names() -> None:
    told = answer(FACE, image={"width": 32, "height": 24})
    assert (decoded(told).width, decoded(told).height) == (32, 24)
    for size in (None, {}, {"width": 0, "height": 0}, {"width": None, "height": 4}):
        assert decoded(answer(FACE, image=size)).width == 64


def test_the_server_s_time_is_told() -> None:
    assert decoded(answer(FACE)).detect_s == 0.01
    assert decoded(answer(time=None)).detect_s is None


@pytest.mark.parametrize(
    ("status", "refusal", "retryable"),
    [
        (400, Refusal.PICTURE, False),
        (401, Refusal.UNAUTHENTICATED, False),
        (402, Refusal.FORBIDDEN, False),
        (403, Refusal.FORBIDDEN, False),
        (404, Refusal.ADDRESS, False),
        (413, Refusal.SIZE, False),
        (422, Refusal.CONTRACT, False),
        (423, Refusal.CONTRACT, False),
        (429, Refusal.THROTTLED, True),
        (500, Refusal.TRANSIENT, True),
        (502, Refusal.TRANSIENT, True),
        (503, Refusal.TRANSIENT, True),
        (504, Refusal.TRANSIENT, True),
        (507, Refusal.CONTRACT, False),
    ],
)
def test_errors(status: int, refusal: Refusal, retryable: bool) -> None:
    with pytest.raises(BackendResponseError) as caught:
        Roboflow(model="a/1").decode(json_response({"message": CANARY}, status), (PICTURE,))
    assert (caught.value.refusal, caught.value.retryable) == (refusal, retryable)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [[], [answer(), answer()], {"predictions": {}}, answer(image=[1]), {"predictions": [1]}],
)
def test_what_is_no_answer(value: object) -> None:
    with pytest.raises(ProtocolError):
        decoded(value)


def test_health_is_the_server_s_name_and_version() -> None:
    made = Roboflow(model="a/1")
    assert (
        made.decode(json_response({"name": "Roboflow Inference Server", "version": "1"}), ()) == ()
    )
    with pytest.raises(ProtocolError):
        made.decode(json_response({"status": "ok"}), ())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": "faces"},
        {"model": "a/1", "api": "v2"},
        {"model": "../1"},
        {"model": "a/1?x"},
        {"model": 3},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        protocol_of("roboflow", options)
