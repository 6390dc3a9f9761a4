"""Always one backend at one quality."""

from dataclasses import replace

import pytest

from hybrid_detect.selection.conditions import BackendConditions, Conditions, LinkConditions
from hybrid_detect.selection.fixed import FixedPolicy
from hybrid_detect.types import BackendKind

LINK = LinkConditions(
    bits_per_s=1e4, spread=1.0, rtt_s=2.0, rtt_deviation_s=0.5, server_s=1.0, in_flight=0
)
WAYS = tuple(BackendConditions(kind=kind, usable=True) for kind in BackendKind)
CONDITIONS = Conditions(now_s=0.0, backends=WAYS, deadline_s=0.7, link=LINK, must_answer=False)


@pytest.mark.parametrize("kind", BackendKind)
def test_it_is_always_the_same(kind: BackendKind) -> None:
    policy = FixedPolicy(backend=kind.value, quality=50, max_side_px=640, target_bytes=9000)
    plan = policy.decide(CONDITIONS)
    assert plan.backend is kind
    assert (plan.quality, plan.max_side_px, plan.target_bytes) == (50, 640, 9000)
    assert plan.deadline_s == 0.7
    assert not plan.skip
    assert plan.reason == f"fixed: {kind.value}"


@pytest.mark.parametrize("in_flight", [2, 3])
def test_a_frame_behind_two_others_is_left_out(in_flight: int) -> None:
    behind = replace(CONDITIONS, link=replace(LINK, in_flight=in_flight))
    for kind in (BackendKind.CLOUD, BackendKind.STREAMING):
        plan = FixedPolicy(backend=kind).decide(behind)
        assert plan.backend is None
        assert plan.skip
        assert f"{in_flight} under way" in plan.reason
        must = FixedPolicy(backend=kind).decide(replace(behind, must_answer=True))
        assert (must.backend, must.skip) == (kind, False)
    assert FixedPolicy(backend="device").decide(behind).backend is BackendKind.DEVICE


def test_without_a_link_nothing_is_left_out() -> None:
    plan = FixedPolicy(backend="cloud").decide(replace(CONDITIONS, link=None))
    assert plan.backend is BackendKind.CLOUD


def test_a_way_that_is_out_is_not_replaced_by_another() -> None:
    out = BackendConditions(kind=BackendKind.CLOUD, usable=False, unavailable_reason="refused")
    plan = FixedPolicy(backend="cloud").decide(replace(CONDITIONS, backends=(out, *WAYS[1:])))
    assert (plan.backend, plan.skip) == (None, False)
    assert plan.reason == "fixed: cloud is out (refused)"
    plan = FixedPolicy(backend="cloud").decide(replace(CONDITIONS, backends=WAYS[1:]))
    assert plan.backend is None
    assert "no such backend" in plan.reason


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ValueError, match="pigeon"):
        FixedPolicy(backend="pigeon")
