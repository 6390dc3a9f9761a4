"""Digests that name a session without telling its name, and that bind a row to it. Pure."""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import UTC, datetime

from hybrid_detect.errors import ConfigurationError, StorageError
from hybrid_detect.storage.records import StoredResult

__all__ = ["RowSeals"]

MAX_CHARS = 1024
"""Of a session's or owner's name, as in the wire format."""

TAG_BYTES = 16

SEAL_BYTES = 16
"""Of each of a row's two digests: 2^-128 that a damaged or another session's row has the same."""

KEY_BYTES, CHECK_BYTES = 32, 8
"""The key, and a digest of it: a damaged key would find no session, and none to be erased."""


class RowSeals:
    """Makes and checks the digests of one history.

    Args:
        stored_key: As `new_key` made it.

    Raises:
        StorageError: If it is not as it was made.
    """

    def __init__(self, stored_key: object) -> None:
        if not isinstance(stored_key, bytes) or stored_key[KEY_BYTES:] != _check(
            stored_key[:KEY_BYTES]
        ):
            msg = "the history is damaged: no session can be found in it; delete its file"
            raise StorageError(msg)
        self._key = stored_key[:KEY_BYTES]

    @staticmethod
    def new_key() -> bytes:
        """A key to store, with what shows damage of it."""
        key = secrets.token_bytes(KEY_BYTES)
        return key + _check(key)

    def tag(self, session: str | None, owner: str) -> bytes:
        """What stands for `session` of `owner` in the file.

        Raises:
            ConfigurationError: If they cannot be names.
        """
        for name, value, least in (("session", session, 1), ("owner", owner, 0)):
            if not isinstance(value, str) or not least <= len(value) <= MAX_CHARS:
                actual = f"{len(value)} characters" if isinstance(value, str) else repr(value)
                msg = f"{name}: expected a text of at most {MAX_CHARS} characters, got {actual}"
                raise ConfigurationError(msg)
        text = json.dumps((owner, session))
        return hashlib.blake2b(text.encode(), key=self._key, digest_size=TAG_BYTES).digest()

    def cost_tag(self, kind: str, name: str) -> bytes:
        """What stands for a ``session`` or ``user`` in the table of costs; empty for no name.

        A session's is that of `tag` without an owner, so that the two are erased together.
        """
        return self.tag(name, "" if kind == "session" else kind) if name else b""

    def seal(self, tag: bytes, text: str, image: bytes | None) -> bytes:
        """What binds a result and its picture to the session of `tag`."""
        return self._digest(tag, text.encode(), b"result") + self._image_digest(tag, image)

    def seal_again(self, tag: bytes, text: str, seal: bytes) -> bytes:
        """The `seal` of a row whose result has become `text`, while its picture stays."""
        return self._digest(tag, text.encode(), b"result") + seal[SEAL_BYTES:]

    def stored(
        self,
        tag: bytes,
        row: tuple[int, float, str, bytes | None, bytes],
        *,
        with_image: bool,
    ) -> StoredResult:
        """A row of ``id, recorded_at, result, image, seal`` as it was kept.

        Raises:
            StorageError: If it is not, or is another session's.
        """
        number, recorded_at, text, image, seal = row
        try:
            is_whole = seal[:SEAL_BYTES] == self._digest(tag, text.encode(), b"result") and (
                not with_image or seal[SEAL_BYTES:] == self._image_digest(tag, image)
            )
            if is_whole:
                return StoredResult(
                    number=number,
                    recorded_at=datetime.fromtimestamp(recorded_at, UTC),
                    result=json.loads(text),
                    image=image,
                )
        except (TypeError, ValueError, AttributeError, OverflowError, OSError):
            pass  # values of other types: their digests cannot even be computed
        msg = f"result {number} of the history is damaged"
        raise StorageError(msg)

    def _image_digest(self, tag: bytes, image: bytes | None) -> bytes:
        return self._digest(tag, b"" if image is None else b"+" + image, b"image")

    def _digest(self, tag: bytes, content: bytes, kind: bytes) -> bytes:
        digest = hashlib.blake2b(tag, key=self._key, digest_size=SEAL_BYTES, person=kind)
        digest.update(content)
        return digest.digest()


def _check(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=CHECK_BYTES).digest()
