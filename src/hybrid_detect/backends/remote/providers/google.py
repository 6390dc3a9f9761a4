"""Google Cloud Vision: ``images:annotate`` with the feature ``FACE_DETECTION`` alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
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
    each_apart,
    items_of,
    json_of,
    numbers_of,
    object_of,
    text_of,
)
from hybrid_detect.backends.remote.providers.found_faces import (
    Point,
    box_of_polygon,
    faces_of,
    keypoints_of,
    score_of,
)
from hybrid_detect.backends.remote.providers.options import (
    checked_choice,
    checked_name,
    checked_options,
)
from hybrid_detect.backends.remote.retry_after import duration_s
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    ConfigurationError,
    ProtocolError,
    Refusal,
)
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.types import Face, Keypoint

__all__ = ["GoogleVision"]

MODELS = ("builtin/stable", "builtin/latest")

MAX_REQUEST_BYTES = 10_000_000
"""Google says "10 MB"; the smaller reading of it."""

MAX_PICTURES = 16

_ROOM_BYTES = 4096
"""For all of a request that is not a picture."""

_URL = (
    "/v1/images:annotate?prettyPrint=false&fields=responses(error,faceAnnotations("
    "fdBoundingPoly,boundingPoly,landmarks(type,position),detectionConfidence))"
)
"""Of 36 landmarks, eight likelihoods and three angles for each face, what is used."""

_ERRORS = ErrorTable(
    (
        ErrorRule(
            Refusal.UNAUTHENTICATED,
            "Google does not accept the API key or token",
            codes=("API_KEY_INVALID", "UNAUTHENTICATED", "16"),
        ),
        ErrorRule(
            Refusal.FORBIDDEN,
            "Google refuses this project: the API or its billing is not switched on, or the key "
            "is restricted",
            codes=("PERMISSION_DENIED", "7"),
        ),
        ErrorRule(Refusal.THROTTLED, "Google asks to send less", codes=("RESOURCE_EXHAUSTED", "8")),
        ErrorRule(
            Refusal.TRANSIENT,
            "Google has trouble of its own",
            codes=("DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "4", "13", "14"),
        ),
        ErrorRule(Refusal.PICTURE, "Google cannot read the picture", codes=("3",)),
        ErrorRule(
            Refusal.CONTRACT, "Google does not accept the picture's request", codes=("9", "12")
        ),
        ErrorRule(Refusal.CONTRACT, "Google does not accept the request", statuses=(400,)),
    )
)
"""Numbers are the codes of single pictures (google.rpc.Code), names those of whole requests.

