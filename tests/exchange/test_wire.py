"""The wire format: what goes in comes out, and nothing a peer sends does harm."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_detect.errors import ProtocolError
from hybrid_detect.exchange import wire
from hybrid_detect.exchange.wire import (
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    peek_request_id,
    peek_trace,
    reply_to_json,
    with_request_id,
)
from hybrid_detect.exchange.wire_faces import WrittenFaces, faces_to_text
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint, QualityLevel

from ..fuzzing import examples

VECTORS = Path(__file__).parents[1] / "vectors"

REQUEST = DetectRequest(
    request_id=7,
    image=b"\xff\xd8picture\xff\xd9",
    min_confidence=0.25,
    deadline_s=1.5,
    session_id="Sitzung-ä",
)
RESULT = ResultReply(
    request_id=0x01020304,
    width=640,
    height=480,
    faces=(
        Face(
            BoundingBox(1.5, 2.25, 30.0, 40.0),
            0.875,
            tuple(Keypoint(name, 10.0 + i, 20.5) for i, name in enumerate(KEYPOINT_NAMES)),
        ),
        Face(BoundingBox(0.0, 0.0, 5.0, 5.0)),
    ),
    model="full_range",
    receive_s=0.01,
    queue_s=0.0,
    detect_s=0.02,
)
ERROR = ErrorReply(
    request_id=9, status=503, code="overloaded", detail="too many wait", retry_after_s=1.0
)

GOLDEN: list[tuple[str, Any, Callable[[bytes], Any], Callable[[Any], bytes]]] = [
    ("detect_request", REQUEST, decode_request, encode_request),
    ("result_reply", RESULT, decode_reply, encode_reply),
    ("error_reply", ERROR, decode_reply, encode_reply),
]
NAMES = [case[0] for case in GOLDEN]


def vector(name: str) -> bytes:
    return bytes.fromhex((VECTORS / f"{name}.v1.hex").read_text())


def message(kind: int, header: object, payload: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">2sBBII", b"HD", 1, kind, 5, len(text)) + text + payload


def detect(**changes: object) -> bytes:
    return message(1, changes, b"picture")


def result(**changes: object) -> bytes:
    return message(2, {"width": 4, "height": 4, "faces": [], **changes})


def error(**changes: object) -> bytes:
    return message(3, {"status": 500, **changes})


ids = st.integers(0, 2**32 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
hundredths = st.integers(-1_000_000, 10_000_000).map(lambda n: round(n / 100, 2))
seconds = st.none() | st.floats(0, 1e6, allow_nan=False)
SCORES = st.none() | st.floats(0, 1)


@st.composite
def faces(draw: st.DrawFn) -> Face:
    x = sorted([draw(hundredths), draw(hundredths)])
    y = sorted([draw(hundredths), draw(hundredths)])
    score = draw(st.none() | st.integers(0, 10_000).map(lambda n: round(n / 10_000, 4)))
    names = draw(st.sets(st.sampled_from(KEYPOINT_NAMES)))
    points = [Keypoint(n, draw(hundredths), draw(hundredths)) for n in KEYPOINT_NAMES if n in names]
    return Face(BoundingBox(x[0], y[0], x[1], y[1]), score, tuple(points))


# ---- what goes in comes out


@given(ids, st.binary(min_size=1, max_size=300), SCORES, seconds, st.none() | texts)
def test_a_request_survives_the_wire(
    request_id: int,
    image: bytes,
    confidence: float | None,
    deadline: float | None,
    session: str | None,
) -> None:
    request = DetectRequest(
        request_id=request_id,
        image=image,
        min_confidence=confidence,
        deadline_s=deadline,
        session_id=session,
    )
    assert decode_request(encode_request(request)) == request


@given(ids, st.integers(1, 65535), st.integers(1, 65535), st.lists(faces(), max_size=5), texts)
def test_a_result_survives_the_wire(
    request_id: int, width: int, height: int, seen: list[Face], model: str
) -> None:
    reply = ResultReply(
        request_id=request_id, width=width, height=height, faces=tuple(seen), model=model
    )
    assert decode_reply(encode_reply(reply)) == reply


@given(ids, st.integers(100, 599), texts, texts, seconds)
def test_an_error_survives_the_wire(
    request_id: int, status: int, code: str, detail: str, retry_after_s: float | None
) -> None:
    reply = ErrorReply(
        request_id=request_id,
        status=status,
        code=code,
        detail=detail,
        retry_after_s=retry_after_s,
    )
    assert decode_reply(encode_reply(reply)) == reply


@given(ids)
def test_renumbering_changes_the_id_alone(request_id: int) -> None:
    renumbered = with_request_id(encode_request(REQUEST), request_id)
    assert peek_request_id(renumbered) == request_id
    again = with_request_id(renumbered, REQUEST.request_id)
    assert again == encode_request(REQUEST)


@pytest.mark.parametrize("level", [None, *QualityLevel])
def test_the_quality_survives_the_wire(level: QualityLevel | None) -> None:
    request = replace(REQUEST, quality=level, second_look=level is not None)
    assert decode_request(encode_request(request)) == request
    reply = replace(RESULT, quality=level or "", min_face_px=None if level is None else 12.25)
    assert decode_reply(encode_reply(reply)) == reply


def test_the_trace_survives_the_wire_and_one_that_cannot_be_read_is_none() -> None:
    request = replace(REQUEST, traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01")
    assert decode_request(encode_request(request)) == request
    assert b"traceparent" not in encode_request(REQUEST)
    for broken in ("", "00-1-2-3", 7, None, ["00"], "x" * 10_000):
        assert decode_request(detect(traceparent=broken)).traceparent == ""


def test_a_level_of_a_newer_server_is_passed_on() -> None:
    reply = decode_reply(result(quality="ultra", min_face_px=-1))
    assert isinstance(reply, ResultReply)
    assert (reply.quality, reply.min_face_px) == ("ultra", 0.0)


long_numbers = st.none() | st.floats(0, 1.7e308) | st.integers(0, 10**6)


@given(
    st.builds(
        ResultReply,
        request_id=ids,
        width=st.integers(1, 65535),
        height=st.integers(1, 65535),
        faces=st.lists(faces(), max_size=3).map(tuple),
        model=texts | st.sampled_from(['a"b', "%s", "{0}"]),
        receive_s=long_numbers,
        queue_s=long_numbers,
        detect_s=long_numbers,
        min_confidence=SCORES,
        quality=texts | st.sampled_from(QualityLevel),
        min_face_px=long_numbers,
        number=st.none() | st.integers(1, 2**53),
        at_s=long_numbers,
    )
)
@settings(max_examples=examples(300))
def test_a_result_is_written_as_a_json_encoder_writes_its_values(reply: ResultReply) -> None:
    text = json.dumps(reply_to_json(reply), separators=(",", ":")).encode()
    head = struct.pack(">2sBBII", b"HD", 1, 2, reply.request_id, len(text))
    assert encode_reply(reply) == head + text


@given(st.lists(faces(), max_size=3))
def test_faces_that_are_written_already_change_nothing(seen: list[Face]) -> None:
    """What a detector's process has written is answered, kept and shown as other faces are."""
    firsts = [replace(face, keypoints=RESULT.faces[0].keypoints[:2]) for face in seen]
    reply = replace(RESULT, faces=tuple(firsts))
    written = replace(reply, faces=WrittenFaces(faces_to_text(firsts)))
    assert encode_reply(written) == encode_reply(reply)
    assert reply_to_json(written) == reply_to_json(reply)
    assert written == reply


