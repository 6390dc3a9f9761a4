"""The Open Inference Protocol, version 2 ("KServe v2"): Triton, MLServer and others.

A model is asked by its name, and its tensors have names of their own, so configuration tells both.
Source: kserve/open-inference-protocol; triton-inference-server, ``extension_binary_data``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any, Self

from hybrid_detect.backends.remote.error_tables import ErrorRule, ErrorTable
from hybrid_detect.backends.remote.protocol import (
    Capabilities,
    DetectParams,
    HttpRequest,
    HttpResponse,
)
from hybrid_detect.backends.remote.providers.answers import json_of, object_of, text_of
from hybrid_detect.backends.remote.providers.face_tensors import FaceTensors
from hybrid_detect.backends.remote.providers.options import (
    checked_choice,
    checked_name,
    checked_options,
)
from hybrid_detect.backends.remote.providers.tensors import (
    packed,
    picture_tensor,
    require_tensors,
    unpacked,
)
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    ConfigurationError,
    ProtocolError,
    Refusal,
)
from hybrid_detect.exchange.wire import ResultReply

__all__ = ["KServe"]

ENCODINGS = ("jpeg-bytes", "rgb-u8-hwc")

_ERRORS = ErrorTable(
    (
        ErrorRule(Refusal.TRANSIENT, "the server is loading the model", codes=("ModelNotReady",)),
        ErrorRule(Refusal.ADDRESS, "the server has no such model", statuses=(404,)),
        ErrorRule(
            Refusal.CONTRACT,
            "the server does not understand the request: check the names and types of the tensors, "
            "and set binary to false for a server without that extension, such as MLServer",
            codes=("Malformed", "BareText"),
        ),
        ErrorRule(
            Refusal.CONTRACT,
            "the server does not accept the request: check the names and types of the tensors",
            statuses=(400, 415, 422),
        ),
    )
)
"""Codes are this library's names: the protocol has a sentence in ``error`` and nothing else.

