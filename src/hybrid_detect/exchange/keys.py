"""The keys that pictures are sealed to: values, and their text.

A public key is one word, for pinning in an app's configuration::

    hd1:x25519-chacha20:20271123T000000Z:<base64url>

Neither a private key nor anything made from one is in a repr or an error.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from typing import Any, Never, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from hybrid_detect.errors import ConfigurationError, UnknownKeyError

__all__ = ["PrivateKey", "PublicKey", "Suite"]

MAX_TEXT_CHARS = 4096
"""Twice the longest key's text."""

_ID_BYTES = 8
_MLKEM_SEED_BYTES = 64
_MLKEM_PUBLIC_BYTES = 1184
_X25519_BYTES = 32


class Suite(StrEnum):
    """Which HPKE (RFC 9180) a key is for: how keys are agreed on, and what encrypts.

    All derive with HKDF-SHA256. AES has 256-bit keys: they cost no more here than 128-bit ones
    (within 1 % for an 80 KB picture, most of which is the key agreement), and hold against a
    quantum computer, too.
    """

    X25519_CHACHA20 = "x25519-chacha20"
    """X25519 and ChaCha20-Poly1305: quick on every processor, in constant time without help."""
    X25519_AES_GCM = "x25519-aes256gcm"
    """X25519 and AES-256-GCM: quicker where the processor knows AES, and often prescribed."""
    MLKEM768_X25519 = "mlkem768-x25519"
    """ML-KEM-768 with X25519, and ChaCha20-Poly1305: what is recorded today stays closed to a
    quantum computer of tomorrow. A request is 1.1 KB larger, the server's key 1.2 KB."""

    @property
    def code(self) -> int:
        """The suite's number in an envelope."""
        return _CODES.index(self) + 1

    @classmethod
    def of_code(cls, code: int) -> Suite | None:
        """The suite with this number; `None` if there is none."""
        return _CODES[code - 1] if 1 <= code <= len(_CODES) else None

    def may_follow(self, old: Suite) -> bool:
        """Whether a client that seals with `old` may be told to go on with this one.

        The same suite may, and the post-quantum one after any: a client that chose it is never
        told to leave it.
        """
        return self in {old, Suite.MLKEM768_X25519}

    @property
    def public_bytes(self) -> int:
        """Bytes of a public key."""
        return _X25519_BYTES + (_MLKEM_PUBLIC_BYTES if self is Suite.MLKEM768_X25519 else 0)

    @functools.cached_property
    def hpke(self) -> hpke.Suite:
        """What seals and opens.

        Raises:
            ConfigurationError: If the installed cryptography does not offer it.
        """
        _require(self)
        if self is Suite.MLKEM768_X25519:
            return hpke.Suite(
                hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305
            )
        aead = (
            hpke.AEAD.CHACHA20_POLY1305 if self is Suite.X25519_CHACHA20 else hpke.AEAD.AES_256_GCM
        )
        return hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, aead)


_CODES = (Suite.X25519_CHACHA20, Suite.X25519_AES_GCM, Suite.MLKEM768_X25519)


@functools.cache
def _mlkem_is_there() -> bool:
    if not hasattr(hpke.KEM, "MLKEM768_X25519"):
        return False
    try:
        mlkem.MLKEM768PrivateKey.generate()
    except UnsupportedAlgorithm:  # its OpenSSL is older than 3.5
        return False
    return True