Source: google.rpc.Code; discovery document `vision.v1.json`, revision 20261016."""


class GoogleVision:
    """Asks Google Cloud Vision for boxes, scores and landmarks.

    The box is the tighter of the two that Google gives (``fdBoundingPoly``): the other spans the
    whole head.

    Args:
        max_faces: The most faces to ask for in a picture; Google's own default is 10.
        model: ``builtin/stable`` or ``builtin/latest``.
        project: The project that user credentials are charged to; empty for the credentials' own.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    name = "google"
    key_header = "X-Goog-Api-Key"
    url = "https://vision.googleapis.com"
    capabilities = Capabilities(
        formats=frozenset({"jpeg", "png", "webp"}),
        max_picture_bytes=(MAX_REQUEST_BYTES - _ROOM_BYTES) // 4 * 3,
        max_pixels=75_000_000,
        max_pictures=MAX_PICTURES,
        max_request_bytes=MAX_REQUEST_BYTES,
        default_max_results=10,
        landmarks=("right_eye", "left_eye", "nose_tip", "mouth_center"),
        price_per_image=0.0015,
        price_as_of=date(2026, 11, 22),
        retention="none: processed in memory; time and size of the request are logged",
        trains_on_data=False,
        facts_from="Cloud Vision Data Usage FAQ and quota pages; price: first tier, not verified. "
        "The documented EU and US locations apply to text recognition alone",
        facts_as_of=date(2026, 11, 22),
    )

    def __init__(
        self, *, max_faces: int = 100, model: str = "builtin/stable", project: str = ""
    ) -> None:
        if not 1 <= max_faces <= 1000:
            msg = f"max_faces: expected 1 to 1000, got {max_faces}"
            raise ConfigurationError(msg)
        self._model = checked_choice(model, "model", MODELS)
        feature = {"type": "FACE_DETECTION", "maxResults": max_faces, "model": model}
        self._after = f'"}},"features":[{json.dumps(feature, separators=(",", ":"))}]}}'.encode()
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if project:
            self._headers["X-Goog-User-Project"] = checked_name(project, "project")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """As configuration spells it.

        Raises:
            ConfigurationError: If an option is unknown or cannot be used.
        """
        return cls(**checked_options(cls, options))

    def encode(self, pictures: Sequence[CompressedImage], params: DetectParams) -> HttpRequest:
        """A POST with up to `MAX_PICTURES` pictures as base64 in JSON."""
        body = [b'{"requests":[']
        for index, picture in enumerate(pictures):
            body.append(b',{"image":{"content":"' if index else b'{"image":{"content":"')
            body.append(base64.b64encode(picture.data))
            body.append(self._after)
        body.append(b"]}")
        return HttpRequest(url=_URL, headers=self._headers, body=b"".join(body))

    def decode(
        self, response: HttpResponse, pictures: Sequence[CompressedImage]
    ) -> tuple[ResultReply | BackendError, ...]:
        """For each picture its faces, which may be none, or its error.

        Raises:
            BackendResponseError: If the status is not 200.
            ProtocolError: If there is not one answer for each picture.
        """
        if response.status != 200:
            raise _refusal(response)
        if not pictures:
            return ()
        answer = object_of(json_of(response, provider="Google"), "the answer")
        found = items_of(answer.get("responses"), "responses")
        if len(found) != len(pictures):
            msg = f"expected {len(pictures)} answers from Google, got {len(found)}"
            raise ProtocolError(msg)
        return each_apart(
            lambda part: self._reply(object_of(part[0], "responses"), part[1], response),
            zip(found, pictures, strict=True),
        )

    def _reply(
        self, found: dict[str, Any], picture: CompressedImage, response: HttpResponse
    ) -> ResultReply | BackendError:
        faces = _list(found, "faceAnnotations")
        error = _object(found, "error")
        # Faces beside an error are right all the same (discovery document, AnnotateImageResponse).
        if error.get("code") and not faces:
            return _ERRORS.error(response, code=str(error["code"]))
        return ResultReply(
            request_id=0,
            width=picture.width,
            height=picture.height,
            faces=faces_of(_face(each, picture) for each in faces),
            model=f"google/{self._model}",
        )

    def health(self) -> None:
        """Google has no request that says without a price that all is well."""
        return


def _face(value: Any, picture: CompressedImage) -> Face | None:
    found = object_of(value, "a face")
    polygon = _vertices(found, "fdBoundingPoly") or _vertices(found, "boundingPoly")
    box = box_of_polygon(polygon, width=picture.width, height=picture.height)
    (score,) = numbers_of(found, ("detectionConfidence",))
    return None if box is None else Face(box, score_of(score), _keypoints(found))


def _vertices(face: dict[str, Any], name: str) -> list[Point]:
    """The corners of a polygon. A coordinate of 0 is left out, as proto3 does."""
    return [_point(corner) for corner in _list(_object(face, name), "vertices")]


def _keypoints(face: dict[str, Any]) -> tuple[Keypoint, ...]:
    if "landmarks" not in face:
        return ()
    places: dict[str, Point] = {}
    for each in _list(face, "landmarks"):
        landmark = object_of(each, "a landmark")
        places[text_of(landmark.get("type"))] = _point(_object(landmark, "position"))

    def at(*names: str) -> Iterable[Point]:
        return (places.get(name, (None, None)) for name in names)

    return keypoints_of(
        eyes=tuple(at("LEFT_EYE", "RIGHT_EYE")),
        nose=places.get("NOSE_TIP"),
        mouth=tuple(at("MOUTH_LEFT", "MOUTH_RIGHT")),
    )


def _list(value: dict[str, Any], name: str) -> list[Any]:
    """A list that is left out where it is empty."""
    found = value.get(name)
    return [] if found is None else items_of(found, name)


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    """An object that is left out where it is empty."""
    found = value.get(name)
    return {} if found is None else object_of(found, name)


def _point(value: Any) -> Point:
    x, y = numbers_of(value, ("x", "y"))
    return x, y


def _refusal(response: HttpResponse) -> BackendResponseError:
    status = reason = ""
    retry_after_s = None
    try:
        error = json.loads(response.body)["error"]
        status = text_of(error.get("status"))
        for detail in error.get("details") or ():
            kind = text_of(detail.get("@type")).rpartition(".")[2]
            if kind == "ErrorInfo":
                reason = text_of(detail.get("reason"))
            elif kind == "RetryInfo":
                retry_after_s = duration_s(detail.get("retryDelay"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    # A wrong key is a 400 INVALID_ARGUMENT, which its reason alone tells from a wrong request.
    variant = reason if reason == "API_KEY_INVALID" else status
    return _ERRORS.error(
        response, code=reason or status, variant=variant, retry_after_s=retry_after_s
    )
