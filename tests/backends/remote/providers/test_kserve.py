"""The Open Inference Protocol: tensors in and out, JSON and binary, the habits of its servers."""

from __future__ import annotations

import base64
import io
import json
import math
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.backends.remote.credentials import BearerToken, key_credentials
from hybrid_detect.backends.remote.protocol import DetectParams, HttpResponse
from hybrid_detect.backends.remote.providers import protocol_of
from hybrid_detect.backends.remote.providers.kserve import KServe
from hybrid_detect.errors import BackendResponseError, ConfigurationError, ProtocolError, Refusal

from .protocol_contract import CANARY, PICTURE, ProtocolContract, json_response
from .tensor_messages import answer, asked, binary


class TestJson(ProtocolContract):
    def make(self) -> KServe:
        return KServe(model="faces", binary=False)

    def good(self) -> HttpResponse:
        return answer([[8, 8, 24, 24], [0, 0, 0, 0]], [0.75, 0])


class TestBinary(ProtocolContract):
    def make(self) -> KServe:
        return KServe(model="faces", version="1", box_format="cxcywh", score_max=100)

    def good(self) -> HttpResponse:
        boxes = np.array([16, 16, 16, 16], "<f2").tobytes()
        return binary(("boxes", "FP16", [1, 4], boxes), ("scores", "UINT8", [1, 1], b"\x4b"))


class TestFractions(ProtocolContract):
    score = None

    def make(self) -> KServe:
        return KServe(model="faces", unit="fraction", box_format="xywh", scores="", batched=True)

    def good(self) -> HttpResponse:
        boxes = np.array([8 / 64, 8 / 48, 16 / 64, 16 / 48], "<f8").tobytes()
        return binary(("boxes", "FP64", [1, 1, 4], boxes))

    def test_the_answer_becomes_faces_in_the_pixels_of_the_picture(self) -> None:
        (reply,) = self.make().decode(self.good(), (PICTURE,))
        assert reply.faces[0].box.xyxy == pytest.approx((8, 8, 24, 24))
        assert reply.faces[0].score is None


@pytest.mark.parametrize(("batched", "shape"), [(False, [1]), (True, [1, 1])])
def test_a_jpeg_is_one_element_told_by_its_length(batched: bool, shape: list[int]) -> None:
    request = KServe(model="faces", batched=batched).encode((PICTURE,), DetectParams())
    assert request.url == "/v2/models/faces/infer"
    head, raw = asked(request)
    assert raw == struct.pack("<I", len(PICTURE.data)) + PICTURE.data
    assert head == {
        "inputs": [
            {
                "name": "image",
                "shape": shape,
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(raw)},
            }
        ],
        "outputs": [
            {"name": name, "parameters": {"binary_data": True}} for name in ("boxes", "scores")
        ],
    }


def test_json_takes_a_jpeg_as_base64_that_is_said_to_be_base64() -> None:
    made = KServe(model="faces", version="2", binary=False)
    request = made.encode((PICTURE,), DetectParams())
    assert request.url == "/v2/models/faces/versions/2/infer"
    head, raw = asked(request)
    (tensor,) = head["inputs"]
    assert raw == b""
    assert base64.b64decode(tensor.pop("data")[0], validate=True) == PICTURE.data
    assert tensor == {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
    }
    assert head["outputs"] == [
        {"name": name, "parameters": {"binary_data": False}} for name in ("boxes", "scores")
    ]


@pytest.mark.parametrize("is_binary", [True, False])
def test_pixels_are_rows_of_rgb(is_binary: bool) -> None:
    out = io.BytesIO()
    Image.new("RGB", (16, 8), (200, 30, 90)).save(out, "jpeg")
    picture = replace(PICTURE, data=out.getvalue(), width=16, height=8)
    made = KServe(model="faces", encoding="rgb-u8-hwc", binary=is_binary, input="pixels")
    head, raw = asked(made.encode((picture,), DetectParams()))
    (tensor,) = head["inputs"]
    pixels = bytes(tensor["data"]) if not is_binary else raw
    assert (tensor["name"], tensor["shape"], tensor["datatype"]) == ("pixels", [8, 16, 3], "UINT8")
    assert np.abs(np.frombuffer(pixels, np.uint8).reshape(-1, 3) - [200.0, 30, 90]).max() < 6


def test_a_key_is_a_bearer_token_for_the_gateway() -> None:
    assert isinstance(key_credentials(KServe(model="m"), "k"), BearerToken)


