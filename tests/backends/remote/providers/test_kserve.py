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
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.backends.remote.credentials import BearerToken, key_credentials
from hybrid_detect.backends.remote.protocol import DetectParams, HttpRequest, HttpResponse
from hybrid_detect.backends.remote.providers import protocol_of
from hybrid_detect.backends.remote.providers.kserve import KServe
from hybrid_detect.errors import BackendResponseError, ConfigurationError, ProtocolError, Refusal

from .protocol_contract import CANARY, PICTURE, ProtocolContract, json_response

LENGTH = "Inference-Header-Content-Length"


def output(name: str, values: Any, *, shape: list[int] | None = None, kind: str = "FP32") -> Any:
    data = np.asarray(values).ravel().tolist()
    return {"name": name, "datatype": kind, "shape": shape or [len(data)], "data": data}


def answer(boxes: Any, scores: Any, **more: Any) -> HttpResponse:
    outputs = [output("boxes", boxes), output("scores", scores)]
    return json_response({"model_name": "m", "id": "7", "outputs": outputs, **more})


def binary(*outputs: tuple[str, str, list[int], bytes]) -> HttpResponse:
    head = json.dumps(
        {
            "outputs": [
                {"name": n, "datatype": k, "shape": s, "parameters": {"binary_data_size": len(raw)}}
                for n, k, s, raw in outputs
            ]
        }
    ).encode()
    return HttpResponse(
        status=200,
        headers={"content-type": "application/octet-stream", LENGTH.lower(): str(len(head))},
        body=head + b"".join(raw for *_, raw in outputs),
    )


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


def asked(request: HttpRequest) -> tuple[dict[str, Any], bytes]:
    length = int(request.headers.get(LENGTH, len(request.body)))
    return json.loads(request.body[:length]), request.body[length:]


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


def faces(response: HttpResponse, **options: Any) -> Any:
    return KServe(model="faces", **options).decode(response, (PICTURE,))[0].faces


