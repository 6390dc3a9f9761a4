"""The lines of a consent ledger: JSON with a checksum, and what an unfinished one may have said.

::

    {"event":"grant","subject":"ann","scope":"send_frames",...,"crc32":"5f3a9c01"}

A line's checksum covers every byte of the file before it, too. So a line that was changed, taken
out or put elsewhere is noticed, not only a line that is no JSON any more. Lines without a checksum,
as early versions wrote them, are read as long as none with one has come before them.

A checksum guards against damage, not against an attacker: a process that may write the file
may write consents.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = ["GRANT", "WITHDRAWAL", "ConsentLines", "may_withdraw"]

GRANT, WITHDRAWAL = "grant", "withdraw"

FIELDS = {
    GRANT: {"event", "subject", "scope", "version", "recorded_by", "at", "expires_at"},
    WITHDRAWAL: {"event", "subject", "scope", "recorded_by", "at"},
}

RECIPIENTS = {"providers", "regions"}
"""Of a grant that names them; lists of texts."""

_SEAL = b',"crc32":"%08x"}'
_SEAL_BYTES = len(_SEAL % 0)
_SEAL_KEY = b',"crc32":"'
_GRANT_START = b'{"event":"g'
_WITHDRAWAL_START = b'{"event":"withdraw","subject":"'


@dataclass(slots=True)
class ConsentLines:
    """Writes and reads a ledger's lines, one after the other."""

    _crc: int = 0
    """Of every line so far, with its end."""
    _is_sealed: bool = False
    """Whether a line with a checksum has come."""

    def encode(self, event: str, **fields: Any) -> bytes:
        """The next line, without its end."""
        body = json.dumps({"event": event, **fields}, separators=(",", ":")).encode()[:-1]
        line = body + _SEAL % zlib.crc32(body, self._crc)
        self._take(line, is_sealed=True)
        return line

    def decode(self, line: bytes) -> dict[str, Any]:
        """What the next line says.

        Raises:
            ValueError: If it is no line of a ledger, or not as it was written.
        """
        is_sealed = line[-_SEAL_BYTES:].startswith(_SEAL_KEY)
        body = line[:-_SEAL_BYTES] if is_sealed else line[:-1]
        if is_sealed and line[-_SEAL_BYTES:] != _SEAL % zlib.crc32(body, self._crc):
            raise ValueError
        entry = json.loads(body + b"}")
        if not isinstance(entry, dict) or not _has_its_fields(entry):
            raise ValueError
        if not is_sealed and (self._is_sealed or line[-1:] != b"}"):
            raise ValueError
        for name in ("at", "expires_at"):
            if (value := entry.get(name)) is not None:
                entry[name] = datetime.fromisoformat(value)
        self._take(line, is_sealed=is_sealed)
        return entry

    def _take(self, line: bytes, *, is_sealed: bool) -> None:
        self._crc = zlib.crc32(line + b"\n", self._crc)
        self._is_sealed |= is_sealed


def _has_its_fields(entry: dict[str, Any]) -> bool:
    event = entry.get("event", "")
    named = RECIPIENTS & entry.keys() if event == GRANT else set()
    is_list = all(isinstance(entry[name], list) for name in named)
    return is_list and entry.keys() - named == FIELDS.get(event)


def may_withdraw(unfinished: bytes, subject: str) -> bool:
    """Whether an unfinished line may be the start of a withdrawal of `subject`'s consent.

    A grant is not: its caller was never told that it holds.
    """
    if not unfinished or unfinished.startswith(_GRANT_START):
        return False
    if not unfinished.startswith(_WITHDRAWAL_START):
        return True  # too short to tell, or overwritten: it may have been anyone's
    rest = unfinished[len(_WITHDRAWAL_START) :]
    name = json.dumps(subject).encode()[1:]
    return name.startswith(rest) or rest.startswith(name)