# ---- frozen bytes


@pytest.mark.parametrize(("name", "value", "decode", "encode"), GOLDEN, ids=NAMES)
def test_messages_of_version_1_stay_readable(
    name: str, value: object, decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]
) -> None:
    assert decode(vector(name)) == value


@pytest.mark.parametrize(("name", "value", "decode", "encode"), GOLDEN, ids=NAMES)
def test_version_1_is_still_written_byte_for_byte(
    name: str, value: object, decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]
) -> None:
    assert encode(value) == vector(name)


def test_unknown_header_fields_are_ignored() -> None:
    assert decode_request(detect(from_the_future={"a": [1]})).image == b"picture"
    assert decode_reply(result(from_the_future=1)).request_id == 5
    assert decode_reply(error(from_the_future=None)).request_id == 5


# ---- what a peer may send


@pytest.mark.parametrize("decode", [decode_request, decode_reply])
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_raise_protocol_errors_only(
    decode: Callable[[bytes], object], data: bytes
) -> None:
    with pytest.raises(ProtocolError):
        decode(data)
    assert peek_request_id(data) in range(2**32)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.just(10**400)
    | st.text(max_size=8)
    | st.just("x" * 2000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
FIELDS = [
    *("format", "min_confidence", "deadline_s", "session_id", "width", "height", "model", "faces"),
    *("receive_s", "queue_s", "detect_s", "status", "code", "detail", "retry_after_s"),
    *("quality", "min_face_px", "second_look", "traceparent"),
]


@settings(max_examples=examples(300))
@given(st.sampled_from([detect, result, error]), st.sampled_from(FIELDS), json_values)
def test_any_json_value_in_any_field_is_read_safely_or_refused(
    make: Callable[..., bytes], name: str, value: object
) -> None:
    data = make(**{name: value})
    for decode in (decode_request, decode_reply):
        try:
            decode(data)
        except ProtocolError:
            continue


@settings(max_examples=examples(200))
@given(
    st.sampled_from([1.0, None, [], [1, 2, 3, 4], {"box": [0, 0, 1, 1]}]) | json_values,
    st.sampled_from(["box", "score", "keypoints", "nose_tip"]),
)
def test_any_json_value_in_a_face_is_read_safely_or_refused(value: object, name: str) -> None:
    face: dict[str, object] = {"box": [0, 0, 1, 1], "score": 0.5}
    if name == "nose_tip":
        face["keypoints"] = {"nose_tip": value}
    else:
        face[name] = value
    try:
        reply = decode_reply(result(faces=[face]))
    except ProtocolError:
        return
    assert isinstance(reply, ResultReply)
    for seen in reply.faces:
        # What a decoder lets through can be scaled to any frame without overflowing.
        seen.fitted(scale_x=65535, scale_y=65535, width=65535, height=65535)


@settings(max_examples=examples(300))
@given(st.sampled_from(GOLDEN), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255))), ids)
def test_damaged_messages_are_read_or_refused(
    golden: Any, changes: list[tuple[int, int]], cut: int
) -> None:
    _, value, decode, encode = golden
    data = bytearray(encode(value))
    for position, byte in changes:
        data[position % len(data)] = byte
    for damaged in (bytes(data), bytes(data[: cut % len(data)])):
        try:
            decode(damaged)
        except ProtocolError:
            continue


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation_of_the_header_is_refused(name: str) -> None:
    data = vector(name)
    decode = decode_request if name == "detect_request" else decode_reply
    end = 12 + struct.unpack_from(">I", data, 8)[0]
    for length in range(end):
        with pytest.raises(ProtocolError):
            decode(data[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HD",
        b"XX" + vector("detect_request")[2:],
        b"HD\x02" + vector("detect_request")[3:],
        vector("result_reply"),
        message(1, {}),
        message(1, [], b"picture"),
        message(1, b"{", b"picture"),
        message(1, b"\xff\xfe", b"picture"),
        message(1, b"[" * 100_000, b"picture"),
        message(1, b'{"a":' * 100_000, b"picture"),
        message(1, b'{"min_confidence":NaN}', b"picture"),
        message(1, b'{"min_confidence":Infinity}', b"picture"),
        message(1, b'{"min_confidence":1e999}', b"picture"),
        message(1, b'{"deadline_s":' + b"9" * 5000 + b"}", b"picture"),
        detect(deadline_s=10**400),
        detect(min_confidence=-0.1),
        detect(min_confidence=1.1),
        detect(min_confidence=True),
        detect(min_confidence="0.5"),
        detect(session_id=1),
        detect(session_id="x" * 1025),
        message(1, b'{"session_id":"\\ud800"}', b"picture"),
        detect(quality="best"),
        detect(quality="HIGH"),
        detect(quality=2),
        detect(second_look="yes"),
        detect(second_look=1),
        struct.pack(">2sBBII", b"HD", 1, 1, 0, wire.MAX_REQUEST_HEADER_BYTES + 1),
        struct.pack(">2sBBII", b"HD", 1, 1, 0, 0xFFFFFFFF),
    ],
    ids=range(30),
)
def test_a_bad_request_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_request(data)


