"""The public keys that bearer tokens are verified with: a JSON Web Key Set, from a file or https.

Kept, and read again when it is old or a token names a key it does not have, as after a rotation;
but never more often than each `RETRY_S`, or any stranger could make this server fetch by inventing
names.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

from hybrid_detect.endpoint import Endpoint
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.extras import require

__all__ = ["ALGORITHMS", "KeySet"]

logger = logging.getLogger("hybrid_detect.server")

ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
"""Asymmetric algorithms alone (RFC 7518, 3.1; RFC 8037): with a shared secret, a party that can
verify a token could make one, and ``none`` is no signature at all."""

MAX_AGE_S = 300.0
"""Seconds that a key is still accepted after its issuer has withdrawn it."""

RETRY_S = 10.0
"""Seconds between two fetches, for which a new key of the issuer may be unknown here."""

STALE_LIMIT_S = 3600.0
"""Seconds after which the keys of an issuer that cannot be reached are forgotten."""

FETCH_LIMIT_S = 5.0

ADDRESS_LIMIT_S = 1.5
"""For each address of the issuer, so that a dead first one leaves time for the next (urllib tries
them one after the other), and for each step of an answer."""

READ_BYTES = 16 * 1024
MAX_SET_BYTES = 256 * 1024
"""A key has about 1 KiB."""


class KeySet:
    """The keys at `source`.

    Args:
        source: A file, or an ``https`` URL (``http`` on this machine's own address only).
        clock: Seconds that only grow.

    Raises:
        ConfigurationError: If it is neither.
        MissingExtraError: If PyJWT is not installed.
    """

    def __init__(self, source: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._jwt: Any = require("jwt", extra="jwt", purpose="accepting JSON Web Tokens")
        require("cryptography", extra="jwt", purpose="verifying JSON Web Tokens")
        if "://" in source:
            Endpoint.parse(source)  # https, or http on this machine
        elif not Path(source).is_file():
            msg = f"jwks: expected a file or an https URL, got {source!r}"
            raise ConfigurationError(msg)
        self._source = source
        self._clock = clock
        self._keys: dict[str, Any] = {}
        self._fetched_s: float | None = None
        self._tried_s: float | None = None
        self._fetching = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None  # held, or it would be collected

    async def find(self, key_id: str | None) -> Any:
        """The key called `key_id`, as PyJWT takes it; the only one there is if that is `None`.

        Returns:
            `None` if there is no such key.
        """
        key = self._named(key_id)
        if key is None:
            await self._refresh()
            return self._named(key_id)
        if self._is_old(self._fetched_s, MAX_AGE_S) and self._is_old(self._tried_s, RETRY_S):
            # No request waits for it: while the issuer is slow or down, frames go on.
            self._refreshing = asyncio.create_task(self._refresh())
        return key

    def _named(self, key_id: str | None) -> Any:
        if key_id is not None:
            return self._keys.get(key_id)
        return next(iter(self._keys.values())) if len(self._keys) == 1 else None

    def _is_old(self, then_s: float | None, limit_s: float) -> bool:
        return then_s is None or self._clock() - then_s >= limit_s

    async def _refresh(self) -> None:
        async with self._fetching:  # one fetch for all that wait for it
            if not self._is_old(self._tried_s, RETRY_S):
                return
            self._tried_s = self._clock()
            try:
                self._keys = self._parsed(await asyncio.to_thread(self._read))
                self._fetched_s = self._clock()
            except (OSError, ValueError) as error:
                # What was fetched may be an issuer's page of errors: it is not repeated.
                logger.warning("the JSON Web Key Set cannot be had: %s", type(error).__name__)
                if self._is_old(self._fetched_s, STALE_LIMIT_S):
                    self._keys = {}

    def _read(self) -> bytes:
        if "://" not in self._source:
            return Path(self._source).read_bytes()
        ends_s = time.monotonic() + FETCH_LIMIT_S
        data = b""
        with _opener(self._source).open(self._source, timeout=ADDRESS_LIMIT_S) as reply:
            # urllib limits each step alone, and an issuer can string them out.
            while part := reply.read1(READ_BYTES):
                data += part
                if len(data) > MAX_SET_BYTES or time.monotonic() > ends_s:
                    msg = "the set is too large or comes too slowly"
                    raise ValueError(msg)
        return data

    def _parsed(self, data: bytes) -> dict[str, Any]:
        """The usable keys by name: those for signing with one of `ALGORITHMS`."""
        parsed = json.loads(data)
        entries = parsed.get("keys") if isinstance(parsed, dict) else None
        if not isinstance(entries, list):
            msg = "it is no JSON Web Key Set"
            raise ValueError(msg)
        keys: dict[str, Any] = {}
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
                continue
            try:
                key = self._jwt.PyJWK(entry)
            except (self._jwt.PyJWTError, ValueError, TypeError, KeyError):
                continue  # a kind of key that came after this library
            if key.algorithm_name in ALGORITHMS:
                keys[str(entry.get("kid", f"#{number}"))] = key
        return keys


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would fetch keys from an address that is not configured, or without encryption."""

    def redirect_request(self, *_: object, **__: object) -> Never:
        msg = "the issuer redirects"
        raise urllib.error.URLError(msg)


def _opener(url: str) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [
        _NoRedirect(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
    ]
    if Endpoint.parse(url).is_local:
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)
