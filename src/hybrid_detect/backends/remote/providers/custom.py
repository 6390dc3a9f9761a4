"""The protocol of this project's own server: one message of the wire format for each picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from hybrid_detect.backends.remote.protocol import (
    Capabilities,
    DetectParams,
    HttpRequest,
    HttpResponse,
)
from hybrid_detect.backends.remote.refusals import refusal
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import BackendResponseError, ConfigurationError, ProtocolError
from hybrid_detect.exchange.envelope import SEALED_CONTENT_TYPE
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


class CustomProtocol:
    """Speaks the wire format of `hybrid_detect.exchange.wire` with our own server."""

    name = "custom_backend"
    key_header = "Authorization"
    capabilities = Capabilities(formats=frozenset({"jpeg", "webp", "avif"}), can_seal=True)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """The protocol, which has no options.

        Raises:
            ConfigurationError: If there is one.
        """
        if options:
            msg = f"provider_options: {min(options)!r} is not an option of {cls.name}"
            raise ConfigurationError(msg)
        return cls()

    def encode(self, pictures: Sequence[CompressedImage], params: DetectParams) -> HttpRequest:
        """A detect message with the one picture."""
        (picture,) = pictures
        message = DetectRequest(
            request_id=0,  # a stream numbers its messages itself
            image=picture.data,
            format=picture.format,
            min_confidence=params.min_confidence,
            deadline_s=params.deadline_s,
            session_id=params.session_id,
            quality=params.quality,
        )
        return HttpRequest(url=DETECT_PATH, headers=_HEADERS, body=encode_request(message))

    def decode(
        self, response: HttpResponse, pictures: Sequence[CompressedImage]
    ) -> tuple[ResultReply, ...]:
        """The result message in `response`.

        Raises:
            BackendResponseError: If the status, or an error message, says that it was refused.
            ProtocolError: If it is not a message of the wire format.
        """
        if response.status != 200:
            raise own_refusal(response)
        if not pictures:
            _require_healthy(response)
            return ()
        if response.headers.get("content-type") != CONTENT_TYPE != response.media_type:
            msg = f"expected a reply of type {CONTENT_TYPE}; another kind of server answered"
            raise ProtocolError(msg)
        reply = decode_reply(response.body)
        if isinstance(reply, ErrorReply):
            raise refusal(reply.status, retry_after_s=reply.retry_after_s, code=reply.code)
        return (reply,)

    def health(self) -> HttpRequest:
        """``GET /v1/health``, which the server answers with the token checked."""
        return HttpRequest(method="GET", url=HEALTH_PATH, headers={"Accept": "application/json"})


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
