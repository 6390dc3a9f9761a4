"""What an HTTP status of a detection server means for a frame, whoever the provider is."""

from __future__ import annotations

from hybrid_detect.errors import BackendResponseError

__all__ = ["RETRYABLE_STATUS", "refusal"]

RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Detecting has no side effect, so whatever a second try could cure is tried again.

Source: RFC 9110 section 15, RFC 6585 section 4 (429), RFC 8470 (425).
"""

_MEANING = {
    400: "the server could not read the request",
    401: "the server does not accept the auth token",
    403: "the server refuses this auth token, or pictures that are not encrypted",
    404: "there is no detection service at this endpoint",
    405: "there is no detection service at this endpoint",
    409: "the server has seen this sealed request before",
    412: "this device's clock and the server's are too far apart for sealed requests",
    413: "the picture is too large for the server",
    415: "the server does not take this picture format",
    421: "the server does not have the key that pictures are encrypted to",
    422: "the server could not decode the picture",
    429: "the server asks to send less",
    503: "the server is overloaded or stopping",
    504: "the server's deadline passed",
}


def refusal(
    status: int, *, retry_after_s: float | None = None, code: str = ""
) -> BackendResponseError:
    """The error for an error status. Nothing else that the server wrote is repeated.

    Args:
        status: The HTTP status.
        retry_after_s: Seconds the server asked to wait.
        code: The server's word for programs; dropped if it is not an identifier.
    """
    msg = f"{_MEANING.get(status, 'the server answered with an error')} (status {status})"
    return BackendResponseError(
        msg,
        retryable=status in RETRYABLE_STATUS,
        retry_after_s=retry_after_s,
        status_code=status,
        code=code if code.isidentifier() else "",
    )