@pytest.mark.parametrize(
    "data",
    [
        vector("detect_request"),
        message(4, {}),
        message(2, {}),
        result(width=0),
        result(width=65536),
        result(width=True),
        result(width=4.0),
        result(height=10**400),
        result(faces={}),
        result(faces=[[0, 0, 1, 1]]),
        result(faces=[{}]),
        result(faces=[{"box": [0, 0, 1]}]),
        result(faces=[{"box": [0, 0, 1, None]}]),
        result(faces=[{"box": [1, 0, 0, 1]}]),
        result(faces=[{"box": [0, 0, 1, 1e308]}]),
        result(faces=[{"box": [0, 0, 1, 1], "score": "high"}]),
        result(faces=[{"box": [0, 0, 1, 1], "keypoints": []}]),
        result(faces=[{"box": [0, 0, 1, 1], "keypoints": {"nose_tip": [1]}}]),
        result(faces=[{"box": [0, 0, 1, 1], "keypoints": {"nose_tip": [1, -1e300]}}]),
        message(2, b'{"width":4,"height":4,"faces":[{"box":[0,0,1,1e999]}]}'),
        result(model=["x"]),
        result(detect_s="fast"),
        result(min_confidence=1.5),
        result(min_confidence="low"),
        error(status=99),
        error(status=600),
        error(status="500"),
        error(code=None),
        error(detail="x" * 1025),
    ],
    ids=range(29),
)
def test_a_bad_reply_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_reply(data)


