"""Azure AI Face: the ``detect`` call of version 1.2, without face ids."""

from __future__ import annotations

import json
import re
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
    numbers_of,
    object_of,
    text_of,
)
from hybrid_detect.backends.remote.providers.found_faces import (
    Point,
    Unusable,
    face_of,
    faces_of,
    keypoints_of,
)
from hybrid_detect.backends.remote.providers.options import checked_options
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import BackendResponseError, Refusal
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.types import Face

__all__ = ["AzureFace"]

_SIDES = ("left", "top", "width", "height")

_ERRORS = ErrorTable(
    (
        ErrorRule(
            Refusal.UNAUTHENTICATED, "Azure does not accept the key or token", statuses=(401,)
        ),
        ErrorRule(Refusal.THROTTLED, "Azure asks to send less", statuses=(429,)),
        ErrorRule(
            Refusal.FORBIDDEN,
            "Azure refuses this resource: its quota is spent, or it is not approved for the call",
            statuses=(403,),
        ),
        ErrorRule(
            Refusal.SIZE,
            "Azure finds the picture too small or too large",
            codes=("InvalidImageSize",),
        ),
        ErrorRule(Refusal.PICTURE, "Azure cannot read the picture", codes=("InvalidImage",)),
        ErrorRule(Refusal.CONTRACT, "Azure does not accept the request", statuses=(400, 409)),
    )
)
"""Source: the ``detect`` reference of Azure AI Face 1.2 and its error list of 08/2025."""


class AzureFace:
    """Asks Azure AI Face for boxes and landmarks.

    Faces come without a score. No face id is ever asked for: Azure would make a template of each
    face and keep it for up to a day, which needs an approval that most resources do not have.

    Args:
        landmarks: Whether to ask for landmarks.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    name = "azure"
    key_header = "Ocp-Apim-Subscription-Key"
    capabilities = Capabilities(
        max_picture_bytes=6 * 1024 * 1024,
        min_picture_bytes=1024,
        max_results=100,
        has_confidence=False,
        landmarks=("right_eye", "left_eye", "nose_tip", "mouth_center"),
        price_per_image=0.0010,
        price_as_of=date(2026, 11, 22),
        retention="no image is stored; without a face id, no template is created",
        facts_from="Azure-Face API reference v1.2 (Face.json) and articles/ai-services/face; "
        "price: standard tier S0, not verified",
        facts_as_of=date(2026, 11, 22),
    )

    def __init__(self, *, landmarks: bool = True) -> None:
        # The recognition model matters with face ids alone; its default is the oldest one.
        self._url = (
            "/face/v1.2/detect?detectionModel=detection_03&recognitionModel=recognition_04"
            f"&returnFaceId=false&returnFaceLandmarks={'true' if landmarks else 'false'}"
        )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """As configuration spells it.

        Raises:
            ConfigurationError: If an option is unknown or cannot be used.
        """
        return cls(**checked_options(cls, options))

    def encode(self, pictures: Sequence[CompressedImage], params: DetectParams) -> HttpRequest:
        """A POST with the one picture as its body."""
        (picture,) = pictures
        headers = {"Accept": "application/json", "Content-Type": "application/octet-stream"}
        return HttpRequest(url=self._url, headers=headers, body=picture.data)

    def decode(
        self, response: HttpResponse, pictures: Sequence[CompressedImage]
    ) -> tuple[ResultReply, ...]:
        """The faces in a list that may be empty.

        Raises:
            BackendResponseError: If the status is not 200.
            ProtocolError: If the answer is no list of faces. Azure's own client takes ``{}`` for a
                result.
        """
        if response.status != 200:
            raise _refusal(response)
        if not pictures:
            return ()
        (picture,) = pictures
        found = items_of(json_of(response, provider=self.name), "faces")
        return (
            ResultReply(
                request_id=0,
                width=picture.width,
                height=picture.height,
                faces=faces_of(_face(each, picture) for each in found),
                model="azure/detection_03",
            ),
        )

    def health(self) -> None:
        """Azure has no request that says without a price that all is well."""
        return


def _face(value: Any, picture: CompressedImage) -> Face | Unusable | None:
    found = object_of(value, "a face")
    return face_of(
        numbers_of(found.get("faceRectangle"), _SIDES),
        None,
        box_format="xywh",
        width=picture.width,
        height=picture.height,
        keypoints=_keypoints(found.get("faceLandmarks")),
    )


def _keypoints(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    found = object_of(value, "faceLandmarks")

    def at(name: str) -> Point:
        x, y = numbers_of(found[name], ("x", "y")) if name in found else (None, None)
        return x, y

    return keypoints_of(
        eyes=(at("pupilLeft"), at("pupilRight")),
        nose=at("noseTip"),
        mouth=(at("mouthLeft"), at("mouthRight")),
    )


def _refusal(response: HttpResponse) -> BackendResponseError:
    code, retry_after_s = response.headers.get("x-ms-error-code", ""), None
    try:
        error = json.loads(response.body)["error"]
        code = text_of(error["code"]) or code
        # The only place where a 429 of the free tier says it.
        wait = re.search(r"in (\d{1,4}) seconds?\b", text_of(error["message"]))
        retry_after_s = float(wait[1]) if wait and response.status == 429 else None
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return _ERRORS.error(response, code=code, retry_after_s=retry_after_s)