Source: runs of Triton 2.51 and MLServer 1.7.1."""


class KServe:
    """Asks a model behind the Open Inference Protocol.

    Args:
        model: The model's name.
        version: Its version; empty leaves the choice to the server.
        input: The input tensor's name.
        encoding: What it takes: the JPEG as one element of type BYTES (``jpeg-bytes``), or the
            pixels as UINT8 of shape ``[height, width, 3]`` (``rgb-u8-hwc``).
        batched: Whether the model's tensors begin with a dimension for a batch, as Triton's do
            with a ``max_batch_size`` of 1 and more.
        max_pictures: Pictures in one request, for a model that takes batches of ``jpeg-bytes`` and
            gives each picture as many rows: at most its ``max_batch_size``.
        binary: Whether the server speaks the binary extension: Triton does, MLServer does not.
        boxes: The output with the boxes, four numbers for each face.
        scores: The output with the scores; empty if there is none.
        landmarks: The output with five points for each face - two eyes, nose, two corners of the
            mouth -, as ten numbers or fifteen; empty if there is none.
        box_format: What the four are: ``xyxy``, ``xywh`` or ``cxcywh``.
        unit: ``pixels`` of the picture, or ``fraction`` of its width and height.
        score_max: What a score of certainty is.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    name = "kserve"
    key_header = "Authorization"
    capabilities = Capabilities(
        landmarks=("right_eye", "left_eye", "nose_tip", "mouth_center"),
        retention="on your own server",
        trains_on_data=False,
        takes_trace=True,
        facts_from="kserve/open-inference-protocol; runs of Triton 2.51 and MLServer 1.7.1",
        facts_as_of=date(2026, 11, 28),
    )

    def __init__(
        self,
        *,
        model: str,
        version: str = "",
        input: str = "image",
        encoding: str = "jpeg-bytes",
        batched: bool = False,
        max_pictures: int = 1,
        binary: bool = True,
        boxes: str = "boxes",
        scores: str = "scores",
        landmarks: str = "",
        box_format: str = "xyxy",
        unit: str = "pixels",
        score_max: float = 1.0,
    ) -> None:
        path = f"/v2/models/{checked_name(model, 'model')}"
        self._path = f"{path}/versions/{checked_name(version, 'version')}" if version else path
        self._model = model
        takes_many = batched and encoding == "jpeg-bytes"
        if max_pictures < 1 or (max_pictures > 1 and not takes_many):
            msg = (
                f"max_pictures: expected 1 and more, and more only with batched and jpeg-bytes, "
                f"got {max_pictures}"
            )
            raise ConfigurationError(msg)
        self._input = input
        self._encoding = checked_choice(encoding, "encoding", ENCODINGS)
        self.is_slow_to_encode = encoding == "rgb-u8-hwc"
        self._batched = batched
        self._binary = binary
        self._faces = FaceTensors(
            boxes=boxes,
            scores=scores,
            landmarks=landmarks,
            box_format=box_format,
            unit=unit,
            score_max=score_max,
        )
        self.capabilities = replace(
            self.capabilities,
            max_pictures=max_pictures,
            landmarks=self._faces.keypoints,
            has_confidence=bool(scores),
        )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """As configuration spells it.

        Raises:
            ConfigurationError: If an option is unknown, missing or cannot be used.
        """
        return cls(**checked_options(cls, options))

    def encode(self, pictures: Sequence[CompressedImage], params: DetectParams) -> HttpRequest:
        """A POST with one input tensor, and the names of the outputs that are read."""
        tensor = picture_tensor(
            self._input, pictures, is_jpeg=self._encoding == "jpeg-bytes", batched=self._batched
        )
        headers, body = packed(tensor, self._faces.names, binary=self._binary)
        return HttpRequest(url=f"{self._path}/infer", headers=headers, body=body)

    def decode(
        self, response: HttpResponse, pictures: Sequence[CompressedImage]
    ) -> tuple[ResultReply | BackendError, ...]:
        """The faces in the output tensors; of `health`, whether the tensors are there.

        Raises:
            BackendResponseError: If the status is not 200.
            ProtocolError: If the answer breaks the protocol, or the outputs are not faces.
        """
        if response.status != 200:
            raise _refusal(response)
        if not pictures:
            self._check_model(object_of(json_of(response, provider=self.name), "the answer"))
            return ()
        found = self._faces.read(unpacked(response), pictures)
        return tuple(
            faces
            if isinstance(faces, BackendError)
            else ResultReply(
                request_id=0,
                width=picture.width,
                height=picture.height,
                faces=faces,
                model=f"kserve/{self._model}",
            )
            for picture, faces in zip(pictures, found, strict=True)
        )

    def health(self) -> HttpRequest:
        """``GET /v2/models/{model}``: answered once it is loaded, with the names of its tensors.

        ``/v2/health/ready`` says yes while a model is still being loaded.
        """
        return HttpRequest(method="GET", url=self._path, headers={"Accept": "application/json"})

    def _check_model(self, answer: dict[str, Any]) -> None:
        if answer.get("name") != self._model:
            msg = f"expected the metadata of the model {self._model!r}, got something else"
            raise ProtocolError(msg)
        expected = "UINT8" if self._encoding == "rgb-u8-hwc" else "BYTES"
        require_tensors(answer.get("inputs"), {self._input: expected}, kind="input")
        require_tensors(answer.get("outputs"), dict.fromkeys(self._faces.names), kind="output")


def _refusal(response: HttpResponse) -> BackendResponseError:
    """The error for an answer with an error status, by what its sentence begins with.

    Triton answers JSON with a content type of text, and a request that it cannot read with 500.
    MLServer answers what it cannot decode with 500 and a traceback as text, which may repeat the
    picture.
    """
    try:
        said = text_of(json.loads(response.body)["error"]).lower()
    except (ValueError, TypeError, KeyError, RecursionError):
        is_bare = response.status == 500 and response.media_type == "text/plain"
        return _ERRORS.error(response, code="BareText" if is_bare else "")
    code = ""
    if "not ready" in said or "no available versions" in said:
        code = "ModelNotReady"
    elif response.status == 500 and "parse" in said:
        code = "Malformed"
    return _ERRORS.error(response, code=code, by_server=True)
