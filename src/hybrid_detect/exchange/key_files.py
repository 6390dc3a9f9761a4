"""Keys on disk: a server's private keys, and the server keys a client has met."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.exchange.key_ring import KeyRing
from hybrid_detect.exchange.keys import PublicKey

__all__ = ["KnownKeys", "read_key_file", "read_public_key", "write_key_file"]

MAX_FILE_BYTES = 256 * 1024
"""A hundred keys of the largest suite; a file beyond it is another file."""

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def write_key_file(path: Path, ring: KeyRing) -> None:
    """Write a server's private keys, for its owner's eyes alone (mode 0600).

    The file is replaced in one step: a server that reads it meets the old keys or the new.

    Raises:
        ConfigurationError: If it cannot be written.
    """
    _replace(path, ring.to_text() + "\n")


def read_key_file(path: Path) -> KeyRing:
    """A server's private keys.

    Raises:
        ConfigurationError: If the file cannot be read, is none, or may be read by others.
    """
    try:
        with path.open("rb") as file:
            # Of the opened file, not of its name, which may mean another by then.
            mode = os.fstat(file.fileno()).st_mode
            if os.name == "posix" and mode & OTHERS:
                msg = f"{path}: other users may read these keys: chmod 600 it"
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

    def get(self, endpoint: str) -> PublicKey | None:
        """The key of the server at `endpoint`; `None` if it was never met.

        Raises:
            ConfigurationError: If the file cannot be read or understood. It is not taken for an
                empty one, because then any key would be trusted again.
        """
        text = self._read().get(endpoint)
        return None if text is None else PublicKey.from_text(text)

    def put(self, endpoint: str, key: PublicKey) -> None:
        """Remember the key of the server at `endpoint`.

        Raises:
            ConfigurationError: If the file cannot be read or written.
        """
        known = {**self._read(), endpoint: key.text}
        _replace(self.path, json.dumps(known, indent=2, sort_keys=True) + "\n")

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


def _replace(path: Path, text: str) -> None:
    """Write the file `path` in one step, readable by its owner alone."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # mkstemp makes it with mode 0600, before anything is in it.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        with suppress(OSError):
            if temporary:
                Path(temporary).unlink()
        msg = f"{path}: cannot be written ({error.strerror})"
        raise ConfigurationError(msg) from None
