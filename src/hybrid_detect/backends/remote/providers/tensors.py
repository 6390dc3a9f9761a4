"""Tensors of the Open Inference Protocol, as JSON or as raw bytes behind it.

The binary extension puts the tensors' bytes, little endian, behind the JSON, whose length is told
by a header: a picture of 640x480 pixels then takes 0.9 MB instead of 4.2 MB, and a tenth of the
time.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.backends.remote.protocol import HttpResponse
from hybrid_detect.backends.remote.providers.answers import (
    items_of,
    json_of,
    object_of,
    text_of,
)
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import ProtocolError

__all__ = ["HEADER_LENGTH", "Tensor", "packed", "picture_tensor", "require_tensors", "unpacked"]

HEADER_LENGTH = "Inference-Header-Content-Length"

_TYPES = {
    "BOOL": "?",
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}
"""Datatypes that hold numbers, as numpy names them. BF16 and BYTES are neither boxes nor scores."""

_MAX_ITEMS = 160_000
"""Numbers in one output, rows of zeros included: fifteen for each face, in a batch of pictures."""

_MAX_RANK = 8
"""Dimensions of an output: a batch, its faces, points and coordinates are four."""

_MAX_DIGITS = 18
"""Of a length in bytes."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input tensor."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    elements: tuple[bytes, ...] = field(repr=False)
    """The elements of BYTES; of numbers all of them in one, little endian."""


def picture_tensor(
    name: str, pictures: Sequence[CompressedImage], *, is_jpeg: bool, batched: bool
) -> Tensor:
    """The tensor of `pictures`: their bytes as elements, or the pixels of one picture.

    Args:
        name: The tensor's name.
        pictures: The pictures; several only with `is_jpeg` and `batched`.
        is_jpeg: Whether they go as they are; else decoded, which takes about 10 ms for 1280x720
            pixels.
        batched: Whether the shape begins with the number of pictures.
    """
    batch = (len(pictures),) if batched else ()
    if is_jpeg:
        return Tensor(name, (*batch, 1), "BYTES", tuple(each.data for each in pictures))
    (picture,) = pictures
    with Image.open(io.BytesIO(picture.data)) as image:
        pixels = np.asarray(image.convert("RGB"))
    return Tensor(name, (*batch, *pixels.shape), "UINT8", (pixels.tobytes(),))


def packed(tensor: Tensor, outputs: Sequence[str], *, binary: bool) -> tuple[dict[str, str], bytes]:
    """The headers and the body of a request with one input.

    Args:
        tensor: The input.
        outputs: The names of the outputs that are wanted.
        binary: Whether to use the binary extension, for the request and for the answer.
    """
    described: dict[str, Any] = {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "datatype": tensor.datatype,
    }
    is_bytes = tensor.datatype == "BYTES"
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    if binary:
        raw = b"".join(map(_with_length, tensor.elements) if is_bytes else tensor.elements)
        described["parameters"] = {"binary_data_size": len(raw)}
        head = _json(_compact(described), outputs, binary=True)
        headers["Content-Type"] = "application/octet-stream"
        headers[HEADER_LENGTH] = str(len(head))
        return headers, head + raw
    if is_bytes:
        # JSON cannot hold raw bytes. MLServer decodes base64 where it is named as content type.
        described["parameters"] = {"content_type": "base64"}
        described["data"] = [base64.b64encode(each).decode() for each in tensor.elements]
        return headers, _json(_compact(described), outputs, binary=False)
    described["data"] = []
    start, end = _compact(described)[:-2], "]}"
    data = _numbers_as_text(*tensor.elements)
    return headers, _json(start + data + end, outputs, binary=False)


def _with_length(element: bytes) -> bytes:
    return len(element).to_bytes(4, "little") + element


def _json(tensor: str, outputs: Sequence[str], *, binary: bool) -> bytes:
    wanted = [{"name": name, "parameters": {"binary_data": binary}} for name in outputs]
    return f'{{"inputs":[{tensor}],"outputs":{_compact(wanted)}}}'.encode()


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


_TEXT = np.frombuffer(b"".join(b"%3d," % value for value in range(256)), np.uint8).reshape(256, 4)
"""The text of each byte, in columns: JSON allows blanks before a number."""


def _numbers_as_text(data: bytes) -> str:
    """The bytes of `data` as numbers with commas between them.

    Looked up in a table: `json.dumps` takes 0.5 s for 1280x720 pixels, and holds Python's lock.
    """
    return np.take(_TEXT, np.frombuffer(data, np.uint8), axis=0).tobytes()[:-1].decode()


