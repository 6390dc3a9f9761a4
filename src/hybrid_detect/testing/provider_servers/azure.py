"""A server that answers and refuses as Azure AI Face's ``detect`` does."""

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = ["AzureServer"]

MIN_PICTURE_BYTES = 1024
MAX_PICTURE_BYTES = 6 * 1024 * 1024
MAX_FACES = 100

_PATHS = ("/face/v1.0/detect", "/face/v1.1/detect", "/face/v1.2/detect")
_FORMATS = {"jpeg", "png", "gif", "bmp"}
_DETECTION_MODELS = ("detection_01", "detection_02", "detection_03")
_RECOGNITION_MODELS = tuple(f"recognition_0{number}" for number in range(1, 5))

_POINTS = {"pupilLeft": "right_eye", "pupilRight": "left_eye", "noseTip": "nose_tip"}
"""Azure's names of the viewer's side, by the person's own."""

_ALL_POINTS = (
    *_POINTS,
    *("mouthLeft", "mouthRight", "noseRootLeft", "noseRootRight"),
    *(f"eyebrow{side}{end}" for side in ("Left", "Right") for end in ("Outer", "Inner")),
    *(
        f"eye{side}{end}"
        for side in ("Left", "Right")
        for end in ("Outer", "Top", "Bottom", "Inner")
    ),
    *(f"nose{side}Alar{end}" for side in ("Left", "Right") for end in ("Top", "OutTip")),
    *(f"{lip}Lip{end}" for lip in ("upper", "under") for end in ("Top", "Bottom")),
)


class AzureServer(ProviderServer):
    """Azure AI Face, for a resource that is not approved for face ids.

    Args:
        api_key: The one key of the resource.
        token: The one bearer token that is known.
        faces: As in `ProviderServer`; their scores are not told.
    """

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

    def answer(self, request: ReceivedRequest) -> Answer:
        """The faces, largest first.

        Raises:
            Refused: As the service would refuse the request.
        """
        if request.method != "POST" or request.path not in _PATHS:
            raise Refused(404, "404", "Resource not found")
        self._check_credentials(request)
        query = request.query
        has_points = _flag(query.get("returnFaceLandmarks", "false"))
        model = query.get("detectionModel", "detection_01")
        if (
            model not in _DETECTION_MODELS
            or query.get("recognitionModel", "recognition_01") not in _RECOGNITION_MODELS
            or (has_points and model == "detection_02")
        ):
            raise Refused(400, "BadArgument", "Request body or query is invalid.")
        if _flag(query.get("returnFaceId", "true")):
            raise Refused(403, "UnsupportedFeature", "Feature is not supported, missing approval")
        if request.headers.get("content-type") != "application/octet-stream":
            raise Refused(415, "UnsupportedMediaType", "Unsupported media type.")
        seen = self._seen(request.body)
        faces = sorted(self.faces, key=lambda face: face.box.area, reverse=True)
        return json_answer(
            [_face(face, seen, has_points=has_points) for face in faces[:MAX_FACES]],
            apim_request_id=f"request-{len(self.requests)}",
        )

    def error_answer(self, status: int, code: str, message: str) -> Answer:
        """An error as Azure spells it, in the body and in a header."""
        headers = {"apim_request_id": f"request-{len(self.requests)}", "x_ms_error_code": code}
        return json_answer({"error": {"code": code, "message": message}}, status, **headers)

    def _check_credentials(self, request: ReceivedRequest) -> None:
        key = request.headers.get("ocp-apim-subscription-key")
        if key != self.api_key and request.headers.get("authorization") != f"Bearer {self.token}":
            raise Refused(401, "401", "Access denied due to invalid subscription key.")

    def _seen(self, data: bytes) -> SeenPicture:
        if not MIN_PICTURE_BYTES <= len(data) <= MAX_PICTURE_BYTES:
            words = "small" if len(data) < MIN_PICTURE_BYTES else "large"
            raise Refused(400, "InvalidImageSize", f"Image size is too {words}.")
        seen = self.see(data)
        if seen is None or seen.format not in _FORMATS:
            raise Refused(400, "InvalidImage", "Decoding error, image format unsupported.")
        return seen


def _flag(value: str) -> bool:
    if value not in ("true", "false"):
        raise Refused(400, "BadArgument", "Request body or query is invalid.")
    return value == "true"


def _face(face: Face, seen: SeenPicture, *, has_points: bool) -> dict[str, Any]:
    left, top, right, bottom = (round(s) for s in face.box.scaled(seen.width, seen.height).xyxy)
    rectangle = {"top": top, "left": left, "width": right - left, "height": bottom - top}
    if not has_points:
        return {"faceRectangle": rectangle}
    at = {point.name: (point.x * seen.width, point.y * seen.height) for point in face.keypoints}
    middle = ((left + right) / 2, (top + bottom) / 2)
    # Of the points that a face here does not have, a real one has all.
    marks = {name: at.get(_POINTS.get(name, ""), middle) for name in _ALL_POINTS}
    points = {name: {"x": x, "y": y} for name, (x, y) in marks.items()}
    return {"faceRectangle": rectangle, "faceLandmarks": points}
