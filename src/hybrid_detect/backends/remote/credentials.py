"""Credentials: what makes a request ours in the server's eyes.

A token is a text, or a function that gives one: asked when there is none, again shortly before
the token ends, and once more after the server has refused it. Tokens are in no repr, error or log.
"""

from __future__ import annotations

import base64
import json
import math
import re
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from hybrid_detect.backends.remote.protocol import HttpRequest, Protocol
from hybrid_detect.backends.remote.providers.forms import with_field
from hybrid_detect.backends.remote.renewal import Renewed
from hybrid_detect.errors import BackendResponseError, ConfigurationError, Refusal

__all__ = [
    "AccessToken",
    "ApiKeyHeader",
    "BearerToken",
    "Credentials",
    "FormKey",
    "TokenSource",
    "checked_token",
    "key_credentials",
]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token that ends."""

    value: str = field(repr=False)
    ends_at_s: float | None = None
    """When it ends, in seconds since 1970; `None` if that is unknown."""


TokenSource: typing.TypeAlias = Callable[[], str | AccessToken | Awaitable[str | AccessToken]]
"""A function, sync or async, that gives a token. A sync one is called in a thread. Of a JSON Web
Token (RFC 7519) the end is read from its ``exp``; any other that ends comes as `AccessToken`."""


class Credentials(typing.Protocol):
    """How requests prove whose they are."""

    async def prepare(self, *, now_s: float) -> None:
        """Get what `apply` needs, if there is nothing yet or it ends soon.

        Args:
            now_s: Seconds since 1970.

        Raises:
            BackendUnavailableError: If it cannot be had.
        """

    def apply(self, request: HttpRequest, *, now_s: float) -> HttpRequest:
        """`request` with the proof.

        Args:
            request: The whole request, its URL absolute.
            now_s: Seconds since 1970.
        """

    def on_refused(self, error: BackendResponseError) -> bool:
        """The server refused a request with `error`. Whether a better one can be made now."""


def _token(given: str | AccessToken | TokenSource, name: str) -> Renewed[AccessToken]:
    return Renewed(
        given,
        name=name,
        read=lambda token: _access_token(token, name),
        ends_at_s=lambda token: token.ends_at_s,
    )


class _OfToken:
    """What credentials that are a token or a key have in common."""

    _token: Renewed[AccessToken]

    async def prepare(self, *, now_s: float) -> None:
        """As in `Credentials`."""
        await self._token.prepare(now_s=now_s)

    def on_refused(self, error: BackendResponseError) -> bool:
        """As in `Credentials`."""
        return error.refusal is Refusal.UNAUTHENTICATED and self._token.forget()


class BearerToken(_OfToken):
    """``Authorization: Bearer <token>``. Source: RFC 6750, 2.1.

    Args:
        token: The token, or a function that gives it.

    Raises:
        ConfigurationError: If it is empty or has blanks, line ends or non-ASCII characters.
    """

    def __init__(self, token: str | AccessToken | TokenSource) -> None:
        self._token = _token(token, "auth_token")

    def apply(self, request: HttpRequest, *, now_s: float) -> HttpRequest:
        """As in `Credentials`."""
        value = f"Bearer {self._token.current().value}"
        return replace(request, headers={**request.headers, "Authorization": value})


class ApiKeyHeader(_OfToken):
    """An API key in a header of its own.

    Args:
        key: The key, or a function that gives it.
        header: The header's name.

    Raises:
        ConfigurationError: If key or name cannot stand in a header.
    """

    def __init__(self, key: str | AccessToken | TokenSource, *, header: str = "X-Api-Key") -> None:
        if not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", header):
            msg = f"header: expected the name of an HTTP header, got {header!r}"
            raise ConfigurationError(msg)
        self._header = header
        self._token = _token(key, "api_key")

    def apply(self, request: HttpRequest, *, now_s: float) -> HttpRequest:
        """As in `Credentials`."""
        key = self._token.current().value
        return replace(request, headers={**request.headers, self._header: key})


class FormKey(_OfToken):
    """An API key in a field of the request's form; requests without a form go without it.

    Args:
        key: The key, or a function that gives it.
        field: The field's name.

    Raises:
        ConfigurationError: If the key is empty or has blanks, line ends or non-ASCII characters.
    """

    def __init__(self, key: str | AccessToken | TokenSource, *, field: str = "api_key") -> None:
        self._field = field
        self._token = _token(key, "api_key")

    def apply(self, request: HttpRequest, *, now_s: float) -> HttpRequest:
        """As in `Credentials`."""
        media_type = request.headers.get("Content-Type", "")
        if not media_type.startswith("multipart/form-data"):
            return request
        body = with_field(media_type, request.body, self._field, self._token.current().value)
        return replace(request, body=body)


def key_credentials(protocol: Protocol, key: str | AccessToken | TokenSource) -> Credentials:
    """How servers of `protocol` take an API key.

    Its attribute ``key_header`` names the header, of which ``Authorization`` means a bearer token;
    its ``key_field`` the field of a form. With neither, the header is ``X-Api-Key``.

    Args:
        protocol: The protocol.
        key: The key, or a function that gives it.

    Raises:
        ConfigurationError: If the key cannot stand there.
    """
    field = getattr(protocol, "key_field", "")
    if field:
        return FormKey(key, field=field)
    header = getattr(protocol, "key_header", "X-Api-Key")
    return BearerToken(key) if header == "Authorization" else ApiKeyHeader(key, header=header)


def checked_token(token: str, name: str = "auth_token") -> str:
    """`token`, if it can stand in an HTTP header.

    Checked before it is used, because the errors of HTTP libraries repeat what they refuse.

    Raises:
        ConfigurationError: If it is empty or has blanks, line ends or non-ASCII characters.
    """
    if re.fullmatch(r"[!-~]+", token):
        return token
    why = "one with a blank, line end or non-ASCII character" if token else "an empty one"
    msg = f"{name}: expected visible ASCII characters only, got {why}"
    raise ConfigurationError(msg)


def _access_token(token: object, name: str) -> AccessToken:
    if isinstance(token, AccessToken):
        checked_token(token.value, name)
        return token
    if not isinstance(token, str):
        msg = f"{name}: expected a text or a function, got {type(token).__name__}"
        raise ConfigurationError(msg)
    return AccessToken(checked_token(token, name), _end_of_jwt(token))


def _end_of_jwt(token: str) -> float | None:
    """The ``exp`` of a JSON Web Token, unverified; `None` if it is none or does not say."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        ends_at_s = float(claims["exp"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return ends_at_s if math.isfinite(ends_at_s) else None
