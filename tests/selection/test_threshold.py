"""The mission's rule, as written."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.selection.conditions import (
    BackendConditions,
    Conditions,
    LinkConditions,
    NetworkClass,
)
from hybrid_detect.selection.recording import RecordingPolicy, decision_of
from hybrid_detect.selection.threshold import ThresholdPolicy
from hybrid_detect.simulation.simulator import Environment, Trace, simulate
from hybrid_detect.types import BackendKind, Plan

CLOUD, STREAMING, DEVICE = BackendKind.CLOUD, BackendKind.STREAMING, BackendKind.DEVICE
LINK = LinkConditions(bits_per_s=4e6, spread=0.3, rtt_s=0.05, rtt_deviation_s=0.01, server_s=0.035)


def conditions(
    *usable: BackendKind, link: LinkConditions | None = LINK, must_answer: bool = False
) -> Conditions:
    backends = tuple(
        BackendConditions(
            kind=kind, usable=kind in (usable or BackendKind), unavailable_reason="out"
        )
        for kind in BackendKind
    )
    return Conditions(
        now_s=0.0,
        backends=backends,
        deadline_s=1.0,
        link=link,
        interval_s=0.1,
        must_answer=must_answer,
    )


def decide(**link: object) -> Plan:
    return ThresholdPolicy().decide(conditions(link=replace(LINK, **link)))


@pytest.mark.parametrize(
    ("rtt_s", "backend", "quality"),
    [
        (0.0, STREAMING, 80),
        (0.099, STREAMING, 80),
        (0.1, STREAMING, 50),
        (0.299, STREAMING, 50),
        (0.3, DEVICE, 80),
        (1.5, DEVICE, 80),
    ],
)
def test_two_round_trips_part_three_ways(rtt_s: float, backend: BackendKind, quality: int) -> None:
    plan = decide(rtt_s=rtt_s)
    assert plan.backend is backend
    if backend is STREAMING:
        assert plan.quality == quality
    assert f"round trip {rtt_s * 1000:.0f} ms" in plan.reason


@pytest.mark.parametrize(
    ("rtt_s", "idle_s", "sent"),
    [
        # 15 fps: 67 ms; the pause is measured from after the encoding, so a bit less is enough.
        (0.05, 0.028, False),
        (0.05, 0.045, False),
        (0.05, 0.062, True),
        (0.05, 0.095, True),
        # 5 fps: 200 ms.
        (0.2, 0.095, False),
        (0.2, 0.162, False),
        (0.2, 0.195, True),
        (0.2, 10.0, True),
    ],
)
def test_no_more_frames_than_the_rule_says(rtt_s: float, idle_s: float, sent: bool) -> None:
    plan = decide(rtt_s=rtt_s, idle_s=idle_s)
    assert plan.skip is not sent
    assert (plan.backend is STREAMING) is sent


@pytest.mark.parametrize(("camera_fps", "most"), [(10, 10), (15, 15), (20, 15), (25, 15), (60, 15)])
@pytest.mark.parametrize(("rtt_s", "limit"), [(0.05, 15), (0.2, 5)])
def test_the_rate_is_kept_with_any_camera(
    camera_fps: int, most: int, rtt_s: float, limit: int
) -> None:
    sent_s = [-10.0]
    for frame in range(10 * camera_fps):
        now_s = frame / camera_fps
        if not decide(rtt_s=rtt_s, idle_s=now_s - sent_s[-1]).skip:
            sent_s.append(now_s + 0.005)
    fps = (len(sent_s) - 1) / 10
    assert limit / 2 <= fps <= min(limit * 1.12, most)


def test_a_frame_behind_two_others_is_left_out() -> None:
    plan = decide(in_flight=2)
    assert plan.skip
    assert "2 under way" in plan.reason


def test_a_frame_that_must_be_answered_is_not_left_out() -> None:
    link = replace(LINK, rtt_s=0.2, idle_s=0.0, in_flight=5)
    plan = ThresholdPolicy().decide(conditions(link=link, must_answer=True))
    assert (plan.backend, plan.quality, plan.skip) == (STREAMING, 50, False)


def test_without_a_network_the_device_looks() -> None:
    plan = decide(network=NetworkClass.OFFLINE)
    assert plan.backend is DEVICE
    assert "no network" in plan.reason
    assert ThresholdPolicy().decide(conditions(link=None)).backend is DEVICE


def test_without_a_pong_for_a_second_the_device_looks_until_one_comes() -> None:
    t_s = np.arange(20.0)
    kbps = np.where((t_s >= 5) & (t_s < 10), 0.0, 8000.0)
    trace = Trace(name="hole", kind="4g", t_s=t_s, up_kbps=kbps, rtt_ms=np.full(20, 40.0))
    lines: list[str] = []
    simulate(Environment(trace), RecordingPolicy(ThresholdPolicy(), lines.append))
    backends = {seen.now_s: plan.backend for seen, plan in map(decision_of, lines)}
    assert {backend for at_s, backend in backends.items() if at_s < 5} <= {STREAMING, None}
    assert {backend for at_s, backend in backends.items() if 6 <= at_s < 10} == {DEVICE}
    assert DEVICE not in {backend for at_s, backend in backends.items() if at_s > 14}


def test_a_way_that_is_out_is_not_taken() -> None:
    rule = ThresholdPolicy()
    slow = replace(LINK, rtt_s=0.9)
    assert rule.decide(conditions(CLOUD, DEVICE)).backend is CLOUD
    assert rule.decide(conditions(DEVICE)).backend is DEVICE
    assert rule.decide(conditions(CLOUD, STREAMING, link=slow)).backend is STREAMING
    assert rule.decide(conditions(STREAMING, link=None)).backend is STREAMING
    no_backends = replace(conditions(), backends=())
    assert rule.decide(no_backends).backend is None
    assert "no backend is usable" in rule.decide(no_backends).reason
    assert not rule.decide(no_backends).skip


def test_the_other_ways_are_fallbacks_and_the_device_is_the_first_of_them() -> None:
    plan = ThresholdPolicy().decide(conditions())
    assert plan.fallbacks == (DEVICE, CLOUD)
    assert 0 < plan.reserve_s <= 0.5
    assert plan.retries == 0
    alone = ThresholdPolicy().decide(conditions(STREAMING))
    assert (alone.fallbacks, alone.reserve_s) == ((), 0.0)
    assert alone.retries > 0
    left_out = ThresholdPolicy().decide(conditions(link=replace(LINK, in_flight=2)))
    assert left_out.fallbacks == ()


@given(st.from_type(Conditions))
def test_it_never_raises_and_never_takes_a_way_that_is_out(any_conditions: Conditions) -> None:
    plan = ThresholdPolicy().decide(any_conditions)
    usable = {backend.kind for backend in any_conditions.backends if backend.usable}
    assert plan.backend is None or plan.backend in usable
    assert plan.reason
    if any_conditions.must_answer and usable:
        assert plan.backend is not None
