"""A server that answers and refuses as CodeProject.AI Server and DeepStack do."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hybrid_detect.geometry import Face
from hybrid_detect.testing.provider_servers.base import (
    ONE_FACE,
    Answer,
    Failure,
    ProviderServer,
    ReceivedRequest,
    Refused,
    SeenPicture,
    json_answer,
)
from hybrid_detect.testing.provider_servers.forms import parts_of

__all__ = ["CodeProjectServer"]


class CodeProjectServer(ProviderServer):
    """CodeProject.AI Server with its face module; or DeepStack.

    Args:
        api_key: The key that the form has to carry; empty takes every request.
        is_deepstack: Whether it is DeepStack, which has no ping.
        default_confidence: The threshold where the form says none: 0.67 is the face module's.
        in_percent: Whether scores go up to 100, as the documentation shows them.
        faces: As in `ProviderServer`.
    """

    def __init__(
        self,
        *,
        api_key: str = "",
        is_deepstack: bool = False,
        default_confidence: float = 0.67,
        in_percent: bool = False,
        faces: Sequence[Face] = ONE_FACE,
    ) -> None:
        super().__init__(faces=faces)
        self.api_key = api_key
        self.is_deepstack = is_deepstack
        self.default_confidence = default_confidence
        self.in_percent = in_percent

    @staticmethod
    def unsuccessful(error: str = "An Error occurred during processing") -> Failure:
        """A failure that has a status of 200, as these servers often do."""
        said = {"success": False, "error": error, "err_trace": "Traceback", "code": 500}
        return Failure(200, body=json.dumps(said).encode())

    def answer(self, request: ReceivedRequest) -> Answer:
        """The faces above the threshold.

        Raises:
            Refused: As the server would refuse the request.
        """
        if request.path == "/v1/status/ping" and not self.is_deepstack:
            return json_answer({"success": True})
        if request.method != "POST" or request.path != "/v1/vision/face":
            raise Refused(404, "404", "Not found")
        parts = {name: content for name, (_, content) in parts_of(request).items()}
        if self.api_key and parts.get("api_key") != self.api_key.encode():
            raise Refused(401, "401", "Incorrect api key")
        seen = self.see(parts.get("image", b""))
        if seen is None:
            said = {"success": False, "error": "The image provided was of an unknown type"}
            return json_answer(said)
        threshold = float(parts.get("min_confidence", str(self.default_confidence).encode()))
        found = [face for face in self.faces if (face.score or 0.0) >= threshold]
        predictions = [self._prediction(face, seen) for face in found]
        answer = {"success": True, "predictions": predictions}
        if not self.is_deepstack:
            answer |= {"count": len(found), "message": "", "inferenceMs": 12, "processMs": 14}
        return json_answer(answer)

    def error_answer(self, status: int, code: str, message: str) -> Answer:
        """An error as these servers spell it."""
        return json_answer({"success": False, "error": message, "code": status}, status)

    def _prediction(self, face: Face, seen: SeenPicture) -> dict[str, float]:
        left, top, right, bottom = face.box.scaled(seen.width, seen.height).xyxy
        return {
            "confidence": (face.score or 0.0) * (100 if self.in_percent else 1),
            "x_min": round(left),
            "y_min": round(top),
            "x_max": round(right),
            "y_max": round(bottom),
        }
