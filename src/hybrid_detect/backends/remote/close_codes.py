"""What the close code of a WebSocket means for the frames under way and for the next link."""

from __future__ import annotations

from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    BackendUnavailableError,
    ProtocolError,
)
from hybrid_detect.exchange.wire import CREDENTIAL_ENDED

__all__ = ["close_error", "own_close_error"]

_STATUS = {
    1003: (415, "the server does not take this kind of message"),
    1007: (422, "the server could not read the message"),
    1009: (413, "the picture is too large for the server"),
    1011: (500, "the server failed"),
    1012: (503, "the server restarts"),
    1013: (503, "the server is overloaded"),
    1014: (502, "a gateway lost the server"),
    3000: (401, "the server does not accept the auth token any more"),
    3003: (403, "the server refuses this auth token"),
    3008: (408, "the server waited too long"),
}
"""Codes with the HTTP status that says the same. Sources: RFC 6455, 7.4.1; IANA, WebSocket Close
Code Number Registry (1012 to 1014, 3000, 3003, 3008)."""

_RETRYABLE = frozenset({408, 500, 502, 503})
"""Detecting has no side effect, so that a frame cut off by one of these is sent again."""

_NO_STATUS = {
    1000: "the server closed the link",
    1001: "the server is going away, or found the link idle",
    1002: "the server says that this client broke the WebSocket protocol",
    1008: "the server closed the link for a breach of its rules",
    1010: "the server closed the link: it misses an extension",
}


def close_error(code: int | None, reason: str = "") -> BackendError:
    """Why frames under way got no answer when the other side closed with `code`.

    Args:
        code: The close code received; `None` if there was no closing handshake.
        reason: Its text. Only our own server's are told apart, and none is repeated.
    """
    meant = 3000 if code == 1008 and reason == CREDENTIAL_ENDED else code
    if meant in _STATUS:
        status, text = _STATUS[meant]
        return BackendResponseError(
            f"{text} (close code {code})", status_code=status, retryable=status in _RETRYABLE
        )
    if code is None:
        return BackendUnavailableError("the link broke", retryable=True)
    text = _NO_STATUS.get(code, "the server closed the link")
    return BackendUnavailableError(f"{text} (close code {code})", retryable=True)


def own_close_error(code: int, *, max_bytes: int) -> BackendError:
    """Why this side closed with `code`: websockets does so when the other breaks a rule.

    Args:
        code: The close code sent.
        max_bytes: The most a reply may have.
    """
    if code == 1009:
        return ProtocolError(f"expected a reply of at most {max_bytes} bytes, got more")
    if code in {1002, 1007}:
        return ProtocolError("the server broke the WebSocket protocol")
    return BackendUnavailableError("the link broke", retryable=True)
