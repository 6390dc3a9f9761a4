"""Google credentials: OAuth tokens by google-auth, which is never called on the event loop.

google-auth reads files, runs commands and asks metadata servers, each of which may take seconds: it
takes 12 s to find out that there is no metadata server where the network is silent.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from hybrid_detect import extras
from hybrid_detect.backends.remote.protocol import HttpRequest
from hybrid_detect.backends.remote.renewal import Renewed
from hybrid_detect.errors import BackendResponseError, BackendUnavailableError, Refusal

__all__ = ["GoogleCredentials"]

SCOPE = "https://www.googleapis.com/auth/cloud-vision"

REQUEST_S = 10.0
"""The most that one request for a token may take."""

MAX_ANSWER_BYTES = 1024 * 1024
"""An answer with a token has some 2 KB."""


class GoogleCredentials:
    """Tokens of a service account, a user or a workload, as google-auth finds or is given them.

    Args:
        credentials: An object of google-auth's; `None` for the application default credentials,
            which are looked for in a thread when the first frame needs them.

    Raises:
        MissingExtraError: If google-auth is not installed.
    """

    def __init__(self, credentials: Any = None) -> None:
        if not _is_installed():
            extras.require("google.auth", extra="google", purpose="GoogleCredentials")
        self._google = _GoogleAuth(credentials)
        self._token = Renewed(
            self._google.token,
            name="Google credentials",
            read=_checked,
            ends_at_s=lambda found: found.ends_at_s,
        )

    async def prepare(self, *, now_s: float) -> None:
        """As in `Credentials`."""
        await self._token.prepare(now_s=now_s)

    def apply(self, request: HttpRequest, *, now_s: float) -> HttpRequest:
        """As in `Credentials`."""
        token = self._token.current()
        headers = {"Authorization": f"Bearer {token.value}", **request.headers}
        if token.project and "X-Goog-User-Project" not in headers:
            headers["X-Goog-User-Project"] = token.project
        return replace(request, headers=headers)

    def on_refused(self, error: BackendResponseError) -> bool:
        """As in `Credentials`."""
        return error.refusal is Refusal.UNAUTHENTICATED and self._token.forget()


def _is_installed() -> bool:
    try:
        return find_spec("google.auth") is not None
    except ModuleNotFoundError:  # there is no package `google` at all
        return False


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    ends_at_s: float | None
    project: str | None
    """Who is charged, where the credentials are a person's."""


def _checked(given: object) -> _Token:
    assert isinstance(given, _Token)  # noqa: S101 - of `_GoogleAuth.token`
    return given


class _GoogleAuth:
    """What is done in a thread."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def token(self) -> _Token:
        """A fresh token.

        Raises:
            BackendUnavailableError: If there is none to be had. google-auth's own words are not
                repeated: they may quote what a server wrote.
        """
        exceptions = import_module("google.auth.exceptions")
        try:
            credentials = self._found()
            credentials.refresh(_send)
        except exceptions.DefaultCredentialsError:
            msg = (
                "Google credentials: none were found; give api_key, or set "
                "GOOGLE_APPLICATION_CREDENTIALS"
            )
            raise BackendUnavailableError(msg) from None
        except exceptions.GoogleAuthError as exc:
            msg = f"Google credentials: no token could be had ({type(exc).__name__})"
            raise BackendUnavailableError(msg, retryable=bool(exc.retryable)) from None
        ends = credentials.expiry
        return _Token(
            credentials.token,
            None if ends is None else ends.replace(tzinfo=UTC).timestamp(),
            getattr(credentials, "quota_project_id", None),
        )

    def _found(self) -> Any:
        if self._credentials is None:
            default = import_module("google.auth").default
            self._credentials, _ = default(scopes=[SCOPE], request=_send)
        scoped = import_module("google.auth.credentials").with_scopes_if_required
        found = scoped(self._credentials, [SCOPE])
        if hasattr(found, "with_always_use_jwt_access"):
            # A service account then signs its tokens itself, and no server is asked.
            found = found.with_always_use_jwt_access(True)
        self._credentials = found
        return found


@dataclass(frozen=True, slots=True)
class _Response:
    """As `google.auth.transport.Response`."""

    status: int
    headers: Mapping[str, str]
    data: bytes = field(repr=False)


def _send(
    url: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = REQUEST_S,
    **_: Any,
) -> _Response:
    """As `google.auth.transport.Request`, over the standard library.

    Redirects are not followed: what the request carries, a token or what one is made from, is for
    the address that it was given for.
    """
    # Addresses are google-auth's own, or stand in the credentials that the user gave.
    request = urllib.request.Request(  # noqa: S310
        url, data=body, method=method, headers=dict(headers or {})
    )
    try:
        with _opener().open(request, timeout=timeout or REQUEST_S) as answer:
            return _Response(answer.status, dict(answer.headers), answer.read(MAX_ANSWER_BYTES))
    except urllib.error.HTTPError as answer:
        with answer:
            return _Response(answer.code, dict(answer.headers), answer.read(MAX_ANSWER_BYTES))
    except OSError as exc:
        transport_error = import_module("google.auth.exceptions").TransportError
        raise transport_error(type(exc).__name__) from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect an error: the handler of the standard library carries headers along."""

    def redirect_request(self, *_args: Any, **_options: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirects)