def unpacked(response: HttpResponse) -> dict[str, NDArray[np.float64]]:
    """The outputs in `response` by name, flat, with NaN for what is not finite.

    Flat, because servers differ in rank: MLServer gives a list of scores the shape ``[N, 1]``.

    Raises:
        ProtocolError: If it breaks the protocol.
    """
    told = response.headers.get(HEADER_LENGTH.lower())
    head, raw = response.body, b""
    if told is not None:
        # Of more digits than a length has, Python's `int` makes an error of its own.
        is_length = told.isascii() and told.isdigit() and len(told) <= _MAX_DIGITS
        if not is_length or int(told) > len(response.body):
            msg = f"expected a length within the answer in {HEADER_LENGTH}, got another"
            raise ProtocolError(msg)
        head, raw = response.body[: int(told)], response.body[int(told) :]
    answer = object_of(
        json_of(HttpResponse(status=200, body=head), provider="the server"), "the answer"
    )
    outputs, at = {}, 0
    for each in items_of(answer.get("outputs"), "outputs"):
        output = object_of(each, "an output")
        name, datatype = text_of(output.get("name")), text_of(output.get("datatype"))
        parameters = output.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            if datatype in _TYPES:
                outputs[name] = _counted(_numbers(output.get("data"), name), output, name)
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(raw) - at:
            msg = "expected the bytes of each output behind the answer, got fewer"
            raise ProtocolError(msg)
        if datatype in _TYPES:
            outputs[name] = _counted(_array(raw[at : at + size], datatype, name), output, name)
        at += size
    return outputs


def _array(raw: bytes, datatype: str, name: str) -> NDArray[np.float64]:
    kind = np.dtype(_TYPES[datatype])
    if len(raw) % kind.itemsize or len(raw) > _MAX_ITEMS * kind.itemsize:
        msg = (
            f"expected at most {_MAX_ITEMS} whole numbers of type {datatype} in {name!r}, got more"
        )
        raise ProtocolError(msg)
    return np.frombuffer(raw, kind).astype(np.float64)


def _numbers(data: Any, name: str) -> NDArray[np.float64]:
    """The numbers of `data`, a flat list or a nested one."""
    flat: list[float] = []

    def walk(value: Any, depth: int) -> None:
        if isinstance(value, list) and depth < _MAX_RANK:
            for each in value:
                walk(each, depth + 1)
        elif value is None:
            flat.append(math.nan)
        elif isinstance(value, int | float) and abs(value) < 1e30:
            flat.append(float(value))
        else:
            msg = f"expected numbers in {name!r}, got {type(value).__name__}"
            raise ProtocolError(msg)
        if len(flat) > _MAX_ITEMS:
            msg = f"expected at most {_MAX_ITEMS} numbers in {name!r}, got more"
            raise ProtocolError(msg)

    walk(data if isinstance(data, list) else [data], 0)
    return np.array(flat, np.float64)


def _counted(
    numbers: NDArray[np.float64], output: Mapping[str, Any], name: str
) -> NDArray[np.float64]:
    """`numbers`, if there are as many as the output's shape says."""
    shape = items_of(output.get("shape"), "shape")
    is_shape = all(isinstance(side, int) and 0 <= side <= _MAX_ITEMS for side in shape)
    if not is_shape or len(shape) > _MAX_RANK:
        msg = f"expected a shape of at most {_MAX_RANK} whole numbers for {name!r}, got another"
        raise ProtocolError(msg)
    if math.prod(shape) != len(numbers):
        msg = f"expected {math.prod(shape)} numbers in {name!r} by its shape, got {len(numbers)}"
        raise ProtocolError(msg)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def require_tensors(described: Any, wanted: Mapping[str, str | None], *, kind: str) -> None:
    """Check that a model's metadata has the tensors that are configured.

    MLServer lists none, unless the model's own settings do: then there is nothing to check.

    Args:
        described: The ``inputs`` or ``outputs`` of the metadata.
        wanted: The names, with the datatype that is needed or `None`.
        kind: ``input`` or ``output``, for the message.

    Raises:
        ProtocolError: If a name is missing or has another datatype.
    """
    if not described:
        return
    has = {}
    for each in items_of(described, f"{kind}s"):
        tensor = object_of(each, kind)
        has[text_of(tensor.get("name"))] = text_of(tensor.get("datatype"))
    for name, datatype in wanted.items():
        if name not in has:
            msg = f"the model has no {kind} named {name!r}: set the name that it has"
            raise ProtocolError(msg)
        # MLServer's models need not say, and Triton says BYTES for TYPE_STRING.
        if datatype and has[name] not in (datatype, ""):
            msg = f"the model's {kind} {name!r} is not of type {datatype}: set another encoding"
            raise ProtocolError(msg)
