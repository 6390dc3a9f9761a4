"""CompreFace 1.2: a detection service of a server of one's own."""

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
    number_of,
    numbers_of,
    object_of,
    text_of,
)
from hybrid_detect.backends.remote.providers.forms import form
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
from hybrid_detect.errors import ConfigurationError, Refusal
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.types import Face, Keypoint

__all__ = ["CompreFace"]

_SIDES = ("x_min", "y_min", "x_max", "y_max")

_NO_FACE = "28"

_NAME = re.compile(r"[A-Za-z0-9_.]{1,100}")
"""A detector's name such as ``facenet.FaceDetector``: results and events repeat no other text."""

_FACENET_MARGIN_PX = 16
"""What the detector of the FaceNet plugin adds to each side of a box, in the pixels that it looks
at. Source: exadel-inc/CompreFace, ``plugins/facenet/facenet.py``, ``BOX_MARGIN / 2``."""

_ERRORS = ErrorTable(
    (
        ErrorRule(Refusal.UNAUTHENTICATED, "CompreFace misses the API key", codes=("20",)),
        ErrorRule(
            Refusal.FORBIDDEN, "CompreFace has no detection service of this API key", codes=("10",)
        ),
        ErrorRule(Refusal.TRANSIENT, "CompreFace's detector failed", codes=("41",)),
        ErrorRule(Refusal.PICTURE, "CompreFace cannot read the picture", codes=("21", _NO_FACE)),
        ErrorRule(Refusal.CONTRACT, "CompreFace does not accept the request", statuses=(400,)),
    )
)
"""Source: exadel-inc/CompreFace 1.2.0, the numbers of its exceptions."""


class CompreFace:
    """Asks a detection service of CompreFace.

    Args:
        max_detect_size: The longest side in pixels that the server looks at: its setting
            ``max_detect_size``, 640 unless it was changed. Boxes of its FaceNet plugin are 16 of
            those pixels too large on each side, which is taken off again.
        landmarks: Whether to ask for landmarks, which not every build of the server has.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    name = "compreface"
    key_header = "x-api-key"
    capabilities = Capabilities(
        max_picture_bytes=5 * 1024 * 1024,
        max_request_bytes=10 * 1024 * 1024,
        landmarks=("right_eye", "left_eye", "nose_tip", "mouth_center"),
        retention="on your own server",
        trains_on_data=False,
        facts_from="exadel-inc/CompreFace 1.2.0: docs and source",
        facts_as_of=date(2026, 11, 28),
    )

    def __init__(self, *, max_detect_size: int = 640, landmarks: bool = True) -> None:
        if max_detect_size < 1:
            msg = f"max_detect_size: expected 1 or more, got {max_detect_size}"
            raise ConfigurationError(msg)
        self._max_detect_size = max_detect_size
        self._plugins = "&face_plugins=landmarks" if landmarks else ""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """As configuration spells it.

        Raises:
            ConfigurationError: If an option is unknown or cannot be used.
        """
        return cls(**checked_options(cls, options))

    def encode(self, pictures: Sequence[CompressedImage], params: DetectParams) -> HttpRequest:
        """A form with the one picture. The plugins' own thresholds differ, so one is always sent.

        ``status=true`` makes the answer name the detector.
        """
        (picture,) = pictures
        url = (
            f"/api/v1/detection/detect?limit=0&det_prob_threshold={params.threshold:g}"
            f"{self._plugins}&status=true"
        )
        media_type, body = form(picture, name="file")
        headers = {"Accept": "application/json", "Content-Type": media_type}
        return HttpRequest(url=url, headers=headers, body=body)

    def decode(
        self, response: HttpResponse, pictures: Sequence[CompressedImage]
    ) -> tuple[ResultReply, ...]:
        """The faces, or none where the server answers 400 with code 28.

        It says the same of a picture that it cannot read, which those made here are not.

        Raises:
            BackendResponseError: If the server refused.
            ProtocolError: If the answer is not one of CompreFace's.
        """
        if response.status != 200:
            code = _code_of(response)
            if not (response.status == 400 and code == _NO_FACE and pictures):
                raise _ERRORS.error(response, code=code)
            return tuple(
                ResultReply(request_id=0, width=p.width, height=p.height) for p in pictures
            )
        if not pictures:
            return ()
        (picture,) = pictures
        answer = object_of(json_of(response, provider=self.name), "the answer")
        versions = answer.get("plugins_versions")
        detector = text_of(versions.get("detector")) if isinstance(versions, dict) else ""
        margin_px = 0.0
        if detector.startswith("facenet."):
            longer = max(picture.width, picture.height)
            margin_px = _FACENET_MARGIN_PX * max(longer / self._max_detect_size, 1.0)
        found = items_of(answer.get("result"), "result")
        return (
            ResultReply(
                request_id=0,
                width=picture.width,
                height=picture.height,
                faces=faces_of(_face(each, picture, margin_px) for each in found),
                model=detector if _NAME.fullmatch(detector) else "compreface",
            ),
        )

    def health(self) -> None:
        """The detection service has no address but that for pictures."""
        return


def _face(value: Any, picture: CompressedImage, margin_px: float) -> Face | Unusable | None:
    face = object_of(value, "a face")
    box = object_of(face.get("box"), "box")
    return face_of(
        _without_margin(numbers_of(box, _SIDES), picture, margin_px),
        score_of(number_of(box.get("probability"), "probability")),
        box_format="xyxy",
        width=picture.width,
        height=picture.height,
        keypoints=_keypoints(face.get("landmarks")),
    )


def _without_margin(
    sides: list[float | None], picture: CompressedImage, margin_px: float
) -> list[float | None]:
    """`sides` moved inward by the margin, but for those at the picture's edge.

    There the server has cut the margin off, and how much of it is not told.
    """
    left, top, right, bottom = sides
    if not margin_px or left is None or top is None or right is None or bottom is None:
        return sides
    rounding_px = margin_px / _FACENET_MARGIN_PX
    left = left + margin_px if left > rounding_px else left
    top = top + margin_px if top > rounding_px else top
    right = right - margin_px if right < picture.width - rounding_px else right
    bottom = bottom - margin_px if bottom < picture.height - rounding_px else bottom
    return [left, top, max(left, right), max(top, bottom)]


def _keypoints(value: Any) -> tuple[Keypoint, ...]:
    """Five points: two eyes, the nose, two corners of the mouth."""
    if value is None:
        return ()
    points = items_of(value, "landmarks")
    if len(points) != 5:
        return ()
    first, second, nose, *mouth = (_point(point) for point in points)
    return keypoints_of(eyes=(first, second), nose=nose, mouth=mouth)


def _point(value: Any) -> Point:
    sides = items_of(value, "a landmark")
    if len(sides) != 2:
        return None, None
    return number_of(sides[0], "a landmark"), number_of(sides[1], "a landmark")


def _code_of(response: HttpResponse) -> str:
    try:
        code = json.loads(response.body)["code"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return str(code) if isinstance(code, int) and 0 <= code < 1000 else ""
