"""The protocol of your own endpoint: post the picture, map the JSON answer to faces.

The picture goes as the whole body, as a file of a multipart form, or as base64 text in a JSON
object. What comes back is mapped by a function of yours, or by a `FaceMapping`, which
configuration can spell. No session, deadline or other field is sent that you do not name.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Never, Self

from hybrid_detect.backends.remote.protocol import (
    Capabilities,
    DetectParams,
    HttpRequest,
    HttpResponse,
)
from hybrid_detect.backends.remote.providers.face_mapping import FaceMapping, checked_faces
from hybrid_detect.backends.remote.providers.forms import form
from hybrid_detect.backends.remote.refusals import refusal_of
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import ConfigurationError, ProtocolError
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.types import Face

__all__ = ["JsonEndpoint"]

SENDINGS = ("body", "multipart", "base64")

MapFaces = Callable[[Any, CompressedImage], Iterable[Face]]
"""From the answer's JSON value and the picture that was sent to the faces, in the picture's pixels.
Whatever it raises becomes a `ProtocolError`: the answer was not what it expects."""


class JsonEndpoint:
    """Posts each picture to an endpoint and maps the JSON answer.

    Args:
        faces: Your function from the answer and the picture to faces, or a `FaceMapping`.
        path: Below the target's URL, starting with a slash, or empty.
        send: How the picture goes: as the ``body``, as a file in a ``multipart`` form, or as
            ``base64`` text in a JSON object.
        field: The name of the form's file, or of the JSON object's field.
        fields: Other fields of the form or the object.
        health_path: What a ``GET`` answers with a status of 2xx while the endpoint works; `None`
            if there is no such thing, and the next frame has to find out.
        max_picture_bytes: The most the endpoint takes; `None` for no limit of its own.
        model: What results call the detector.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    name = "json_endpoint"
    capabilities = Capabilities(takes_trace=True)

    def __init__(
        self,
        faces: MapFaces | FaceMapping,
        *,
        path: str = "",
        send: str = "body",
        field: str = "image",
        fields: Mapping[str, Any] | None = None,
        health_path: str | None = None,
        max_picture_bytes: int | None = None,
        model: str = "",
    ) -> None:
        if not callable(faces):
            msg = f"faces: expected a function or a FaceMapping, got {type(faces).__name__}"
            raise ConfigurationError(msg)
        if send not in SENDINGS:
            msg = f"send: expected one of {', '.join(SENDINGS)}, got {send!r}"
            raise ConfigurationError(msg)
        for option, value in (("path", path), ("health_path", health_path or "")):
            if value and not value.startswith("/"):
                msg = f"{option}: expected a path that starts with a slash, got {value!r}"
                raise ConfigurationError(msg)
        names = (field, *(fields or {}))
        if not all(isinstance(n, str) and n.isprintable() and n and '"' not in n for n in names):
            msg = "field and fields: expected printable names without quotation marks"
            raise ConfigurationError(msg)
        if fields and send == "body":
            msg = "fields: expected none with send='body', which has room for the picture alone"
            raise ConfigurationError(msg)
        self._faces = faces
        self._path = path
        self._send = send
        self._field = field
        self._fields = dict(fields or {})
        self._health_path = health_path
        self._model = model
        self.capabilities = replace(self.capabilities, max_picture_bytes=max_picture_bytes)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """As configuration spells it: the arguments, and those of `FaceMapping` beside them.

        Raises:
            ConfigurationError: If an option is unknown or cannot be used.
        """
        own = {name: value for name, value in options.items() if name in _OPTIONS}
        mapping = {name: value for name, value in options.items() if name not in _OPTIONS}
        return cls(FaceMapping.from_options(mapping), **own)

    def encode(self, pictures: Sequence[CompressedImage], params: DetectParams) -> HttpRequest:
        """A POST with the one picture."""
        (picture,) = pictures
        media_type = f"image/{picture.format}"
        body = picture.data
        if self._send == "multipart":
            media_type, body = form(picture, name=self._field, fields=self._fields)
        elif self._send == "base64":
            text = base64.b64encode(picture.data).decode()
            body = json.dumps({**self._fields, self._field: text}).encode()
            media_type = "application/json"
        headers = {"Accept": "application/json", "Content-Type": media_type}
        return HttpRequest(url=self._path, headers=headers, body=body)

    def decode(
        self, response: HttpResponse, pictures: Sequence[CompressedImage]
    ) -> tuple[ResultReply, ...]:
        """What the mapping makes of the answer, checked.

        Raises:
            BackendResponseError: If the status is not 2xx.
            ProtocolError: If the answer is not JSON, or not what the mapping expects, or the faces
                are no faces in the picture.
        """
        if not 200 <= response.status < 300:
            raise refusal_of(response)
        if not pictures:
            return ()
        (picture,) = pictures
        try:
            answer = json.loads(response.body, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            msg = "expected JSON from the endpoint, got something else"
            raise ProtocolError(msg) from None
        try:
            found = list(self._faces(answer, picture))
        except ProtocolError:
            raise
        except Exception as exc:
            # Its message may repeat what the endpoint wrote.
            msg = f"the endpoint's answer does not fit the mapping ({type(exc).__name__})"
            raise ProtocolError(msg) from None
        return (
            ResultReply(
                request_id=0,
                width=picture.width,
                height=picture.height,
                faces=checked_faces(found, picture),
                model=self._model,
            ),
        )

    def health(self) -> HttpRequest | None:
        """``GET`` of the health path, if there is one."""
        return HttpRequest(method="GET", url=self._health_path) if self._health_path else None


_OPTIONS = {"path", "send", "field", "fields", "health_path", "max_picture_bytes", "model"}


def _no_constant(_: str) -> Never:
    raise ValueError  # NaN and Infinity are not JSON
