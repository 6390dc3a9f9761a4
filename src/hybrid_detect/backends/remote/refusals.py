"""What an HTTP status means for a frame, for every provider."""

from __future__ import annotations

from hybrid_detect.backends.remote.protocol import HttpResponse
from hybrid_detect.errors import BackendResponseError, Refusal

__all__ = ["is_retryable", "mark_passing", "meaning_of", "refusal", "refusal_of"]


def is_retryable(status: int) -> bool:
    """Whether sending the same request again could help: detecting has no side effect."""
    return Refusal.of_status(status) in {Refusal.THROTTLED, Refusal.TRANSIENT}


def mark_passing(error: BaseException | None) -> None:
    """Mark a refusal that something in between said, in front of a server that has worked.

    A gateway whose server restarts answers 404 or 401 for a second. Taken for the server's word,
    that would cost half a minute, or end a watch.
    """
    if isinstance(error, BackendResponseError) and error.is_configuration and not error.by_server:
        error.is_passing = error.retryable = True


def meaning_of(status: int) -> str:
    """What an HTTP status means for a frame, as the start of an error's message."""
    return _MEANING.get(status, "the server answered with an error")


_REDIRECTS = "the server redirects, which is not followed: give the address it means as endpoint"

_MEANING = {
    301: _REDIRECTS,
    302: _REDIRECTS,
    303: _REDIRECTS,
    307: _REDIRECTS,
    308: _REDIRECTS,
    400: "the server could not read the request",
    401: "the server does not accept the auth token",
    403: "the server refuses this auth token, or pictures that are not encrypted",
    404: "there is no detection service at this endpoint",
    405: "there is no detection service at this endpoint",
    407: "a proxy asks for a user and password",
    408: "the request did not come in time",
    409: "the server has seen this sealed request before",
    412: "this device's clock and the server's are too far apart for sealed requests",
    413: "the picture is too large for the server",
    415: "the server does not take this picture format",
    421: "the server does not have the key that pictures are encrypted to",
    422: "the server could not decode the picture",
    429: "the server asks to send less",
    502: "a gateway cannot reach the server",
    503: "the server is overloaded or stopping",
    504: "the server's deadline passed",
    511: "this network asks to sign in first",
}


def refusal(
    status: int, *, retry_after_s: float | None = None, code: str = "", by_server: bool = True
) -> BackendResponseError:
    """The error for an error status. Nothing else that the server wrote is repeated.

    Args:
        status: The HTTP status.
        retry_after_s: Seconds the server asked to wait.
        code: The server's word for programs; dropped if it is not an identifier.
        by_server: Whether the server itself said so, in its own protocol.
    """
    aside = "" if by_server else ", not in the words of a detection server"
    msg = f"{meaning_of(status)} (status {status}{aside})"
    return BackendResponseError(
        msg,
        retryable=is_retryable(status),
        retry_after_s=retry_after_s,
        status_code=status,
        code=code if code.isidentifier() else "",
        by_server=by_server,
    )


def refusal_of(response: HttpResponse) -> BackendResponseError:
    """The error for a response with an error status, of any provider.

    Providers answer with JSON; what gateways and captive portals say is a page for people.
    """
    return refusal(
        response.status,
        retry_after_s=response.retry_after_s,
        by_server="json" in response.media_type,
    )
