"""Change an ONNX file so that its input may have any size; the weights stay as they are.

Some exporters write the size of the example picture into the graph's inputs and outputs, although
a convolutional network takes any. ONNX Runtime refuses every other size then. They also list each
weight as an input that a caller may replace, which keeps ONNX Runtime from folding and packing the
weights at load: CenterFace takes 1.7 times as long with them in the list. Both lists are rewritten
here, so that ``onnx`` need not be installed for it.

Source: onnx/onnx, ``onnx/onnx.proto`` (field numbers), and the Protocol Buffers encoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hybrid_detect.errors import ModelError

__all__ = ["with_free_sizes"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""

GRAPH = 7
"""Field of ModelProto."""

INITIALIZER, INPUT, OUTPUT = 5, 11, 12
"""Fields of GraphProto; an input or output is a ValueInfoProto."""

INITIALIZER_NAME = 8
"""Field of TensorProto."""

VALUE_NAME, VALUE_TYPE = 1, 2
"""Fields of ValueInfoProto."""

TENSOR_TYPE, SHAPE, DIMENSION, DIMENSION_PARAM = 1, 2, 1, 2
"""Fields of TypeProto, TypeProto.Tensor, TensorShapeProto and its Dimension."""

CHANNEL_AXIS = 1
"""Of batch, channel, height, width: the one that stays as it is."""


def with_free_sizes(model: bytes) -> bytes:
    """The model with batch, height and width of its inputs and outputs free.

    Args:
        model: An ONNX file's bytes, verified by the caller.

    Raises:
        ModelError: If it is no ONNX model.
    """
    try:
        return b"".join(_edited_model(memoryview(model)))
    except (IndexError, ValueError) as exc:
        msg = f"the model of {len(model)} bytes is no ONNX file: {exc}"
        raise ModelError(msg) from exc


def _edited_model(model: memoryview) -> Iterator[bytes | memoryview]:
    graphs = 0
    for number, value, whole in _fields(model):
        if number == GRAPH:
            graphs += 1
            yield from _field(GRAPH, tuple(_edited_graph(value)))
        else:
            yield whole
    if graphs != 1:
        msg = f"it holds {graphs} graphs"
        raise ValueError(msg)


def _edited_graph(graph: memoryview) -> Iterator[bytes | memoryview]:
    fields = tuple(_fields(graph))
    weights = {_name(v, INITIALIZER_NAME) for number, v, _ in fields if number == INITIALIZER}
    for number, value, whole in fields:
        if number == INPUT and _name(value, VALUE_NAME) in weights:
            continue
        if number in {INPUT, OUTPUT}:
            yield from _field(number, (_free(value, (VALUE_TYPE, TENSOR_TYPE, SHAPE)),))
        else:
            yield whole


def _free(message: memoryview, path: tuple[int, ...]) -> bytes:
    """`message` with the shape that lies at `path` in it freed."""
    if not path:
        dimensions = [value for number, value, _ in _fields(message) if number == DIMENSION]
        free = b"".join(_field(DIMENSION_PARAM, (b"",)))  # a name of no letters: any size
        sizes = (value if axis == CHANNEL_AXIS else free for axis, value in enumerate(dimensions))
        return b"".join(part for size in sizes for part in _field(DIMENSION, (size,)))
    parts: list[bytes | memoryview] = []
    for number, value, whole in _fields(message):
        if number == path[0]:
            parts += _field(number, (_free(value, path[1:]),))
        else:
            parts.append(whole)
    return b"".join(parts)


def _name(message: memoryview, field: int) -> bytes:
    return next((bytes(value) for number, value, _ in _fields(message) if number == field), b"")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Number, content and whole of each field; the content of a number is empty."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        content = at
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
                content = at
            case 1:
                at += 8
            case 2:
                length, content = _varint(message, at)
                at = content + length
            case 5:
                at += 4
            case kind:
                msg = f"wire type {kind}"
                raise ValueError(msg)
        if at > len(message):
            msg = "it ends in the middle of a field"
            raise ValueError(msg)
        yield tag >> 3, message[content:at], message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    msg = "a number of more than ten bytes"
    raise ValueError(msg)


def _field(number: int, parts: Iterable[bytes | memoryview]) -> tuple[bytes | memoryview, ...]:
    parts = tuple(parts)
    return (
        _as_varint(number << 3 | BYTES) + _as_varint(sum(map(len, parts))),
        *parts,
    )


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
