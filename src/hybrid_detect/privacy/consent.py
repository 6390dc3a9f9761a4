"""Consent: who agreed to what, when, and whether it still stands.

A ledger only ever grows: a grant and a withdrawal are lines that stay, because whoever sends
pictures on the ground of consent has to be able to show it (GDPR, Article 7(1)). A withdrawal
takes effect before it is written, for every thread.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hybrid_detect.errors import ConfigurationError, StorageError
from hybrid_detect.storage.private_files import LineFile

__all__ = ["SEND_FRAMES", "ConsentLedger", "ConsentRecord"]

logger = logging.getLogger("hybrid_detect.consent")

SEND_FRAMES = "send_frames"
"""The scope this library asks for: sending frames to the configured endpoint."""

MAX_CHARS = 1024
"""Of a subject, a scope, a version or a name; far above any real one, as in the wire format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentRecord:
    """One consent that was given, and what became of it.

    Raises:
        ConfigurationError: If a text is empty or a time has no time zone.
    """

    subject: str
    """Who agreed: your own name for a person or a session, better a pseudonym than a name."""
    scope: str
    """What was agreed to, such as `SEND_FRAMES`."""
    version: str
    """Which version of the text was shown to the subject."""
    recorded_by: str
    """Who or what recorded it, such as ``consent-screen``."""
    granted_at: datetime
    """When, in UTC."""
    expires_at: datetime | None = None
    """Until when it holds; `None` until it is withdrawn."""
    withdrawn_at: datetime | None = None
    """When it was withdrawn; `None` if it was not."""
    withdrawn_by: str | None = None
    """Who or what recorded the withdrawal."""

    def __post_init__(self) -> None:
        for name in ("subject", "scope", "version", "recorded_by"):
            _checked_text(getattr(self, name), name)
        for name in ("granted_at", "expires_at", "withdrawn_at"):
            object.__setattr__(self, name, _in_utc(getattr(self, name), name))
        if self.expires_at is not None and self.expires_at <= self.granted_at:
            msg = f"expires_at: expected a time after the grant, got {self.expires_at.isoformat()}"
            raise ConfigurationError(msg)

    def denied_reason(self, *, scope: str, version: str, now: datetime) -> str:
        """Why it does not allow `scope` at `now`, in words a person can read; empty if it does.

        Args:
            scope: What is about to be done.
            version: The version of the text that has to have been shown.
            now: The time, with its time zone.
        """
        if self.withdrawn_at is not None:  # whatever the clock says
            return f"consent was withdrawn at {_iso(self.withdrawn_at)}"
        if self.scope != scope:
            return f"consent was given for {self.scope!r}, not for {scope!r}"
        if self.version != version:
            return f"consent was given to version {self.version!r} of the text, not {version!r}"
        if not isinstance(now, datetime) or now.utcoffset() is None:
            return "the time is unknown, so consent may have expired"
        if now < self.granted_at:
            return f"consent is dated {_iso(self.granted_at)}, which is still to come"
        if self.expires_at is not None and now >= self.expires_at:
            return f"consent expired at {_iso(self.expires_at)}"
        return ""


