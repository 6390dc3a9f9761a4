"""The figures of a report, as frozen values. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

from hybrid_detect.monitoring.projection import Projection
from hybrid_detect.types import FeedbackVerdict
from hybrid_detect.usage import latency_of

__all__ = [
    "BackendFigures",
    "Comparison",
    "Feedback",
    "Fortunes",
    "Latency",
    "Spending",
    "Step",
    "UsageReport",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long answers took, by their buckets: quantiles are right to 5 %."""

    buckets: Mapping[int, int] = field(default_factory=dict)
    """Answers by the bucket of their seconds."""

    @property
    def answers(self) -> int:
        """How many answers there were."""
        return sum(self.buckets.values())

    @property
    def on_time(self) -> float | None:
        """Share of the answers within `ON_TIME_S`, exact; `None` without any."""
        within = sum(count for bucket, count in self.buckets.items() if bucket <= 0)
        return within / self.answers if self.answers else None

    def quantile_s(self, share: float) -> float | None:
        """Seconds that `share` of the answers did not exceed (nearest rank); `None` without any."""
        rank = max(math.ceil(share * self.answers), 1)
        for bucket in sorted(self.buckets):
            rank -= self.buckets[bucket]
            if rank <= 0:
                return latency_of(bucket)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fortunes:
    """What became of frames."""

    outcomes: Mapping[str, int] = field(default_factory=dict)
    """Frames by `FrameOutcome`; those answered after a failure as ``degraded``."""

    @property
    def frames(self) -> int:
        """How many entered."""
        return sum(self.outcomes.values())

    @property
    def answered(self) -> int:
        """How many were answered."""
        return self._count("answered", "degraded")

    @property
    def failed(self) -> int:
        """How many were tried and not answered: failed and invalid ones."""
        return self._count("failed", "invalid")

    @property
    def left_out(self) -> int:
        """How many were not tried: skipped, stale and cancelled ones."""
        return self._count("skipped", "stale", "cancelled")

    @property
    def success_rate(self) -> float | None:
        """Share of those tried that were answered; `None` if none was tried."""
        tried = self.answered + self.failed
        return self.answered / tried if tried else None

    def _count(self, *outcomes: str) -> int:
        return sum(self.outcomes.get(outcome, 0) for outcome in outcomes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What left and what it cost: of all, of one user, or of a span of time."""

    name: str = ""
    """The user's tag, if it is a user's."""
    frames: int = 0
    """Frames that ended."""
    requests: int = 0
    """Requests that left the device."""
    in_vain: int = 0
    """Of these, those without an answer."""
    bytes_sent: int = 0
    """Bytes of the requests."""
    nanos: Mapping[str, int] = field(default_factory=dict)
    """What they cost by currency, in billionths of its unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An hour, a day or a month of the span."""

    start: datetime
    """When it begins, in the report's time zone."""
    fortunes: Fortunes
    """What became of its frames."""
    latency: Latency
    """How long its answers took."""
    answers: Mapping[str, int]
    """Its answers by backend."""
    spending: Spending
    """What left in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendFigures:
    """The answers of one backend."""

    backend: str
    """A value of `BackendKind`."""
    answers: int
    """How many."""
    share: float
    """Of all answers."""
    latency: Latency
    """How long they took."""
    bytes_sent: int
    """Bytes that were sent to it, whether it answered or not."""
    reasons: Mapping[str, int]
    """Its answers by the kind of reason, most first."""
    scores: tuple[int, ...]
    """Its answers by the best face's score, in steps of 0.05 from 0."""
    without_face: int
    """Its answers without a face."""
    unscored: int
    """Its answers with faces that have no score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What was said of the answers of one backend."""

    backend: str
    """A value of `BackendKind`."""
    verdicts: Mapping[str, int]
    """Judgements by `FeedbackVerdict`."""
    false_positive_scores: tuple[int, ...]
    """False positives by their score, in steps of 0.05 from 0."""

    @property
    def judged(self) -> int:
        """How many judgements there were."""
        return sum(self.verdicts.values())

    @property
    def false_positive_rate(self) -> float | None:
        """Share of false positives among the judgements; `None` without any."""
        wrong = self.verdicts.get(FeedbackVerdict.FALSE_POSITIVE, 0)
        return wrong / self.judged if self.judged else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The device beside one remote backend, on frames that both answered."""

    backend: str
    """The remote backend."""
    device_more: int
    """Frames of which the device saw more faces."""
    same: int
    """Frames of which both saw as many."""
    server_more: int
    """Frames of which the server saw more."""

    @property
    def frames(self) -> int:
        """How many there were."""
        return self.device_more + self.same + self.server_more


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """What happened in a span of time."""

    first_day: date | None
    """The first day, in the time zone; `None` if nothing happened."""
    last_day: date | None
    """The last day."""
    made_at: datetime
    """When the report was made."""
    time_zone: str
    """Name of the time zone that days and hours are of."""
    step: str
    """What `steps` are: ``hour``, ``day`` or ``month``."""
    fortunes: Fortunes
    """What became of the frames."""
    latency: Latency
    """How long answers took."""
    spending: Spending
    """What left, and what it cost."""
    steps: tuple[Step, ...]
    """The same over time, steps without any frame included."""
    by_weekday: tuple[tuple[int, ...], ...]
    """Frames by weekday, from Monday, and hour of the day."""
    user_regions: Mapping[str, int]
    """Frames by where the users are, most first; empty text where the app does not say."""
    backends: tuple[BackendFigures, ...]
    """The backends that answered, most first."""
    errors: tuple[tuple[str, str, int], ...]
    """Backend, class of the error and how many, most first; an empty backend is a frame's end."""
    switches: tuple[tuple[str, str, int], ...]
    """From which backend to which, and how often, most first."""
    dropped: int
    """Frames that sources dropped for newer ones, before they entered."""
    users: tuple[Spending, ...]
    """By user, for as long as the file tells them apart; those with most frames first."""
    nameless: Spending
    """What is not told apart by user any more, or never was."""
    projections: tuple[Projection, ...]
    """What the month will cost, by currency."""
    feedback: tuple[Feedback, ...]
    """What was said of answers, by backend."""
    comparisons: tuple[Comparison, ...]
    """The device beside each remote backend."""
    compared_latency: Mapping[str, Latency]
    """How long the answers to these frames took, by backend."""

    @property
    def switch_count(self) -> int:
        """How often an answer came from another backend than the one before."""
        return sum(count for _, _, count in self.switches)
