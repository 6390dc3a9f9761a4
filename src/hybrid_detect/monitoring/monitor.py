"""Live figures: how fast, how often answered, by which backend, and at how many bytes."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.monitoring.events import FrameEvent, FrameOutcome
from hybrid_detect.monitoring.switches import Switches

__all__ = ["BackendProcessingMonitor", "MonitorFigures"]

WINDOW = 1000
"""Frames that quantiles and means are taken over: about a minute at 15 fps."""

MAX_MODES = 64
"""Names of modes that are counted apart; further ones are counted as ``other``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorFigures:
    """What `BackendProcessingMonitor.figures` tells. Counts are of the monitor's whole life."""

    frames: int
    """Frames that entered, dropped ones aside."""
    outcomes: Mapping[str, int]
    """Frames by `FrameOutcome`."""
    success_rate: float | None
    """Share of frames that were answered among those that were not skipped, stale or cancelled;
    `None` before the first."""
    shares: Mapping[str, float]
    """Share of the answers by backend, or by the ``detection_mode`` given."""
    switches: int
    """How often an answer came from another backend than the one before, in the same session."""
    bytes_sent: int
    """Bytes that left the device."""
    dropped: int
    """Frames that sources dropped for newer ones."""
    p50_s: float | None
    """Median of the seconds an answered frame took, of the last thousand; `None` without one."""
    p90_s: float | None
    """Their 90th percentile."""
    p99_s: float | None
    """Their 99th percentile."""
    mean_confidence: float | None
    """Mean score of the best faces, of the last thousand frames with one."""
    mean_image_kb: float | None
    """Mean size of the pictures that were sent, of the last thousand, in units of 1024 bytes."""


class BackendProcessingMonitor:
    """Counts and measures what becomes of frames.

    Give it to a service as a hook, or call `track_metrics` for frames of your own. May be used
    from any thread; it holds about 50 KB however long it lives, and 100 more for many sessions.
    """

    blocking: ClassVar[bool] = False
    """Called on the event loop, so that figures are never behind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()
        self._switch = Switches()
        self._switches = 0
        self._bytes_sent = 0
        self._dropped = 0
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._confidences: deque[float] = deque(maxlen=WINDOW)
        self._sizes_kb: deque[float] = deque(maxlen=WINDOW)

    def track_metrics(
        self,
        *,
        processing_time_ms: float,
        detection_mode: str,
        confidence: float | None = None,
        image_size_kb: float | None = None,
    ) -> None:
        """Count a frame that was answered.

        Args:
            processing_time_ms: Milliseconds it took.
            detection_mode: The backend or mode that answered.
            confidence: Score of the best face, 0 to 1; `None` without one.
            image_size_kb: Size of the picture that was sent, in units of 1024 bytes; `None` or 0
                if none was.

        Raises:
            ConfigurationError: If a number is negative, not finite or out of range.
        """
        _check("processing_time_ms", processing_time_ms)
        _check("confidence", confidence, most=1.0)
        _check("image_size_kb", image_size_kb)
        with self._lock:
            self._outcomes[FrameOutcome.ANSWERED.value] += 1
            self._count_answer(str(detection_mode), processing_time_ms / 1000, confidence)
            self._count_bytes(round((image_size_kb or 0.0) * 1024))

    def on_frame(self, event: FrameEvent) -> None:
        """Count what became of a frame."""
        with self._lock:
            self._outcomes[event.outcome.value] += 1
            self._dropped += event.dropped_before
            self._count_bytes(event.bytes_sent)
            if event.outcome is FrameOutcome.ANSWERED and event.backend is not None:
                self._count_answer(
                    event.backend.value, event.total_s, event.confidence, event.session_id
                )

    def _count_answer(
        self, mode: str, seconds: float, confidence: float | None, session: str | None = None
    ) -> None:
        if mode not in self._answers and len(self._answers) >= MAX_MODES:
            mode = "other"
        self._answers[mode] += 1
        self._switches += self._switch.before(mode, session) != mode
        self._seconds.append(seconds)
        if confidence is not None:
            self._confidences.append(confidence)

    def _count_bytes(self, size_bytes: int) -> None:
        if size_bytes:
            self._bytes_sent += size_bytes
            self._sizes_kb.append(size_bytes / 1024)

    def figures(self) -> MonitorFigures:
        """The figures as they stand now."""
        with self._lock:
            outcomes = dict(self._outcomes)
            answers = dict(self._answers)
            seconds = sorted(self._seconds)
            confidences, sizes_kb = list(self._confidences), list(self._sizes_kb)
            switches, bytes_sent, dropped = self._switches, self._bytes_sent, self._dropped
        answered = outcomes.get(FrameOutcome.ANSWERED.value, 0)
        unanswered = sum(
            outcomes.get(outcome.value, 0)
            for outcome in (FrameOutcome.INVALID, FrameOutcome.FAILED)
        )
        tried = answered + unanswered
        return MonitorFigures(
            frames=sum(outcomes.values()),
            outcomes=outcomes,
            success_rate=answered / tried if tried else None,
            shares={mode: count / sum(answers.values()) for mode, count in answers.items()},
            switches=switches,
            bytes_sent=bytes_sent,
            dropped=dropped,
            p50_s=_quantile(seconds, 0.5),
            p90_s=_quantile(seconds, 0.9),
            p99_s=_quantile(seconds, 0.99),
            mean_confidence=_mean(confidences),
            mean_image_kb=_mean(sizes_kb),
        )


def _check(name: str, value: float | None, *, most: float = math.inf) -> None:
    if value is None:
        return
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= most:
        limit = "of at least 0" if most == math.inf else f"from 0 to {most:g}"
        msg = f"{name}: expected a finite number {limit}, got {value!r}"
        raise ConfigurationError(msg)


def _quantile(ordered: list[float], share: float) -> float | None:
    """The smallest value that at least `share` of them do not exceed (nearest rank)."""
    if not ordered:
        return None
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