@given(
    st.lists(
        st.tuples(
            st.floats(3, 60, width=32), st.floats(3, 40, width=32),
            st.floats(1, 9, width=32), st.floats(0, 1, width=32),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_json_and_binary_say_the_same(rows: list[tuple[float, float, float, float]]) -> None:
    boxes = np.array([[x, y, x + s, y + s] for x, y, s, _ in rows], "<f4").reshape(-1, 4)
    scores = np.array([score for *_, score in rows], "<f4")
    as_json = faces(answer(boxes.astype(float), scores.astype(float)))
    as_binary = faces(
        binary(
            ("boxes", "FP32", [len(rows), 4], boxes.tobytes()),
            ("scores", "FP32", [len(rows), 1], scores.tobytes()),
        )
    )
    assert as_json == as_binary
    assert len(as_json) == len(rows)


def test_other_outputs_are_passed_over() -> None:
    raw = np.array([8, 8, 24, 24], "<f4").tobytes()
    told = binary(
        ("labels", "BYTES", [1], b"\x04\x00\x00\x00face"),
        ("boxes", "FP32", [1, 4], raw),
        ("features", "BF16", [1], b"\x00\x00"),
        ("scores", "FP32", [1], np.array([0.5], "<f4").tobytes()),
    )
    assert faces(told)[0].box.xyxy == (8, 8, 24, 24)


@pytest.mark.parametrize("hole", ["null", "NaN", "Infinity"])
def test_a_face_without_numbers_is_dropped_and_an_answer_without_any_is_none(hole: str) -> None:
    """Triton writes NaN into JSON, MLServer null."""

    def told(boxes: str, scores: str, count: int) -> HttpResponse:
        body = (
            f'{{"outputs": [{{"name": "boxes", "datatype": "FP32", "shape": [{count}, 4], '
            f'"data": {boxes}}}, {{"name": "scores", "datatype": "FP32", "shape": [{count}], '
            f'"data": {scores}}}]}}'
        )
        return HttpResponse(status=200, body=body.encode())

    good = "[8, 8, 24, 24]"
    (found,) = faces(told(f"[{good}, [1, {hole}, 9, 9]]", "[0.5, 0.5]", 2))
    assert found.box.xyxy == (8, 8, 24, 24)
    (found,) = faces(told(f"[{good}, {good}]", f"[0.5, {hole}]", 2))
    assert found.score == 0.5
    for boxes, scores in ((f"[[1, {hole}, 9, 9]]", "[0.5]"), (f"[{good}]", f"[{hole}]")):
        with pytest.raises(ProtocolError, match="finite"):
            faces(told(boxes, scores, 1))


@pytest.mark.parametrize("width", [2, 3])
def test_landmarks_are_five_points_of_two_or_three_numbers(width: int) -> None:
    points = [[12, 14, 0.9], [20, 14, 0.9], [16, 17, 0.9], [13, 20, 0.9], [19, 20, 0.9]]
    rows = [output("boxes", [8, 8, 24, 24]), output("scores", [0.5])]
    marks = output("points", [point[:width] for point in points])
    (found,) = faces(json_response({"outputs": [*rows, marks]}), landmarks="points")
    assert {p.name: (p.x, p.y) for p in found.keypoints} == {
        "right_eye": (12, 14),
        "left_eye": (20, 14),
        "nose_tip": (16, 17),
        "mouth_center": (16, 20),
    }
    assert KServe(model="m", landmarks="points").capabilities.landmarks == tuple(
        p.name for p in found.keypoints
    )


def test_a_wrong_unit_is_noticed() -> None:
    with pytest.raises(ProtocolError, match="set unit to fraction"):
        faces(answer([0.1, 0.1, 0.4, 0.5], [0.9]))
    with pytest.raises(ProtocolError, match="set unit to pixels"):
        faces(answer([8, 8, 24, 24], [0.9]), unit="fraction")


@pytest.mark.parametrize(
    "outputs",
    [
        [output("boxes", [1, 2, 3, 4])],
        [output("boxes", [1, 2, 3]), output("scores", [])],
        [output("boxes", [1, 2, 3, 4]), output("scores", [0.5, 0.5])],
        [output("boxes", [1, 2, 30, 40], shape=[2, 4]), output("scores", [0.5])],
        [output("boxes", [1, 2, 30, 40], shape=[-1]), output("scores", [0.5])],
        [{"name": "boxes", "datatype": "FP32", "shape": "4"}, output("scores", [0.5])],
        [output("boxes", ["a", "b", "c", "d"]), output("scores", [0.5])],
        [output("boxes", [1, 2, 30, 40]), output("scores", [7])],
        [output("boxes", [30, 2, 3, 40]), output("scores", [0.5])],
        [output("boxes", [1, 2, 30, 40], kind="BYTES"), output("scores", [0.5])],
    ],
)
def test_outputs_that_are_no_faces_are_told(outputs: Any) -> None:
    with pytest.raises(ProtocolError):
        faces(json_response({"outputs": outputs}))


@pytest.mark.parametrize("length", ["-1", "999999", "x", "", "²"])
def test_a_length_beyond_the_answer_is_told(length: str) -> None:
    told = binary(("boxes", "FP32", [1, 4], bytes(16)))
    with pytest.raises(ProtocolError):
        faces(replace(told, headers={LENGTH.lower(): length}))


@pytest.mark.parametrize("size", [-1, 17, True, "16", 15])
def test_a_tensor_of_other_bytes_than_are_there_is_told(size: object) -> None:
    outputs = [
        {
            "name": "boxes",
            "datatype": "FP32",
            "shape": [1, 4],
            "parameters": {"binary_data_size": size},
        }
    ]
    head = json.dumps({"outputs": outputs}).encode()
    told = HttpResponse(status=200, headers={LENGTH.lower(): str(len(head))}, body=head + bytes(16))
    with pytest.raises(ProtocolError):
        faces(told, scores="")


@given(st.binary(max_size=200), st.integers(0, 220))
def test_no_bytes_bring_anything_but_a_typed_error(raw: bytes, length: int) -> None:
    told = HttpResponse(status=200, headers={LENGTH.lower(): str(length)}, body=raw)
    with pytest.raises(ProtocolError):
        faces(told)


def test_an_answer_without_end_is_refused() -> None:
    with pytest.raises(ProtocolError, match="at most 1000 faces"):
        faces(answer([[8, 8, 24, 24]] * 1001, [0.5] * 1001))
    rows = [[8, 8, 24, 24]] * 1000 + [[0, 0, 0, 0]] * 1000
    assert len(faces(answer(rows, [0.5] * 2000))) == 1000
    with pytest.raises(ProtocolError):
        faces(answer([[8, 8, 24, 24]] * 50_000, [0.5] * 50_000))
    raw = bytes(4 * 4 * 50_000)
    with pytest.raises(ProtocolError):
        faces(binary(("boxes", "FP32", [50_000, 4], raw)), scores="")


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


BATCHED = {"model": "faces", "batched": True, "max_pictures": 3}


def test_several_pictures_are_one_tensor_and_keep_their_own_faces() -> None:
    made = KServe(**BATCHED)
    assert made.capabilities.max_pictures == 3
    other = replace(PICTURE, data=b"other", width=32, height=24)
    head, raw = asked(made.encode((PICTURE, other), DetectParams()))
    assert head["inputs"][0]["shape"] == [2, 1]
    assert raw == b"".join(struct.pack("<I", len(p.data)) + p.data for p in (PICTURE, other))
    boxes = [[[8, 8, 24, 24], [0, 0, 0, 0]], [[4, 4, 12, 12], [16, 4, 24, 12]]]
    told = answer(boxes, [[0.75, 0], [0.5, 0.25]])
    first, second = made.decode(told, (PICTURE, other))
    assert [face.box.xyxy for face in first.faces] == [(8, 8, 24, 24)]
    assert [face.score for face in second.faces] == [0.5, 0.25]
    assert (second.width, second.height) == (32, 24)


def test_outputs_that_cannot_be_shared_out_are_told() -> None:
    three = answer([[8, 8, 24, 24]] * 3, [0.5] * 3)
    with pytest.raises(ProtocolError, match="for each of 2 pictures"):
        KServe(**BATCHED).decode(three, (PICTURE, PICTURE))
