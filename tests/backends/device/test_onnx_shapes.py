"""The edit of an ONNX file's declared sizes, on files made here byte by byte."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.device.onnx_shapes import with_free_sizes
from hybrid_detect.errors import ModelError


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return bytes([number << 3, content])
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def value(name: bytes, *sides: int, type_: int = 1) -> bytes:
    """A ValueInfoProto."""
    shape = b"".join(field(1, field(1, side)) for side in sides)
    return field(1, name) + field(2, field(1, field(1, type_) + field(2, shape)))


def model(graph: bytes) -> bytes:
    """An ONNX file with that graph: intermediate version 8, opset 13."""
    size = len(graph)
    length = bytes([size & 0x7F | 0x80, size >> 7]) if size > 127 else bytes([size])
    return field(1, 8) + bytes([7 << 3 | 2]) + length + graph + field(8, field(2, 13))


WEIGHT = field(1, 1) + field(2, 1) + field(8, b"w") + field(9, np.float32(2).tobytes())
"""TensorProto: one dimension of one, float, name, raw data."""

DOUBLING = (
    field(1, field(1, b"x") + field(1, b"w") + field(2, b"y") + field(4, b"Mul"))
    + field(2, b"g")
    + field(5, WEIGHT)
    + field(11, value(b"x", 1, 3, 2, 2))
    + field(11, value(b"w", 1))
    + field(12, value(b"y", 1, 3, 2, 2))
)
"""A graph that doubles a picture of 2x2 pixels, and lets the two be replaced."""


def test_a_fixed_size_becomes_free_and_the_answer_stays() -> None:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1

    def session(content: bytes) -> object:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    fixed, free = session(model(DOUBLING)), session(with_free_sizes(model(DOUBLING)))
    small, large = (np.full((1, 3, side, side), 3, np.float32) for side in (2, 5))
    assert (fixed.run(None, {"x": small})[0] == free.run(None, {"x": small})[0]).all()
    assert (free.run(None, {"x": large})[0] == 6).all()
    with pytest.raises(Exception, match="invalid dimensions"):
        fixed.run(None, {"x": large})
    assert [given.name for given in free.get_inputs()] == ["x"], "a weight is no input"
    assert free.get_inputs()[0].shape[1] == 3, "the channels stay"


def test_what_needs_no_edit_stays_byte_for_byte() -> None:
    once = with_free_sizes(model(DOUBLING))
    assert with_free_sizes(once) == once


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds 0 graphs"),
        (field(7, b"") * 2, "holds 2 graphs"),
        (model(DOUBLING)[:-1], "middle of a field"),
        (b"\xff" * 20, "more than ten bytes"),
        (b"\x0f", "wire type 7"),
        (b"\x08", "no ONNX file"),
    ],
    ids=["empty", "two", "cut", "long number", "wire type", "no number"],
)
def test_what_is_no_onnx_file_is_told(content: bytes, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        with_free_sizes(content)


@given(st.binary(max_size=200))
def test_no_bytes_bring_it_down(content: bytes) -> None:
    with contextlib.suppress(ModelError):
        with_free_sizes(content)


@given(at=st.integers(0, len(model(DOUBLING)) - 1), byte=st.integers(0, 255))
def test_no_damaged_file_brings_it_down(at: int, byte: int) -> None:
    damaged = bytearray(model(DOUBLING))
    damaged[at] = byte
    with contextlib.suppress(ModelError):
        with_free_sizes(bytes(damaged))
