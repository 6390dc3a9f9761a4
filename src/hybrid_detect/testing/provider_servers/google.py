"""A server that answers and refuses as Google Cloud Vision's ``images:annotate`` does."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hybrid_detect.geometry import Face
from hybrid_detect.testing.provider_servers.base import (
    ONE_FACE,
    Answer,
    ProviderServer,
    ReceivedRequest,
    Refused,
    SeenPicture,
    json_answer,
)

__all__ = ["GoogleServer"]

MAX_REQUEST_BYTES = 10_485_760
MAX_PICTURES = 16
MAX_PIXELS = 75_000_000
DEFAULT_RESULTS = 10

_PATH = re.compile(r"/v1/(?:projects/[^/]+/(?:locations/[^/]+/)?)?images:annotate")
_FORMATS = {"jpeg", "png", "gif", "bmp", "webp", "ico", "tiff"}
_FIELDS = {"image", "features", "imageContext"}
_FACES = ("FACE_DETECTION", 1)
"""JSON may spell an enum as its name or its number, as Google's own client does."""

_LANDMARKS = {"right_eye": "LEFT_EYE", "left_eye": "RIGHT_EYE", "nose_tip": "NOSE_TIP"}
"""Google's left is the viewer's."""

_REASONS = {"API_KEY_INVALID": "INVALID_ARGUMENT"}
"""Codes that are reasons of another status."""


class GoogleServer(ProviderServer):
    """Google Cloud Vision's ``images:annotate``, for face detection alone.

    Args:
        api_key: The one key that is known.
        token: The one bearer token that is known.
        faces: As in `ProviderServer`.
    """

    picture_errors: Mapping[int, int]
    """Codes (google.rpc.Code) of the pictures of a request that fail, by their place in it."""

    def __init__(
        self,
        *,
        api_key: str = "key",
        token: str = "token",  # noqa: S107 - of a server on loopback
        faces: Sequence[Face] = ONE_FACE,
    ) -> None:
        super().__init__(faces=faces)
        self.api_key = api_key
        self.token = token
        self.picture_errors = {}

    def answer(self, request: ReceivedRequest) -> Answer:
        """One answer for each picture.

        Raises:
            Refused: As the service would refuse the whole request.
        """
        if request.method != "POST" or not _PATH.fullmatch(request.path):
            raise Refused(404, "NOT_FOUND")
        self._check_credentials(request)
        if len(request.body) > MAX_REQUEST_BYTES:
            raise Refused(400, "INVALID_ARGUMENT", "Request payload size exceeds the limit")
        try:
            asked = request.json()["requests"]
        except (ValueError, TypeError, KeyError):
            raise Refused(400, "INVALID_ARGUMENT", "Invalid JSON payload received.") from None
        if not isinstance(asked, list) or not 0 < len(asked) <= MAX_PICTURES:
            raise Refused(400, "INVALID_ARGUMENT", "Too many images per request.")
        found = [self._one(index, each) for index, each in enumerate(asked)]
        answer = {"responses": found}
        fields = request.query.get("fields")
        return json_answer(_masked(answer, _mask(fields)) if fields else answer)

    def error_answer(self, status: int, code: str, message: str) -> Answer:
        """An error as Google's APIs spell it."""
        name = _REASONS.get(code, code)
        error: dict[str, Any] = {"code": status, "message": message, "status": name}
        if name != code:
            kind = "type.googleapis.com/google.rpc.ErrorInfo"
            error["details"] = [{"@type": kind, "reason": code, "domain": "googleapis.com"}]
        return json_answer({"error": error}, status)

    def _check_credentials(self, request: ReceivedRequest) -> None:
        key = request.headers.get("x-goog-api-key") or request.query.get("key")
        authorization = request.headers.get("authorization")
        if authorization is not None:
            if authorization != f"Bearer {self.token}":
                raise Refused(401, "UNAUTHENTICATED", "Invalid authentication credentials.")
        elif key is None:
            raise Refused(403, "PERMISSION_DENIED", "The request is missing an API key.")
        elif key != self.api_key:
            raise Refused(400, "API_KEY_INVALID", "API key not valid.")

    def _one(self, index: int, asked: Any) -> dict[str, Any]:
        most = _most_results(asked)
        if code := self.picture_errors.get(index):
            return {"error": {"code": code, "message": "as the test wished"}}
        try:
            data = base64.b64decode(asked["image"]["content"], validate=True)
        except (binascii.Error, TypeError, KeyError):
            raise Refused(400, "INVALID_ARGUMENT", "Base64 decoding failed") from None
        seen = self.see(data)
        is_good = seen is not None and seen.format in _FORMATS
        if seen is None or not is_good or seen.width * seen.height > MAX_PIXELS:
            return {"error": {"code": 3, "message": "Bad image data."}}
        faces = [_annotation(face, seen) for face in self.faces[:most]]
        return {"faceAnnotations": faces} if faces else {}


def _most_results(asked: Any) -> int:
    """How many faces a request for one picture wants."""
    features = asked.get("features") if isinstance(asked, dict) else None
    if not isinstance(features, list) or not set(asked) <= _FIELDS or len(features) != 1:
        raise Refused(400, "INVALID_ARGUMENT", "Unknown name")
    (feature,) = features
    if not set(feature) <= {"type", "maxResults", "model"}:
        raise Refused(400, "INVALID_ARGUMENT", "Unknown name")
    if feature.get("type") not in _FACES:
        raise Refused(400, "INVALID_ARGUMENT", "Invalid value at 'requests[0].features[0].type'")
    return int(feature.get("maxResults", DEFAULT_RESULTS))


def _annotation(face: Face, seen: SeenPicture) -> dict[str, Any]:
    box = face.box.scaled(seen.width, seen.height)
    left, top, right, bottom = (round(side) for side in box.xyxy)
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    polygon = {"vertices": [_without_zeros({"x": x, "y": y}) for x, y in corners]}
    landmarks = [
        {
            "type": _LANDMARKS[point.name],
            "position": _without_zeros(
                {"x": point.x * seen.width, "y": point.y * seen.height, "z": -0.5}
            ),
        }
        for point in face.keypoints
        if point.name in _LANDMARKS
    ]
    return _without_zeros(
        {
            "boundingPoly": polygon,
            "fdBoundingPoly": polygon,
            "landmarks": landmarks,
            "detectionConfidence": face.score or 0,
            "rollAngle": 1.5,
            "joyLikelihood": "UNKNOWN",
        }
    )


def _without_zeros(value: dict[str, Any]) -> dict[str, Any]:
    """What proto3 writes of `value` as JSON: zeros are left out."""
    return {name: each for name, each in value.items() if each != 0}


_Mask = dict[str, "_Mask | None"]


def _mask(text: str) -> _Mask:
    """The tree that a ``fields`` parameter such as ``a,b(c,d)`` spells."""
    return _branch(iter(re.findall(r"[A-Za-z]+|[(),]", text)))


def _branch(parts: Iterator[str]) -> _Mask:
    tree: _Mask = {}
    last = ""
    for part in parts:
        if part == "(":
            tree[last] = _branch(parts)
        elif part == ")":
            break
        elif part != ",":
            last = part
            tree[last] = None
    return tree


def _masked(value: Any, mask: _Mask | None) -> Any:
    if mask is None:
        return value
    if isinstance(value, list):
        return [_masked(each, mask) for each in value]
    return {name: _masked(each, mask[name]) for name, each in value.items() if name in mask}
