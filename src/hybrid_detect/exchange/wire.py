"""The messages client and server speak, as bytes: no sockets, no clocks, no pixels.

One message is one HTTP body or one binary WebSocket message::

    0   2  magic "HD"
    2   1  version, 1
    3   1  type: 1 detect, 2 result, 3 error, 4 announcement
    4   4  request id, big endian; chosen by the client, repeated by the server
    8   4  length of the header, big endian
    12  n  header, a JSON object in UTF-8
    ..     payload: the compressed picture of a detect message, else empty

An announcement is a preamble alone. On a stream it goes right before a detect message (sealed or
not) of the same request id, and is not answered: the server learns from it when the message
began to arrive, which a WebSocket library does not tell. It may be left out.

JSON keeps the header readable in any language and open for new fields, which readers
ignore; the picture, which is all the weight, is not touched. Everything read from a peer is
checked here: what comes out of a decoder is safe to use.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid_detect.errors import ProtocolError
from hybrid_detect.exchange.wire_faces import face_from_json, faces_to_text
from hybrid_detect.exchange.wire_values import (
    boolean,
    fail,
    integer,
    json_object,
    number,
    optional_confidence,
    optional_pixels,
    optional_seconds,
    optional_text,
    text,
)
from hybrid_detect.monitoring.tracing import traceparent_of, tracestate_of
from hybrid_detect.types import Face, QualityLevel

__all__ = [
    "AWAITS_HEADER",
    "CONTENT_TYPE",
    "CREDENTIAL_ENDED",
    "DETECT_PATH",
    "HAS_HEADER",
    "HEALTH_PATH",
    "IN_FLIGHT_HEADER",
    "LIVE_PAGE_PATH",
    "RESUME_HEADER",
    "SESSIONS_PATH",
    "STREAM_PATH",
    "SUBPROTOCOL",
    "DetectRequest",
    "ErrorReply",
    "ResultReply",
    "announced_request_id",
    "decode_reply",
    "decode_request",
    "encode_announcement",
    "encode_reply",
    "encode_request",
    "peek_request_id",
    "peek_trace",
    "reply_to_json",
    "with_request_id",
]

CONTENT_TYPE = "application/vnd.hybrid-detect.v1"
SUBPROTOCOL = "hybrid-detect.v1"
DETECT_PATH = "/v1/detect"
STREAM_PATH = "/v1/stream"
HEALTH_PATH = "/v1/health"
SESSIONS_PATH = "/v1/sessions"
LIVE_PAGE_PATH = "/v1/live"

IN_FLIGHT_HEADER = "X-Stream-In-Flight"
"""Of the response that opens a stream: the pictures of it that the server looks at at the same
time. A client that has more under way makes them wait at the server, where they only get older."""

RESUME_HEADER, AWAITS_HEADER = "X-Stream-Resume", "X-Stream-Awaits"
"""Of the request that opens a stream: its name, 32 random hexadecimal digits which the client keeps
from link to link, and the request ids that it still waits for. The name is a secret of its own."""

HAS_HEADER = "X-Stream-Has"
"""Of the response to a stream with a name: of those ids the ones that the server has, and answers
over this link. The others are to be sent again."""

CREDENTIAL_ENDED = "the credential is not valid any more"
"""What the server gives as the reason when it closes a stream with 1008 because a token has expired
or was revoked; clients tell it from other breaches by these words."""

MAX_REQUEST_HEADER_BYTES = 16 * 1024
"""A request's header has a few short fields; the longest session, escaped, takes 12 KiB. Parsed on
the server's event loop, such a header takes 0.1 ms."""

MAX_FACES = 500
"""Faces in a reply; of more, a server sends the most certain ones. A client's event loop reads so
many in 10 ms."""

MAX_REPLY_HEADER_BYTES = 256 * 1024
"""`MAX_FACES` with all their keypoints take 134 KB."""

MAX_SIDE_PX = 65535
"""The largest side a JPEG can have."""

