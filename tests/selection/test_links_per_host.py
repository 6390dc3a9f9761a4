"""Backends on different hosts have links of their own, and policies read the right one."""

from __future__ import annotations

import pytest

from hybrid_detect.selection.auto import AutoPolicy
from hybrid_detect.selection.conditions import BackendConditions, Conditions, LinkConditions
from hybrid_detect.selection.fixed import FixedPolicy
from hybrid_detect.selection.threshold import ThresholdPolicy
from hybrid_detect.types import BackendKind

CLOUD, STREAMING, DEVICE = BackendKind.CLOUD, BackendKind.STREAMING, BackendKind.DEVICE


def link(rtt_s: float, *, bits_per_s: float = 20e6, in_flight: int = 0) -> LinkConditions:
    return LinkConditions(
        bits_per_s=bits_per_s,
        spread=0.1,
        rtt_s=rtt_s,
        rtt_deviation_s=0.001,
        server_s=0.03,
        in_flight=in_flight,
        idle_s=0.1,
    )


FAST, SLOW = link(0.02), link(0.9, bits_per_s=50e3, in_flight=2)


def conditions(
    cloud: LinkConditions | None,
    stream: LinkConditions | None,
    shared: LinkConditions | None = None,
    *,
    with_stream: bool = True,
) -> Conditions:
    backends = [
        BackendConditions(kind=CLOUD, usable=True, link=cloud),
        BackendConditions(kind=DEVICE, usable=True, latency_s=0.05, accuracy=0.8, cost=0.03),
    ]
    if with_stream:
        backends.insert(0, BackendConditions(kind=STREAMING, usable=True, link=stream))
    return Conditions(
        now_s=0.0,
        backends=tuple(backends),
        deadline_s=1.0,
        link=shared,
        interval_s=0.1,
        must_answer=False,
        previous=CLOUD,
    )


def test_a_backends_own_link_comes_before_the_shared_one() -> None:
    own, shared = conditions(FAST, None, SLOW), SLOW
    assert own.link_to(CLOUD) is FAST
    assert own.link_to(STREAMING) is shared, "where there is one link, all remote backends share it"
    assert own.link_to(None) is shared


@pytest.mark.parametrize("policy", [AutoPolicy(), ThresholdPolicy()], ids=["auto", "threshold"])
def test_the_frame_goes_by_the_link_of_the_backend_it_would_be_sent_to(
    policy: AutoPolicy | ThresholdPolicy,
) -> None:
    fast = policy.decide(conditions(SLOW, FAST, SLOW))
    slow = policy.decide(conditions(FAST, SLOW, FAST))
    assert fast.backend is STREAMING
    assert "round trip 20 ms" in fast.reason
    assert "round trip 900 ms" in slow.reason


def test_a_fixed_backend_counts_what_is_under_way_to_its_own_host() -> None:
    cloud = FixedPolicy(backend="cloud")
    assert cloud.decide(conditions(SLOW, FAST, FAST)).skip
    assert cloud.decide(conditions(FAST, SLOW, SLOW)).backend is CLOUD
    assert cloud.decide(conditions(None, None, SLOW, with_stream=False)).skip
