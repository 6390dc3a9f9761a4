"""Counts of how frames fared: each measure, the kinds of reasons, and what bounds the memory."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.errors import BackendTimeoutError
from hybrid_detect.monitoring.events import Answer, FeedbackEvent, FrameEvent, FrameOutcome
from hybrid_detect.monitoring.periods import hour_of
from hybrid_detect.monitoring.reasons import error_words, kind_of_reason
from hybrid_detect.monitoring.usage_meter import UsageMeter
from hybrid_detect.selection.conditions import BackendConditions, Conditions
from hybrid_detect.selection.policy import ModePolicy
from hybrid_detect.types import Attempt, BackendKind, DetectionMode, FeedbackVerdict
from hybrid_detect.usage import (
    CONFIDENCE_BUCKETS,
    GROWTH,
    ON_TIME_S,
    Measure,
    confidence_bucket,
    latency_bucket,
    latency_of,
)

from .cost_rows import NOON_S

DEVICE, CLOUD = BackendKind.DEVICE, BackendKind.CLOUD


def answered(backend: BackendKind = DEVICE, **changes: Any) -> FrameEvent:
    values: dict[str, Any] = {"planned": backend, "total_s": 0.05, "session_id": "ann"}
    return FrameEvent(
        at_s=NOON_S, outcome=FrameOutcome.ANSWERED, backend=backend, **{**values, **changes}
    )


def told(meter: UsageMeter, measure: Measure) -> dict[tuple[str, str], int]:
    """Numbers of `measure` by backend and label."""
    return {
        (row.key.backend, row.key.label): row.number
        for row in meter.rows()
        if row.key.measure == measure
    }


def test_an_answer_is_counted_by_its_time_its_score_and_its_reason() -> None:
    meter = UsageMeter(user_of=str.upper, user_region="DE")
    meter.on_frame(answered(faces=1, confidence=0.93))
    meter.on_frame(answered(faces=1, confidence=None, degraded=True))
    meter.on_frame(answered())
    assert told(meter, Measure.OUTCOME) == {("device", "answered"): 2, ("device", "degraded"): 1}
    assert told(meter, Measure.LATENCY) == {("device", str(latency_bucket(0.05))): 3}
    assert told(meter, Measure.CONFIDENCE) == {
        ("device", "18"): 1,
        ("device", "unscored"): 1,
        ("device", "none"): 1,
    }
    assert told(meter, Measure.REASON) == {("device", "first choice"): 3}
    assert {row.key[:4] for row in meter.rows()} == {(hour_of(NOON_S), "ann", "ANN", "DE")}


def test_a_frame_without_an_answer_is_counted_by_its_outcome_and_error_alone() -> None:
    meter = UsageMeter()
    failure = Attempt("cloud", "BackendTimeoutError", "no answer", 1.0)
    given_up = Attempt("streaming", "", "given up", 1.0)
    for outcome in FrameOutcome:
        if outcome is not FrameOutcome.ANSWERED:
            meter.on_frame(
                FrameEvent(
                    at_s=NOON_S,
                    outcome=outcome,
                    error="AllBackendsFailedError",
                    attempts=(failure, given_up) if outcome is FrameOutcome.FAILED else (),
                    dropped_before=2 if outcome is FrameOutcome.STALE else 0,
                )
            )
    outcomes = ("stale", "skipped", "invalid", "failed", "cancelled")
    assert told(meter, Measure.OUTCOME) == {("", outcome): 1 for outcome in outcomes}
    assert told(meter, Measure.ERROR) == {
        ("cloud", "BackendTimeoutError"): 1,
        ("", "AllBackendsFailedError"): 2,
    }
    assert told(meter, Measure.DROPPED) == {("", ""): 2}
    for measure in (Measure.LATENCY, Measure.CONFIDENCE, Measure.REASON, Measure.SWITCH):
        assert told(meter, measure) == {}


def test_a_switch_is_one_within_a_session() -> None:
    meter = UsageMeter()
    for session, backend in (
        ("ann", DEVICE),
        ("bob", CLOUD),
        ("ann", DEVICE),
        ("ann", CLOUD),
        ("bob", CLOUD),
        ("ann", DEVICE),
    ):
        meter.on_frame(answered(backend, session_id=session))
    assert told(meter, Measure.SWITCH) == {("cloud", "device"): 1, ("device", "cloud"): 1}


def answer(backend: BackendKind, faces: int, elapsed_s: float) -> Answer:
    return Answer(backend=backend, faces=faces, confidence=None, elapsed_s=elapsed_s)


@pytest.mark.parametrize(
    ("device", "server", "label"), [(1, 3, "server"), (2, 2, "same"), (2, 1, "device")]
)
def test_the_device_is_set_beside_the_server_where_both_answered(
    device: int, server: int, label: str
) -> None:
    meter = UsageMeter()
    both = answer(DEVICE, device, 0.02), answer(CLOUD, server, 0.2)
    meter.on_frame(answered(answers=both))
    meter.on_frame(answered(answers=both[:1]))
    meter.on_frame(answered(answers=(both[1], answer(BackendKind.STREAMING, 1, 0.1))))
    assert told(meter, Measure.COMPARED) == {("cloud", label): 1}
    assert told(meter, Measure.COMPARED_LATENCY) == {
        ("device", str(latency_bucket(0.02))): 1,
        ("cloud", "0"): 1,
    }


def test_feedback_is_counted_with_the_score_it_is_about() -> None:
    meter = UsageMeter()
    event = FeedbackEvent(
        at_s=NOON_S,
        verdict=FeedbackVerdict.FALSE_POSITIVE,
        frame_id=1,
        backend=DEVICE,
        confidence=0.72,
    )
    meter.on_feedback(event)
    meter.on_feedback(replace(event, verdict=FeedbackVerdict.MISSED_FACE, confidence=None))
    assert told(meter, Measure.FEEDBACK) == {
        ("device", "false_positive 14"): 1,
        ("device", "missed_face"): 1,
    }


def test_what_is_taken_can_be_put_back() -> None:
    meter = UsageMeter()
    meter.on_frame(answered())
    taken = meter.take()
    assert meter.rows() == ()
    meter.on_frame(answered())
    meter.add(taken)
    assert sum(told(meter, Measure.OUTCOME).values()) == 2


def test_memory_is_bounded_and_no_frame_is_lost() -> None:
    meter = UsageMeter(max_rows=50)
    for number in range(1000):
        hour_s = 3600 * (number % 90)
        meter.on_frame(replace(answered(session_id=f"s{number}"), at_s=NOON_S + hour_s))
    assert len(meter.rows()) < 60
    assert sum(told_rows(meter)) == 1000


def test_months_that_cannot_be_kept_stay_within_memory() -> None:
    meter = UsageMeter(max_rows=50)
    days = 400
    for day in range(days):
        meter.on_frame(replace(answered(), at_s=NOON_S + 86_400 * day))
    assert len(meter.rows()) <= 50 + 4
    assert max(row.key.hour for row in meter.rows()) == int(NOON_S + 86_400 * (days - 1)) // 3600


def told_rows(meter: UsageMeter) -> list[int]:
    return [row.number for row in meter.rows() if row.key.measure == Measure.OUTCOME]


# -- buckets -------------------------------------------------------------------------------------


@given(st.floats(1e-4, 1e3))
def test_a_bucket_tells_its_seconds_to_five_percent(seconds: float) -> None:
    assert latency_of(latency_bucket(seconds)) == pytest.approx(seconds, rel=0.05)


def test_what_is_on_time_has_buckets_of_its_own() -> None:
    assert latency_bucket(ON_TIME_S) == 0
    assert latency_bucket(ON_TIME_S * 1.0001) == 1
    assert latency_bucket(ON_TIME_S / GROWTH * 1.0001) == 0
    assert latency_bucket(0.0) == latency_bucket(-1.0) < 0


@given(st.floats(0, 1))
def test_a_bucket_of_scores_holds_its_scores(score: float) -> None:
    bucket = confidence_bucket(score)
    assert 0 <= bucket < CONFIDENCE_BUCKETS
    assert bucket / CONFIDENCE_BUCKETS - 1e-6 <= score <= (bucket + 1) / CONFIDENCE_BUCKETS + 1e-6


# -- kinds of reasons ----------------------------------------------------------------------------


def planned(mode: DetectionMode, *backends: BackendConditions) -> FrameEvent:
    """An event of the backend that a real policy chooses."""
    plan = ModePolicy(mode=mode).decide(Conditions(now_s=0.0, backends=backends, deadline_s=1.0))
    assert plan.backend is not None
    return answered(plan.backend, reason=plan.reason)


def conditions(kind: BackendKind, **changes: Any) -> BackendConditions:
    return BackendConditions(kind=kind, usable="unavailable_reason" not in changes, **changes)


@pytest.mark.parametrize(
    ("why", "kind"),
    [
        ("no consent stands for 'faces'", "cloud out: no consent"),
        ("the privacy policy lets no frame leave the device", "cloud out: not allowed to leave"),
        ("the frame is local_only", "cloud out: not allowed to leave"),
        ("the budget of 5.00 USD for this day is spent until 2026", "cloud out: budget spent"),
        ("the server asks to wait 1.5 s", "cloud out: server asked to wait"),
        ("starting", "cloud out: still starting"),
        ("no answer within 0.3 s from canary.example", "cloud out: failing"),
    ],
)
def test_why_the_preferred_backend_was_out_becomes_a_kind(why: str, kind: str) -> None:
    event = planned(
        DetectionMode.PREFER_CLOUD, conditions(CLOUD, unavailable_reason=why), conditions(DEVICE)
    )
    assert kind_of_reason(event) == kind


def test_the_other_kinds_of_reasons() -> None:
    slow = planned(DetectionMode.PREFER_CLOUD, conditions(CLOUD, latency_s=9.0), conditions(DEVICE))
    assert kind_of_reason(slow) == "cloud too slow"
    first = planned(DetectionMode.PREFER_CLOUD, conditions(CLOUD), conditions(DEVICE))
    assert kind_of_reason(first) == "first choice"
    failure = Attempt.from_error(BackendTimeoutError("canary", backend="cloud"))
    assert kind_of_reason(answered(attempts=(failure,))) == "cloud failed: timeout"
    assert kind_of_reason(answered(planned=CLOUD, reason="auto: cloud 960 px q60")) == (
        "faster than cloud"
    )
    assert kind_of_reason(answered(planned=CLOUD, reason="auto: cloud probe, 99 %")) == (
        "cloud only probed"
    )
    unsure = "x; cloud was asked as well, because it found no face"
    assert kind_of_reason(answered(CLOUD, planned=DEVICE, reason=unsure)) == "device was unsure"
    assert kind_of_reason(answered(reason="canary of another policy")) == "first choice"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BackendTimeoutError", "timeout"),
        ("BackendError", "backend error"),
        ("ProtocolError", "protocol"),
        ("UnknownKeyError", "unknown key"),
    ],
)
def test_the_class_of_an_error_is_told_in_words(name: str, words: str) -> None:
    assert error_words(name) == words
