"""Consent: who agreed to what, when, and whether it still stands.

A ledger only ever grows: a grant and a withdrawal are lines that stay, because an operator that
sends pictures on the ground of consent has to be able to show it (GDPR, Article 7(1)). A
withdrawal takes effect before it is written, for every thread.

One rule decides every doubt: the stricter reading holds. A damaged file allows nothing, a line that
was never finished withdraws what it may have withdrawn, and a withdrawal that cannot be written
holds all the same.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hybrid_detect.closing import Closing
from hybrid_detect.errors import ClosedError, StorageError
from hybrid_detect.privacy.consent_lines import GRANT, WITHDRAWAL, ConsentLines, may_withdraw
from hybrid_detect.privacy.consent_record import (
    SEND_FRAMES,
    ConsentRecord,
    checked_text,
    iso_utc,
)
from hybrid_detect.storage.line_file import LineFile

__all__ = ["ConsentLedger"]

logger = logging.getLogger("hybrid_detect.consent")

RESERVE_BYTES = 64 * 1024
"""Disk space kept for withdrawals: some 300 of usual length, one of the greatest."""

UNFINISHED = "unfinished line"
"""Recorder of a withdrawal that the ledger has to assume."""


class ConsentLedger(Closing):
    """Keeps consents: in memory, or in a file of JSON lines that is flushed to the disk.

    May be used from any thread; reading never waits for a writer. One ledger at a time has a
    file, so that no withdrawal can pass another process by. A forked child's copy would not hear
    of its parent's withdrawals, so it refuses to say anything.

    Args:
        path: The file, made with mode 0600 if it is not there; `None` keeps memory only. A hidden
            file beside it keeps 64 KiB of the disk for withdrawals.
        clock: The time, with its time zone.

    Raises:
        StorageError: If the file cannot be read, is damaged, holds anything but consents, or is
            in use. A ledger that cannot be trusted allows nothing.
    """

    def __init__(
        self, path: str | Path | None = None, *, clock: Callable[[], datetime] | None = None
    ) -> None:
        self._clock = clock or (lambda: datetime.now(UTC))
        self._owner = os.getpid()
        self._writing = threading.RLock()
        # Readers see a whole tuple, the old or the new: it is replaced, never changed.
        self._records: dict[str, tuple[ConsentRecord, ...]] = {}
        self._listeners: dict[object, Callable[[ConsentRecord], None]] = {}
        self._lines = ConsentLines()
        self._unwritten: list[bytes] = []  # withdrawals that hold but are not in the file yet
        self._file = None if path is None else LineFile(Path(path), reserve_bytes=RESERVE_BYTES)
        if self._file is None:
            return
        try:
            for number, line in enumerate(self._file.lines, 1):
                self._replay(line, f"{self._file.path}, line {number}")
            self._settle(self._file.unfinished)
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
        providers: Iterable[str] | None = None,
        regions: Iterable[str] | None = None,
    ) -> ConsentRecord:
        """Record that `subject` agreed; it holds once this returns.

        Args:
            subject: Who agreed.
            version: Which version of the text was shown.
            recorded_by: Who or what records it.
            scope: What was agreed to.
            expires_at: Until when it holds; `None` until it is withdrawn.
            providers: The providers it is for; `None` for all. Frames go to no other one while it
                is the subject's newest consent.
            regions: The regions it is for; `None` for all.

        Raises:
            ConfigurationError: If a text is empty or `expires_at` is not to come.
            StorageError: If it could not be written, or the process was forked; then it does not
                hold.
        """
        self._require_own_process()
        with self._writing:
            record = ConsentRecord(
                subject=subject,
                scope=scope,
                version=version,
                recorded_by=recorded_by,
                granted_at=self._clock(),
                expires_at=expires_at,
                providers=None if providers is None else frozenset(providers),
                regions=None if regions is None else frozenset(regions),
            )
            self._write_withdrawals()  # an earlier withdrawal stays the earlier line
            if self._file is not None:
                lines = replace(self._lines)
                line = lines.encode(
                    GRANT,
                    subject=subject,
                    scope=scope,
                    version=version,
                    recorded_by=recorded_by,
                    at=iso_utc(record.granted_at),
                    expires_at=None if record.expires_at is None else iso_utc(record.expires_at),
                    **record.recipients(),
                )
                self._file.append(line)
                self._lines = lines
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
            StorageError: If it could not be written although disk space is kept for it. It holds
                all the same, and is written before the next line or when the ledger is closed;
                only if neither comes to pass is it unknown when the ledger is opened again.
                Or if the process was forked: then nothing was withdrawn.
        """
        self._require_own_process()
        checked_text(subject, "subject")
        checked_text(recorded_by, "recorded_by")
        if scope is not None:
            checked_text(scope, "scope")
        with self._writing:
            at = self._clock()
            withdrawn = self._end(subject, scope, at, recorded_by)
            self._announce(withdrawn)
            self._note_withdrawal(subject, scope, at, recorded_by)
            self._write_withdrawals()
            return withdrawn

    def current(
        self, subject: str, *, version: str, scope: str = SEND_FRAMES
    ) -> ConsentRecord | None:
        """The newest consent of `subject` to `version` of `scope` that stands now, or `None`.

        Raises:
            StorageError: If the process was forked since the ledger was made.
        """
        self._require_own_process()
        now = self._clock()
        for record in reversed(self._records.get(subject, ())):
            if not record.denied_reason(scope=scope, version=version, now=now):
                return record
        return None

    def records(self, subject: str) -> tuple[ConsentRecord, ...]:
        """Every consent that `subject` ever gave, oldest first.

        Raises:
            StorageError: If the process was forked since the ledger was made.
        """
        self._require_own_process()
        return self._records.get(subject, ())

    def on_withdrawal(self, listener: Callable[[ConsentRecord], None]) -> Callable[[], None]:
        """Call `listener` with each consent that is withdrawn, to drop frames on their way.

        It is called in the thread that withdraws, once the consent no longer stands, and must
        not wait for anything.

        Returns:
            A function that ends the calls.
        """
        ticket = object()
        self._listeners[ticket] = listener

        def stop() -> None:
            self._listeners.pop(ticket, None)

        return stop

    def close(self) -> None:
        """Give the file back. Nothing can be recorded any more; what is known stays readable."""
        if self._file is None:
            return
        if not self._file.is_own:  # in a fork: its copy of the lock may have no owner left
            self._file.close()
            return
        with self._writing:
            if self._unwritten:
                try:
                    self._write_withdrawals()
                except ClosedError:
                    pass  # an earlier close has logged it
                except StorageError as error:
                    logger.error("%d withdrawals are lost: %s", len(self._unwritten), error)
            self._file.close()

    def _require_own_process(self) -> None:
        # Before the lock: a fork may have copied it locked.
        if os.getpid() != self._owner:
            msg = (
                "this consent ledger was made before the process forked and does not hear of "
                "withdrawals: ask the process that made it"
            )
            raise StorageError(msg)

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

    def _announce(self, withdrawn: tuple[ConsentRecord, ...]) -> None:
        for record in withdrawn:
            for listener in tuple(self._listeners.values()):
                try:
                    listener(record)
                except Exception:
                    # One listener's bug may not keep the others from dropping frames.
                    logger.exception("a listener for withdrawn consents has a bug")

    def _note_withdrawal(
        self, subject: str, scope: str | None, at: datetime, recorded_by: str
    ) -> None:
        if self._file is not None:
            self._unwritten.append(
                self._lines.encode(
                    WITHDRAWAL,
                    subject=subject,
                    scope=scope,
                    recorded_by=recorded_by,
                    at=iso_utc(at),
                )
            )

    def _write_withdrawals(self) -> None:
        if self._file is not None and self._unwritten:
            self._file.append(*self._unwritten, must=True)
            self._unwritten.clear()

    def _replay(self, line: bytes, where: str) -> None:
        """Take up one line of the file; a line that is no consent makes the whole untrusted."""
        entry = _entry(self._lines, line)
        if entry is None:
            # Whose consent it was is not for a message; a withdrawal may hide in it.
            msg = f"{where}: not a consent, or damaged; restore the file or ask for consent anew"
            raise StorageError(msg)
        if isinstance(entry, ConsentRecord):
            self._records[entry.subject] = (*self._records.get(entry.subject, ()), entry)
        else:
            self._end(**entry)

    def _settle(self, unfinished: bytes) -> None:
        """Withdraw what the unfinished last line may have withdrawn.

        Its writer was ended before the line was whole. A grant does not hold then, as its caller
        was not told that it does; a withdrawal held as soon as it was called for.
        """
        if not unfinished or self._file is None:
            return
        lines = replace(self._lines)
        entry = _entry(lines, unfinished)
        if isinstance(entry, dict):  # whole but for its end
            count = len(self._end(**entry))
            self._lines = lines
            self._unwritten.append(unfinished)
        else:
            at = self._clock()
            subjects = [name for name in self._records if may_withdraw(unfinished, name)]
            ended = [name for name in subjects if self._end(name, None, at, UNFINISHED)]
            for subject in ended:
                self._note_withdrawal(subject, None, at, UNFINISHED)
            count = len(ended)
        logger.warning(
            "%s ended in an unfinished line: %d consents that it may have withdrawn are withdrawn",
            self._file.path,
            count,
        )
        try:
            self._write_withdrawals()
        except StorageError as error:
            logger.error("they are withdrawn again at the next opening: %s", error)


def _entry(lines: ConsentLines, line: bytes) -> ConsentRecord | dict[str, Any] | None:
    """What a line says: a consent, the arguments of a withdrawal, or nothing that can be read."""
    try:
        entry = lines.decode(line)
        if entry.pop("event") == GRANT:
            return ConsentRecord(granted_at=entry.pop("at"), **entry)
        for name in ("subject", "recorded_by"):
            checked_text(entry[name], name)
        if entry["scope"] is not None:
            checked_text(entry["scope"], "scope")
        iso_utc(entry["at"])
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return entry