def test_the_lowest_score_that_was_applied_is_told() -> None:
    reply = replace(RESULT, min_confidence=0.25)
    assert decode_reply(encode_reply(reply)) == reply
    assert reply_to_json(reply)["min_confidence"] == 0.25
    assert "min_confidence" not in reply_to_json(RESULT)


def test_what_is_merely_odd_is_brought_into_range() -> None:
    reply = decode_reply(result(faces=[{"box": [0, 0, 1, 1], "score": 1.5}], detect_s=-3))
    assert isinstance(reply, ResultReply)
    assert reply.faces[0].score == 1.0
    assert reply.detect_s == 0.0
    refusal = decode_reply(error(retry_after_s=-1))
    assert isinstance(refusal, ErrorReply)
    assert refusal.retry_after_s == 0.0


def test_a_header_at_the_limit_is_read() -> None:
    text = json.dumps({"a": ""}).encode()
    text = text[:-2] + b"x" * (wire.MAX_REQUEST_HEADER_BYTES - len(text)) + text[-2:]
    assert decode_request(message(1, text, b"picture")).image == b"picture"


@pytest.mark.parametrize("more", [0, 1])
def test_a_reply_has_bounds_of_its_own(more: int) -> None:
    """A request needs a small header, a reply one for many faces; neither may stop a loop."""
    one = {"box": [0, 0, 1, 1]}
    faces = result(faces=[one] * (wire.MAX_FACES + more))
    padded = json.dumps({"status": 500, "a": ""}).encode()
    size = wire.MAX_REPLY_HEADER_BYTES + more - len(padded)
    padded = padded[:-2] + b"x" * size + padded[-2:]
    if not more:
        assert isinstance(decode_reply(faces), ResultReply)
        assert isinstance(decode_reply(message(3, padded)), ErrorReply)
        return
    for data in (faces, message(3, padded)):
        with pytest.raises(ProtocolError, match=r"expected (at most|a header of at most)"):
            decode_reply(data)


