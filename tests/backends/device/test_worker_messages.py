"""Faces and requests as bytes, and back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.device.worker_messages import (
    DETECT,
    FOUND,
    REPLY,
    REQUEST,
    pack_faces,
    pack_reply,
    unpack_faces,
)
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)


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


@given(st.lists(faces(), max_size=6))
def test_faces_survive_the_way(found: list[Face]) -> None:
    assert unpack_faces(pack_faces(found)) == tuple(found)


@given(st.lists(faces(), max_size=6), st.floats(0, 1e6))
def test_reply_tells_its_own_length(found: list[Face], detect_s: float) -> None:
    body = pack_faces(found)
    reply = pack_reply(FOUND, body, detect_s)
    assert REPLY.unpack(reply[: REPLY.size]) == (FOUND, len(body), detect_s)
    assert reply[REPLY.size :] == body


def test_request_is_small() -> None:
    request = REQUEST.pack(DETECT, 1280, 720)
    assert len(request) == 12
    assert REQUEST.unpack(request) == (DETECT, 1280, 720)


def test_half_a_face_is_no_face() -> None:
    body = pack_faces([Face(BoundingBox(0, 0, 1, 1))])
    with pytest.raises(struct.error):
        unpack_faces(body[:-1])