_PREAMBLE = struct.Struct(">2sBBII")
_MAGIC = b"HD"
_VERSION = 1
_DETECT, _RESULT, _ERROR, _ANNOUNCEMENT = 1, 2, 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectRequest:
    """A picture to look at."""

    request_id: int
    image: bytes = field(repr=False)
    """The compressed picture: upright and without metadata."""
    format: str = "jpeg"
    min_confidence: float | None = None
    """Faces below this score are not wanted; `None` for the threshold of the model that looks. A
    server that does not know of that takes 0.5."""
    deadline_s: float | None = None
    """Seconds after which the answer is worth nothing any more; `None` if unknown."""
    session_id: str | None = None
    quality: QualityLevel | None = None
    """How thoroughly to look; `None` leaves it to the server."""
    second_look: bool = False
    """Whether to look again at the picture turned by 90, 180 and 270 degrees if no face was found
    and there is time."""
    traceparent: str = ""
    """The client's part of the frame's trace, as W3C names it; empty if it is not traced. One that
    cannot be read counts as none."""
    tracestate: str = ""
    """What tracing systems add to it, as W3C names it; empty for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultReply:
    """The faces in a picture, in that picture's pixels."""

    request_id: int
    width: int
    height: int
    faces: tuple[Face, ...] = ()
    model: str = ""
    receive_s: float | None = None
    """From the first byte of the request to the last; `None` if it came in one piece."""
    queue_s: float | None = None
    """Waiting for a free detector."""
    detect_s: float | None = None
    """Decoding and detecting."""

    min_confidence: float | None = None
    """The lowest score that was reported: the one that was asked for, or the model's own, or a
    higher one that the server's operator has set; `None` if the server does not say."""
    quality: str = ""
    """The level that was used, which may be below the one that was asked for; empty if the server
    does not say. A text, so that a newer server may have other levels than `QualityLevel`."""
    min_face_px: float | None = None
    """Height in pixels of this picture of the smallest face that the look could have found; `None`
    if the server does not say."""

    number: int | None = None
    """The place of this result in its session, from 1; told to those who watch a session alone. It
    counts from when the server last heard of the session; what is left out is missing here."""
    at_s: float | None = None
    """Seconds since 1970 by the server's clock when it was ready; told to those who watch alone."""

    @property
    def server_s(self) -> float | None:
        """Seconds the server took once it had the picture; `None` if it did not say."""
        return None if self.detect_s is None else self.detect_s + (self.queue_s or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReply:
    """Why there is no answer."""

    request_id: int
    status: int
    """The HTTP status that says the same."""
    code: str
    """A word for programs, such as ``unauthorized`` or ``overloaded``."""
    detail: str = ""
    """A sentence for people."""
    retry_after_s: float | None = None


def encode_request(request: DetectRequest) -> bytes:
    """The bytes of `request`."""
    header = {
        "format": request.format,
        "min_confidence": request.min_confidence,
        "deadline_s": request.deadline_s,
        "session_id": request.session_id,
        "quality": request.quality,
        "second_look": request.second_look or None,
        "traceparent": request.traceparent or None,
        "tracestate": request.tracestate or None,
    }
    return _pack(_DETECT, request.request_id, header, request.image)


def decode_request(data: bytes) -> DetectRequest:
    """The request in `data`.

    Raises:
        ProtocolError: If it is not a well-formed detect message.
    """
    kind, request_id, header, payload = _unpack(data, max_header_bytes=MAX_REQUEST_HEADER_BYTES)
    if kind != _DETECT:
        fail("a detect message", f"type {kind}")
    if not payload:
        fail("a picture", "an empty payload")
    deadline, quality = header.get("deadline_s"), header.get("quality")
    traceparent, tracestate = _trace_of(header)
    return DetectRequest(
        request_id=request_id,
        image=payload,
        format=text(header.get("format", "jpeg"), "format"),
        min_confidence=optional_confidence(header.get("min_confidence")),
        deadline_s=None if deadline is None else number(deadline, "deadline_s"),
        session_id=optional_text(header.get("session_id"), "session_id"),
        quality=None if quality is None else _quality_level(quality),
        second_look=boolean(header.get("second_look", False), "second_look"),
        traceparent=traceparent,
        tracestate=tracestate,
    )


def encode_reply(reply: ResultReply | ErrorReply) -> bytes:
    """The bytes of `reply`.

    Raises:
        ValueError: If a number in it is not finite.
    """
    header = _reply_header(reply)
    if isinstance(reply, ErrorReply):
        return _pack(_ERROR, reply.request_id, header)
    return _pack(_RESULT, reply.request_id, header, more=f',"faces":{faces_to_text(reply.faces)}')


def reply_to_json(reply: ResultReply | ErrorReply) -> dict[str, Any]:
    """The header of `reply` as JSON values: all of it but the request id and what is `None`."""
    values = {name: value for name, value in _reply_header(reply).items() if value is not None}
    if isinstance(reply, ResultReply):
        values["faces"] = json.loads(faces_to_text(reply.faces))
    return values


def _reply_header(reply: ResultReply | ErrorReply) -> dict[str, Any]:
    if isinstance(reply, ErrorReply):
        return {
            "status": reply.status,
            "code": reply.code,
            "detail": reply.detail,
            "retry_after_s": reply.retry_after_s,
        }
    return {
        "width": reply.width,
        "height": reply.height,
        "model": reply.model,
        "receive_s": reply.receive_s,
        "queue_s": reply.queue_s,
        "detect_s": reply.detect_s,
        "min_confidence": reply.min_confidence,
        "quality": reply.quality or None,
        "min_face_px": None if reply.min_face_px is None else round(reply.min_face_px, 2),
        "number": reply.number,
        "at_s": None if reply.at_s is None else round(reply.at_s, 3),
    }


def decode_reply(data: bytes) -> ResultReply | ErrorReply:
    """The reply in `data`.

    Raises:
        ProtocolError: If it is not a well-formed result or error message.
    """
    kind, request_id, header, _ = _unpack(data, max_header_bytes=MAX_REPLY_HEADER_BYTES)
    if kind == _ERROR:
        return ErrorReply(
            request_id=request_id,
            status=integer(header.get("status"), "status", low=100, high=599),
            code=text(header.get("code", ""), "code"),
            detail=text(header.get("detail", ""), "detail"),
            retry_after_s=optional_seconds(header.get("retry_after_s"), "retry_after_s"),
        )
    if kind != _RESULT:
        fail("a result or error message", f"type {kind}")
    faces = header.get("faces")
    if not isinstance(faces, list):
        fail("a list of faces", type(faces).__name__)
    if len(faces) > MAX_FACES:
        fail(f"at most {MAX_FACES} faces", f"{len(faces)}")
    return ResultReply(
        request_id=request_id,
        width=integer(header.get("width"), "width", low=1, high=MAX_SIDE_PX),
        height=integer(header.get("height"), "height", low=1, high=MAX_SIDE_PX),
        model=text(header.get("model", ""), "model"),
        receive_s=optional_seconds(header.get("receive_s"), "receive_s"),
        queue_s=optional_seconds(header.get("queue_s"), "queue_s"),
        detect_s=optional_seconds(header.get("detect_s"), "detect_s"),
        min_confidence=optional_confidence(header.get("min_confidence")),
        quality=text(header.get("quality", ""), "quality"),
        min_face_px=optional_pixels(header.get("min_face_px"), "min_face_px"),
        number=_optional_integer(header.get("number"), "number"),
        at_s=optional_seconds(header.get("at_s"), "at_s"),
        faces=tuple(map(face_from_json, faces)),
    )


def encode_announcement(request_id: int) -> bytes:
    """The bytes that announce the message of `request_id`."""
    return _PREAMBLE.pack(_MAGIC, _VERSION, _ANNOUNCEMENT, request_id, 0)


def announced_request_id(data: bytes) -> int | None:
    """The request id that `data` announces; `None` if it is no announcement."""
    if len(data) != _PREAMBLE.size:
        return None
    magic, version, kind, request_id, length = _PREAMBLE.unpack_from(data)
    is_announcement = (magic, version, kind, length) == (_MAGIC, _VERSION, _ANNOUNCEMENT, 0)
    return int(request_id) if is_announcement else None


def peek_request_id(data: bytes) -> int:
    """The request id of a message that may be malformed otherwise; 0 if there is none."""
    return int(_PREAMBLE.unpack_from(data)[3]) if len(data) >= _PREAMBLE.size else 0


def peek_trace(data: bytes) -> tuple[str, str]:
    """The ``traceparent`` and ``tracestate`` of a detect message that is refused unread."""
    try:
        kind, _, header, _ = _unpack(data, max_header_bytes=MAX_REQUEST_HEADER_BYTES)
    except ProtocolError:
        return "", ""
    return _trace_of(header) if kind == _DETECT else ("", "")


def with_request_id(data: bytes, request_id: int) -> bytes:
    """The same message under another request id, as a client numbers its messages per link."""
    magic, version, kind, _, length = _PREAMBLE.unpack_from(data)
    return _PREAMBLE.pack(magic, version, kind, request_id, length) + data[_PREAMBLE.size :]


def _pack(
    kind: int, request_id: int, header: Mapping[str, Any], payload: bytes = b"", *, more: str = ""
) -> bytes:
    """A message; `more` is JSON that goes on behind the values of `header`, of which there are."""
    present = {name: value for name, value in header.items() if value is not None}
    text = _ENCODER.encode(present)
    head = (f"{text[:-1]}{more}}}" if more else text).encode()
    return b"".join((_PREAMBLE.pack(_MAGIC, _VERSION, kind, request_id, len(head)), head, payload))


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def _unpack(data: bytes, *, max_header_bytes: int) -> tuple[int, int, dict[str, Any], bytes]:
    if len(data) < _PREAMBLE.size:
        fail(f"at least {_PREAMBLE.size} bytes", f"{len(data)}")
    magic, version, kind, request_id, length = _PREAMBLE.unpack_from(data)
    if magic != _MAGIC:
        fail("a hybrid-detect message", "another kind of data")
    if version != _VERSION:
        fail(f"protocol version {_VERSION}", f"version {version}")
    if length > max_header_bytes:
        fail(f"a header of at most {max_header_bytes} bytes", f"{length} bytes")
    end = _PREAMBLE.size + length
    if len(data) < end:
        fail(f"{length} header bytes", f"{len(data) - _PREAMBLE.size}")
    header = json_object(data[_PREAMBLE.size : end], "header")
    return kind, request_id, header, bytes(data[end:])


def _trace_of(header: Mapping[str, Any]) -> tuple[str, str]:
    traceparent = traceparent_of(header.get("traceparent"))
    return traceparent, tracestate_of(header.get("tracestate")) if traceparent else ""


def _optional_integer(value: Any, name: str) -> int | None:
    return None if value is None else integer(value, name, low=1, high=2**53)


def _quality_level(value: Any) -> QualityLevel:
    try:
        return QualityLevel(text(value, "quality"))
    except ValueError:
        fail(f"a quality of {', '.join(QualityLevel)}", "another text")
