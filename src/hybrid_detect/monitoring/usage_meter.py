"""Counts how frames fared, by hour, user and backend: what `hybrid-detect report` tells of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import ClassVar

from hybrid_detect.monitoring.events import FeedbackEvent, FrameEvent, FrameOutcome
from hybrid_detect.monitoring.periods import HOUR_S, Period, hour_of
from hybrid_detect.monitoring.reasons import kind_of_reason
from hybrid_detect.monitoring.switches import Switches
from hybrid_detect.types import BackendKind
from hybrid_detect.usage import Measure, UsageKey, UsageRow, confidence_bucket, latency_bucket

__all__ = ["UsageMeter"]

MAX_ROWS = 10_000
"""Counts in memory, about 3 MB. Beyond it, they lose sessions and users, then their hours, and then
those of the oldest day are dropped."""

_LABELS = {bucket: str(bucket) for bucket in range(-64, 64)}
"""Labels of numbers: one text for all counts of a bucket, as making one takes longer."""


class UsageMeter:
    """Counts how frames fared. A hook; may be used from any thread.

    Args:
        user_of: The user that a session belongs to, by its name; without it the session is its
            own user.
        user_region: Where the users are, as coarsely as it is to be told; see
            `ServiceConfig.user_region`.
        max_rows: Counts to hold. See `MAX_ROWS`.
    """

    blocking: ClassVar[bool] = False
    """Called on the event loop, so that counts are never behind."""

    def __init__(
        self,
        *,
        user_of: Callable[[str], str] | None = None,
        user_region: str = "",
        max_rows: int = MAX_ROWS,
    ) -> None:
        self._user_of = user_of
        self._user_region = user_region
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._counts: dict[tuple[int | str, ...], int] = {}
        self._switches = Switches()
        self._hour = -HOUR_S, -1

    def on_frame(self, event: FrameEvent) -> None:
        """Count what became of a frame."""
        with self._lock:
            self._make_room()
            who = self._who(event.at_s, event.session_id)
            backend = "" if event.backend is None else event.backend.value
            is_answer = event.outcome is FrameOutcome.ANSWERED
            outcome = "degraded" if is_answer and event.degraded else event.outcome.value
            self._count(who, Measure.OUTCOME, backend, outcome)
            if event.dropped_before:
                self._count(who, Measure.DROPPED, "", "", event.dropped_before)
            for attempt in event.attempts:
                if attempt.error:
                    self._count(who, Measure.ERROR, attempt.backend, attempt.error)
            if not is_answer:
                if event.outcome in {FrameOutcome.FAILED, FrameOutcome.INVALID}:
                    self._count(who, Measure.ERROR, "", event.error)
                return
            self._count(who, Measure.LATENCY, backend, _latency_label(event.total_s))
            self._count(who, Measure.CONFIDENCE, backend, _confidence_label(event))
            self._count(who, Measure.REASON, backend, kind_of_reason(event))
            before = self._switches.before(backend, event.session_id)
            if before != backend:
                self._count(who, Measure.SWITCH, backend, before)
            if len(event.answers) > 1:
                self._compare(who, event)

    def on_feedback(self, event: FeedbackEvent) -> None:
        """Count a judgement of a result."""
        with self._lock:
            self._make_room()
            who = self._who(event.at_s, event.session_id)
            label = event.verdict.value
            if event.confidence is not None:
                label = f"{label} {confidence_bucket(event.confidence)}"
            self._count(who, Measure.FEEDBACK, event.backend.value, label)

    def _who(self, at_s: float, session: str | None) -> tuple[int, str, str, str]:
        since_s, hour = self._hour
        if not 0 <= at_s - since_s < HOUR_S:
            hour = hour_of(at_s)
            self._hour = hour * HOUR_S, hour
        session = session or ""
        user = session if self._user_of is None or not session else self._user_of(session)
        return hour, session, user, self._user_region

    def _count(
        self, who: tuple[int, str, str, str], measure: str, backend: str, label: str, more: int = 1
    ) -> None:
        # A plain tuple equals the `UsageKey` of its values, and is made in half the time.
        key = (*who, measure, backend, label)
        self._counts[key] = self._counts.get(key, 0) + more

    def _compare(self, who: tuple[int, str, str, str], event: FrameEvent) -> None:
        """Set the device's answer beside the server's, if both came."""
        device = next((a for a in event.answers if a.backend is BackendKind.DEVICE), None)
        server = next((a for a in event.answers if a.backend is not BackendKind.DEVICE), None)
        if device is None or server is None:
            return
        more = device.faces - server.faces
        label = "same" if not more else "device" if more > 0 else "server"
        self._count(who, Measure.COMPARED, server.backend.value, label)
        for answer in (device, server):
            kind, label = answer.backend.value, _latency_label(answer.elapsed_s)
            self._count(who, Measure.COMPARED_LATENCY, kind, label)

    def _make_room(self) -> None:
        """Add up counts without their names; by day if that is not enough; else drop a day's."""
        if len(self._counts) < self._max_rows:
            return
        for by_day in (False, True):
            counts, self._counts = self._counts, {}
            for (hour, _session, _user, *what), count in counts.items():
                start = Period.DAY.start(int(hour)) if by_day else hour
                key = (start, "", "", *what)
                self._counts[key] = self._counts.get(key, 0) + count
            if len(self._counts) < self._max_rows:
                return
        # A file that cannot be written for months: else each frame would add them up again.
        first, last = (each(int(key[0]) for key in self._counts) for each in (min, max))
        if first < last:
            counts = self._counts
            self._counts = {key: count for key, count in counts.items() if key[0] != first}

    def rows(self) -> tuple[UsageRow, ...]:
        """What was counted so far."""
        with self._lock:
            return _rows(self._counts)

    def take(self) -> tuple[UsageRow, ...]:
        """What was counted since the last `take`, to be kept elsewhere; begin again at zero."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return _rows(counts)

    def add(self, rows: Iterable[UsageRow]) -> None:
        """Add what was counted elsewhere, or taken and could not be kept."""
        with self._lock:
            for key, count in rows:
                self._make_room()
                self._counts[tuple(key)] = self._counts.get(tuple(key), 0) + count


def _rows(counts: dict[tuple[int | str, ...], int]) -> tuple[UsageRow, ...]:
    return tuple(UsageRow(UsageKey(*key), count) for key, count in counts.items())  # type: ignore[arg-type]


def _latency_label(seconds: float) -> str:
    bucket = latency_bucket(seconds)
    return _LABELS.get(bucket) or str(bucket)


def _confidence_label(event: FrameEvent) -> str:
    if not event.faces:
        return "none"
    return "unscored" if event.confidence is None else _LABELS[confidence_bucket(event.confidence)]
