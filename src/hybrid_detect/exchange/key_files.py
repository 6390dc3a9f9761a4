"""Keys on disk: a server's private keys, and the keys of the servers that a client has met."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybrid_detect.errors import ConfigurationError, StorageError
from hybrid_detect.exchange.key_ring import KeyRing
from hybrid_detect.exchange.keys import PublicKey
from hybrid_detect.storage.private_files import locked, remove_leftovers, replace_file

__all__ = ["KnownKeys", "changing_keys", "read_key_file", "read_public_key", "write_key_file"]

MAX_FILE_BYTES = 1024 * 1024
"""Some 600 keys of the largest suite (1.7 KB of text); a file beyond it is another file."""

KEPT_MODE = 0o640
"""The widest mode of a key file that stays when it is replaced."""

UNSAFE = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
"""Permissions that no file of private keys may have. Its group may read it if it is root's: so an
operator hands a secret to a service (a Kubernetes Secret is root:fsGroup 0440; PostgreSQL has the
same rule for ``ssl_key_file``)."""


def write_key_file(path: Path, ring: KeyRing) -> None:
    """Write a server's private keys, readable by their owner alone (mode 0600).

    The file is replaced in one step: a server that reads it meets the old keys or the new. A file
    that is replaced keeps its owner, its group and a safe mode. To change keys that are there, do
    it inside `changing_keys`, so that two commands at once lose none.

    Raises:
        ConfigurationError: If it cannot be written.
    """
    _write(path, ring.to_text() + "\n")


def read_key_file(path: Path) -> KeyRing:
    """A server's private keys.

    Raises:
        ConfigurationError: If the file cannot be read, is none, or may be read by others.
    """
    try:
        with path.open("rb") as file:
            # Of the opened file, not of its name, which may mean another by then.
            found = os.fstat(file.fileno())
            unsafe = UNSAFE if found.st_uid == 0 else UNSAFE | stat.S_IRGRP
            if os.name == "posix" and found.st_mode & unsafe:
                msg = (
                    f"{path}: other users may read these keys: chmod 600 it, or have root own it "
                    "and chmod 640 it for the server's group"
                )
                raise ConfigurationError(msg)
            text = _bounded(file.read(MAX_FILE_BYTES + 1), path)
    except OSError as error:
        msg = f"{path}: the keys cannot be read ({error.strerror})"
        raise ConfigurationError(msg) from None
    try:
        return KeyRing.from_text(text)
    except ConfigurationError as error:
        msg = f"{path}: {error}"
        raise ConfigurationError(msg) from None


@contextmanager
def changing_keys(path: Path) -> Iterator[None]:
    """Keep other processes from changing the key file `path` while the block reads and writes it.

    Raises:
        ConfigurationError: If another process has been changing it for too long, or the lock
            cannot be made.
    """
    try:
        with locked(path):
            yield
    except StorageError as error:
        msg = f"{path}: the keys cannot be written ({error})"
        raise ConfigurationError(msg) from None


def read_public_key(text_or_path: str) -> PublicKey:
    """The public key spelt by a text such as ``hd1:...``, or in the file of that name.

    Raises:
        ConfigurationError: If it is neither.
    """
    text = text_or_path.strip()
    if not text.startswith("hd1:"):
        path = Path(text_or_path)
        try:
            with path.open("rb") as file:
                text = _bounded(file.read(MAX_FILE_BYTES + 1), path)
        except (OSError, ValueError):
            # Not repeated: it may be a private key that went into the wrong setting.
            msg = "server_public_key: expected 'hd1:...' or the name of a file that holds it"
            raise ConfigurationError(msg) from None
    return PublicKey.from_text(text)


class KnownKeys:
    """The servers' keys that a client trusted when it first met them, in a JSON file.

    Args:
        path: The file; it and its folder are made when there is something to remember.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        remove_leftovers(path.parent)

    def get(self, endpoint: str) -> PublicKey | None:
        """The key of the server at `endpoint`; `None` if it was never met.

        Raises:
            ConfigurationError: If the file cannot be read or understood. It is not taken for an
                empty one, because then any key would be trusted again.
        """
        text = self._read().get(endpoint)
        return None if text is None else PublicKey.from_text(text)

    def put(self, endpoint: str, key: PublicKey) -> None:
        """Remember the key of the server at `endpoint`, in the place of an earlier one.

        Raises:
            ConfigurationError: If the file cannot be read or written.
        """
        with changing_keys(self._prepared()):
            self._write({**self._read(), endpoint: key.text})

    def put_first(self, endpoint: str, key: PublicKey) -> PublicKey:
        """Remember the key of the server at `endpoint` unless one is remembered.

        Returns:
            The key that is remembered now: another process may have met the server first.

        Raises:
            ConfigurationError: If the file cannot be read or written.
        """
        with changing_keys(self._prepared()):
            known = self._read()
            if endpoint in known:
                return PublicKey.from_text(known[endpoint])
            self._write({**known, endpoint: key.text})
            return key

    def _prepared(self) -> Path:
        """The path, with its folder made: the lock lies in it, too."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"{self.path}: cannot be written ({error.strerror})"
            raise ConfigurationError(msg) from None
        return self.path

    def _write(self, known: dict[str, str]) -> None:
        text = json.dumps(known, indent=2, sort_keys=True) + "\n"
        if len(text) > MAX_FILE_BYTES:  # it would not be read again
            msg = f"{self.path}: full, at {len(known)} keys; remove servers that are gone"
            raise ConfigurationError(msg)
        _write(self.path, text)

    def _read(self) -> dict[str, str]:
        try:
            with self.path.open("rb") as file:
                value = json.loads(_bounded(file.read(MAX_FILE_BYTES + 1), self.path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            msg = f"{self.path}: the known keys cannot be read ({error.strerror})"
            raise ConfigurationError(msg) from None
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value.values()):
            msg = f"{self.path}: expected known keys as a JSON object, got something else"
            raise ConfigurationError(msg)
        return value


def _bounded(content: bytes, path: Path) -> str:
    try:
        if len(content) <= MAX_FILE_BYTES:
            return content.decode()
    except UnicodeDecodeError:
        pass
    msg = f"{path}: expected a file of keys, got another"
    raise ConfigurationError(msg)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, [text.encode()], kept_mode=KEPT_MODE)
    except (StorageError, OSError) as error:
        msg = f"{path}: the keys cannot be written ({error})"
        raise ConfigurationError(msg) from None
