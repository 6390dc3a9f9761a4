"""The protocol of this project's own server: one message of the wire format for each picture.

Several pictures go in one body, a message each (`hybrid_detect.exchange.batch`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any, Self

from hybrid_detect.backends.remote.protocol import (
    Capabilities,
    DetectParams,
    HttpRequest,
    HttpResponse,
)
from hybrid_detect.backends.remote.providers.answers import each_apart
from hybrid_detect.backends.remote.refusals import refusal
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    ConfigurationError,
    ProtocolError,
)
from hybrid_detect.exchange.batch import (
    BATCH_CONTENT_TYPE,
    BATCH_PATH,
    MAX_BATCH,
    decode_batch,
    encode_batch,
)
from hybrid_detect.exchange.envelope import SEALED_CONTENT_TYPE
from hybrid_detect.exchange.model_info import ModelInfo
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DETECT_PATH,
    HEALTH_PATH,
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_reply,
    encode_request,
)

__all__ = ["CustomProtocol", "own_refusal"]

_HEADERS = {"Accept": CONTENT_TYPE, "Content-Type": CONTENT_TYPE}
_BATCH_HEADERS = {"Accept": BATCH_CONTENT_TYPE, "Content-Type": BATCH_CONTENT_TYPE}


class CustomProtocol:
    """Speaks the wire format of `hybrid_detect.exchange.wire` with our own server.

    Args:
        max_pictures: The most pictures in one request; 1 sends each alone.

    Raises:
        ConfigurationError: If it is out of range.
    """

    name = "custom_backend"
    key_header = "Authorization"
    capabilities = Capabilities(
        formats=frozenset({"jpeg", "webp", "avif"}),
        max_pictures=MAX_BATCH,
        can_seal=True,
        takes_trace=True,
        retention="nothing, unless its operator sets history_path: then 24 h",
        trains_on_data=False,
        facts_from="the reference server of this library; ask the operator of another one",
        facts_as_of=date(2026, 11, 22),
    )

    def __init__(self, *, max_pictures: int = MAX_BATCH) -> None:
        is_number = isinstance(max_pictures, int) and not isinstance(max_pictures, bool)
        if not is_number or not 1 <= max_pictures <= MAX_BATCH:
            msg = f"max_pictures: expected 1 to {MAX_BATCH}, got {max_pictures!r}"
            raise ConfigurationError(msg)
        self.capabilities = replace(self.capabilities, max_pictures=max_pictures)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """As configuration spells it: the one argument.

        Raises:
            ConfigurationError: If an option is unknown or cannot be used.
        """
        if unknown := sorted(set(options) - {"max_pictures"}):
            msg = f"provider_options: {unknown[0]!r} is not an option of {cls.name}"
            raise ConfigurationError(msg)
        return cls(**options)

    def encode(self, pictures: Sequence[CompressedImage], params: DetectParams) -> HttpRequest:
        """A detect message with the one picture, or a batch of such messages."""
        none = [""] * len(pictures)
        traces = zip(params.traceparents or none, params.tracestates or none, strict=True)
        messages = [
            self._message(picture, params, *trace)
            for picture, trace in zip(pictures, traces, strict=True)
        ]
        if len(messages) == 1:
            return HttpRequest(url=DETECT_PATH, headers=_HEADERS, body=messages[0])
        return HttpRequest(url=BATCH_PATH, headers=_BATCH_HEADERS, body=encode_batch(messages))

    @staticmethod
    def _message(
        picture: CompressedImage, params: DetectParams, traceparent: str, tracestate: str
    ) -> bytes:
        message = DetectRequest(
            request_id=0,  # a stream numbers its messages itself
            image=picture.data,
            format=picture.format,
            min_confidence=params.min_confidence,
            deadline_s=params.deadline_s,
            session_id=params.session_id,
            quality=params.quality,
            second_look=params.second_look,
            traceparent=traceparent,
            tracestate=tracestate,
        )
        return encode_request(message)

    def decode(
        self, response: HttpResponse, pictures: Sequence[CompressedImage]
    ) -> tuple[ResultReply | BackendError, ...]:
        """The result message in `response`, or those of a batch in the order of its pictures.

        Raises:
            BackendResponseError: If the status, or an error message, says that it was refused.
            ProtocolError: If it is not a message of the wire format.
        """
        if response.status != 200:
            raise own_refusal(response)
        if not pictures:
            _require_healthy(response)
            return ()
        expected = CONTENT_TYPE if len(pictures) == 1 else BATCH_CONTENT_TYPE
        if response.headers.get("content-type") != expected != response.media_type:
            msg = f"expected a reply of type {expected}; another kind of server answered"
            raise ProtocolError(msg)
        if len(pictures) == 1:
            reply = _reply(response.body)
            if isinstance(reply, BackendError):
                raise reply
            return (reply,)
        messages = decode_batch(response.body)
        if len(messages) != len(pictures):
            msg = f"expected {len(pictures)} replies in a batch, got {len(messages)}"
            raise ProtocolError(msg)
        return each_apart(_reply, messages)

    @staticmethod
    def model_info(response: HttpResponse) -> ModelInfo | None:
        """What the answer to `health` tells of the server's model; `None` if nothing usable."""
        try:
            return ModelInfo.from_values(json.loads(response.body)["model_info"])
        except (ProtocolError, ValueError, KeyError, TypeError, RecursionError):
            return None  # an older server does not tell, and pictures go as usual

    def health(self) -> HttpRequest:
        """``GET /v1/health``, which the server answers with the token checked."""
        return HttpRequest(method="GET", url=HEALTH_PATH, headers={"Accept": "application/json"})


def _reply(message: bytes) -> ResultReply | BackendError:
    reply = decode_reply(message)
    if isinstance(reply, ErrorReply):
        return refusal(reply.status, retry_after_s=reply.retry_after_s, code=reply.code)
    return reply


def own_refusal(response: HttpResponse) -> BackendResponseError:
    """The error for a response with an error status, at an address of our own server's.

    Our own server says in its body what it says by the status; anything else may be a gateway's.
    """
    code, is_ours = "", response.media_type == SEALED_CONTENT_TYPE  # for the client alone to read
    try:
        if response.media_type == CONTENT_TYPE:
            reply = decode_reply(response.body)
            is_ours = isinstance(reply, ErrorReply) and reply.status == response.status
            code = reply.code if isinstance(reply, ErrorReply) else ""
        elif response.media_type == "application/json":
            body = json.loads(response.body)
            is_ours = isinstance(body, dict) and body.get("status") == response.status
            code = str(body.get("code", "")) if is_ours else ""
    except (ProtocolError, ValueError, RecursionError):
        is_ours = False
    return refusal(
        response.status,
        retry_after_s=response.retry_after_s,
        code=code if is_ours else "",
        by_server=is_ours,
    )


def _require_healthy(response: HttpResponse) -> None:
    """Accept our own server's answer alone: a captive portal answers anything with 200."""
    try:
        body = json.loads(response.body)
    except (ValueError, RecursionError):
        body = None
    is_ours = (
        isinstance(body, dict)
        and body.get("status") == "ok"
        and all(isinstance(body.get(name), str) for name in ("model", "version"))
    )
    if not is_ours:
        msg = f"expected the health of a detection server at {HEALTH_PATH}, got something else"
        raise ProtocolError(msg)