def test_the_longest_session_of_any_characters_fits() -> None:
    for character in ("x", "\x00", "\N{GRINNING FACE}"):
        request = DetectRequest(request_id=1, image=b"picture", session_id=character * 1024)
        assert decode_request(encode_request(request)) == request


CANARY = "canary-5f3a"


@pytest.mark.parametrize(
    "data",
    [
        CANARY.encode() * 4,
        message(1, f"{{{CANARY}".encode(), b"picture"),
        message(1, [CANARY], b"picture"),
        detect(session_id=CANARY * 200),
        detect(min_confidence=CANARY),
        detect(format=[CANARY]),
        result(model=[CANARY]),
        result(faces=CANARY),
        result(faces=[CANARY]),
        result(faces=[{"box": CANARY}]),
        result(width=CANARY),
        error(status=CANARY),
        error(code=[CANARY]),
    ],
    ids=range(13),
)
def test_no_error_repeats_what_the_peer_wrote(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        with pytest.raises(ProtocolError) as caught:
            decode(data)
        assert CANARY not in str(caught.value)
        assert CANARY not in repr(caught.value)


def test_the_picture_is_in_no_repr() -> None:
    assert "picture" not in repr(REQUEST)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_never_written(bad: float) -> None:
    with pytest.raises(ValueError):
        encode_request(DetectRequest(request_id=1, image=b"x", min_confidence=bad))
    for name in ("receive_s", "queue_s", "detect_s", "min_confidence", "min_face_px", "at_s"):
        with pytest.raises(ValueError):
            encode_reply(replace(RESULT, **{name: bad}))  # type: ignore[arg-type]


@pytest.mark.parametrize("space", [b" ", b"\n\t\r "])
def test_space_around_a_header_says_nothing(space: bytes) -> None:
    assert decode_request(message(1, space + b'{"deadline_s":2}' + space, b"x")).deadline_s == 2
    for more in (b"{}", b",", b"\x0b", b"\xc2\xa0"):
        with pytest.raises(ProtocolError):
            decode_request(message(1, b"{}" + more, b"x"))


def header_of(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from(">I", data, 8)
    header: dict[str, Any] = json.loads(data[12 : 12 + length])
    return header


def test_a_score_that_is_left_to_the_model_is_not_on_the_wire() -> None:
    """A server that does not know of that takes its default of 0.5 for an absent field."""
    left = DetectRequest(request_id=1, image=b"x")
    assert left.min_confidence is None
    assert "min_confidence" not in header_of(encode_request(left))
    given = DetectRequest(request_id=1, image=b"x", min_confidence=0.0)
    assert header_of(encode_request(given))["min_confidence"] == 0.0


def test_an_absent_score_is_the_model_s_and_one_that_is_sent_stays() -> None:
    assert decode_request(detect()).min_confidence is None
    assert decode_request(detect(min_confidence=None)).min_confidence is None
    assert decode_request(detect(min_confidence=0.5)).min_confidence == 0.5
    assert decode_request(detect(min_confidence=0)).min_confidence == 0


def test_a_tracestate_travels_with_its_traceparent_alone() -> None:
    traced = replace(
        REQUEST, traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01", tracestate="rojo=1,congo=2"
    )
    assert decode_request(encode_request(traced)) == traced
    assert peek_trace(encode_request(traced)) == (traced.traceparent, "rojo=1,congo=2")
    assert decode_request(encode_request(replace(traced, traceparent=""))).tracestate == ""
    assert decode_request(encode_request(replace(traced, tracestate="no state"))).tracestate == ""


@pytest.mark.parametrize("data", [b"", b"HD", bytes(200), encode_reply(RESULT)])
def test_what_is_no_detect_message_names_no_trace(data: bytes) -> None:
    assert peek_trace(data) == ("", "")
