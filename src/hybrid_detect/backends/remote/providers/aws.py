"""Amazon Rekognition: the call ``DetectFaces`` with the attributes ``DEFAULT``."""

from __future__ import annotations

import base64
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
    score_of,
)
from hybrid_detect.backends.remote.providers.options import checked_options
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import BackendResponseError, ConfigurationError, ProtocolError, Refusal
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.types import Face, Keypoint

__all__ = ["AwsRekognition"]

_HEADERS = {
    "Content-Type": "application/x-amz-json-1.1",
    "X-Amz-Target": "RekognitionService.DetectFaces",
}
_BEFORE, _AFTER = b'{"Image": {"Bytes": "', b'"}, "Attributes": ["DEFAULT"]}'
"""The bytes that boto3 writes. ``DEFAULT`` is box, confidence, pose, quality and five landmarks; no
guess at age, gender or emotion is ever asked for."""

_SIDES = ("Left", "Top", "Width", "Height")

_ERRORS = ErrorTable(
    (
        ErrorRule(
            Refusal.THROTTLED,
            "AWS asks to send less",
            codes=(
                "ThrottlingException",
                "ProvisionedThroughputExceededException",
                "LimitExceededException",
            ),
        ),
        ErrorRule(
            Refusal.TRANSIENT,
            "AWS has trouble of its own",
            codes=("InternalServerError", "ServiceUnavailable", "ServiceUnavailableException"),
        ),
        ErrorRule(
            Refusal.UNAUTHENTICATED,
            "the session that the AWS keys belong to has ended",
            codes=("ExpiredTokenException", "ExpiredToken"),
        ),
        ErrorRule(
            Refusal.CLOCK,
            "this device's clock and AWS's are too far apart",
            codes=("signed at another time", "RequestTimeTooSkewed", "RequestExpired"),
        ),
        ErrorRule(
            Refusal.FORBIDDEN,
            "AWS does not accept the access key or its signature",
            codes=(
                "UnrecognizedClientException",
                "InvalidSignatureException",
                "SignatureDoesNotMatch",
                "InvalidClientTokenId",
                "MissingAuthenticationToken",
                "MissingAuthenticationTokenException",
                "IncompleteSignature",
                "IncompleteSignatureException",
            ),
        ),
        ErrorRule(
            Refusal.FORBIDDEN,
            "AWS does not permit this key to call rekognition:DetectFaces",
            codes=("AccessDeniedException", "AccessDenied", "OptInRequired"),
        ),
        ErrorRule(
            Refusal.SIZE,
            "AWS finds the picture too large",
            codes=("ImageTooLargeException",),
        ),
        ErrorRule(
            Refusal.PICTURE,
            "AWS cannot read the picture",
            codes=("InvalidImageFormatException",),
        ),
        ErrorRule(Refusal.CONTRACT, "AWS does not accept the request", statuses=(400,)),
    )
)
"""Codes decide, not statuses: throttling comes as 400, and as 500.

Source: botocore 1.44.8, `rekognition/2016-06-27/service-2`; AWS General Reference, "Common
errors"."""

_OTHER_TIME = ("Signature expired", "Signature not yet current")
"""How the message of an InvalidSignatureException begins when the clock is what is wrong."""


