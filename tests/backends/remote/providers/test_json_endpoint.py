"""Your own endpoint: how the picture goes, and what is made of whatever comes back."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.remote.protocol import DetectParams, HttpRequest, HttpResponse
from hybrid_detect.backends.remote.providers import protocol_of
from hybrid_detect.backends.remote.providers.face_mapping import FaceMapping
from hybrid_detect.backends.remote.providers.json_endpoint import JsonEndpoint
from hybrid_detect.errors import ConfigurationError, ProtocolError
from hybrid_detect.types import BoundingBox, Face, Keypoint

from .protocol_contract import CANARY, PICTURE, ProtocolContract, json_response

PARAMS = DetectParams(session_id="canary-session")


def faces_of(answer: Any, _: object) -> list[Face]:
    return [Face(BoundingBox(*found["xyxy"]), found["p"]) for found in answer["found"]]


class TestWithAFunction(ProtocolContract):
    def make(self) -> JsonEndpoint:
        return JsonEndpoint(faces_of)

    def good(self) -> HttpResponse:
        return json_response({"found": [{"xyxy": [8, 8, 24, 24], "p": 0.75}]})


class TestWithAMapping(ProtocolContract):
    def make(self) -> JsonEndpoint:
        return JsonEndpoint.from_options(
            {
                "path": "/detect",
                "send": "multipart",
                "health_path": "/up",
                "faces": "result.faces",
                "box": "at.left,at.top,at.width,at.height",
                "box_format": "xywh",
                "unit": "fraction",
                "score": "percent",
                "score_max": 100,
            }
        )

    def good(self) -> HttpResponse:
        at = {"left": 8 / 64, "top": 8 / 48, "width": 16 / 64, "height": 16 / 48}
        return json_response({"result": {"faces": [{"at": at, "percent": 75}]}})


def request_of(**options: Any) -> HttpRequest:
    return JsonEndpoint(faces_of, **options).encode((PICTURE,), PARAMS)


def test_the_picture_is_the_body_unless_told_otherwise() -> None:
    request = request_of(path="/detect")
    assert (request.url, request.body) == ("/detect", PICTURE.data)
    assert request.headers["Content-Type"] == "image/jpeg"


def test_the_picture_may_be_base64_in_an_object() -> None:
    request = request_of(send="base64", field="img", fields={"limit": 5})
    sent = json.loads(request.body)
    assert base64.b64decode(sent.pop("img")) == PICTURE.data
    assert sent == {"limit": 5}
    assert request.headers["Content-Type"] == "application/json"


def test_the_picture_may_be_a_file_of_a_form() -> None:
    request = request_of(send="multipart", field="file", fields={"limit": 5})
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
    parts = {
        part.get_param("name", header="content-disposition"): part for part in form.iter_parts()
    }
    assert set(parts) == {"file", "limit"}
    assert parts["file"].get_content_type() == "image/jpeg"
    assert parts["file"].get_filename() == "picture.jpeg"
    assert parts["limit"].get_payload(decode=True) == b"5"
    assert b"\r\n\r\n" + PICTURE.data + b"\r\n--" in request.body


@pytest.mark.parametrize("send", ["body", "multipart", "base64"])
def test_nothing_else_is_sent(send: str) -> None:
    request = request_of(send=send)
    assert b"canary-session" not in request.body
    assert "canary-session" not in str(dict(request.headers))


@pytest.mark.parametrize(
    "options",
    [
        {"send": "carrier pigeon"},
        {"path": "detect"},
        {"health_path": "up"},
        {"field": 'a"; filename="b'},
        {"field": "a\r\nb"},
        {"field": ""},
        {"fields": {"a": 1}},
    ],
)
def test_what_cannot_be_sent_is_refused_at_construction(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        JsonEndpoint(faces_of, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"box": "a,b"},
        {"box": "a,,b,c"},
        {"box_format": "yxyx"},
        {"unit": "feet"},
        {"faces": 4},
        {"score_max": 0},
        {"score_max": "x"},
        {"score_max": math.inf},
        {"nose": "x"},
    ],
)
def test_a_mapping_that_cannot_work_is_refused_at_construction(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        protocol_of("json_endpoint", options)


@pytest.mark.parametrize(
    ("box_format", "sides"),
    [("xyxy", [8, 8, 24, 24]), ("xywh", [8, 8, 16, 16]), ("cxcywh", [16, 16, 16, 16])],
)
def test_boxes_come_in_three_forms(box_format: str, sides: list[int]) -> None:
    protocol = JsonEndpoint(FaceMapping(faces="", box_format=box_format))
    (reply,) = protocol.decode(json_response([{"box": sides}]), (PICTURE,))
    assert reply.faces[0].box.xyxy == (8, 8, 24, 24)
    assert reply.faces[0].score is None


def test_no_faces_are_an_answer() -> None:
    (reply,) = JsonEndpoint(FaceMapping()).decode(json_response({"faces": []}), (PICTURE,))
    assert reply.faces == ()


def test_a_face_across_the_edge_is_kept_for_clipping() -> None:
    found = [Face(BoundingBox(-4, -4, 8, 8))]
    (reply,) = JsonEndpoint(lambda *_: found).decode(json_response(1), (PICTURE,))
    assert reply.faces == tuple(found)


BOX = BoundingBox(8, 8, 24, 24)


@pytest.mark.parametrize(
    "made",
    [
        None,
        5,
        "faces",
        [None],
        [{"box": [8, 8, 24, 24]}],
        [BOX],
        [Face((8, 8, 24, 24))],  # type: ignore[arg-type]
        [Face(BOX, math.nan)],
        [Face(BOX, -0.1)],
        [Face(BOX, 75.0)],
        [Face(BOX, "0.5")],  # type: ignore[arg-type]
        [Face(BOX, 0.5, (Keypoint("nose_tip", math.nan, 3),))],
        [Face(BoundingBox(64, 8, 80, 24))],
        [Face(BoundingBox(8, -20, 24, 0))],
        [Face(BoundingBox(8000, 8000, 24000, 24000))],
    ],
    ids=repr,
)
def test_a_mapping_that_gives_no_faces_of_the_picture_is_a_protocol_error(made: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        JsonEndpoint(lambda *_: made).decode(json_response(CANARY), (PICTURE,))
    assert CANARY not in str(caught.value)


def test_a_function_that_trips_over_the_answer_does_not_repeat_it() -> None:
    def trip(answer: Any, _: object) -> list[Face]:
        raise KeyError(answer)

    with pytest.raises(ProtocolError, match="KeyError") as caught:
        JsonEndpoint(trip).decode(json_response(CANARY), (PICTURE,))
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None


NUMBERS = st.floats() | st.integers() | st.none() | st.booleans() | st.text(max_size=3)
VALUES = st.recursive(
    NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["faces", "box", "p"]), inner, max_size=3)
    ),
    max_leaves=12,
)
NEAR = st.fixed_dictionaries(
    {
        "faces": st.lists(
            st.fixed_dictionaries({"box": st.lists(NUMBERS, min_size=4, max_size=4), "p": NUMBERS}),
            max_size=3,
        )
    }
)


@given(
    VALUES | NEAR,
    st.sampled_from(["xyxy", "xywh", "cxcywh"]),
    st.sampled_from(["pixels", "fraction"]),
)
def test_whatever_json_comes_faces_lie_in_the_picture_or_it_is_a_protocol_error(
    value: Any, box_format: str, unit: str
) -> None:
    mapping = FaceMapping(box_format=box_format, unit=unit, score="p")
    try:
        (reply,) = JsonEndpoint(mapping).decode(json_response(value), (PICTURE,))
    except ProtocolError:
        return
    for face in reply.faces:
        assert all(map(math.isfinite, face.box.xyxy))
        assert face.score is not None
        assert 0 <= face.score <= 1
        assert face.box.x_min < 64
        assert face.box.x_max > 0
