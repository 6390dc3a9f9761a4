"""Roboflow Inference: an object detection model whose objects are faces."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Self

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
from hybrid_detect.backends.remote.providers.found_faces import (
    Unusable,
    face_of,
    faces_of,
    score_of,
)
from hybrid_detect.backends.remote.providers.options import (
    checked_choice,
    checked_name,
    checked_options,
)
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import ProtocolError, Refusal
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.types import Face

__all__ = ["Roboflow"]

APIS = ("v1", "legacy")

_SIDES = ("x", "y", "width", "height")

_MAX_DETECTIONS = 300
"""The server's own default. Source: roboflow/inference 1.8.3, its object detection request."""

_ERRORS = ErrorTable(
    (
        ErrorRule(
            Refusal.FORBIDDEN,
            "Roboflow refuses this key, or the account's quota is spent",
            statuses=(402, 403),
        ),
        ErrorRule(Refusal.ADDRESS, "Roboflow has no such model", statuses=(404,)),
        ErrorRule(Refusal.CONTRACT, "Roboflow does not accept the request", statuses=(422, 423)),
        ErrorRule(
            Refusal.CONTRACT,
            "the server has no room left for the model",
            statuses=(507,),
        ),
    )
)
"""Source: roboflow/inference 1.8.3, its error handlers. What is not here means what its status
means: 429, 502, 503 and 504 pass, 413 is the picture's size, and 400 the picture."""


class Roboflow:
    """Asks Roboflow Inference, hosted or on a server of one's own.

    Pictures are marked as not to be collected for active learning.

    Args:
        model: The model, as ``project/version``.
        api: ``v1`` for a server of one's own, ``legacy`` for the hosted address and older servers.
        face_class: The class that is a face; the model's other classes are left out. Empty takes
            every object for a face.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    name = "roboflow"
    key_header = "Authorization"
    capabilities = Capabilities(
        default_max_results=_MAX_DETECTIONS,
        max_results=_MAX_DETECTIONS,
        facts_from="roboflow/inference and inference-sdk 1.8.3, source; the price depends on the "
        "plan and where the server runs",
        facts_as_of=date(2026, 11, 28),
    )

    def __init__(self, *, model: str, api: str = "v1", face_class: str = "face") -> None:
        self._model = checked_name(model, "model", slashes=1)
        self._api = checked_choice(api, "api", APIS)
        self._face_class = face_class

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """As configuration spells it.

        Raises:
            ConfigurationError: If an option is unknown, missing or cannot be used.
        """
        return cls(**checked_options(cls, options))

    def encode(self, pictures: Sequence[CompressedImage], params: DetectParams) -> HttpRequest:
        """A POST with the one picture in base64: alone, or in an object."""
        (picture,) = pictures
        text = base64.b64encode(picture.data)
        if self._api == "legacy":
            url = (
                f"/{self._model}?confidence={params.threshold:g}"
                f"&max_detections={_MAX_DETECTIONS}&disable_active_learning=True"
            )
            media_type, body = "application/x-www-form-urlencoded", text
        else:
            url, media_type = "/infer/object_detection", "application/json"
            asked = {
                "model_id": self._model,
                "confidence": params.threshold,
                "max_detections": _MAX_DETECTIONS,
                "visualize_predictions": False,
                "disable_active_learning": True,
                "image": {"type": "base64", "value": text.decode()},
            }
            body = json.dumps(asked).encode()
        headers = {"Accept": "application/json", "Content-Type": media_type}
        return HttpRequest(url=url, headers=headers, body=body)

    def decode(
        self, response: HttpResponse, pictures: Sequence[CompressedImage]
    ) -> tuple[ResultReply, ...]:
        """The objects of the face's class.

        Raises:
            BackendResponseError: If the status is not 200.
            ProtocolError: If the answer is not one of Roboflow's.
        """
        if response.status != 200:
            raise _ERRORS.error(response)
        answer = json_of(response, provider=self.name)
        if not pictures:
            if "version" not in object_of(answer, "the answer"):
                msg = "expected the name and version of an inference server, got something else"
                raise ProtocolError(msg)
            return ()
        (picture,) = pictures
        if isinstance(answer, list) and len(answer) == 1:
            (answer,) = answer  # what a list of one picture is answered with
        answer = object_of(answer, "the answer")
        found = [
            object_of(each, "a prediction")
            for each in items_of(answer.get("predictions"), "predictions")
        ]
        width, height = _size(answer.get("image"), picture)
        detect_s = number_of(answer.get("time"), "time")
        return (
            ResultReply(
                request_id=0,
                width=width,
                height=height,
                faces=faces_of(
                    _face(each, width, height)
                    for each in found
                    if self._face_class in ("", text_of(each.get("class")))
                ),
                model=f"roboflow/{self._model}",
                detect_s=None if detect_s is None else max(detect_s, 0.0),
            ),
        )

    def health(self) -> HttpRequest | None:
        """``GET /info`` of a server of one's own; the hosted address has no such thing."""
        if self._api == "legacy":
            return None
        return HttpRequest(method="GET", url="/info", headers={"Accept": "application/json"})


def _size(value: Any, picture: CompressedImage) -> tuple[int, int]:
    """The size that the boxes refer to: the answer says it, the picture's otherwise."""
    width, height = numbers_of(value, ("width", "height")) if value is not None else (None, None)
    if not width or not height or not (1 <= width <= 65535 and 1 <= height <= 65535):
        return picture.width, picture.height
    return int(width), int(height)


def _face(found: dict[str, Any], width: int, height: int) -> Face | Unusable | None:
    return face_of(
        numbers_of(found, _SIDES),
        score_of(number_of(found.get("confidence"), "confidence")),
        box_format="cxcywh",
        width=width,
        height=height,
    )
