"""A server that answers and refuses as a detection service of CompreFace 1.2 does."""

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
from hybrid_detect.testing.provider_servers.forms import parts_of

__all__ = ["CompreFaceServer"]

MAX_PICTURE_BYTES = 5 * 1024 * 1024
MAX_DETECT_SIZE = 640

_MARGIN_PX = 16
_PATH = "/api/v1/detection/detect"
_EXTENSIONS = ("jpeg", "jpg", "ico", "png", "bmp", "gif", "tif", "tiff", "webp")
_THRESHOLDS = {"facenet": 0.65, "insightface": 0.8}


class CompreFaceServer(ProviderServer):
    """CompreFace: no face is an error, and FaceNet's boxes are too large.

    Args:
        api_key: The one key of a detection service.
        detector: ``facenet`` or ``insightface``, the plugin that detects.
        faces: As in `ProviderServer`.
    """

    def __init__(
        self,
        *,
        api_key: str = "key",
        detector: str = "facenet",
        faces: Sequence[Face] = ONE_FACE,
    ) -> None:
        super().__init__(faces=faces)
        self.api_key = api_key
        self.detector = detector

    def answer(self, request: ReceivedRequest) -> Answer:
        """The faces above the threshold.

        Raises:
            Refused: As the service would refuse the request, or if there is no such face.
        """
        if request.method != "POST" or request.path != _PATH:
            raise Refused(404, "0", "Not found")
        key = request.headers.get("x-api-key")
        if key is None:
            raise Refused(400, "20", "Missing header: x-api-key")
        if key != self.api_key:
            raise Refused(404, "10", "Model of type DETECTION not found")
        name, data = parts_of(request).get("file", ("", b""))
        if not data:
            raise Refused(400, "34", "Required part of request is missing: file")
        if name.rpartition(".")[2].lower() not in _EXTENSIONS:
            raise Refused(400, "21", "This type of file is not allowed")
        if len(data) > MAX_PICTURE_BYTES:
            raise Refused(413, "0", "Maximum upload size exceeded")
        query = request.query
        seen = self.see(data)
        threshold = float(query.get("det_prob_threshold", _THRESHOLDS[self.detector]))
        found = [face for face in self.faces if (face.score or 0.0) > threshold]
        if seen is None or not found:
            # It says the same of a picture that it cannot read.
            raise Refused(400, "28", "No face is found in the given image")
        limit = int(query.get("limit", 0))
        plugins = query.get("face_plugins", "").split(",")
        answer: dict[str, Any] = {
            "result": [
                self._face(face, seen, has_points="landmarks" in plugins)
                for face in found[: limit or None]
            ]
        }
        if query.get("status") == "true":
            answer["plugins_versions"] = {"detector": f"{self.detector}.FaceDetector"}
        return json_answer(answer)

    def error_answer(self, status: int, code: str, message: str) -> Answer:
        """An error as CompreFace spells it: its codes are numbers."""
        number = int(code) if code.isdigit() else 0
        return json_answer({"message": message, "code": number}, status)

    def _face(self, face: Face, seen: SeenPicture, *, has_points: bool) -> dict[str, Any]:
        scale = max(max(seen.width, seen.height) / MAX_DETECT_SIZE, 1.0)
        margin = _MARGIN_PX if self.detector == "facenet" else 0
        width, height = seen.width / scale, seen.height / scale
        left, top, right, bottom = face.box.scaled(width, height).xyxy
        sides = {
            "x_min": int(max(left - margin, 0)),
            "y_min": int(max(top - margin, 0)),
            "x_max": int(min(right + margin, width)),
            "y_max": int(min(bottom + margin, height)),
        }
        box = {name: int(side * scale) for name, side in sides.items()}
        found: dict[str, Any] = {"box": {"probability": face.score, **box}}
        if has_points and face.keypoints:
            at = {p.name: [int(p.x * seen.width), int(p.y * seen.height)] for p in face.keypoints}
            nose = at["nose_tip"]
            mouth = [[nose[0] - 4, nose[1] + 8], [nose[0] + 4, nose[1] + 8]]
            found["landmarks"] = [at["right_eye"], at["left_eye"], nose, *mouth]
        return found