METADATA = {
    "name": "faces",
    "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}],
    "outputs": [
        {"name": "boxes", "datatype": "FP32", "shape": [-1, 4]},
        {"name": "scores", "datatype": "FP32", "shape": [-1]},
    ],
}


def test_health_checks_the_names_of_the_tensors() -> None:
    made = KServe(model="faces")
    request = made.health()
    assert (request.method, request.url) == ("GET", "/v2/models/faces")
    assert made.decode(json_response(METADATA), ()) == ()
    for options, why in (
        ({"input": "picture"}, "no input named 'picture'"),
        ({"scores": "probabilities"}, "no output named 'probabilities'"),
        ({"landmarks": "points"}, "no output named 'points'"),
        ({"encoding": "rgb-u8-hwc"}, "not of type UINT8"),
    ):
        with pytest.raises(ProtocolError, match=why):
            KServe(model="faces", **options).decode(json_response(METADATA), ())
    for other in ({"status": "ok"}, {**METADATA, "name": "cats"}):
        with pytest.raises(ProtocolError, match="metadata of the model 'faces'"):
            made.decode(json_response(other), ())


def test_a_model_that_lists_no_tensors_is_healthy() -> None:
    """MLServer lists those that the model's settings name, which need not be any."""
    for nothing in ({"inputs": [], "outputs": []}, {}):
        assert KServe(model="faces").decode(json_response({"name": "faces", **nothing}), ()) == ()


@pytest.mark.parametrize(
    ("status", "media_type", "body", "refusal", "retryable"),
    [
        # Triton
        (404, "text/plain", {"error": f"Request for unknown model: '{CANARY}' is not found"},
         Refusal.ADDRESS, False),
        (400, "application/json", {"error": f"unexpected shape for {CANARY}"},
         Refusal.CONTRACT, False),
        (500, "application/json", {"error": f"failed to parse the request JSON buffer: {CANARY}"},
         Refusal.CONTRACT, False),
        (400, "application/json",
         {"error": f"Request for unknown model: '{CANARY}' has no available versions"},
         Refusal.TRANSIENT, True),
        (500, "application/json", {"error": f"in ensemble: {CANARY}"}, Refusal.TRANSIENT, True),
        (503, "application/json", {"error": CANARY}, Refusal.TRANSIENT, True),
        # MLServer
        (404, "application/json", {"error": f"Model {CANARY} with version 9 not found"},
         Refusal.ADDRESS, False),
        (400, "application/json", {"error": f"Model {CANARY} is not ready yet"},
         Refusal.TRANSIENT, True),
        (422, "application/json", {"detail": [{"msg": CANARY}]}, Refusal.CONTRACT, False),
        (500, "text/plain", f"Traceback (most recent call last): {CANARY}",
         Refusal.CONTRACT, False),
        # gateways
        (500, "text/html", f"<html>{CANARY}", Refusal.TRANSIENT, True),
        (503, "text/plain", CANARY, Refusal.TRANSIENT, True),
        (429, "text/plain", CANARY, Refusal.THROTTLED, True),
        (401, "text/plain", CANARY, Refusal.UNAUTHENTICATED, False),
    ],
)  # fmt: skip
def test_errors(
    status: int, media_type: str, body: dict[str, Any] | str, refusal: Refusal, retryable: bool
) -> None:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    response = HttpResponse(status=status, headers={"content-type": media_type}, body=raw)
    for pictures in ((PICTURE,), ()):
        with pytest.raises(BackendResponseError) as caught:
            KServe(model="faces").decode(response, pictures)
        assert (caught.value.refusal, caught.value.retryable) == (refusal, retryable)
        assert CANARY not in str(caught.value)
        assert caught.value.by_server == (isinstance(body, dict) or "Traceback" in body)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": ""},
        {"model": "a b"},
        {"model": ".."},
        {"model": "m", "encoding": "png"},
        {"model": "m", "box_format": "yxyx"},
        {"model": "m", "unit": "percent"},
        {"model": "m", "score_max": 0},
        {"model": "m", "score_max": math.inf},
        {"model": "m", "binary": "yes"},
        {"model": "m", "binary": 1},
        {"model": "m", "boxes": ""},
        {"model": "m", "max_pictures": 0},
        {"model": "m", "max_pictures": 2},
        {"model": "m", "max_pictures": 2, "batched": True, "encoding": "rgb-u8-hwc"},
        {"model": "m", "tensor": "x"},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        protocol_of("kserve", options)


def test_options_come_from_json() -> None:
    made = protocol_of(
        "kserve", json.loads('{"model": "faces", "score_max": 100, "binary": false}')
    )
    assert made.name == "kserve"
