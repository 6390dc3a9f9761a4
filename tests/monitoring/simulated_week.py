"""A week of three users, as events, and as the file that the real hooks make of them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hybrid_detect.charges import SentRequest
from hybrid_detect.monitoring.costs import CostMeter
from hybrid_detect.monitoring.events import Answer, FeedbackEvent, FrameEvent, FrameOutcome
from hybrid_detect.monitoring.usage_meter import UsageMeter
from hybrid_detect.storage.cost_store import CostStore
from hybrid_detect.types import Attempt, BackendKind, FeedbackVerdict

__all__ = ["MONDAY", "USERS", "WEEK_S", "Week", "keep", "simulate"]

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
WEEK_S = 7 * 24 * 3600.0


@dataclass(frozen=True)
class User:
    """How one user uses the app."""

    session: str
    name: str
    region: str
    hours: tuple[int, ...]
    sends: float
    """Share of frames that a server gets."""


USERS = (
    User("canary-session-ann", "canary-user-ann", "DE", (7, 8, 12, 17, 18, 19), 0.8),
    User("canary-session-bob", "canary-user-bob", "FR", (9, 10, 11, 14, 15), 0.5),
    User("canary-session-cid", "canary-user-cid", "", (20, 21, 22, 23), 0.1),
)


@dataclass(frozen=True)
class Week:
    """What happened, by user."""

    frames: dict[str, list[FrameEvent]]
    feedback: dict[str, list[FeedbackEvent]]


def simulate(*, seed: int = 1, frames_an_hour: int = 12) -> Week:
    """The same week for the same seed."""
    chance = random.Random(seed)
    frames: dict[str, list[FrameEvent]] = {}
    feedback: dict[str, list[FeedbackEvent]] = {}
    for user in USERS:
        frames[user.session] = found = []
        feedback[user.session] = said = []
        for moment in _hours(user, chance):
            weekend = moment.weekday() >= 5
            number = chance.randint(1, frames_an_hour // 3 if weekend else frames_an_hour)
            for offset_s in sorted(chance.uniform(0, 3599) for _ in range(number)):
                event = _frame(user, moment.timestamp() + offset_s, len(found) + 1, chance)
                found.append(event)
                if event.outcome is FrameOutcome.ANSWERED and chance.random() < 0.08:
                    said.append(_judged(event, chance))
    return Week(frames, feedback)


def _hours(user: User, chance: random.Random) -> Iterator[datetime]:
    for day in range(7):
        for hour in user.hours:
            if chance.random() < 0.85:
                yield MONDAY + timedelta(days=day, hours=hour)


def _frame(user: User, at_s: float, frame_id: int, chance: random.Random) -> FrameEvent:
    draw = chance.random()
    if draw < 0.02:
        return _without(FrameOutcome.INVALID, "InvalidFrameError", user, at_s)
    if draw < 0.06:
        return _without(FrameOutcome.SKIPPED, "SupersededError", user, at_s, dropped_before=2)
    sends = chance.random() < user.sends
    request = _request(user, at_s, chance)
    timeout = Attempt("cloud", "BackendTimeoutError", "canary-message", 0.5, 40_000)
    if draw < 0.08:
        failed = _without(FrameOutcome.FAILED, "AllBackendsFailedError", user, at_s)
        return replace(failed, attempts=(timeout,), requests=(request,))
    backend, planned, reason = BackendKind.DEVICE, BackendKind.DEVICE, "auto: device, 99 %"
    requests: tuple[SentRequest, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    if sends and draw > 0.2:
        backend = planned = BackendKind.CLOUD if draw > 0.5 else BackendKind.STREAMING
        reason = f"auto: {backend.value} 960 px q60, 99 % in time"
        requests = (replace(request, backend=backend.value, answered=True),)
        if backend is BackendKind.STREAMING:
            requests = (replace(requests[0], price_nanos=0, target="stream.example"),)
    elif sends and draw > 0.15:
        attempts, requests, planned = (timeout,), (request,), BackendKind.CLOUD
        reason = "prefer_cloud: cloud (85 ms); cloud could not answer (canary-message)"
    elif draw > 0.12:
        reason = "prefer_cloud: device (12 ms); cloud is out (no answer from canary-host)"
    elif draw > 0.10:
        reason = "auto: device; cloud is out (the budget of 5.00 USD for this day is spent)"
    faces = chance.choice((0, 1, 1, 1, 2, 3))
    median_s = {"device": 0.03, "cloud": 0.14, "streaming": 0.09}[backend.value]
    total_s = median_s * math.exp(chance.gauss(0, 0.45)) + (0.5 if attempts else 0.0)
    confidence = min(max(chance.gauss(0.86, 0.1), 0.5), 1.0) if faces else None
    answers = (Answer(backend=backend, faces=faces, confidence=confidence, elapsed_s=total_s),)
    if backend is BackendKind.DEVICE and not attempts and chance.random() < 0.1:  # a probe
        planned, reason = BackendKind.CLOUD, "auto: cloud probe, device after 0 ms"
        requests = (replace(request, answered=True),)
        seen = max(faces + chance.choice((-1, 0, 0, 1, 1)), 0)
        answers = (
            *answers,
            Answer(
                backend=BackendKind.CLOUD, faces=seen, confidence=confidence, elapsed_s=total_s * 4
            ),
        )
    return FrameEvent(
        at_s=at_s,
        outcome=FrameOutcome.ANSWERED,
        degraded=bool(attempts),
        session_id=user.session,
        frame_id=frame_id,
        planned=planned,
        backend=backend,
        reason=reason,
        attempts=attempts,
        answers=answers,
        faces=faces,
        confidence=confidence,
        requests=requests,
        bytes_sent=sum(each.bytes_sent for each in requests),
        total_s=total_s,
    )


def _without(outcome: FrameOutcome, error: str, user: User, at_s: float, **more: Any) -> FrameEvent:
    event = FrameEvent(at_s=at_s, outcome=outcome, session_id=user.session, error=error)
    return replace(event, **more)


def _request(user: User, at_s: float, chance: random.Random) -> SentRequest:
    return SentRequest(
        at_s=at_s,
        backend="cloud",
        target="vision.example",
        provider="google",
        region="eu-west-1",
        bytes_sent=chance.randint(20_000, 80_000),
        price_nanos=1_500_000,
    )


def _judged(event: FrameEvent, chance: random.Random) -> FeedbackEvent:
    assert event.backend is not None
    verdicts = [FeedbackVerdict.MISSED_FACE, *[FeedbackVerdict.CORRECT] * 5]
    if event.faces:
        verdicts.append(FeedbackVerdict.FALSE_POSITIVE)
    verdict = chance.choice(verdicts)
    return FeedbackEvent(
        at_s=event.at_s + 1.0,
        verdict=verdict,
        session_id=event.session_id,
        frame_id=event.frame_id or 0,
        backend=event.backend,
        confidence=None if verdict is FeedbackVerdict.MISSED_FACE else event.confidence,
    )


def keep(week: Week, path: Path, *, names_kept_s: float = 2 * WEEK_S) -> None:
    """Write `week` as three apps would, each with hooks of its own, to one file."""
    for user in USERS:
        now = [MONDAY.timestamp()]
        user_of: Callable[[str], str] = lambda _session, name=user.name: name  # noqa: E731
        costs, usage = (
            CostMeter(user_of=user_of),
            UsageMeter(user_of=user_of, user_region=user.region),
        )
        with CostStore(path, names_kept_s=names_kept_s, clock=lambda now=now: now[0]) as store:
            events = [*week.frames[user.session], *week.feedback[user.session]]
            for number, event in enumerate(sorted(events, key=lambda each: each.at_s), 1):
                now[0] = event.at_s
                if isinstance(event, FeedbackEvent):
                    usage.on_feedback(event)
                else:
                    costs.on_frame(event)
                    usage.on_frame(event)
                if number % 50 == 0 or number == len(events):
                    store.add(costs.take(), usage=usage.take())
