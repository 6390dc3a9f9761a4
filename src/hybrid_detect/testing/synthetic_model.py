"""A generated model of 1.7 KB that drives MediaPipe's genuine FaceDetector: no download.

It does not look for faces. It sees one "face" in every bright picture and none in a dark one::

    picture -> mean -> x GAIN -> PADV2 -> scores (1, 896, 1): one anchor bright, the rest far below
                       constant -> PAD -> boxes (1, 896, 16): one anchor's box and keypoints, zeros

So it proves life cycle, threads, memory and the path of pixels and boxes, and nothing about
accuracy.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from hybrid_detect.extras import require

__all__ = ["synthetic_face_model"]

INPUT_PX = 128
"""Side of the square input, and the unit of boxes and keypoints: the short-range model's."""

ANCHORS = 896
"""Anchors of the short-range model: 16 x 16 cells of 2 and 8 x 8 cells of 6."""

ANCHOR = 2 * (8 * 16 + 8)
"""The first anchor of the cell in row 8, column 8 of 16: its centre is at 8.5 / 16."""

BOX_PX = 64.0
"""Side of the box: half of the picture."""

GAIN = 20.0
"""Turns the mean (-1 black, 1 white) into a logit that is sure of itself."""

NO_FACE = -100.0
"""Logit of the other anchors: the score 0. (A plain zero would be the score 0.5.)"""

# From the anchor's centre, in input pixels: box centre and size, then the six keypoints in
# MediaPipe's order, each x and y.
_FACE = (0.0, 0.0, BOX_PX, BOX_PX)
_KEYPOINTS = (-12.0, -12.0, 12.0, -12.0, 0.0, 0.0, 0.0, 14.0, -28.0, -6.0, 28.0, -6.0)

_FLOAT32, _INT32 = 0, 2
"""Values of ``TensorType`` in the TFLite schema."""


def synthetic_face_model() -> bytes:
    """The model's bytes, for `MediaPipeFaceDetector` and MediaPipe itself.

    Raises:
        MissingExtraError: If MediaPipe, whose schema classes write the file, is not installed.
    """
    purpose = "the synthetic face model"
    package = "mediapipe.tasks.metadata"
    schema = require(f"{package}.schema_py_generated", extra="device", purpose=purpose)
    metadata = require(f"{package}.metadata_schema_py_generated", extra="device", purpose=purpose)
    flatbuffers = require("flatbuffers", extra="device", purpose=purpose)

    graph = _Graph(schema)
    picture = graph.tensor("picture", _FLOAT32, (1, INPUT_PX, INPUT_PX, 3))
    axes = graph.constant("axes", _INT32, (3,), (1, 2, 3))
    mean = graph.tensor("mean", _FLOAT32, (1,))
    graph.node("MEAN", (picture, axes), mean, "ReducerOptions")

    gain = graph.constant("gain", _FLOAT32, (1,), (GAIN,))
    logit = graph.tensor("logit", _FLOAT32, (1,))
    graph.node("MUL", (mean, gain), logit, "MulOptions")

    shape = graph.constant("shape", _INT32, (3,), (1, 1, 1))
    one_score = graph.tensor("one score", _FLOAT32, (1, 1, 1))
    graph.node("RESHAPE", (logit, shape), one_score, "ReshapeOptions", newShape=[1, 1, 1])

    around = (0, 0, ANCHOR, ANCHORS - 1 - ANCHOR, 0, 0)
    padding = graph.constant("padding", _INT32, (3, 2), around)
    no_face = graph.constant("no face", _FLOAT32, (1,), (NO_FACE,))
    scores = graph.tensor("scores", _FLOAT32, (1, ANCHORS, 1))
    graph.node("PADV2", (one_score, padding, no_face), scores, "PadV2Options")

    one_box = graph.constant("one box", _FLOAT32, (1, 1, 16), (*_FACE, *_KEYPOINTS))
    boxes = graph.tensor("boxes", _FLOAT32, (1, ANCHORS, 16))
    graph.node("PAD", (one_box, padding), boxes, "PadOptions")

    model = graph.model((picture,), (boxes, scores))
    entry = schema.MetadataT()
    entry.name = "TFLITE_METADATA"
    entry.buffer = graph.buffer(_packed(flatbuffers, _metadata(metadata), b"M001"))
    model.metadata = [entry]
    return _packed(flatbuffers, model, b"TFL3")


class _Graph:
    """A TFLite model in the making: tensors, operators and the buffers they refer to."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._buffers: list[Any] = []
        self._tensors: list[Any] = []
        self._codes: list[Any] = []
        self._nodes: list[Any] = []
        self.buffer(b"")  # number 0 means "no constant"

    def buffer(self, content: bytes) -> int:
        buffer = self._schema.BufferT()
        buffer.data = list(content) or None
        self._buffers.append(buffer)
        return len(self._buffers) - 1

    def tensor(self, name: str, kind: int, shape: Sequence[int], buffer: int = 0) -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.type, tensor.shape, tensor.buffer = name, kind, list(shape), buffer
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def constant(self, name: str, kind: int, shape: Sequence[int], values: Sequence[float]) -> int:
        code = "i" if kind == _INT32 else "f"
        content = struct.pack(f"<{len(values)}{code}", *values)
        return self.tensor(name, kind, shape, self.buffer(content))

    def node(
        self, operator: str, inputs: Sequence[int], output: int, options: str, **values: object
    ) -> None:
        schema = self._schema
        code = schema.OperatorCodeT()
        number = getattr(schema.BuiltinOperator, operator)
        code.builtinCode = number
        code.deprecatedBuiltinCode = number  # all of ours are below 127: old readers see these
        self._codes.append(code)
        node = schema.OperatorT()
        node.opcodeIndex = len(self._codes) - 1
        node.inputs, node.outputs = list(inputs), [output]
        node.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        node.builtinOptions = getattr(schema, f"{options}T")()
        for name, value in values.items():
            setattr(node.builtinOptions, name, value)
        self._nodes.append(node)

    def model(self, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
        graph = self._schema.SubGraphT()
        graph.tensors, graph.operators = self._tensors, self._nodes
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        model = self._schema.ModelT()
        model.version = 3
        model.operatorCodes, model.subgraphs, model.buffers = self._codes, [graph], self._buffers
        return model


def _metadata(schema: Any) -> Any:
    """What the detector asks of a model's metadata: how to normalise its input, -1 to 1."""
    options = schema.NormalizationOptionsT()
    options.mean, options.std = [127.5], [127.5]
    unit = schema.ProcessUnitT()
    unit.optionsType = schema.ProcessUnitOptions.NormalizationOptions
    unit.options = options
    colour = schema.ImagePropertiesT()
    colour.colorSpace = schema.ColorSpaceType.RGB
    content = schema.ContentT()
    content.contentPropertiesType = schema.ContentProperties.ImageProperties
    content.contentProperties = colour
    picture = schema.TensorMetadataT()
    picture.name, picture.content, picture.processUnits = "picture", content, [unit]
    outputs = []
    for name in ("boxes", "scores"):
        output = schema.TensorMetadataT()
        output.name = name
        outputs.append(output)
    graph = schema.SubGraphMetadataT()
    graph.inputTensorMetadata, graph.outputTensorMetadata = [picture], outputs
    model = schema.ModelMetadataT()
    model.name = "synthetic face model"
    model.subgraphMetadata = [graph]
    return model


def _packed(flatbuffers: Any, table: Any, identifier: bytes) -> bytes:
    builder = flatbuffers.Builder(2048)
    builder.Finish(table.Pack(builder), file_identifier=identifier)
    return bytes(builder.Output())
