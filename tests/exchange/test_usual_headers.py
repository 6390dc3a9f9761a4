"""The quick way through a header: the same request, or the same error, as the long way."""

from __future__ import annotations

import struct
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybrid_detect.errors import ProtocolError
from hybrid_detect.exchange import wire
from hybrid_detect.exchange.first_bytes import request_in
from hybrid_detect.exchange.usual_headers import usual_fields
from hybrid_detect.exchange.wire import (
    PREAMBLE_BYTES,
    DetectRequest,
    decode_request,
    encode_request,
)
from hybrid_detect.types import QualityLevel

from ..fuzzing import examples

TRACEPARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"
USUAL = DetectRequest(
    request_id=7,
    image=b"\xff\xd8picture\xff\xd9",
    min_confidence=0.25,
    deadline_s=0.48719284019000001,
    session_id="a session",
    quality=QualityLevel.FAST,
    second_look=True,
    traceparent=TRACEPARENT,
    tracestate="rojo=1,congo=2",
)

printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
texts = printable | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
traceparents = st.sampled_from(["", TRACEPARENT, f"01{TRACEPARENT[2:]}-more"]) | st.from_regex(
    r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True
)
requests = st.builds(
    DetectRequest,
    request_id=st.integers(0, 2**32 - 1),
    image=st.binary(max_size=20),
    format=texts | st.integers(1020, 1030).map("x".__mul__),
    min_confidence=st.none() | st.floats(0, 1) | numbers,
    deadline_s=st.none() | st.floats(0, 10) | numbers,
    session_id=st.none() | texts | st.integers(1020, 1030).map("x".__mul__),
    quality=st.none() | st.sampled_from(QualityLevel),
    second_look=st.booleans(),
    traceparent=traceparents | texts,
    tracestate=st.sampled_from(["", "rojo=1,congo=2", "no state"]) | texts,
)

PIECES = """
 |"|\\|{|}|,|:|-|+|.|0|1|9|e9|E-9|e999|null|true|false|[]|{}|\x00|\x1f|\x7f|\n|\u00e4|\u0661|\\u00e4
""".strip("\n").encode()
BYTES_PUT_IN = [
    *PIECES.split(b"|"),
    b"9" * 400,
    b"\xff",
    b',"format":"png"',
    b',"deadline_s":2',
    b',"quality":"max"',
    b',"more":[1]',
]
changes = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.integers(0, 3),
        st.sampled_from(BYTES_PUT_IN) | st.binary(max_size=3),
    ),
    max_size=3,
)


def message(header: bytes, image: bytes = b"picture") -> bytes:
    return struct.pack(">2sBBII", b"HD", 1, 1, 7, len(header)) + header + image


def header_of(request: DetectRequest) -> bytes:
    return encode_request(request)[PREAMBLE_BYTES:][: -len(request.image) or None]


def outcome(data: bytes) -> tuple[str, str]:
    """What comes of decoding `data`, exactly: `repr` tells -0.0 from 0.0, and 1 from 1.0."""
    try:
        request = decode_request(data)
    except ProtocolError as error:
        return "refused", str(error)
    return repr(request), repr(request.image)


def is_the_same_both_ways(data: bytes) -> bool:
    with mock.patch.object(wire, "usual_fields", return_value=None):
        expected = outcome(data)
    return outcome(data) == expected


@given(requests)
@settings(max_examples=examples(200))
@example(USUAL)
def test_a_request_that_is_written_here_is_read_the_same_both_ways(request: DetectRequest) -> None:
    assert is_the_same_both_ways(encode_request(request))


@given(requests | st.just(USUAL), changes)
@settings(max_examples=examples(300))
def test_a_changed_header_is_read_the_same_both_ways(
    request: DetectRequest, changed: list[tuple[int, int, bytes]]
) -> None:
    header = header_of(request)
    for place, size, instead in changed:
        begin = place % (len(header) + 1)
        header = header[:begin] + instead + header[begin + size :]
    assert is_the_same_both_ways(message(header))


NUMBERS = """
0 -0 -0.0 0.0 1 1.0 1.00 1.5 01 1. .5 +1 1e0 1E1 1e999 0x1 1_0 NaN Infinity null true "1" 5e-324
1.7976931348623157e308 \u0661
"""
LONG_NUMBERS = ["9" * 15, "9" * 16, "9" * 400, f"0.{'9' * 20}", f"0.{'9' * 21}"]


@pytest.mark.parametrize("name", ["min_confidence", "deadline_s"])
@pytest.mark.parametrize("number", [*NUMBERS.split(), *LONG_NUMBERS, "0.1 ", ""])
def test_a_number_is_read_the_same_both_ways(name: str, number: str) -> None:
    assert is_the_same_both_ways(message(f'{{"format":"jpeg","{name}":{number}}}'.encode()))


def test_what_is_no_whole_detect_message_is_refused_the_same_both_ways() -> None:
    usual = encode_request(USUAL)
    end = len(usual) - len(USUAL.image)
    for data in (*(usual[:cut] for cut in range(end + 1)), b"HD\1\4" + usual[4:]):
        assert outcome(data)[0] == "refused"
        assert is_the_same_both_ways(data)


@pytest.mark.parametrize(
    "request_",
    [
        USUAL,
        DetectRequest(request_id=1, image=b"x"),
        DetectRequest(request_id=0, image=b"x", deadline_s=2),
    ],
)
def test_a_usual_header_needs_no_parser(request_: DetectRequest) -> None:
    data = encode_request(request_)
    with mock.patch.object(wire, "json_object", side_effect=AssertionError):
        assert decode_request(data) == request_
        assert request_in(data[: PREAMBLE_BYTES + len(header_of(request_))]) is not None


@pytest.mark.parametrize("part", [b"a session", b"jpeg", b"cd" * 8, b"rojo=1", b"0.48"])
def test_what_is_nearly_usual_is_left_to_the_parser(part: bytes) -> None:
    """Each of these is as long as a header may be, and differs near its end."""
    header = header_of(USUAL)
    assert part in header
    for long in (header.replace(part, b"1" * 15_000), header[:-1] * 60):
        assert usual_fields(long, 0, len(long)) is None
