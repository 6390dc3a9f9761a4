"""Decisions survive JSON lines, damaged ones are refused, and recordings can be replayed."""

import json
import logging
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.errors import StorageError
from hybrid_detect.selection.conditions import (
    BackendConditions,
    Conditions,
    LinkConditions,
    NetworkClass,
    PowerConditions,
    SceneConditions,
)
from hybrid_detect.selection.fixed import FixedPolicy
from hybrid_detect.selection.recording import (
    RecordingPolicy,
    decision_of,
    line_of,
    replay,
)
from hybrid_detect.selection.threshold import ThresholdPolicy
from hybrid_detect.types import BackendKind, Plan

CONDITIONS = Conditions(
    now_s=12.5,
    backends=(
        BackendConditions(kind=BackendKind.STREAMING, usable=True, latency_s=0.1),
        BackendConditions(
            kind=BackendKind.DEVICE, usable=False, unavailable_reason="starting", accuracy=0.8
        ),
    ),
    deadline_s=1.0,
    link=LinkConditions(
        bits_per_s=4e6,
        spread=0.3,
        rtt_s=0.05,
        rtt_deviation_s=0.01,
        server_s=0.035,
        network=NetworkClass.GOOD,
    ),
    previous=BackendKind.STREAMING,
    power=PowerConditions(battery=0.4, on_battery=True),
    scene=SceneConditions(device_share=0.12, faces=20, server_look_due=True),
)
PLAN = Plan(
    backend=BackendKind.STREAMING,
    reason='good: "streaming" \u2192 60 ms',
    deadline_s=1.0,
    fallbacks=(BackendKind.DEVICE,),
    hedge=BackendKind.DEVICE,
    hedge_after_s=0.15,
    max_side_px=None,
)

# Built from their annotations, so that a new field is tested as soon as it is there.
CONDITIONS_OF_ALL_KINDS = st.from_type(Conditions)
PLANS_OF_ALL_KINDS = st.from_type(Plan)


def changed(path: str, value: object) -> str:
    """A good line with one value put in the place `path`."""
    record = json.loads(line_of(CONDITIONS, PLAN))
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place = record
    for parent in parents:
        place = place[parent]
    place[last] = value
    return json.dumps(record)


def without(path: str) -> str:
    record = json.loads(line_of(CONDITIONS, PLAN))
    part, name = path.split(".")
    del record[part][name]
    return json.dumps(record)


# -- there and back ------------------------------------------------------------------------------


def test_a_decision_comes_back() -> None:
    line = line_of(CONDITIONS, PLAN)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert decision_of(line) == (CONDITIONS, PLAN)


@given(CONDITIONS_OF_ALL_KINDS, PLANS_OF_ALL_KINDS)
def test_every_decision_comes_back(conditions: Conditions, plan: Plan) -> None:
    line = line_of(conditions, plan)
    json.loads(line, parse_constant=pytest.fail)  # no Infinity: that is not JSON
    again = decision_of(line)
    assert line_of(*again) == line  # nan is not equal to itself, its line is
    assert repr(again) == repr((conditions, plan))


def test_infinity_and_nan_survive() -> None:
    conditions = Conditions(
        now_s=math.nan, backends=(), deadline_s=-math.inf, interval_s=math.inf, frame_bytes=math.inf
    )
    again, _ = decision_of(line_of(conditions, PLAN))
    assert math.isnan(again.now_s)
    assert (again.deadline_s, again.interval_s) == (-math.inf, math.inf)
    assert again.frame_bytes == math.inf


def test_a_whole_number_may_stand_for_a_fraction() -> None:
    conditions, _ = decision_of(changed("conditions.now_s", 3))
    assert conditions.now_s == 3.0
    assert isinstance(conditions.now_s, float)


def test_what_a_later_version_adds_is_ignored() -> None:
    for path in (
        "conditions.moon",
        "plan.moon",
        "conditions.link.moon",
        "conditions.backends.0.moon",
    ):
        assert decision_of(changed(path, "full")) == (CONDITIONS, PLAN)