class ConsentLedger:
    """Keeps consents: in memory, or in a file of JSON lines that is flushed to the disk.

    May be used from any thread; reading never waits for a writer. One ledger at a time has a
    file, so that no withdrawal can pass another process by.

    Args:
        path: The file, made with mode 0600 if it is not there; `None` keeps memory only.
        clock: The time, with its time zone.

    Raises:
        StorageError: If the file cannot be read, holds anything but consents, or is in use. A
            ledger that cannot be trusted allows nothing.
    """

    def __init__(
        self, path: str | Path | None = None, *, clock: Callable[[], datetime] | None = None
    ) -> None:
        self._clock = clock or (lambda: datetime.now(UTC))
        self._writing = threading.RLock()
        # Readers see a whole tuple, the old or the new: it is replaced, never changed.
        self._records: dict[str, tuple[ConsentRecord, ...]] = {}
        self._listeners: dict[object, Callable[[ConsentRecord], None]] = {}
        self._file = None if path is None else LineFile(Path(path))
        if self._file is None:
            return
        try:
            for number, line in enumerate(self._file.lines, 1):
                self._replay(line, f"{self._file.path}, line {number}")
        except BaseException:
            self._file.close()
            raise

    def grant(
        self,
        subject: str,
        *,
        version: str,
        recorded_by: str,
        scope: str = SEND_FRAMES,
        expires_at: datetime | None = None,
    ) -> ConsentRecord:
        """Record that `subject` agreed; it holds once this returns.

        Raises:
            ConfigurationError: If a text is empty or `expires_at` is not to come.
            StorageError: If it could not be written; then it does not hold.
        """
        with self._writing:
            record = ConsentRecord(
                subject=subject,
                scope=scope,
                version=version,
                recorded_by=recorded_by,
                granted_at=self._clock(),
                expires_at=expires_at,
            )
            self._write(
                event="grant",
                subject=subject,
                scope=scope,
                version=version,
                recorded_by=recorded_by,
                at=_iso(record.granted_at),
                expires_at=None if record.expires_at is None else _iso(record.expires_at),
            )
            self._records[subject] = (*self._records.get(subject, ()), record)
            return record

    def withdraw(
        self, subject: str, *, recorded_by: str, scope: str | None = None
    ) -> tuple[ConsentRecord, ...]:
        """Withdraw what `subject` agreed to: at once, in every thread.

        Args:
            subject: Whose consent.
            recorded_by: Who or what records it.
            scope: What for; `None` for everything.

        Returns:
            The consents that stood until now; none if there were none. The withdrawal is
            written either way.

        Raises:
            ConfigurationError: If a text is empty.
            StorageError: If it could not be written. It holds all the same, until the ledger is
                opened again.
        """
        _checked_text(subject, "subject")
        _checked_text(recorded_by, "recorded_by")
        if scope is not None:
            _checked_text(scope, "scope")
        with self._writing:
            at = self._clock()
            line = {"subject": subject, "scope": scope, "recorded_by": recorded_by, "at": _iso(at)}
            withdrawn = self._end(subject, scope, at, recorded_by)
            self._tell(withdrawn)
            self._write(event="withdraw", **line)
            return withdrawn

    def current(
        self, subject: str, *, version: str, scope: str = SEND_FRAMES
    ) -> ConsentRecord | None:
        """The newest consent of `subject` to `version` of `scope` that stands now, or `None`."""
        now = self._clock()
        for record in reversed(self._records.get(subject, ())):
            if not record.denied_reason(scope=scope, version=version, now=now):
                return record
        return None

    def records(self, subject: str) -> tuple[ConsentRecord, ...]:
        """Every consent that `subject` ever gave, oldest first."""
        return self._records.get(subject, ())

    def on_withdrawal(self, listener: Callable[[ConsentRecord], None]) -> Callable[[], None]:
        """Call `listener` with each consent that is withdrawn, to drop frames under way.

        It is called in the thread that withdraws, once the consent no longer stands, and must
        not wait for anything.

        Returns:
            What stops the calls.
        """
        ticket = object()
        self._listeners[ticket] = listener

        def stop() -> None:
            self._listeners.pop(ticket, None)

        return stop

    def close(self) -> None:
        """Give the file back. Nothing can be recorded any more; what is known stays readable."""
        with self._writing:
            if self._file is not None:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _end(
        self, subject: str, scope: str | None, at: datetime, recorded_by: str
    ) -> tuple[ConsentRecord, ...]:
        """Mark what stands as withdrawn."""
        ended = {
            record: replace(record, withdrawn_at=at, withdrawn_by=recorded_by)
            for record in self._records.get(subject, ())
            if record.withdrawn_at is None and scope in {None, record.scope}
        }
        if ended:
            known = self._records[subject]
            self._records[subject] = tuple(ended.get(record, record) for record in known)
        return tuple(ended.values())

    def _tell(self, withdrawn: tuple[ConsentRecord, ...]) -> None:
        for record in withdrawn:
            for listener in tuple(self._listeners.values()):
                try:
                    listener(record)
                except Exception:
                    # One listener's bug may not keep the others from dropping frames.
                    logger.exception("a listener for withdrawn consents has a bug")

    def _write(self, **line: Any) -> None:
        if self._file is not None:
            self._file.append(json.dumps(line, separators=(",", ":")).encode())

    def _replay(self, line: bytes, where: str) -> None:
        """Take up one line of the file; a line that is no consent makes the whole untrusted."""
        try:
            entry = json.loads(line)
            at = datetime.fromisoformat(entry["at"])
            subject, scope, recorded_by = entry["subject"], entry["scope"], entry["recorded_by"]
            if entry["event"] == "withdraw":
                self._end(subject, scope, at, recorded_by)
            elif entry["event"] == "grant":
                expires_at = entry["expires_at"]
                record = ConsentRecord(
                    subject=subject,
                    scope=scope,
                    version=entry["version"],
                    recorded_by=recorded_by,
                    granted_at=at,
                    expires_at=expires_at and datetime.fromisoformat(expires_at),
                )
                self._records[subject] = (*self._records.get(subject, ()), record)
            else:
                raise ValueError
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            # Whose consent it was is not for a message; a withdrawal may hide in it.
            msg = f"{where}: not a consent; repair the file or ask for consent anew"
            raise StorageError(msg) from None


def _checked_text(value: object, name: str) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CHARS:
        actual = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
        msg = f"{name}: expected a text of 1 to {MAX_CHARS} characters, got {actual}"
        raise ConfigurationError(msg)


def _in_utc(value: datetime | None, name: str) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.utcoffset() is None:
        msg = f"{name}: expected a datetime with a time zone, got {value!r}"
        raise ConfigurationError(msg)
    return value.astimezone(UTC)


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()
