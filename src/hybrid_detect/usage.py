"""How frames fared, as counts by hour: frozen values. Pure.

A count tells of no single frame: how many answers took about so long, were about so sure, came from
that backend for that kind of reason.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

__all__ = [
    "ON_TIME_S",
    "Measure",
    "UsageKey",
    "UsageRow",
    "confidence_bucket",
    "latency_bucket",
    "latency_of",
]

ON_TIME_S = 0.2
"""What an answer may take, and the edge of a bucket, so that a share within it is exact. Source:
the project's mission."""

GROWTH = 2 ** (1 / 8)
"""From one bucket of seconds to the next: 9 %, so that a quantile is right to 5 %."""

CONFIDENCE_BUCKETS = 20
"""Of a score from 0 to 1: 0.05 each."""

_LOG_GROWTH = math.log(GROWTH)


class Measure(StrEnum):
    """What a count is of; `UsageKey.label` says which."""

    OUTCOME = "outcome"
    """Frames, by `FrameOutcome`; ``degraded`` for those answered after a failure."""
    LATENCY = "latency"
    """Answers, by the bucket of their seconds; see `latency_of`."""
    CONFIDENCE = "confidence"
    """Answers, by the bucket of the best face's score; ``none`` without a face, ``unscored``
    without a score."""
    REASON = "reason"
    """Answers, by why that backend gave them."""
    ERROR = "error"
    """Failed attempts, by the error's class; without a backend: frames that ended in it."""
    SWITCH = "switch"
    """Answers after one of another backend, by that backend."""
    DROPPED = "dropped"
    """Frames that sources dropped for newer ones."""
    COMPARED = "compared"
    """Frames that the device and a server both answered: by which of them saw ``more``, or the
    ``same`` number of faces, as ``device``, ``same`` or ``server``."""
    COMPARED_LATENCY = "compared_latency"
    """Answers to these frames, by the bucket of their seconds."""
    FEEDBACK = "feedback"
    """Judgements, by verdict and bucket of the score: ``false_positive 14``."""


class UsageKey(NamedTuple):
    """What a count is of."""

    hour: int
    """The hour, in whole hours since 1970 (UTC)."""
    session: str
    """The session's name; read back from a file, what stands for it there. Empty if forgotten."""
    user: str
    """The user's name, likewise."""
    user_region: str
    """Where the user is, if the app says so."""
    measure: str
    """A `Measure`."""
    backend: str
    """The backend, a value of `BackendKind`; empty without one."""
    label: str
    """Which of the measure's kinds."""


class UsageRow(NamedTuple):
    """A count."""

    key: UsageKey
    """Of what."""
    number: int
    """How many."""


def latency_bucket(seconds: float) -> int:
    """The bucket of `seconds`: 0 holds what takes up to `ON_TIME_S`, by less than a bucket."""
    return math.ceil(math.log(min(max(seconds, 1e-6), 1e6) / ON_TIME_S) / _LOG_GROWTH - 1e-9)


def latency_of(bucket: int) -> float:
    """Seconds in the middle of `bucket`."""
    return float(ON_TIME_S * GROWTH ** (bucket - 0.5))


def confidence_bucket(score: float) -> int:
    """The bucket of a score from 0 to 1; the last one holds 1, too."""
    return min(max(int(score * CONFIDENCE_BUCKETS + 1e-9), 0), CONFIDENCE_BUCKETS - 1)