def _require(suite: Suite) -> None:
    if suite is Suite.MLKEM768_X25519 and not _mlkem_is_there():
        msg = (
            f"suite {suite.value} needs a cryptography with ML-KEM (its wheels from 48 on), and "
            f"version {version('cryptography')} as installed has none: pip install -U cryptography"
        )
        raise ConfigurationError(msg)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What anyone may know: enough to seal, not to open.

    Raises:
        ConfigurationError: If the bytes are no key of the suite, or the suite is not to be had.
    """

    suite: Suite
    raw: bytes = field(repr=False)
    """X25519: 32 bytes (RFC 7748). ML-KEM-768 with X25519: 1,184 (FIPS 203), then those 32."""
    not_after: datetime
    """When to stop sealing to it, in UTC."""
    id: str = field(init=False)
    """16 hexadecimal digits: the first 8 bytes of SHA-256 over suite and key."""
    handle: Any = field(init=False, repr=False, compare=False)
    """The key as cryptography knows it."""

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.suite.encode() + b"\0" + self.raw).digest()
        object.__setattr__(self, "id", digest[:_ID_BYTES].hex())
        if len(self.raw) != self.suite.public_bytes:
            _fail(f"a {self.suite.value} key of {self.suite.public_bytes} bytes", len(self.raw))
        if self.not_after.tzinfo is None:
            _fail("a key's end with its time zone", "one without")
        # Whole seconds, as its text has, so that a key is equal to what is read back.
        ends = self.not_after.astimezone(UTC).replace(microsecond=0)
        object.__setattr__(self, "not_after", ends)
        _require(self.suite)
        try:
            handle: Any = X25519PublicKey.from_public_bytes(self.raw[-_X25519_BYTES:])
            if self.suite is Suite.MLKEM768_X25519:
                lattice = mlkem.MLKEM768PublicKey.from_public_bytes(self.raw[:_MLKEM_PUBLIC_BYTES])
                handle = hpke.MLKEM768X25519PublicKey(lattice, handle)
        except ValueError:
            _fail(f"a {self.suite.value} key", "bytes that are none")
        object.__setattr__(self, "handle", handle)

    def require_alive(self, now_s: float) -> None:
        """Refuse to go on once the key has ended.

        Args:
            now_s: The time, in seconds since 1970.

        Raises:
            UnknownKeyError: If it has ended by then: the server has it no longer.
        """
        if now_s > self.not_after.timestamp():
            msg = f"the server's key {self.id} has ended on {self.not_after:%Y-%m-%d %H:%M} UTC"
            raise UnknownKeyError(msg, key_id=self.id)

    @property
    def text(self) -> str:
        """The key as one word, to pin it in a configuration."""
        ends = self.not_after.strftime("%Y%m%dT%H%M%SZ")
        encoded = base64.urlsafe_b64encode(self.raw).rstrip(b"=").decode()
        return f"hd1:{self.suite.value}:{ends}:{encoded}"

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """The key that `text` spells.

        Raises:
            ConfigurationError: If it is no key; what was given is not repeated.
        """
        parts = text.strip().split(":")
        if len(text) > MAX_TEXT_CHARS or len(parts) != 4 or parts[0] != "hd1":
            _fail("a public key such as 'hd1:x25519-chacha20:...'", "another text")
        return cls(_suite(parts[1]), _from_base64(parts[3]), _time(parts[2]))

    def to_json(self) -> dict[str, str]:
        """The key as JSON values, as a server publishes it."""
        return {**_facts(self), "public_key": base64.b64encode(self.raw).decode()}

    @classmethod
    def from_json(cls, value: Any) -> PublicKey:
        """The key that a server publishes as `value`.

        Raises:
            ConfigurationError: If it is none.
        """
        if not isinstance(value, dict):
            _fail("a key as JSON object", type(value).__name__)
        key = cls(
            _suite(value.get("suite")),
            _from_base64(value.get("public_key")),
            _time(value.get("not_after")),
        )
        if value.get("id") != key.id:
            _fail("a key under its own id", "one under another")
        return key


class PrivateKey:
    """What opens what is sealed to its `public` key.

    Args:
        secret: X25519: 32 bytes. ML-KEM-768 with X25519: ML-KEM's seed of 64, then those 32.
        suite: What the key is for.
        not_after: See `PublicKey.not_after`.

    Raises:
        ConfigurationError: If the bytes are no key of the suite, or the suite is not to be had.
    """

    __slots__ = ("_lattice", "_x25519", "handle", "public", "suite")

    def __init__(self, suite: Suite, secret: bytes, not_after: datetime) -> None:
        seed_bytes = _MLKEM_SEED_BYTES if suite is Suite.MLKEM768_X25519 else 0
        if len(secret) != seed_bytes + _X25519_BYTES:
            _fail(f"a {suite.value} key of {seed_bytes + _X25519_BYTES} bytes", len(secret))
        _require(suite)
        lattice = (
            mlkem.MLKEM768PrivateKey.from_seed_bytes(secret[:seed_bytes]) if seed_bytes else None
        )
        self._adopt(
            suite, lattice, X25519PrivateKey.from_private_bytes(secret[seed_bytes:]), not_after
        )

    @classmethod
    def generate(cls, suite: Suite, not_after: datetime) -> Self:
        """A new key.

        Raises:
            ConfigurationError: If the suite is not to be had.
        """
        key = cls.__new__(cls)
        lattice = None
        if suite is Suite.MLKEM768_X25519:
            _require(suite)
            lattice = mlkem.MLKEM768PrivateKey.generate()
        key._adopt(suite, lattice, X25519PrivateKey.generate(), not_after)
        return key

    def _adopt(
        self,
        suite: Suite,
        lattice: mlkem.MLKEM768PrivateKey | None,
        x25519: X25519PrivateKey,
        not_after: datetime,
    ) -> None:
        self.suite = suite
        self._lattice = lattice
        self._x25519 = x25519
        self.handle: Any = x25519
        raw = x25519.public_key().public_bytes_raw()
        if lattice is not None:
            self.handle = hpke.MLKEM768X25519PrivateKey(lattice, x25519)
            raw = lattice.public_key().public_bytes_raw() + raw
        self.public = PublicKey(suite, raw, not_after)

    def __repr__(self) -> str:
        return f"PrivateKey(id={self.public.id!r}, suite={self.suite.value!r})"

    def __reduce__(self) -> Never:
        msg = "a private key is not pickled: write it with write_key_file"
        raise TypeError(msg)

    def to_json(self) -> dict[str, str]:
        """The key, secret included, as JSON values for a key file."""
        seed = b"" if self._lattice is None else self._lattice.private_bytes_raw()
        secret = base64.b64encode(seed + self._x25519.private_bytes_raw()).decode()
        return {**_facts(self.public), "private_key": secret}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The key that a key file spells as `value`.

        Raises:
            ConfigurationError: If it is none; nothing of it is repeated.
        """
        if not isinstance(value, dict):
            _fail("a key as JSON object", type(value).__name__)
        key = cls(
            _suite(value.get("suite")),
            _from_base64(value.get("private_key")),
            _time(value.get("not_after")),
        )
        if value.get("id") != key.public.id:
            _fail("a key under its own id", "one under another")
        return key


def _facts(key: PublicKey) -> dict[str, str]:
    ends = key.not_after.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"id": key.id, "suite": key.suite.value, "not_after": ends}


def _suite(value: Any) -> Suite:
    try:
        return Suite(value)
    except ValueError:
        names = ", ".join(suite.value for suite in Suite)
        _fail(f"one of the suites {names}", "another")


def _from_base64(value: Any) -> bytes:
    """Decodes both alphabets, with or without padding, and nothing else."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9+/_-]+={0,2}", value):
        _fail("a key in base64", type(value).__name__)
    text = value.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        _fail("a key in base64", "a part of one")


def _time(value: Any) -> datetime:
    try:
        then = datetime.fromisoformat(value).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        _fail("a key's end such as '2027-11-23T00:00:00Z'", type(value).__name__)
    return then


def _fail(expected: str, actual: object) -> Never:
    msg = f"expected {expected}, got {actual}"
    raise ConfigurationError(msg)