def test_what_an_earlier_version_did_not_have_takes_its_default() -> None:
    conditions, _ = decision_of(without("conditions.previous"))
    assert conditions.previous is None
    _, plan = decision_of(without("plan.hedge_after_s"))
    assert plan.hedge_after_s == 0.0


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "got no JSON"),
        ('{"version": 1', "got no JSON"),
        ("[" * 100_000, "got no JSON"),
        ("[]", "expected an object, got list"),
        ("{}", "expected version 1, got None"),
        (changed("version", 2), "expected version 1, got 2"),
        (changed("version", True), "expected version 1, got True"),
        (changed("conditions", None), "conditions: expected an object, got None"),
        (changed("plan", []), "plan: expected an object"),
        (without("conditions.now_s"), "conditions.now_s is missing"),
        (without("plan.backend"), "plan.backend is missing"),
        (changed("conditions.now_s", "now"), "conditions.now_s: expected a value of type float"),
        (changed("conditions.now_s", True), "conditions.now_s: expected a value of type float"),
        (changed("conditions.now_s", 10**400), "expected a number of usual size"),
        (changed("conditions.must_answer", 1), "must_answer: expected a value of type bool"),
        (changed("conditions.backends", {}), "conditions.backends: expected a list"),
        (
            changed("conditions.backends.1.kind", "pigeon"),
            "backends[1].kind: expected one of cloud",
        ),
        (changed("conditions.link.network", 4), "link.network: expected one of unknown"),
        (changed("plan.quality", 80.5), "plan.quality: expected a value of type int"),
        (changed("plan.quality", "inf"), "plan.quality: expected a value of type int"),
        (changed("plan.reason", None), "plan.reason: expected a value of type str"),
        (changed("plan.reason", ["x" * 1000]), "..."),
    ],
)
def test_what_is_no_decision_is_refused(line: str, told: str) -> None:
    with pytest.raises(StorageError, match=r"^line 7: ") as caught:
        decision_of(line, number=7)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
PLACES = st.sampled_from(
    [
        "version",
        "conditions",
        "plan",
        "conditions.backends",
        "conditions.backends.0",
        "conditions.link",
    ]
    + [f"conditions.{name}" for name in json.loads(line_of(CONDITIONS, PLAN))["conditions"]]
    + [f"plan.{name}" for name in json.loads(line_of(CONDITIONS, PLAN))["plan"]]
)


@given(PLACES, JSON)
def test_any_line_is_read_or_refused(path: str, value: object) -> None:
    try:
        conditions, plan = decision_of(changed(path, value))
    except StorageError:
        return
    line_of(conditions, plan)  # and what was read can be written


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(StorageError):
        decision_of(text)


# -- recording and replaying ---------------------------------------------------------------------


def test_a_recording_policy_decides_as_the_policy_it_records() -> None:
    lines: list[str] = []
    policy = RecordingPolicy(ThresholdPolicy(), lines.append)
    plan = policy.decide(CONDITIONS)
    assert plan == ThresholdPolicy().decide(CONDITIONS)
    assert [decision_of(line) for line in lines] == [(CONDITIONS, plan)]


def test_a_recording_is_replayed_through_any_policy(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with path.open("w", encoding="utf-8") as file:
        policy = RecordingPolicy(ThresholdPolicy(), file.write)
        recorded = policy.decide(CONDITIONS)
        file.write("\n")  # someone's editor
        policy.decide(CONDITIONS)
    with path.open(encoding="utf-8") as lines:
        same, other = replay(lines, FixedPolicy(backend="device"))
    assert same == other
    assert same.conditions == CONDITIONS
    assert same.recorded == recorded
    assert same.new == FixedPolicy(backend="device").decide(CONDITIONS)


def test_what_comes_before_a_damaged_line_is_replayed() -> None:
    lines = [line_of(CONDITIONS, PLAN), "\n", line_of(CONDITIONS, PLAN)[:100]]
    replayed = replay(lines, ThresholdPolicy())
    assert next(replayed).recorded == PLAN
    with pytest.raises(StorageError, match="line 3: expected a recorded decision"):
        next(replayed)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("closed")])
def test_a_full_disk_ends_the_recording_and_not_the_service(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    asked = 0

    def write(line: str) -> None:
        nonlocal asked
        asked += 1
        raise error

    policy = RecordingPolicy(ThresholdPolicy(), write)
    with caplog.at_level(logging.WARNING):
        plans = [policy.decide(CONDITIONS) for _ in range(3)]
    assert plans == [ThresholdPolicy().decide(CONDITIONS)] * 3
    assert asked == 1
    assert len(caplog.records) == 1
    assert "recording has ended" in caplog.text


def test_what_else_the_policy_can_do_is_still_there() -> None:
    class Pinging(ThresholdPolicy):
        ping_s = 1.0

    policy = RecordingPolicy(Pinging(), lambda line: None)
    assert policy.ping_s == 1.0
    assert not hasattr(policy, "sent")


def test_a_recording_from_before_there_were_scenes_is_replayed_as_it_was_decided() -> None:
    record = json.loads(line_of(CONDITIONS, PLAN))
    del record["conditions"]["scene"]
    policy = FixedPolicy(backend="streaming")
    (replayed,) = replay([json.dumps(record)], policy)
    assert replayed.conditions.scene is None
    assert replayed.recorded == PLAN
