"""API keys: a file that knows them only by their salted hashes.

A key is random (256 bits), so a fast hash is as good as a slow one: there is nothing to guess, and
a password hash would only make each frame dearer. The salt keeps equal keys in two files from being
seen to be equal. A reader of the file can use no key; a writer of it can add one.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hybrid_detect.errors import ConfigurationError, StorageError
from hybrid_detect.storage.private_files import locked, remove_leftovers, replace_file

__all__ = ["ApiKey", "ApiKeyFile"]

logger = logging.getLogger("hybrid_detect.server")

SECRET_BYTES = 32
"""256 bits: beyond guessing, whatever the rate."""

ID_BYTES = 6
SALT_BYTES = 16
"""NIST SP 800-132, 5.1: at least 128 bits."""

MAX_FILE_BYTES = 4 * 1024 * 1024
"""Some 20,000 keys."""

VERSION = 1

_KEY = re.compile(r"hdk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
"""The prefix lets secret scanners find a key that was committed by mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What the file has of a key."""

    id: str
    """A part of the key itself, so that one hash is computed and not one for each key."""
    name: str
    """The name of its owner, in your own words."""
    created: str
    """When it was made, in UTC."""
    salt: str = field(repr=False)
    sha256: str = field(repr=False)
    """HMAC-SHA256 of the key's secret under the salt, in hexadecimal digits."""


_NO_KEY = ApiKey(id="", name="", created="", salt="00" * SALT_BYTES, sha256="00" * 32)
"""Compared with if no key has the id, so that an unknown id takes as long as a known one."""


class ApiKeyFile:
    """The keys in a JSON file, read again whenever it changes.

    While the file cannot be read, every key is refused: a key that was to be revoked must not
    live on because of a slip of the editor.

    Args:
        path: The file; `add` makes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        remove_leftovers(path.parent)
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, ApiKey] = {}

    def find(self, text: str) -> ApiKey | None:
        """The key whose text is `text`; `None` if there is none.

        A key that is there takes as long as one that is not, and a wrong one as long as the right.
        """
        match = _KEY.fullmatch(text)
        if match is None:
            return None
        key_id, secret = match.groups()
        key = self._current().get(key_id, _NO_KEY)
        digest = _digest(bytes.fromhex(key.salt), secret)
        is_right = hmac.compare_digest(digest, bytes.fromhex(key.sha256))
        return key if is_right and key is not _NO_KEY else None

    def read(self) -> tuple[ApiKey, ...]:
        """The keys in the file, the oldest first.

        Raises:
            ConfigurationError: If it cannot be read.
        """
        return tuple(_read(self._path).values())

    def add(self, name: str) -> str:
        """Make a key for `name` and return it: the only time that it can be seen.

        Raises:
            ConfigurationError: If the name is no single line of at most 200 characters, or the
                file cannot be read or written.
        """
        if not 0 < len(name) <= 200 or not name.isprintable():
            msg = f"name: expected 1 to 200 printable characters, got {len(name)}"
            raise ConfigurationError(msg)
        secret = secrets.token_urlsafe(SECRET_BYTES)
        salt = secrets.token_bytes(SALT_BYTES)
        key = ApiKey(
            id=secrets.token_hex(ID_BYTES),
            name=name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            salt=salt.hex(),
            sha256=_digest(salt, secret).hex(),
        )
        with self._changing(may_be_new=True) as keys:
            keys[key.id] = key
        return f"hdk_{key.id}_{secret}"

    def revoke(self, key_id: str) -> ApiKey:
        """Take the key `key_id` out; a running server notices with the next request.

        Raises:
            ConfigurationError: If there is no such key, or the file cannot be read or written.
        """
        with self._changing() as keys:
            key = keys.pop(key_id, None)
            if key is None:
                msg = f"{self._path} has no key of that id: see 'hybrid-detect api-keys list'"
                raise ConfigurationError(msg)
        return key

    def _current(self) -> dict[str, ApiKey]:
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            stamp = (0, 0, 0)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._keys = _read(self._path)
            except ConfigurationError as error:
                self._keys = {}
                logger.error("no API key is accepted: %s", error)
        return self._keys

    @contextlib.contextmanager
    def _changing(self, *, may_be_new: bool = False) -> Iterator[dict[str, ApiKey]]:
        """The keys, to be changed; written when the block ends, all or nothing."""
        try:
            with locked(self._path):
                is_new = may_be_new and not self._path.exists()
                keys = {} if is_new else _read(self._path)
                yield keys
                entries = [asdict(key) for key in keys.values()]
                text = json.dumps({"version": VERSION, "keys": entries}, indent=2) + "\n"
                if len(text) > MAX_FILE_BYTES:  # it would not be read again
                    msg = f"{self._path}: full, at {len(keys)} keys"
                    raise ConfigurationError(msg)
                replace_file(self._path, [text.encode()], kept_mode=0o777)
        except StorageError as error:
            msg = f"cannot write the API keys in {self._path}: {error}"
            raise ConfigurationError(msg) from None


def _digest(salt: bytes, secret: str) -> bytes:
    return hmac.digest(salt, secret.encode("ascii"), "sha256")


def _read(path: Path) -> dict[str, ApiKey]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        msg = f"cannot read the API keys in {path}: {exc.strerror}"
        raise ConfigurationError(msg) from None
    msg = f"{path} is no file of API keys: make one with 'hybrid-detect api-keys add'"
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(msg)
    try:
        parsed = json.loads(data)
        if parsed["version"] != VERSION:
            raise ConfigurationError(msg)
        keys = [_key(entry) for entry in parsed["keys"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigurationError(msg) from None
    return {key.id: key for key in keys}


def _key(entry: dict[str, str]) -> ApiKey:
    key = ApiKey(**{name: entry[name] for name in ("id", "name", "created", "salt", "sha256")})
    # A short salt or hash means that this program did not write the file.
    if len(bytes.fromhex(key.salt)) < SALT_BYTES or len(bytes.fromhex(key.sha256)) != 32:
        raise ValueError
    if not re.fullmatch(r"[0-9a-f]{12}", key.id) or not isinstance(key.name, str):
        raise ValueError
    return key
