"""Answers of the Open Inference Protocol: tensors in JSON and in binary, and what is no answer."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.remote.protocol import DetectParams, HttpResponse
from hybrid_detect.backends.remote.providers.kserve import KServe
from hybrid_detect.errors import ProtocolError
from hybrid_detect.exchange.wire import ResultReply

from .protocol_contract import PICTURE, json_response
from .tensor_messages import LENGTH, answer, asked, binary, output


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
        [output("boxes", [1, 2, 30, 40], shape=[160_000] * 900), output("scores", [0.5])],
        [output("boxes", [1, 2, 30, 40], shape=[1] * 8 + [4]), output("scores", [0.5])],
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


@pytest.mark.parametrize("length", ["-1", "999999", "x", "", "²", "9" * 5000])
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


def test_numbers_that_cannot_be_read_are_one_pictures_own() -> None:
    boxes = output("boxes", [1, 2, 30, 40, 1, 2, 30, 40], shape=[2, 1, 4])
    scores = output("scores", [0.5, 7.0], shape=[2, 1])
    told = json_response({"outputs": [boxes, scores]})
    made = KServe(model="m", batched=True, max_pictures=2)
    good, bad = made.decode(told, [PICTURE] * 2)
    assert isinstance(bad, ProtocolError)
    assert isinstance(good, ResultReply)
    assert len(good.faces) == 1
