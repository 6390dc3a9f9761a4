"""Faces, refusals and requests as bytes, and back."""

from __future__ import annotations

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
    pack_found,
    pack_refusal,
    unpack_found,
    unpack_refusal,
)
from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)
SIDES = st.integers(1, 2**32 - 1)


@st.composite
def faces(draw: st.DrawFn) -> Face:
    xs = sorted((draw(NUMBERS), draw(NUMBERS)))
    ys = sorted((draw(NUMBERS), draw(NUMBERS)))
    points = draw(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=len(KEYPOINT_NAMES)))
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


def test_a_refusal_survives_the_way() -> None:
    error = InvalidFrameError(expected="a readable JPEG image", actual="a damaged one")
    reply = pack_refusal(error)
    assert REPLY.unpack(reply[: REPLY.size]) == (REFUSED, len(reply) - REPLY.size)
    read = unpack_refusal(reply[REPLY.size :])
    assert (read.expected, read.actual, str(read)) == (error.expected, error.actual, str(error))


def test_request_is_small() -> None:
    request = REQUEST.pack(DETECT, 1280, 720, 0.5, 2)
    assert len(request) == 24
    assert REQUEST.unpack(request) == (DETECT, 1280, 720, 0.5, 2)


@pytest.mark.parametrize("length", [0, 15, 16 + 18 * 8 - 1])
def test_half_an_answer_is_none(length: int) -> None:
    body = pack_found(PictureFaces(1, 1, (Face(BoundingBox(0, 0, 1, 1)),)))[REPLY.size :]
    with pytest.raises(struct.error):
        unpack_found(body[:length])