class AwsRekognition:
    """Asks Amazon Rekognition for boxes, scores and landmarks.

    Args:
        region: The region that processes the pictures, such as ``eu-west-1``.

    Raises:
        ConfigurationError: If `region` is no name of a region.
    """

    name = "aws"
    capabilities = Capabilities(
        formats=frozenset({"jpeg", "png"}),
        max_picture_bytes=5 * 1024 * 1024,
        min_side_px=80,
        max_results=100,
        landmarks=("right_eye", "left_eye", "nose_tip", "mouth_center"),
        price_per_image=0.0010,
        price_as_of=date(2026, 10, 7),
        retention="none by DetectFaces itself; content may be stored to improve AWS AI services",
        trains_on_data=True,
        opt_out=(
            "an account setting, which no request can carry: AISERVICES_OPT_OUT_POLICY of AWS "
            "Organizations with rekognition: optOut"
        ),
        regions=(
            "ap-northeast-1",
            "ap-northeast-2",
            "ap-south-1",
            "ap-southeast-1",
            "ap-southeast-2",
            "ap-southeast-5",
            "ap-southeast-7",
            "ca-central-1",
            "eu-central-1",
            "eu-south-2",
            "eu-west-1",
            "eu-west-2",
            "il-central-1",
            "sa-east-1",
            "us-east-1",
            "us-east-2",
            "us-gov-west-1",
            "us-west-1",
            "us-west-2",
        ),
        facts_from="Amazon Rekognition Developer Guide and service model; AWS's price list, first "
        "million images of a month",
        facts_as_of=date(2026, 11, 22),
    )

    def __init__(self, *, region: str) -> None:
        if not re.fullmatch(r"[a-z]{2,}(?:-[a-z]+)+-[0-9]+", region):
            msg = f"region: expected a name such as 'eu-west-1', got {region!r}"
            raise ConfigurationError(msg)
        self.region = region
        self.url = f"https://rekognition.{region}.amazonaws.com"

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """As configuration spells it.

        Raises:
            ConfigurationError: If an option is unknown or cannot be used.
        """
        return cls(**checked_options(cls, options))

    def encode(self, pictures: Sequence[CompressedImage], params: DetectParams) -> HttpRequest:
        """A POST with the one picture as base64 in JSON."""
        (picture,) = pictures
        body = b"".join((_BEFORE, base64.b64encode(picture.data), _AFTER))
        return HttpRequest(url="/", headers=_HEADERS, body=body)

    def decode(
        self, response: HttpResponse, pictures: Sequence[CompressedImage]
    ) -> tuple[ResultReply, ...]:
        """The faces in ``FaceDetails``, which may be empty.

        Raises:
            BackendResponseError: If the status is not 200.
            ProtocolError: If the answer has no ``FaceDetails``. AWS's own client takes an empty
                body, or a page, for a result without faces.
        """
        if response.status != 200:
            raise _refusal(response)
        if not pictures:
            return ()
        (picture,) = pictures
        answer = object_of(json_of(response, provider="AWS"), "the answer")
        if "FaceDetails" not in answer:
            msg = "expected 'FaceDetails' in the answer of AWS, got none"
            raise ProtocolError(msg)
        found = items_of(answer["FaceDetails"], "FaceDetails")
        return (
            ResultReply(
                request_id=0,
                width=picture.width,
                height=picture.height,
                faces=faces_of(_face(each, picture) for each in found),
                model="aws/rekognition",
            ),
        )

    def health(self) -> None:
        """Rekognition has no request that says without a price that all is well."""
        return


def _face(value: Any, picture: CompressedImage) -> Face | Unusable | None:
    found = object_of(value, "a face")
    box = found.get("BoundingBox")
    (score,) = numbers_of(found, ("Confidence",), missing=None)
    return face_of(
        numbers_of({} if box is None else box, _SIDES),
        score_of(score, most=100),
        box_format="xywh",
        is_fraction=True,
        width=picture.width,
        height=picture.height,
        keypoints=_keypoints(found.get("Landmarks"), picture),
    )


def _keypoints(value: Any, picture: CompressedImage) -> tuple[Keypoint, ...]:
    if value is None:
        return ()
    places: dict[str, Point] = {}
    for each in items_of(value, "Landmarks"):
        x, y = numbers_of(each, ("X", "Y"))
        place = (None, None) if x is None or y is None else (x * picture.width, y * picture.height)
        places[text_of(each.get("Type"))] = place
    nowhere = (None, None)
    return keypoints_of(
        eyes=(places.get("eyeLeft", nowhere), places.get("eyeRight", nowhere)),
        nose=places.get("nose"),
        mouth=(places.get("mouthLeft", nowhere), places.get("mouthRight", nowhere)),
    )


def _refusal(response: HttpResponse) -> BackendResponseError:
    code = message = ""
    try:
        error = json.loads(response.body)
        # "com.amazonaws.rekognition#ThrottlingException:http://..." in the longest form.
        named = error.get("__type") or error.get("Code") or error.get("code")
        code = text_of(named).partition(":")[0].rpartition("#")[2]
        message = text_of(error.get("message") or error.get("Message"))
    except (ValueError, AttributeError, RecursionError):
        pass
    variant = ""
    if code in {"InvalidSignatureException", "SignatureDoesNotMatch"}:
        variant = "signed at another time" if message.startswith(_OTHER_TIME) else ""
    return _ERRORS.error(response, code=code, variant=variant)
