"""Credentials: what makes a request ours in the server's eyes.

A token is a text, or a function that gives one: asked when there is none, again shortly before
the token ends, and once more after the server has refused it. Tokens are in no repr, error or log.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import math
import re
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from hybrid_detect.backends.remote.protocol import HttpRequest, Protocol
from hybrid_detect.backends.remote.providers.forms import with_field
from hybrid_detect.errors import BackendUnavailableError, ConfigurationError
from hybrid_detect.sources.daemon_threads import in_daemon_thread

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

REFRESH_BEFORE_S = 30.0
"""A token is asked for again so long before it ends, which a clock that is some seconds late and a
slow answer fit into; a short-lived one when a tenth of its life is left."""

REASK_S = 1.0
"""A function that gives tokens which have ended already is asked once a second, not per frame."""


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

    def on_refused(self) -> bool:
        """The server did not accept it (401). Whether `prepare` may bring another one now."""


class _Token:
    """A token, and the function it comes from if there is one."""

    def __init__(self, token: str | AccessToken | TokenSource, name: str) -> None:
        self._name = name
        self._source: TokenSource | None = None
        self._token: AccessToken | None = None
        self._ask_at_s = -math.inf
        self._fetching: asyncio.Task[AccessToken] | None = None
        if isinstance(token, str | AccessToken):
            self._token = _access_token(token, name)
        elif callable(token):
            self._source = token
        else:
            msg = f"{name}: expected a text or a function, got {type(token).__name__}"
            raise ConfigurationError(msg)

    async def prepare(self, *, now_s: float) -> None:
        """Ask the function, if there is one and it is time to."""
        if self._source is None or (self._token is not None and now_s < self._ask_at_s):
            return
        if self._fetching is None:
            # One question serves all frames that wait, and outlives those that give up.
            self._fetching = asyncio.create_task(self._fetch(self._source))
            self._fetching.add_done_callback(_see)
        fetching = self._fetching
        try:
            token = await asyncio.shield(fetching)
        finally:
            if fetching.done() and self._fetching is fetching:
                self._fetching = None
        self._token = token
        self._ask_at_s = _ask_at_s(token, now_s=now_s)

    async def _fetch(self, source: TokenSource) -> AccessToken:
        try:
            if inspect.iscoroutinefunction(source):
                given = await source()
            else:
                given = await in_daemon_thread(source)
                if inspect.isawaitable(given):
                    given = await given
        except Exception as exc:
            # Its message may well hold the token, or what it was made from.
            msg = f"{self._name}: the function that gives it failed ({type(exc).__name__})"
            raise BackendUnavailableError(msg, retryable=True) from None
        try:
            return _access_token(given, self._name)
        except ConfigurationError as error:
            raise BackendUnavailableError(str(error)) from None

    def current(self) -> str:
        """The token that requests carry now."""
        assert self._token is not None  # noqa: S101 - `prepare` comes first
        return self._token.value

    def on_refused(self) -> bool:
        """Forget a token that came from the function, and say whether there was one."""
        if self._source is None:
            return False
        self._ask_at_s = -math.inf
        return True


def _ask_at_s(token: AccessToken, *, now_s: float) -> float:
    if token.ends_at_s is None:
        return math.inf
    left_s = token.ends_at_s - now_s
    return now_s + max(left_s - min(REFRESH_BEFORE_S, left_s / 10), REASK_S)


class BearerToken:
    """``Authorization: Bearer <token>``. Source: RFC 6750, 2.1.

    Args:
        token: The token, or a function that gives it.

    Raises:
        ConfigurationError: If it is empty or has blanks, line ends or non-ASCII characters.
    """

    def __init__(self, token: str | AccessToken | TokenSource) -> None:
        self._token = _Token(token, "auth_token")

    async def prepare(self, *, now_s: float) -> None:
        """As in `Credentials`."""
        await self._token.prepare(now_s=now_s)

    def apply(self, request: HttpRequest, *, now_s: float) -> HttpRequest:
        """As in `Credentials`."""
        value = f"Bearer {self._token.current()}"
        return replace(request, headers={**request.headers, "Authorization": value})

    def on_refused(self) -> bool:
        """As in `Credentials`."""
        return self._token.on_refused()


class ApiKeyHeader:
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
        self._token = _Token(key, "api_key")

    async def prepare(self, *, now_s: float) -> None:
        """As in `Credentials`."""
        await self._token.prepare(now_s=now_s)

    def apply(self, request: HttpRequest, *, now_s: float) -> HttpRequest:
        """As in `Credentials`."""
        return replace(request, headers={**request.headers, self._header: self._token.current()})

    def on_refused(self) -> bool:
        """As in `Credentials`."""
        return self._token.on_refused()


class FormKey:
    """An API key in a field of the request's form; requests without a form go without it.

    Args:
        key: The key, or a function that gives it.
        field: The field's name.

    Raises:
        ConfigurationError: If the key is empty or has blanks, line ends or non-ASCII characters.
    """

    def __init__(self, key: str | AccessToken | TokenSource, *, field: str = "api_key") -> None:
        self._field = field
        self._token = _Token(key, "api_key")

    async def prepare(self, *, now_s: float) -> None:
        """As in `Credentials`."""
        await self._token.prepare(now_s=now_s)

    def apply(self, request: HttpRequest, *, now_s: float) -> HttpRequest:
        """As in `Credentials`."""
        media_type = request.headers.get("Content-Type", "")
        if not media_type.startswith("multipart/form-data"):
            return request
        body = with_field(media_type, request.body, self._field, self._token.current())
        return replace(request, body=body)

    def on_refused(self) -> bool:
        """As in `Credentials`."""
        return self._token.on_refused()


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
        msg = f"{name}: expected a text, got {type(token).__name__}"
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


def _see(task: asyncio.Task[AccessToken]) -> None:
    """Look at an error that every frame has given up waiting for."""
    if not task.cancelled():
        task.exception()
