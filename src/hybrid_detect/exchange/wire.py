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
import math
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from hybrid_detect.errors import ProtocolError
from hybrid_detect.exchange.usual_headers import usual_fields
from hybrid_detect.exchange.wire_faces import MAX_FACES, face_from_json, faces_to_text
from hybrid_detect.exchange.wire_messages import DetectRequest, ErrorReply, ResultReply
from hybrid_detect.exchange.wire_values import (
    boolean,
    fail,
    integer,
    json_object,
    optional_confidence,
    optional_number,
    optional_pixels,
    optional_seconds,
    optional_text,
    text,
)
from hybrid_detect.monitoring.tracing import traceparent_of, tracestate_of
from hybrid_detect.types import QualityLevel

__all__ = [
    "AWAITS_HEADER",
    "CONTENT_TYPE",
    "CREDENTIAL_ENDED",
    "DETECT_PATH",
    "HAS_HEADER",
    "HEALTH_PATH",
    "IN_FLIGHT_HEADER",
    "LIVE_PAGE_PATH",
    "MAX_FACES",
    "PREAMBLE_BYTES",
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
    "header_bytes_in",
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

MAX_REPLY_HEADER_BYTES = 256 * 1024
"""`MAX_FACES` with all their keypoints take 134 KB."""

MAX_SIDE_PX = 65535
"""The largest side a JPEG can have."""

_PREAMBLE = struct.Struct(">2sBBII")
PREAMBLE_BYTES = _PREAMBLE.size
"""Bytes of a message before its header."""

_MAGIC = b"HD"
_VERSION = 1
_DETECT, _RESULT, _ERROR, _ANNOUNCEMENT = 1, 2, 3, 4


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
    kind, request_id, end = _preamble_of(data, max_header_bytes=MAX_REQUEST_HEADER_BYTES)
    payload = bytes(data[end:])
    is_usual = kind == _DETECT and payload
    values = usual_fields(data, PREAMBLE_BYTES, end) if is_usual else None
    if values is None:
        header = json_object(data[PREAMBLE_BYTES:end], "header")
        if kind != _DETECT:
            fail("a detect message", f"type {kind}")
        if not payload:
            fail("a picture", "an empty payload")
        values = _fields_of(header)
    return DetectRequest(request_id=request_id, image=payload, **values)


def _fields_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request that `header` gives."""
    # It has few of those that there are: so it is asked for its own.
    values: dict[str, Any] = {}
    for name, value in header.items():
        if (read := _REQUEST_FIELDS.get(name)) is not None:
            values[name] = read(value, name)
    if "traceparent" in header:
        values["traceparent"], values["tracestate"] = _trace_of(header)
    return values


def encode_reply(reply: ResultReply | ErrorReply) -> bytes:
    """The bytes of `reply`.

    Raises:
        ValueError: If a number in it is not finite.
    """
    if isinstance(reply, ErrorReply):
        return _pack(_ERROR, reply.request_id, _reply_header(reply))
    head = _result_text(reply).encode()
    return _PREAMBLE.pack(_MAGIC, _VERSION, _RESULT, reply.request_id, len(head)) + head


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


def _result_text(reply: ResultReply) -> str:
    """What `reply_to_json` has, as text: filled in, since a server writes one for each picture."""
    text = f'{{"width":{reply.width},"height":{reply.height},"model":{_quoted(reply.model)}'
    total = 0.0
    if (value := reply.receive_s) is not None:
        text, total = f'{text},"receive_s":{value}', total + value
    if (value := reply.queue_s) is not None:
        text, total = f'{text},"queue_s":{value}', total + value
    if (value := reply.detect_s) is not None:
        text, total = f'{text},"detect_s":{value}', total + value
    if (value := reply.min_confidence) is not None:
        text, total = f'{text},"min_confidence":{value}', total + value
    if reply.quality:
        text = f'{text},"quality":{_quoted(reply.quality)}'
    if (value := reply.min_face_px) is not None:
        text, total = f'{text},"min_face_px":{round(value, 2)}', total + value
    if reply.number is not None:
        text = f'{text},"number":{reply.number}'
    if (value := reply.at_s) is not None:
        text, total = f'{text},"at_s":{round(value, 3)}', total + value
    if not math.isfinite(total):  # as is the sum of numbers that JSON has no word for
        return _ENCODER.encode(reply_to_json(reply))
    return f'{text},"faces":{faces_to_text(reply.faces)}}}'


def decode_reply(data: bytes) -> ResultReply | ErrorReply:
    """The reply in `data`.

    Raises:
        ProtocolError: If it is not a well-formed result or error message.
    """
    kind, request_id, header = _unpack(data, max_header_bytes=MAX_REPLY_HEADER_BYTES)
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
        min_confidence=optional_confidence(header.get("min_confidence"), "min_confidence"),
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
    if len(data) != PREAMBLE_BYTES:
        return None
    magic, version, kind, request_id, length = _PREAMBLE.unpack_from(data)
    is_announcement = (magic, version, kind, length) == (_MAGIC, _VERSION, _ANNOUNCEMENT, 0)
    return int(request_id) if is_announcement else None


def header_bytes_in(start: bytes) -> int | None:
    """Length of the header of the message that begins with `start`; `None` if that is too short."""
    return int(_PREAMBLE.unpack_from(start)[4]) if len(start) >= PREAMBLE_BYTES else None


def peek_request_id(data: bytes) -> int:
    """The request id of a message that may be malformed otherwise; 0 if there is none."""
    return int(_PREAMBLE.unpack_from(data)[3]) if len(data) >= PREAMBLE_BYTES else 0


def peek_trace(data: bytes) -> tuple[str, str]:
    """The ``traceparent`` and ``tracestate`` of a detect message that is refused unread."""
    try:
        kind, _, header = _unpack(data, max_header_bytes=MAX_REQUEST_HEADER_BYTES)
    except ProtocolError:
        return "", ""
    return _trace_of(header) if kind == _DETECT else ("", "")


def with_request_id(data: bytes, request_id: int) -> bytes:
    """The same message under another request id, as a client numbers its messages per link."""
    magic, version, kind, _, length = _PREAMBLE.unpack_from(data)
    return _PREAMBLE.pack(magic, version, kind, request_id, length) + data[PREAMBLE_BYTES:]


def _pack(kind: int, request_id: int, header: Mapping[str, Any], payload: bytes = b"") -> bytes:
    present = {name: value for name, value in header.items() if value is not None}
    head = _ENCODER.encode(present).encode()
    return b"".join((_PREAMBLE.pack(_MAGIC, _VERSION, kind, request_id, len(head)), head, payload))


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_quoted = lru_cache(maxsize=64)(_ENCODER.encode)


def _unpack(data: bytes, *, max_header_bytes: int) -> tuple[int, int, dict[str, Any]]:
    """The kind of a message, its request id and its header."""
    kind, request_id, end = _preamble_of(data, max_header_bytes=max_header_bytes)
    return kind, request_id, json_object(data[PREAMBLE_BYTES:end], "header")


def _preamble_of(data: bytes, *, max_header_bytes: int) -> tuple[int, int, int]:
    """The kind of a message, its request id, and where its header ends."""
    size = len(data)
    if size < PREAMBLE_BYTES:
        fail(f"at least {PREAMBLE_BYTES} bytes", f"{size}")
    magic, version, kind, request_id, length = _PREAMBLE.unpack_from(data)
    if magic != _MAGIC:
        fail("a hybrid-detect message", "another kind of data")
    if version != _VERSION:
        fail(f"protocol version {_VERSION}", f"version {version}")
    if length > max_header_bytes:
        fail(f"a header of at most {max_header_bytes} bytes", f"{length} bytes")
    end = PREAMBLE_BYTES + length
    if size < end:
        fail(f"{length} header bytes", f"{size - PREAMBLE_BYTES}")
    return kind, request_id, end


def _trace_of(header: Mapping[str, Any]) -> tuple[str, str]:
    traceparent = traceparent_of(header.get("traceparent"))
    return traceparent, tracestate_of(header.get("tracestate")) if traceparent else ""


def _optional_integer(value: Any, name: str) -> int | None:
    return None if value is None else integer(value, name, low=1, high=2**53)


def _optional_level(value: Any, name: str) -> QualityLevel | None:
    if value is None:
        return None
    found = _LEVELS.get(value) if isinstance(value, str) else None
    return found or fail(f"a {name} of {', '.join(_LEVELS)}", "something else")


_LEVELS = {level.value: level for level in QualityLevel}

_REQUEST_FIELDS: Mapping[str, Callable[[Any, str], Any]] = {
    "format": text,
    "min_confidence": optional_confidence,
    "deadline_s": optional_number,
    "session_id": optional_text,
    "quality": _optional_level,
    "second_look": boolean,
}
"""What reads each field of a request but its trace."""
