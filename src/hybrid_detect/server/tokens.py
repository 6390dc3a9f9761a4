"""Bearer tokens of an identity provider: JSON Web Tokens, verified with its public keys.

PyJWT verifies (extra ``jwt``); what is accepted is decided here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.extras import require
from hybrid_detect.server.jwks import ALGORITHMS, KeySet

__all__ = ["JwtConfig", "TokenVerifier"]

LEEWAY_S = 30.0
"""Clocks of two machines that are both set by NTP differ by far less."""

MAX_TOKEN_CHARS = 8192
"""Longer ones do not fit into what HTTP servers take as a header."""

MAX_SUBJECT_CHARS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtConfig:
    """The issuer whose tokens are accepted.

    Raises:
        ConfigurationError: If a value is empty.
    """

    issuer: str
    """The value that ``iss`` must have."""
    audience: str
    """The value that ``aud`` must have, so that a token for another service is refused."""
    jwks: str
    """The issuer's public keys: a file, or an https URL."""

    def __post_init__(self) -> None:
        for name in ("issuer", "audience", "jwks"):
            if not getattr(self, name):
                msg = f"jwt {name}: expected a text, got an empty one"
                raise ConfigurationError(msg)


class TokenVerifier:
    """Verifies tokens as `config` asks.

    Raises:
        ConfigurationError: If the keys' source is neither a file nor an https URL.
        MissingExtraError: If PyJWT is not installed.
    """

    def __init__(self, config: JwtConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._jwt: Any = require("jwt", extra="jwt", purpose="accepting JSON Web Tokens")
        self._config = config
        self._keys = KeySet(config.jwks, clock=clock)

    async def subject(self, token: str) -> str | None:
        """The subject of `token`; `None` if it is not a valid token."""
        if token.count(".") != 2 or len(token) > MAX_TOKEN_CHARS:
            return None
        try:
            header = self._jwt.get_unverified_header(token)
            # Before a key is looked for: a token that can never be valid must cause no fetch.
            if header.get("alg") not in ALGORITHMS:
                return None
            key = await self._keys.find(header.get("kid"))
            if key is None:
                return None
            claims = self._jwt.decode(
                token,
                key,  # bound to its own algorithm, which the token cannot change
                algorithms=ALGORITHMS,
                issuer=self._config.issuer,
                audience=self._config.audience,
                leeway=LEEWAY_S,
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    "enforce_minimum_key_length": True,
                },
            )
        except (self._jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None  # PyJWT's own, and what its parsers let through over garbage
        subject = claims["sub"]
        return subject if 0 < len(subject) <= MAX_SUBJECT_CHARS else None
