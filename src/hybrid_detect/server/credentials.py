"""The name of a caller, from its API key, bearer token or JSON Web Token.

A server without any of these, which may listen on this machine's own address alone, names callers
by their address.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable
from functools import lru_cache

from starlette.requests import HTTPConnection

from hybrid_detect.server.api_keys import ApiKeyFile
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.head_facts import HeadFacts, facts_of
from hybrid_detect.server.tokens import TokenVerifier

__all__ = ["Credentials", "WrongCredentialError", "network_of", "peer_of"]


class WrongCredentialError(Exception):
    """No accepted credential was sent, or more than one."""


class Credentials:
    """Checks credentials, and names their callers.

    Args:
        config: Token, API keys and issuer; without any, everyone is accepted.
        clock: Seconds that only grow.

    Raises:
        ConfigurationError: If the API keys or the issuer's keys cannot be had.
    """

    def __init__(
        self, config: ServerConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._token = _digest(config.auth_token) if config.auth_token is not None else None
        self._api_keys = ApiKeyFile(config.api_keys) if config.api_keys is not None else None
        if self._api_keys is not None:
            self._api_keys.read()  # said now, not by refusing everyone later
        self._jwt = TokenVerifier(config.jwt, clock=clock) if config.jwt is not None else None
        self._open = self._token is None and self._api_keys is None and self._jwt is None

    async def caller(self, connection: HTTPConnection, *, is_public: bool = False) -> str:
        """The name that limits are counted under.

        Args:
            connection: The request, or a WebSocket's handshake.
            is_public: Whether it may come without a credential; a wrong one is wrong all the same.

        Raises:
            WrongCredentialError: If the caller may not come in.
        """
        facts, peer = facts_of(connection.scope), peer_of(connection)
        if (name := self.caller_at_once(facts, peer, is_public=is_public)) is not None:
            return name
        return await self.caller_by_issuer(facts)

    async def caller_by_issuer(self, facts: HeadFacts) -> str:
        """The name of one whom `caller_at_once` does not know.

        Raises:
            WrongCredentialError: If the caller may not come in.
        """
        if self._jwt is not None and (given := facts.credential) is not None:
            subject = await self._jwt.subject(given)
            if subject is not None:
                return f"subject {subject}"
        raise WrongCredentialError

    def caller_at_once(self, facts: HeadFacts, peer: str, *, is_public: bool = False) -> str | None:
        """The same name, where it can be told without waiting for an issuer's keys.

        Args:
            facts: What the head of the request, or of a WebSocket's handshake, says.
            peer: What `peer_of` gives for it.
            is_public: As for `caller`.

        Returns:
            The name; `None` if it is not that of the token or of an API key, which
            `caller_by_issuer` may still find to be a JSON Web Token's, or wrong.

        Raises:
            WrongCredentialError: If there is no credential at all.
        """
        if self._open:
            return f"peer {peer}"
        given = facts.credential
        if given is None:
            if is_public:
                return f"peer {peer}"
            raise WrongCredentialError
        # A shared token says nothing about who uses it: the address tells its users apart.
        if self._token is not None and hmac.compare_digest(facts.credential_digest, self._token):
            return f"token {peer}"
        if self._api_keys is not None and (key := self._api_keys.find(given)) is not None:
            return f"key {key.id}"
        return None


def peer_of(connection: HTTPConnection) -> str:
    """The address at the other end of the connection; headers about another one are not believed.

    A caller with IPv6 has at least 2^64 addresses (RFC 6177, 2), so its network stands for it.
    """
    client = connection.scope.get("client")
    return network_of(client[0] if client else "")


@lru_cache(maxsize=4096)
def network_of(host: str) -> str:
    """`host` as limits count it: an IPv4 address, or the /64 network of an IPv6 one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))


def _digest(text: str) -> bytes:
    """As `HeadFacts.credential_digest` has that of what is sent."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
