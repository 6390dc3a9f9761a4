"""A server that answers, refuses and throttles as Amazon Rekognition's ``DetectFaces`` does."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hybrid_detect.geometry import Face
from hybrid_detect.testing.provider_servers.base import (
    ONE_FACE,
    Answer,
    ProviderServer,
    ReceivedRequest,
    Refused,
)

__all__ = ["AwsServer"]

MAX_PICTURE_BYTES = 5_242_880
MIN_SIDE_PX = 80
MAX_FACES = 100
CLOCK_TOLERANCE_S = 300

_ATTRIBUTES = {"ALL", "DEFAULT", "AGE_RANGE", "BEARD", "EMOTIONS", "EYE_DIRECTION", "EYEGLASSES"}
_ATTRIBUTES |= {"EYES_OPEN", "GENDER", "MOUTH_OPEN", "MUSTACHE", "FACE_OCCLUDED", "SMILE"}
_ATTRIBUTES |= {"SUNGLASSES"}
"""Source: botocore 1.44.8, `rekognition/2016-06-27/service-2`, enum Attribute."""

_LANDMARKS = {"right_eye": "eyeLeft", "left_eye": "eyeRight", "nose_tip": "nose"}
"""Which of the two AWS calls left is not documented; this is the viewer's."""

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<day>\d{8})/(?P<place>[^ ]+)/aws4_request, "
    r"SignedHeaders=(?P<names>[a-z0-9;-]+), Signature=(?P<signature>[0-9a-f]{64})"
)


class AwsServer(ProviderServer):
    """Amazon Rekognition's ``DetectFaces``, behind a check of every request's signature.

    The check is written from AWS's description, apart from this library's own signer.

    Args:
        access_key_id: The one key that is known.
        secret_access_key: Its secret.
        session_token: The token that must come with it; `None` for a lasting key.
        region: The region that requests must be signed for.
        faces: As in `ProviderServer`.
    """

    def __init__(
        self,
        *,
        access_key_id: str = "AKIDEXAMPLE",
        secret_access_key: str = "secret",  # noqa: S107 - of a server on loopback
        session_token: str | None = None,
        region: str = "eu-west-1",
        faces: Sequence[Face] = ONE_FACE,
    ) -> None:
        super().__init__(faces=faces)
        self.access_key_id = access_key_id
        self.secret_access_key = secret_access_key
        self.session_token = session_token
        self.region = region
        self.ended_tokens: set[str] = set()
        """Session tokens that have ended."""

    def answer(self, request: ReceivedRequest) -> Answer:
        """The faces in the one picture.

        Raises:
            Refused: As the service would refuse it.
        """
        if request.method != "POST" or request.path != "/":
            raise Refused(404, "UnknownOperationException")
        self._check_signature(request)
        if request.headers.get("x-amz-target") != "RekognitionService.DetectFaces":
            raise Refused(400, "UnknownOperationException")
        if request.headers.get("content-type") != "application/x-amz-json-1.1":
            raise Refused(400, "SerializationException", "wrong content type")
        self._check_picture(request)
        faces = sorted(self.faces, key=lambda face: -face.box.area)[:MAX_FACES]
        return self._answer(200, {"FaceDetails": [_detail(face) for face in faces]})

    def _check_picture(self, request: ReceivedRequest) -> None:
        try:
            asked = request.json()
        except ValueError:
            raise Refused(400, "SerializationException") from None
        image = asked.get("Image") if isinstance(asked, dict) else None
        attributes = asked.get("Attributes", []) if isinstance(asked, dict) else []
        if not isinstance(image, dict) or not set(attributes) <= _ATTRIBUTES:
            raise Refused(400, "ValidationException")
        try:
            data = base64.b64decode(image.get("Bytes", ""), validate=True)
        except (binascii.Error, TypeError):
            raise Refused(400, "SerializationException") from None
        if len(data) > MAX_PICTURE_BYTES:
            raise Refused(400, "ImageTooLargeException")
        seen = self.see(data)
        if seen is None or seen.format not in {"jpeg", "png"}:
            raise Refused(400, "InvalidImageFormatException")
        if min(seen.width, seen.height) < MIN_SIDE_PX:
            raise Refused(400, "InvalidParameterException", "the image is too small")

    def error_answer(self, status: int, code: str, message: str) -> Answer:
        """An error as the JSON 1.1 protocol of AWS spells it."""
        return self._answer(status, {"__type": code, "Message": message})

    def _answer(self, status: int, value: object) -> Answer:
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "x-amzn-RequestId": str(uuid.uuid4()),
        }
        return Answer(status, json.dumps(value).encode(), headers)

    def _check_signature(self, request: ReceivedRequest) -> None:
        """Verify Signature Version 4, step by step as AWS describes it."""
        stated = _AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
        if stated is None:
            raise Refused(400, "MissingAuthenticationTokenException", "Missing Token")
        token = request.headers.get("x-amz-security-token")
        if stated["key"] != self.access_key_id:
            raise Refused(400, "UnrecognizedClientException", "The security token is invalid.")
        if token in self.ended_tokens:
            raise Refused(400, "ExpiredTokenException", "The security token has expired")
        if token != self.session_token:
            raise Refused(400, "UnrecognizedClientException", "The security token is invalid.")
        self._check_time(request.headers.get("x-amz-date", ""))
        names = stated["names"].split(";")
        is_whole = {"host", "x-amz-date", "x-amz-target"} <= set(names) and names == sorted(names)
        scope = f"{stated['day']}/{self.region}/rekognition/aws4_request"
        if not is_whole or stated["place"] != f"{self.region}/rekognition":
            raise Refused(400, "InvalidSignatureException", "Credential should be scoped")
        lines = [request.method, request.path, ""]
        lines += [f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in names]
        lines += ["", stated["names"], hashlib.sha256(request.body).hexdigest()]
        hashed = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{request.headers['x-amz-date']}\n{scope}\n{hashed}"
        key = b"AWS4" + self.secret_access_key.encode()
        for part in (stated["day"], self.region, "rekognition", "aws4_request", to_sign):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        if not hmac.compare_digest(key.hex(), stated["signature"]):
            message = "The request signature we calculated does not match"
            raise Refused(400, "InvalidSignatureException", message)

    def _check_time(self, text: str) -> None:
        try:
            then_s = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        except ValueError:
            raise Refused(400, "IncompleteSignatureException") from None
        late_s = self.now_s() - then_s
        if late_s > CLOCK_TOLERANCE_S:
            message = f"Signature expired: {text} is now earlier than the server's time"
            raise Refused(400, "InvalidSignatureException", message)
        if late_s < -CLOCK_TOLERANCE_S:
            message = f"Signature not yet current: {text} is still later than the server's time"
            raise Refused(400, "InvalidSignatureException", message)


def _detail(face: Face) -> dict[str, Any]:
    box = face.box
    detail: dict[str, Any] = {
        "BoundingBox": {
            "Width": box.width,
            "Height": box.height,
            "Left": box.x_min,
            "Top": box.y_min,
        },
        "Landmarks": [
            {"Type": _LANDMARKS[point.name], "X": point.x, "Y": point.y}
            for point in face.keypoints
            if point.name in _LANDMARKS
        ],
        "Pose": {"Roll": 0.0, "Yaw": 0.0, "Pitch": 0.0},
        "Quality": {"Brightness": 80.0, "Sharpness": 80.0},
    }
    if face.score is not None:
        detail["Confidence"] = face.score * 100
    return detail
