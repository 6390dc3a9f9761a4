"""Sealed requests: what end-to-end encryption makes of a request of our own protocol.

Sealing lies between the protocol and the transport, so that the protocol reads and writes plain
messages and the transport carries closed ones. What is sealed once is sent once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hybrid_detect.backends.remote.protocol import HttpRequest, HttpResponse
from hybrid_detect.backends.remote.providers.custom import own_refusal
from hybrid_detect.backends.remote.refusals import refusal
from hybrid_detect.exchange.envelope import (
    KEYS_REQUEST,
    SEALED_CONTENT_TYPE,
    decode_keys,
    kind_of,
)
from hybrid_detect.exchange.sealer import Sealer
from hybrid_detect.exchange.sealing import SealedRequest
from hybrid_detect.exchange.wire import CONTENT_TYPE, DETECT_PATH, ErrorReply, decode_reply

__all__ = ["KEYS", "opened", "published_keys", "sealed"]

_HEADERS = {"Accept": CONTENT_TYPE, "Content-Type": SEALED_CONTENT_TYPE}

KEYS = HttpRequest(url=DETECT_PATH, headers=_HEADERS, body=KEYS_REQUEST)
"""Asks the server for its public keys, over the same path as the pictures."""


def sealed(request: HttpRequest, sealer: Sealer) -> tuple[HttpRequest, SealedRequest]:
    """`request` sealed for one attempt, and what opens its answer.

    Raises:
        EncryptionError: If it cannot be sealed. It must not be sent then.
    """
    seal = sealer.seal(request.body)
    return replace(request, headers=_HEADERS, body=seal.data), seal


def opened(response: HttpResponse, sealer: Sealer, seal: SealedRequest) -> HttpResponse:
    """`response` with its message opened; an error status stays as it is.

    Raises:
        EncryptionError: If it is not the server's own answer to this request.
        ProtocolError: If it is no message at all.
    """
    if response.status != 200:
        return response
    body = sealer.open_answer(response.body, seal)
    return replace(response, headers={"content-type": CONTENT_TYPE}, body=body)


def published_keys(response: HttpResponse) -> list[Any]:
    """The keys in the answer to `KEYS`, as JSON values that are still to be checked.

    Raises:
        BackendResponseError: If the server refused.
        EncryptionError: If it is no list of keys.
        ProtocolError: If it is no message at all.
    """
    if response.status != 200:
        raise own_refusal(response)
    if kind_of(response.body) is None:
        reply = decode_reply(response.body)
        if isinstance(reply, ErrorReply):
            raise refusal(reply.status, retry_after_s=reply.retry_after_s, code=reply.code)
    return decode_keys(response.body)
