"""A server that answers and refuses as Roboflow Inference 1.8 does."""

from __future__ import annotations

import base64
import binascii
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

__all__ = ["RoboflowServer"]

DEFAULT_CONFIDENCE = 0.4
MAX_DETECTIONS = 300

_V1 = "/infer/object_detection"


class RoboflowServer(ProviderServer):
    """Roboflow Inference with one object detection model, in both forms of its interface.

    Args:
        api_key: The one key, as bearer token, in the body or in the query.
        model: The model's id.
        face_class: What it calls a face.
        faces: As in `ProviderServer`.
    """

    def __init__(
        self,
        *,
        api_key: str = "key",
        model: str = "faces/1",
        face_class: str = "face",
        faces: Sequence[Face] = ONE_FACE,
    ) -> None:
        super().__init__(faces=faces)
        self.api_key = api_key
        self.model = model
        self.face_class = face_class

    def answer(self, request: ReceivedRequest) -> Answer:
        """The objects above the threshold.

        Raises:
            Refused: As the server would refuse the request.
        """
        if request.method == "GET" and request.path == "/info":
            return json_answer({"name": "Roboflow Inference Server", "version": "1.8.3"})
        if request.method == "GET" and request.path == "/model/registry":
            described = {"model_id": self.model, "task_type": "object-detection", "batch_size": 1}
            size = {"input_height": 640, "input_width": 640}
            return json_answer({"models": [{**described, **size}]})
        asked: dict[str, Any] = dict(request.query)
        if request.path == _V1:
            try:
                asked = request.json()
                text = asked["image"]["value"].encode()
                model = asked["model_id"]
            except (ValueError, TypeError, KeyError, AttributeError):
                raise Refused(422, "", "Field required") from None
        else:
            model = request.path.strip("/")
            text = request.body
        self._check_credentials(request, asked)
        if model != self.model:
            raise Refused(404, "", "Model not found")
        seen = self._seen(text, request)
        least = float(asked.get("confidence", DEFAULT_CONFIDENCE))
        found = [face for face in self.faces if (face.score or 0.0) >= least]
        most = int(asked.get("max_detections", MAX_DETECTIONS))
        predictions = [self._prediction(face, seen) for face in found[:most]]
        size = {"width": seen.width, "height": seen.height}
        return json_answer({"time": 0.01, "image": size, "predictions": predictions})

    def error_answer(self, status: int, code: str, message: str) -> Answer:
        """An error as the server spells it: its schema's errors have a form of their own."""
        if status == 422:
            return json_answer({"detail": [{"type": "missing", "msg": message}]}, status)
        return json_answer({"message": message}, status)

    def _check_credentials(self, request: ReceivedRequest, asked: dict[str, Any]) -> None:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.api_key not in (bearer, asked.get("api_key")):
            raise Refused(401, "", "Unauthorized access to roboflow API")

    def _seen(self, text: bytes, request: ReceivedRequest) -> SeenPicture:
        file = parts_of(request).get("file")
        try:
            data = file[1] if file else base64.b64decode(text, validate=True)
        except binascii.Error:
            data = b""
        seen = self.see(data)
        if seen is None:
            raise Refused(400, "", "Could not decode image")
        return seen

    def _prediction(self, face: Face, seen: SeenPicture) -> dict[str, Any]:
        box = face.box.scaled(seen.width, seen.height)
        return {
            "x": (box.x_min + box.x_max) / 2,
            "y": (box.y_min + box.y_max) / 2,
            "width": box.width,
            "height": box.height,
            "confidence": face.score,
            "class": self.face_class,
            "class_id": 0,
            "detection_id": "00000000-0000-0000-0000-000000000000",
        }
