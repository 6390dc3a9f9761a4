import dataclasses
import math

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from hybrid_detect.selection.conditions import BackendConditions, Conditions
from hybrid_detect.selection.policy import MAX_RESERVE_SHARE, ORDERS, ModePolicy
from hybrid_detect.types import BackendKind, DetectionMode, Plan

CLOUD, STREAMING, DEVICE = BackendKind.CLOUD, BackendKind.STREAMING, BackendKind.DEVICE
OUT = "out"


def conditions(deadline_s: float = 1.0, **backends: float | str | None) -> Conditions:
    """Ways by name: a latency, None for unmeasured, or OUT."""
    return Conditions(
        now_s=0.0,
        deadline_s=deadline_s,
        backends=tuple(
            BackendConditions(
                kind=BackendKind(name),
                usable=value != OUT,
                unavailable_reason="it is broken" if value == OUT else "",
                latency_s=None if isinstance(value, str) else value,
            )
            for name, value in backends.items()
        ),
    )


def taken(plan: Plan) -> list[BackendKind]:
    return [kind for kind in (plan.backend, *plan.fallbacks) if kind is not None]


@pytest.mark.parametrize(
    ("mode", "order"),
    [
        ("auto", [STREAMING, DEVICE, CLOUD]),
        ("cloud", [CLOUD]),
        ("streaming", [STREAMING]),
        ("on_device", [DEVICE]),
        ("prefer_cloud", [CLOUD, DEVICE, STREAMING]),
        ("prefer_on_device", [DEVICE, STREAMING, CLOUD]),
    ],
)
def test_each_mode_has_its_order(mode: str, order: list[BackendKind]) -> None:
    plan = ModePolicy(mode=DetectionMode(mode)).decide(
        conditions(cloud=0.1, streaming=0.1, device=0.1)
    )
    assert taken(plan) == order


@pytest.mark.parametrize(
    ("backends", "expected", "reason"),
    [
        ({"streaming": None, "device": None}, [STREAMING, DEVICE], "not measured yet"),
        ({"streaming": 0.05, "device": 0.02}, [STREAMING, DEVICE], "streaming (50 ms)"),
        ({"streaming": 1.5, "device": 0.02}, [DEVICE, STREAMING], "streaming would be late"),
        ({"streaming": OUT, "device": 0.02}, [DEVICE], "streaming is out (it is broken)"),
        ({"streaming": 3.0, "device": 2.0, "cloud": 4.0}, [DEVICE, STREAMING, CLOUD], "device"),
        ({"streaming": 3.0, "device": OUT, "cloud": None}, [CLOUD, STREAMING], "cloud"),
        ({"streaming": OUT, "device": OUT}, [], "device: it is broken"),
        ({}, [], "none is configured"),
        ({"streaming": 1.0}, [STREAMING], "streaming (1000 ms)"),
    ],
)
def test_auto(
    backends: dict[str, float | str | None], expected: list[BackendKind], reason: str
) -> None:
    plan = ModePolicy().decide(conditions(**backends))
    assert taken(plan) == expected
    assert reason in plan.reason


@pytest.mark.parametrize(
    ("device_s", "reserve_s"), [(None, 0.3), (0.1, 0.2), (0.0, 0.1), (0.4, 0.5), (9.0, 0.5)]
)
def test_the_fallback_is_kept_twice_its_time_but_a_tenth_to_a_half_of_the_deadline(
    device_s: float | None, reserve_s: float
) -> None:
    plan = ModePolicy().decide(conditions(streaming=0.1, device=device_s))
    assert plan.reserve_s == pytest.approx(reserve_s)


def test_retries_only_where_there_is_no_other_way() -> None:
    policy = ModePolicy()
    assert policy.decide(conditions(streaming=0.1, device=0.1)).retries == 0
    assert policy.decide(conditions(streaming=0.1, device=OUT)).retries > 0


def test_the_settings_are_in_the_plan() -> None:
    policy = ModePolicy(target_bytes=1000, quality=7, max_side_px=None)
    plan = policy.decide(conditions(0.7, device=0.1))
    assert (plan.target_bytes, plan.quality, plan.max_side_px) == (1000, 7, None)
    assert plan.deadline_s == 0.7


# -- properties ------------------------------------------------------------------------------

latency = st.none() | st.floats(min_value=0.0, max_value=20.0)
way_sets = st.lists(st.sampled_from(BackendKind), unique=True).flatmap(
    lambda kinds: st.tuples(
        *(
            st.builds(
                BackendConditions,
                kind=st.just(kind),
                usable=st.booleans(),
                unavailable_reason=st.text(max_size=20),
                latency_s=latency,
            )
            for kind in kinds
        )
    )
)
any_conditions = st.builds(
    Conditions,
    now_s=st.floats(0, 1e6),
    backends=way_sets,
    deadline_s=st.floats(min_value=0.001, max_value=60.0),
)
modes = st.sampled_from(DetectionMode)


@given(modes, any_conditions)
def test_a_plan_keeps_every_promise(mode: DetectionMode, known: Conditions) -> None:
    plan = ModePolicy(mode=mode).decide(known)
    usable = {
        backend.kind
        for backend in known.backends
        if backend.usable and backend.kind in ORDERS[mode]
    }
    assert set(taken(plan)) == usable
    assert len(taken(plan)) == len(usable)
    assert plan.backend not in plan.fallbacks
    assert (plan.backend is None) == (not usable)
    assert 0 <= plan.reserve_s <= MAX_RESERVE_SHARE * known.deadline_s
    assert plan.fallbacks or plan.reserve_s == 0
    assert plan.reason.strip()
    assert plan.deadline_s == known.deadline_s


@seed(20261123)
@given(modes, any_conditions, st.data())
def test_a_way_that_gets_slower_is_never_preferred_for_it(
    mode: DetectionMode, known: Conditions, data: st.DataObject
) -> None:
    measured = [
        backend for backend in known.backends if backend.usable and backend.latency_s is not None
    ]
    if not measured:
        return
    slow = data.draw(st.sampled_from(measured))
    assert slow.latency_s is not None
    slower = dataclasses.replace(slow, latency_s=slow.latency_s + data.draw(st.floats(0, 20)))
    changed = dataclasses.replace(
        known, backends=tuple(slower if backend is slow else backend for backend in known.backends)
    )
    before = taken(ModePolicy(mode=mode).decide(known))
    after = taken(ModePolicy(mode=mode).decide(changed))
    if slow.kind in before:
        assert after.index(slow.kind) >= before.index(slow.kind)


weird = st.floats(allow_nan=True, allow_infinity=True)


@given(
    modes,
    weird,
    st.lists(
        st.builds(
            BackendConditions,
            kind=st.sampled_from(BackendKind),
            usable=st.booleans(),
            latency_s=st.none() | weird,
        ),
        max_size=5,
    ),
)
def test_it_never_raises_whatever_the_numbers(
    mode: DetectionMode, deadline_s: float, backends: list[BackendConditions]
) -> None:
    plan = ModePolicy(mode=mode).decide(
        Conditions(now_s=math.nan, backends=tuple(backends), deadline_s=deadline_s)
    )
    assert plan.reason
    assert len(set(taken(plan))) == len(taken(plan))


@given(modes, any_conditions)
def test_deciding_twice_gives_the_same_plan(mode: DetectionMode, known: Conditions) -> None:
    assert ModePolicy(mode=mode).decide(known) == ModePolicy(mode=mode).decide(known)
