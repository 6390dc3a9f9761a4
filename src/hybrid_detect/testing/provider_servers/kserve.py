"""A server that answers and refuses as Triton or MLServer does: Open Inference Protocol v2."""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybrid_detect.geometry import Face
from hybrid_detect.testing.provider_servers.base import (
    ONE_FACE,
    Answer,
    ProviderServer,
    ReceivedRequest,
    Refused,
    json_answer,
)

__all__ = ["KServeServer"]

_LENGTH = "Inference-Header-Content-Length"


class KServeServer(ProviderServer):
    """A server with one face model, which has the input ``image``, ``boxes`` and ``scores``.

    Boxes are corners in pixels.

    Args:
        habits: ``triton``: speaks the binary extension, calls JSON text, answers what it cannot
            read with 500. ``mlserver``: JSON alone, base64 where it is named, scores of shape
            ``[n, 1]``, and a traceback that repeats the picture for what it cannot decode.
        model: The model's name.
        takes_pixels: Whether the input is UINT8 of shape ``[height, width, 3]`` instead of a JPEG.
        max_batch_size: With 1 and more, all shapes begin with the batch.
        token: The bearer token of a gateway; empty takes every request.
        faces: As in `ProviderServer`.
    """

    def __init__(
        self,
        *,
        habits: str = "triton",
        model: str = "faces",
        takes_pixels: bool = False,
        max_batch_size: int = 0,
        token: str = "",
        faces: Sequence[Face] = ONE_FACE,
    ) -> None:
        super().__init__(faces=faces)
        self.is_triton = habits == "triton"
        self.model = model
        self.takes_pixels = takes_pixels
        self.max_batch_size = max_batch_size
        self.token = token

    def answer(self, request: ReceivedRequest) -> Answer:
        """Metadata, readiness, or the boxes of a picture.

        Raises:
            Refused: As the server would refuse the request.
        """
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            raise Refused(401, "", "")
        if request.path in ("/v2/health/live", "/v2/health/ready"):
            return Answer(200)
        path, _, action = request.path.removeprefix("/v2/models/").partition("/")
        if action.startswith("versions/"):
            version, _, action = action.removeprefix("versions/").partition("/")
            if version != "1":
                raise Refused(404, "unknown", f"'{path}' version {version} is not found")
        if path != self.model or not request.path.startswith("/v2/models/"):
            raise Refused(404, "unknown", f"Request for unknown model: '{path}' is not found")
        if request.method == "GET":
            return Answer(200) if action == "ready" else json_answer(self._metadata())
        asked, raw = self._asked(request)
        return self._answer(asked, self._seen(asked, raw))

    def error_answer(self, status: int, code: str, message: str) -> Answer:
        """An error in the server's own words."""
        if code == "text":
            return Answer(status, message.encode(), {"Content-Type": "text/plain; charset=utf-8"})
        if code == "schema":
            return json_answer({"detail": [{"msg": message}]}, status)
        kind = "text/plain" if self.is_triton and status == 404 else "application/json"
        return Answer(status, json.dumps({"error": message}).encode(), {"Content-Type": kind})

    def _metadata(self) -> dict[str, Any]:
        batch = [-1] if self.max_batch_size else []
        about = {"name": self.model, "versions": ["1"], "platform": "python"}
        if not self.is_triton:  # a model's settings need not say
            return {**about, "inputs": [], "outputs": []}
        kind, shape = ("UINT8", [-1, -1, 3]) if self.takes_pixels else ("BYTES", [1])
        return {
            **about,
            "inputs": [{"name": "image", "datatype": kind, "shape": [*batch, *shape]}],
            "outputs": [
                {"name": "boxes", "datatype": "FP32", "shape": [*batch, -1, 4]},
                {"name": "scores", "datatype": "FP32", "shape": [*batch, -1]},
            ],
        }

    def _asked(self, request: ReceivedRequest) -> tuple[dict[str, Any], bytes]:
        """The JSON of a request, and the bytes behind it."""
        length = request.headers.get(_LENGTH.lower())
        if length is not None and not self.is_triton:
            raise Refused(500, "text", f"Traceback (most recent call last): {request.body!r}")
        end = len(request.body) if length is None else int(length)
        try:
            asked = json.loads(request.body[:end])
        except ValueError:
            if self.is_triton:
                words = "failed to parse the request JSON buffer: Invalid value. at 0"
                raise Refused(500, "", words) from None
            raise Refused(422, "schema", "JSON decode error") from None
        if not isinstance(asked, dict) or not isinstance(asked.get("inputs"), list):
            raise Refused(400 if self.is_triton else 422, "", "inputs are missing")
        return asked, request.body[end:]

    def _seen(self, asked: dict[str, Any], raw: bytes) -> list[tuple[int, int]]:
        """The sizes of the pictures."""
        (tensor,) = asked["inputs"]
        name, shape, kind = tensor["name"], tensor["shape"], tensor["datatype"]
        if self.is_triton and name != "image":
            raise Refused(400, "", f"unexpected inference input '{name}' for model '{self.model}'")
        rank = (3 if self.takes_pixels else 1) + bool(self.max_batch_size)
        if kind != ("UINT8" if self.takes_pixels else "BYTES") or len(shape) != rank:
            raise Refused(400, "", f"unexpected shape or type for input '{name}'")
        if self.max_batch_size and shape[0] > self.max_batch_size:
            raise Refused(400, "", f"batch-size must be <= {self.max_batch_size} for '{name}'")
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is not None and size != len(raw):
            raise Refused(400, "", f"unexpected size for input '{name}'")
        if self.takes_pixels:
            count = len(raw) if size is not None else len(tensor["data"])
            if count != math.prod(shape):
                raise Refused(400, "", f"unexpected size for input '{name}'")
            return [(shape[-2], shape[-3])]
        pictures = self._of_json(tensor) if size is None else _elements(raw)
        if len(pictures) != math.prod(shape):
            raise Refused(400, "", f"incorrect byte size for input '{name}'")
        return [self._size(picture) for picture in pictures]

    def _size(self, picture: bytes) -> tuple[int, int]:
        seen = self.see(picture)
        if seen is None and self.is_triton:
            raise Refused(500, "", "the picture cannot be decoded")
        if seen is None:
            raise Refused(500, "text", f"Traceback (most recent call last): {picture!r}")
        return seen.width, seen.height

    def _of_json(self, tensor: dict[str, Any]) -> list[bytes]:
        """The elements of a BYTES tensor in JSON."""
        texts = [str(text).encode() for text in tensor["data"]]
        if self.is_triton or tensor.get("parameters", {}).get("content_type") != "base64":
            return texts
        try:
            return [base64.b64decode(text) for text in texts]
        except binascii.Error:
            return texts

    def _answer(self, asked: dict[str, Any], sizes: list[tuple[int, int]]) -> Answer:
        boxes = [[face.box.scaled(*size).xyxy for face in self.faces] for size in sizes]
        scores = [[face.score or 0.0 for face in self.faces] for _ in sizes]
        batch = [len(sizes)] if self.max_batch_size else []
        tensors = {
            "boxes": np.array(boxes, "<f4").reshape(*batch, -1, 4),
            "scores": np.array(scores, "<f4").reshape(*batch, -1),
        }
        wanted = asked.get("outputs") or [{"name": name} for name in tensors]
        outputs, raw = [], b""
        for each in wanted:
            if each["name"] not in tensors:
                words = f"unexpected inference output '{each['name']}' for model '{self.model}'"
                raise Refused(400, "", words)
            tensor = tensors[each["name"]]
            shape = list(tensor.shape)
            if not self.is_triton and len(shape) == 1:
                shape.append(1)
            output = {
                "name": each["name"],
                "datatype": "FP32",
                "shape": shape,
            }
            if self.is_triton and each.get("parameters", {}).get("binary_data"):
                output["parameters"] = {"binary_data_size": tensor.nbytes}
                raw += tensor.tobytes()
            else:
                output["data"] = tensor.ravel().tolist()
            outputs.append(output)
        answer = {"model_name": self.model, "model_version": "1", "outputs": outputs}
        head = json.dumps(answer).encode()
        if not raw:
            return Answer(200, head, {"Content-Type": "application/json"})
        headers = {"Content-Type": "application/octet-stream", _LENGTH: str(len(head))}
        return Answer(200, head + raw, headers)


def _elements(raw: bytes) -> list[bytes]:
    """The elements of a BYTES tensor in binary: each behind its length."""
    elements = []
    while raw:
        (length,) = struct.unpack("<I", raw[:4])
        elements.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return elements
