"""CodeProject.AI Server, and DeepStack whose interface it keeps: ``/v1/vision/face``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any, ClassVar, Self

from hybrid_detect.backends.remote.error_tables import ErrorRule, ErrorTable
from hybrid_detect.backends.remote.protocol import (
    Capabilities,
    DetectParams,
    HttpRequest,
    HttpResponse,
)
from hybrid_detect.backends.remote.providers.answers import (
    items_of,
    json_of,
    number_of,
    numbers_of,
    object_of,
    text_of,
)
from hybrid_detect.backends.remote.providers.forms import form
from hybrid_detect.backends.remote.providers.found_faces import (
    Unusable,
    face_of,
    faces_of,
    score_of,
)
from hybrid_detect.backends.remote.providers.options import checked_options
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import ProtocolError, Refusal
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.types import Face

__all__ = ["CodeProjectAI", "DeepStack"]

_SIDES = ("x_min", "y_min", "x_max", "y_max")

_CODES = {
    "unable to load": "DetectorNotLoaded",
    "unknown type": "UnknownImageType",
    "invalid image": "UnknownImageType",
    "cannot identify image": "UnknownImageType",
    "occurred during processing": "ProcessingFailed",
}
"""This library's names for sentences of the server, which has no codes.

Source: codeproject/CodeProject.AI-FaceProcessing of 2025-05-24."""

_ERRORS = ErrorTable(
    (
        ErrorRule(
            Refusal.PICTURE, "the server cannot read the picture", codes=("UnknownImageType",)
        ),
        ErrorRule(
            Refusal.TRANSIENT,
            "the server's detector is not loaded or has failed",
            codes=("DetectorNotLoaded", "ProcessingFailed", "Unsuccessful"),
        ),
        ErrorRule(
            Refusal.ADDRESS, "face detection is not switched on in the server", statuses=(403, 404)
        ),
    )
)


class CodeProjectAI:
    """Asks the face module of CodeProject.AI Server."""

    name: ClassVar[str] = "codeproject"
    key_field: ClassVar[str] = "api_key"
    capabilities = Capabilities(
        retention="on your own server",
        trains_on_data=False,
        facts_from="codeproject/CodeProject.AI-FaceProcessing of 2025-05-24",
        facts_as_of=date(2026, 11, 28),
    )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """The protocol, which has no options.

        Raises:
            ConfigurationError: If there is one.
        """
        return cls(**checked_options(cls, options))

    def encode(self, pictures: Sequence[CompressedImage], params: DetectParams) -> HttpRequest:
        """A form with the one picture.

        The threshold is always sent: left out, it is 0.67, 0.4 or another, by the server.
        """
        (picture,) = pictures
        fields = {"min_confidence": f"{params.threshold:g}"}
        media_type, body = form(picture, name="image", fields=fields)
        headers = {"Accept": "application/json", "Content-Type": media_type}
        return HttpRequest(url="/v1/vision/face", headers=headers, body=body)

    def decode(
        self, response: HttpResponse, pictures: Sequence[CompressedImage]
    ) -> tuple[ResultReply, ...]:
        """The faces; a failure may come with a status of 200.

        Raises:
            BackendResponseError: If the status is not 200, or the answer says ``success: false``.
            ProtocolError: If the answer is not one of this server's.
        """
        if response.status != 200:
            raise _ERRORS.error(response, code=_code_of(_object_or_none(response)))
        answer = object_of(json_of(response, provider=self.name), "the answer")
        if answer.get("success") is not True:
            if answer.get("success") is not False:
                msg = "expected 'success' in the answer, got none"
                raise ProtocolError(msg)
            code = _code_of(answer) or "Unsuccessful"
            raise _ERRORS.error(response, code=code, by_server=True)
        if not pictures:
            return ()
        (picture,) = pictures
        found = items_of(answer.get("predictions"), "predictions")
        detect_ms = number_of(answer.get("inferenceMs"), "inferenceMs")
        return (
            ResultReply(
                request_id=0,
                width=picture.width,
                height=picture.height,
                faces=faces_of(_face(each, picture) for each in found),
                model=self.name,
                detect_s=None if detect_ms is None else max(detect_ms, 0.0) / 1000,
            ),
        )

    def health(self) -> HttpRequest | None:
        """``GET /v1/status/ping``, which answers with ``success: true``."""
        headers = {"Accept": "application/json"}
        return HttpRequest(method="GET", url="/v1/status/ping", headers=headers)


class DeepStack(CodeProjectAI):
    """Asks a DeepStack server."""

    name = "deepstack"
    capabilities = replace(
        CodeProjectAI.capabilities,
        facts_from="deepstack-sdk 0.2.1: what its client sends and reads",
    )

    def health(self) -> None:
        """DeepStack has no such address."""
        return


def _face(value: Any, picture: CompressedImage) -> Face | Unusable | None:
    found = object_of(value, "a face")
    score = number_of(found.get("confidence"), "confidence")
    # The documentation shows percent, the code gives fractions.
    is_percent = score is not None and score > 1
    return face_of(
        numbers_of(found, _SIDES),
        score_of(score, most=100 if is_percent else 1),
        box_format="xyxy",
        width=picture.width,
        height=picture.height,
    )


def _object_or_none(response: HttpResponse) -> Any:
    try:
        return json_of(response, provider="the server")
    except ProtocolError:
        return None


def _code_of(answer: Any) -> str:
    if not isinstance(answer, dict):
        return ""
    said = text_of(answer.get("error")).lower()
    return next((code for words, code in _CODES.items() if words in said), "")
