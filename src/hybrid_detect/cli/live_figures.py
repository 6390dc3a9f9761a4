"""Figures of results as they come: rates, ages and shares over the last seconds. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid_detect.types import DetectionResult

__all__ = ["LiveFigures", "Rate"]

WINDOW_S = 5.0
"""Long enough for a steady figure at one frame a second, short enough to see a change."""

TREND = 60
"""Ages kept for the curve: six seconds at ten frames a second."""


class Rate:
    """Events a second, counted over the last `WINDOW_S` seconds.

    A count over a span, because a mean of gaps swings with each key frame of a network camera.
    """

    def __init__(self) -> None:
        self._times_s: deque[float] = deque()

    def note(self, now_s: float) -> None:
        """Count an event."""
        self._times_s.append(now_s)
        self._forget(now_s)

    def per_s(self, now_s: float) -> float:
        """Events a second; none after `WINDOW_S` seconds without one."""
        self._forget(now_s)
        if len(self._times_s) < 2:
            return 0.0
        # While they come, the span ends with the last; a longer silence belongs to it as well.
        span_s = self._times_s[-1] - self._times_s[0]
        gap_s = span_s / (len(self._times_s) - 1)
        silent_s = max(now_s - self._times_s[-1] - gap_s, 0.0)
        return (len(self._times_s) - 1) / max(span_s + silent_s, 1e-9)

    def _forget(self, now_s: float) -> None:
        while self._times_s and self._times_s[0] < now_s - WINDOW_S:
            self._times_s.popleft()


@dataclass(slots=True)
class LiveFigures:
    """What has become of a stream's frames."""

    started_s: float
    rate: Rate = field(default_factory=Rate)
    """Of the frames that were answered."""
    statuses: Counter[str] = field(default_factory=Counter)
    backends: Counter[str] = field(default_factory=Counter)
    ages_s: deque[float] = field(default_factory=lambda: deque(maxlen=TREND))
    faces: int = 0
    best_score: float | None = None
    bytes_sent: int = 0
    backend: str = ""
    reason: str = ""
    """Of the last frame that was looked at."""
    trouble: str = ""
    """Why the last frame that has no answer has none; empty after an answer."""

    def note(self, result: DetectionResult, *, now_s: float) -> None:
        """Count `result`, which came now."""
        self.statuses[result.status.value] += 1
        self.bytes_sent += result.bytes_sent
        if not result.answered:
            self.trouble = result.reason or str(result.error or "") or result.status.value
            return
        self.trouble = ""
        self.rate.note(now_s)
        self.ages_s.append(result.age_s)
        self.faces = len(result.faces)
        self.best_score = result.faces[0].score if result.faces else None
        self.backend = result.backend.value if result.backend else ""
        self.backends[self.backend] += 1
        self.reason = result.reason

    def shares(self) -> Mapping[str, float]:
        """Share of the answers by backend, the most frequent first."""
        total = self.backends.total()
        return {name: count / total for name, count in self.backends.most_common()}
