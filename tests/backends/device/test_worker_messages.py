"""Faces, refusals and requests as bytes, and back."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.worker_messages import (
    DETECT,
    FOUND,
    REFUSED,
    REPLY,
    REQUEST,
    WRITTEN,
    pack_found,
    pack_refusal,
    pack_written,
    unpack_found,
    unpack_refusal,
    unpack_written,
)
from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.exchange.wire_faces import MAX_FACES, faces_to_text
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)
SIDES = st.integers(1, 2**32 - 1)


@st.composite
def faces(draw: st.DrawFn, numbers: st.SearchStrategy[float] = NUMBERS) -> Face:
    xs = sorted((draw(numbers), draw(numbers)))
    ys = sorted((draw(numbers), draw(numbers)))
    points = draw(st.lists(st.tuples(numbers, numbers), max_size=len(KEYPOINT_NAMES)))
    return Face(
        BoundingBox(xs[0], ys[0], xs[1], ys[1]),
        draw(st.none() | st.floats(0, 1)),
        tuple(Keypoint(name, *point) for name, point in zip(KEYPOINT_NAMES, points, strict=False)),
    )


FOUNDS = st.builds(
    PictureFaces,
    SIDES,
    SIDES,
    st.lists(faces(), max_size=6).map(tuple),
    st.none() | st.floats(0, 1e6),
)


@given(FOUNDS)
def test_what_was_found_survives_the_way(found: PictureFaces) -> None:
    reply = pack_found(found)
    assert REPLY.unpack(reply[: REPLY.size]) == (FOUND, len(reply) - REPLY.size)
    read = unpack_found(reply[REPLY.size :])
    assert read == found
    assert read.decode_s == found.decode_s


@given(
    st.builds(
        PictureFaces,
        SIDES,
        SIDES,
        st.lists(faces(st.floats(-1e6, 1e6)), max_size=3).map(tuple),
        st.none() | st.floats(0, 1e6),
    )
)
def test_what_was_found_is_told_as_the_wire_format_has_it(found: PictureFaces) -> None:
    reply = pack_written(found)
    assert REPLY.unpack(reply[: REPLY.size]) == (WRITTEN, len(reply) - REPLY.size)
    read = unpack_written(reply[REPLY.size :])
    assert (read.width, read.height) == (found.width, found.height)
    assert len(read.faces) == len(found.faces)
    assert faces_to_text(read.faces) == faces_to_text(found.faces)
    assert read.decode_s == found.decode_s


def test_a_refusal_survives_the_way() -> None:
    error = InvalidFrameError(expected="a readable JPEG image", actual="a damaged one")
    reply = pack_refusal(error)
    assert REPLY.unpack(reply[: REPLY.size]) == (REFUSED, len(reply) - REPLY.size)
    read = unpack_refusal(reply[REPLY.size :])
    assert (read.expected, read.actual, str(read)) == (error.expected, error.actual, str(error))


def test_a_refusal_that_is_too_long_is_cut() -> None:
    """A client would refuse an error with such a text."""
    read = unpack_refusal(b"x" * 10**6)
    assert (read.expected, read.actual) == ("x" * 512, "")


@pytest.mark.parametrize("told_s", [math.nan, math.inf, -math.inf, -1.0])
def test_what_no_time_can_be_is_none(told_s: float) -> None:
    """It would spoil the sums of all later metrics."""
    found = PictureFaces(9, 9, (), told_s)
    assert unpack_found(pack_found(found)[REPLY.size :]).decode_s is None
    assert unpack_written(pack_written(found)[REPLY.size :]).decode_s is None


def test_request_is_small() -> None:
    request = REQUEST.pack(DETECT, 1280, 720, 0.5, 2)
    assert len(request) == 24
    assert REQUEST.unpack(request) == (DETECT, 1280, 720, 0.5, 2)


@pytest.mark.parametrize("length", [0, 15, 16 + 18 * 8 - 1])
def test_half_an_answer_is_none(length: int) -> None:
    body = pack_found(PictureFaces(1, 1, (Face(BoundingBox(0, 0, 1, 1)),)))[REPLY.size :]
    with pytest.raises(struct.error):
        unpack_found(body[:length])


def test_half_an_answer_as_text_is_none() -> None:
    body = pack_written(PictureFaces(1, 1, (Face(BoundingBox(0, 0, 1, 1)),)))[REPLY.size :]
    for length in range(len(body)):
        with pytest.raises((struct.error, ValueError)):
            unpack_written(body[:length])
    with pytest.raises(ValueError, match="ascii"):
        unpack_written(body + b"\xff")


def test_of_many_faces_the_most_certain_are_written() -> None:
    box = BoundingBox(0, 0, 9, 9)
    # By the scores that were found: as text, many of them would be equal.
    seen = tuple(Face(box, 0.5 + n / 10**6) for n in range(MAX_FACES + 9))
    read = unpack_written(pack_written(PictureFaces(9, 9, seen))[REPLY.size :])
    assert faces_to_text(read.faces) == faces_to_text(seen[: -MAX_FACES - 1 : -1])


def test_more_faces_than_are_sent_on_are_none() -> None:
    """To read them would keep the event loop of whom a taken-over process tells so."""
    body = pack_written(PictureFaces(9, 9, ()))[REPLY.size : -2]
    for count in (MAX_FACES, MAX_FACES + 1):
        text = ",".join(['{"box":[0.0,0.0,0.0,0.0]}'] * count)
        forged = body + f"[{text}]".encode()
        if count <= MAX_FACES:
            assert len(unpack_written(forged).faces) == count
        else:
            with pytest.raises(ValueError, match="more than 500 faces"):
                unpack_written(forged)
