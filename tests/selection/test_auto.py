"""The policy of AUTO under whatever conditions there may be."""

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hybrid_detect.selection.auto import AutoPolicy
from hybrid_detect.selection.conditions import (
    BackendConditions,
    Conditions,
    LinkConditions,
    PowerConditions,
    SceneConditions,
)
from hybrid_detect.selection.link import LinkEstimator
from hybrid_detect.selection.lookahead import Lookahead
from hybrid_detect.selection.policy import MAX_RESERVE_SHARE
from hybrid_detect.selection.rungs import RUNGS, PictureLadder, Rung
from hybrid_detect.selection.utility import Utility, device_accuracy
from hybrid_detect.types import BackendKind, Medium, Plan

CLOUD, STREAMING, DEVICE = BackendKind.CLOUD, BackendKind.STREAMING, BackendKind.DEVICE
POLICY = AutoPolicy()

GOOD = LinkConditions(
    bits_per_s=30e6, spread=0.3, rtt_s=0.02, rtt_deviation_s=0.004, server_s=0.04, idle_s=0.1
)
BAD = replace(GOOD, bits_per_s=0.2e6, rtt_s=0.3)


def conditions(**changed: Any) -> Conditions:
    """A good link, a device of 50 ms, a stream of 10 frames a second; with changes.

    `device_s` changes the device's time; `None` for a service without a device.
    """
    device_s = changed.pop("device_s", 0.05)
    backends = [
        BackendConditions(kind=STREAMING, usable=True, latency_s=0.1),
        BackendConditions(kind=CLOUD, usable=True, latency_s=0.12),
    ]
    if device_s is not None:
        backends.append(
            BackendConditions(kind=DEVICE, usable=True, latency_s=device_s, accuracy=0.8, cost=0.03)
        )
    known: dict[str, Any] = {
        "now_s": 100.0,
        "backends": tuple(backends),
        "deadline_s": 1.0,
        "link": GOOD,
        "interval_s": 0.1,
        "must_answer": False,
        "previous": STREAMING,
    }
    return Conditions(**(known | changed))


def asked(plan: Plan) -> set[BackendKind]:
    """Every backend that the plan could give the frame to."""
    return {
        kind
        for kind in (plan.backend, *plan.fallbacks, plan.hedge, plan.escalation)
        if kind is not None
    }


def rung_of(plan: Plan) -> int:
    """What is sent: the index of its rung, or one past the last for nothing."""
    if plan.backend in {None, DEVICE}:
        return len(RUNGS)
    steps = [(rung.quality, rung.max_side_px) for rung in RUNGS]
    return steps.index((plan.quality, plan.max_side_px or 0))


# -- under any conditions ------------------------------------------------------------------------

SECONDS = st.floats(0, 5) | st.sampled_from([0.0, 1e-9, 1e4])
WAYS = st.builds(
    BackendConditions,
    kind=st.sampled_from(BackendKind),
    usable=st.booleans(),
    unavailable_reason=st.sampled_from(["", "it is broken"]),
    latency_s=st.none() | SECONDS,
    busy_s=SECONDS,
    accuracy=st.floats(0, 1),
    cost=st.floats(0, 1),
)
LINKS = st.builds(
    LinkConditions,
    bits_per_s=st.floats(1e-3, 1e12) | st.sampled_from([1e-200, 1e200]),
    spread=st.floats(0, 2),
    rtt_s=SECONDS,
    rtt_deviation_s=SECONDS,
    server_s=SECONDS,
    backlog_s=SECONDS,
    in_flight=st.integers(0, 10),
    idle_s=SECONDS | st.just(math.inf),
    probe_due=st.booleans(),
)
CONDITIONS = st.builds(
    Conditions,
    now_s=st.floats(0, 1e9),
    backends=st.lists(WAYS, unique_by=lambda backend: backend.kind).map(tuple),
    deadline_s=st.floats(-1, 10) | st.sampled_from([0.0, 1e6]),
    link=st.none() | LINKS,
    interval_s=st.floats(0, 2) | st.just(math.inf),
    must_answer=st.booleans(),
    frame_bytes=st.none() | st.floats(0, 1e8),
    previous=st.none() | st.sampled_from(BackendKind),
    metered=st.booleans(),
    spent=st.floats(0, 2) | st.just(math.inf),
    power=st.builds(
        PowerConditions,
        battery=st.none() | st.floats(0, 1),
        on_battery=st.none() | st.booleans(),
        throttled=st.none() | st.booleans(),
    ),
)


@given(CONDITIONS, st.sampled_from([None, 320, 960, 4096]), st.integers(1, 95))
def test_a_plan_keeps_its_promises_whatever_the_conditions(
    known: Conditions, max_side_px: int | None, quality: int
) -> None:
    policy = AutoPolicy(target_bytes=50_000, quality=quality, max_side_px=max_side_px)
    plan = policy.decide(known)
    usable = {backend.kind for backend in known.backends if backend.usable}
    assert asked(plan) <= usable
    assert plan.reason
    assert plan.deadline_s == known.deadline_s
    assert plan.skip or plan.target_bytes == 50_000
    assert plan.skip or 1 <= plan.quality <= quality or plan.backend is DEVICE
    if max_side_px is not None and plan.backend in {STREAMING, CLOUD}:
        assert plan.max_side_px is not None
        assert 0 < plan.max_side_px <= max_side_px
    assert plan.retries >= 0
    backends = [kind for kind in (plan.backend, *plan.fallbacks) if kind is not None]
    assert len(set(backends)) == len(backends), "a backend is asked twice"
    if plan.skip:
        assert plan.backend is None
        assert not known.must_answer
    if plan.backend is None:
        assert plan.skip or not usable
        assert not plan.fallbacks
    if plan.hedge is not None:
        assert plan.hedge is DEVICE
        assert plan.backend in {STREAMING, CLOUD}
        assert plan.hedge_after_s >= 0
    if known.deadline_s > 0:
        assert 0 <= plan.reserve_s <= MAX_RESERVE_SHARE * known.deadline_s + 1e-9
        assert plan.hedge_after_s < known.deadline_s, "the hedge would start too late for anything"
    assert policy.decide(known) == plan, "the same conditions, another plan"


@given(CONDITIONS)
def test_someone_looks_at_a_frame_that_must_be_answered(known: Conditions) -> None:
    plan = POLICY.decide(replace(known, must_answer=True))
    assert (plan.backend is not None) == any(backend.usable for backend in known.backends)


@given(CONDITIONS)
def test_a_probe_is_sent_when_one_is_due_and_only_then(known: Conditions) -> None:
    plan = POLICY.decide(known)
    if plan.probe:
        assert known.link is not None
        assert known.link.probe_due
        assert plan.backend in {STREAMING, CLOUD}
        assert rung_of(plan) == len(RUNGS) - 1
        assert plan.hedge_after_s == 0.0


# -- which backend -------------------------------------------------------------------------------


def test_a_good_link_is_used_in_full() -> None:
    plan = POLICY.decide(conditions())
    assert (plan.backend, rung_of(plan)) == (STREAMING, 0)
    assert plan.fallbacks == (DEVICE, CLOUD)
    assert plan.retries == 0


def test_a_bad_link_is_left_alone() -> None:
    plan = POLICY.decide(conditions(link=BAD, previous=DEVICE))
    assert plan.backend is DEVICE
    assert plan.hedge is None
    assert plan.fallbacks == (STREAMING, CLOUD)
    # A change of backend costs something: two may look at the first frame, not at the second.
    leaving = POLICY.decide(conditions(link=BAD, previous=STREAMING))
    assert answered_by(leaving, BAD) is DEVICE


def test_the_stream_goes_before_the_cloud_and_either_will_do() -> None:
    known = conditions()
    assert POLICY.decide(known).backend is STREAMING
    without = replace(
        known,
        backends=tuple(backend for backend in known.backends if backend.kind is not STREAMING),
    )
    assert POLICY.decide(without).backend is CLOUD


def test_a_slow_device_is_no_reason_to_wait_for_it() -> None:
    assert POLICY.decide(conditions(link=BAD, device_s=3.0)).backend is not DEVICE


def test_without_a_device_a_bad_link_gets_the_smallest_picture_or_none() -> None:
    plan = POLICY.decide(conditions(link=BAD, device_s=None))
    assert plan.skip or rung_of(plan) == len(RUNGS) - 1
    plan = POLICY.decide(conditions(link=BAD, device_s=None, must_answer=True))
    assert rung_of(plan) == len(RUNGS) - 1


def test_a_full_queue_is_not_made_longer() -> None:
    queued = replace(GOOD, in_flight=3, backlog_s=1.0)
    plan = POLICY.decide(conditions(link=queued, device_s=None))
    assert plan.skip
    assert POLICY.decide(conditions(link=queued)).backend is DEVICE
    assert DEVICE in asked(POLICY.decide(conditions(link=queued, must_answer=True)))


@pytest.mark.parametrize("deadline_s", [0.03, 0.1, 0.19, 0.3])
@pytest.mark.parametrize("interval_s", [0.1, math.inf])
def test_a_hedge_leaves_the_device_its_share_of_a_short_deadline(
    deadline_s: float, interval_s: float
) -> None:
    for link in LINK_GRID:
        plan = POLICY.decide(
            conditions(
                link=link,
                device_s=0.006,
                deadline_s=deadline_s,
                interval_s=interval_s,
                must_answer=True,
            )
        )
        assert plan.hedge is None or plan.hedge_after_s <= 0.9 * deadline_s + 1e-9


def test_no_fallback_means_retries_and_a_fallback_means_a_reserve() -> None:
    backends = conditions().backends
    alone = POLICY.decide(conditions(backends=backends[:1]))
    assert (alone.fallbacks, alone.reserve_s) == ((), 0.0)
    assert alone.retries > 0
    # Previous frame on the server, a link that is surely in time: no hedge, so a reserve.
    backed = POLICY.decide(conditions(link=replace(GOOD, spread=0.05)))
    assert backed.fallbacks
    assert backed.hedge is not None or backed.reserve_s > 0


def test_a_lone_picture_waits_for_the_better_answer() -> None:
    slow = replace(GOOD, bits_per_s=3e6, rtt_s=0.1, spread=0.2)
    in_stream = POLICY.decide(conditions(link=slow, device_s=0.02))
    alone = POLICY.decide(
        conditions(link=slow, device_s=0.02, interval_s=math.inf, must_answer=True, deadline_s=2.0)
    )
    assert alone.backend is STREAMING
    assert rung_of(alone) <= rung_of(in_stream)


# -- money, bytes and energy ---------------------------------------------------------------------


@given(CONDITIONS)
def test_what_there_is_no_money_for_gets_nothing(known: Conditions) -> None:
    """The service marks it as not usable, whatever share of the budget is left for others."""
    device = BackendConditions(kind=DEVICE, usable=True)
    others = tuple(
        replace(backend, usable=False, unavailable_reason="the budget is spent")
        for backend in known.backends
        if backend.kind is not DEVICE
    )
    plan = POLICY.decide(replace(known, backends=(*others, device)))
    assert asked(plan) == {DEVICE}
    assert not plan.probe


LINK_GRID = [
    replace(GOOD, bits_per_s=bits_per_s, rtt_s=rtt_s, spread=spread)
    for bits_per_s, rtt_s, spread in itertools.product(
        [0.5e6, 1e6, 2e6, 4e6, 8e6, 16e6, 32e6, 64e6], [0.01, 0.05, 0.1, 0.2], [0.2, 0.7]
    )
]


@pytest.mark.parametrize("device_s", [0.006, 0.05, 0.27])
@pytest.mark.parametrize("previous", [STREAMING, DEVICE])
def test_a_metered_network_never_makes_pictures_larger(
    device_s: float, previous: BackendKind
) -> None:
    smaller = 0
    for link in LINK_GRID:
        known = conditions(link=link, device_s=device_s, previous=previous)
        free, metered = POLICY.decide(known), POLICY.decide(replace(known, metered=True))
        assert rung_of(metered) >= rung_of(free), (link, free, metered)
        smaller += rung_of(metered) > rung_of(free)
    assert smaller, "the meter changes nothing"


@pytest.mark.parametrize("medium", [Medium.WIFI, Medium.CELLULAR])
@pytest.mark.parametrize("device_s", [0.006, 0.05, 0.27])
def test_a_radio_never_sends_more_than_a_cable(medium: Medium, device_s: float) -> None:
    changed = 0
    for link, previous in itertools.product(LINK_GRID, [STREAMING, DEVICE]):
        known = conditions(link=link, device_s=device_s, previous=previous)
        plans = [
            AutoPolicy().decide(replace(known, link=replace(link, medium=each)))
            for each in (Medium.WIRED, medium)
        ]
        assert rung_of(plans[1]) >= rung_of(plans[0]), link
        changed += plans[0] != plans[1]
    assert changed, "the radio costs nothing"


def test_a_cable_an_unknown_medium_and_free_energy_are_alike() -> None:
    free = AutoPolicy(utility=Utility(cost_per_joule=0.0))
    for link in LINK_GRID:
        known = conditions(link=link)
        plan = POLICY.decide(known)
        assert plan == POLICY.decide(replace(known, link=replace(link, medium=Medium.WIRED)))
        assert plan == free.decide(replace(known, link=replace(link, medium=Medium.CELLULAR)))


def test_a_camera_s_jitter_makes_no_new_state() -> None:
    policy = AutoPolicy(lookahead=Lookahead(solves_at_once=False))
    link = replace(LINK_GRID[0], medium=Medium.CELLULAR)
    states = {
        id(policy._weighing(conditions(link=link, interval_s=0.1 + jitter)).state)  # type: ignore[union-attr]
        for jitter in (0.0, 0.001, -0.002, 0.003)
    }
    assert len(states) == 1


@pytest.mark.parametrize(
    "power",
    [PowerConditions(battery=0.1, on_battery=True), PowerConditions(throttled=True)],
    ids=["low battery", "throttled"],
)
def test_dear_energy_never_moves_work_to_the_device(power: PowerConditions) -> None:
    policy = AutoPolicy(utility=Utility(low_power_factor=8.0))
    changed = 0
    for link, previous in itertools.product(LINK_GRID, [STREAMING, DEVICE]):
        known = conditions(link=link, previous=previous)
        plenty, dear = policy.decide(known), policy.decide(replace(known, power=power))
        assert looks_at_once(dear) <= looks_at_once(plenty), link
        changed += dear != plenty
    assert changed, "energy changes nothing"


def looks_at_once(plan: Plan) -> bool:
    """Whether the device begins with the frame at once, alone or beside the server."""
    return plan.backend is DEVICE or (plan.hedge is DEVICE and plan.hedge_after_s == 0.0)


@pytest.mark.parametrize(
    "power",
    [
        PowerConditions(),
        PowerConditions(battery=0.1),
        PowerConditions(battery=0.1, on_battery=False),
        PowerConditions(battery=0.9, on_battery=True),
        PowerConditions(on_battery=True),
        PowerConditions(throttled=False),
    ],
)
def test_energy_is_no_matter_while_there_is_enough(power: PowerConditions) -> None:
    for link in LINK_GRID:
        known = conditions(link=link)
        assert POLICY.decide(replace(known, power=power)) == POLICY.decide(known)


def test_an_empty_battery_is_a_low_one() -> None:
    policy = AutoPolicy(utility=Utility(low_power_factor=30.0))
    differs = False
    for link in LINK_GRID:
        known = conditions(link=link, previous=DEVICE)
        empty, low, full = (
            policy.decide(replace(known, power=PowerConditions(battery=charge, on_battery=True)))
            for charge in (0.0, 0.01, 1.0)
        )
        assert empty == low
        differs |= full != low
    assert differs, "the battery changes nothing"


# -- monotone ------------------------------------------------------------------------------------
#
# With everything else equal (the queue and the backend of the last frame included), a link that is
# believed to be slower never takes a frame from the device: where nothing would have been sent,
# nothing is.
#
# That does not hold for a device slower than the interval between frames, which takes turns with
# the server: whether it is kept free for the next frame depends on more than the link. Nor is it
# claimed of what is sent that a slower link never means a larger picture (of a frame that will be
# late whatever is sent, what counts is its accuracy), or an earlier hedge (over the slower link a
# smaller picture is sent, which can be waited for a little longer).


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.4, 0.7, 1.1])
@pytest.mark.parametrize("previous", [STREAMING, DEVICE])
@pytest.mark.parametrize("device_s", [0.006, 0.05, 0.09])
def test_a_slower_link_never_takes_a_frame_from_a_fast_device(
    device_s: float, previous: BackendKind, spread: float
) -> None:
    rates = [0.25e6 * 1.45**step for step in range(16)]
    round_trips = [0.005 * 1.9**step for step in range(8)]

    def is_the_device_s(rate: float, rtt_s: float) -> bool:
        link = replace(GOOD, bits_per_s=rate, rtt_s=rtt_s, spread=spread)
        known = conditions(link=link, device_s=device_s, previous=previous)
        return POLICY.decide(known).backend is DEVICE

    known = {(rate, rtt_s): is_the_device_s(rate, rtt_s) for rate in rates for rtt_s in round_trips}
    assert previous is STREAMING or len(set(known.values())) == 2, "nothing is tested"
    slower = [
        (rate / 1e6, less / 1e6, rtt_s)
        for rtt_s in round_trips
        for less, rate in itertools.pairwise(rates)
        if known[rate, rtt_s] and not known[less, rtt_s]
    ]
    assert not slower, f"(Mbit/s, fewer Mbit/s, round trip): taken from the device {slower}"
    longer = [
        (rate / 1e6, rtt_s, more_s)
        for rate in rates
        for rtt_s, more_s in itertools.pairwise(round_trips)
        if known[rate, rtt_s] and not known[rate, more_s]
    ]
    assert not longer, f"(Mbit/s, round trip, longer one): taken from the device {longer}"


@given(
    st.floats(0.1e6, 100e6),
    st.floats(1.5, 50),
    st.floats(0.005, 0.5),
    st.sampled_from([0.05, 0.2, 0.4, 0.7, 1.1]),
    st.sampled_from([0.006, 0.02, 0.05, 0.09]),
    st.floats(0, 0.3),
)
def test_a_much_slower_link_never_takes_a_frame_from_a_fast_device(
    bits_per_s: float,
    factor: float,
    rtt_s: float,
    spread: float,
    device_s: float,
    backlog_s: float,
) -> None:
    link = replace(GOOD, bits_per_s=bits_per_s, rtt_s=rtt_s, spread=spread, backlog_s=backlog_s)
    known = conditions(link=link, device_s=device_s, previous=DEVICE)
    assume(POLICY.decide(known).backend is DEVICE)
    slower = replace(link, bits_per_s=bits_per_s / factor)
    longer = replace(link, rtt_s=rtt_s * factor)
    assert POLICY.decide(replace(known, link=slower)).backend is DEVICE
    assert POLICY.decide(replace(known, link=longer)).backend is DEVICE


# -- hysteresis ----------------------------------------------------------------------------------


DEVICE_S = 0.01


def answered_by(plan: Plan, link: LinkConditions, *, waited_s: float = 0.0) -> BackendKind:
    """Who answers first over a link that is as it is believed to be."""
    if plan.backend is DEVICE:
        return DEVICE
    bits = 8 * 100e3 * RUNGS[rung_of(plan)].share
    remote_s = waited_s + bits / link.bits_per_s + link.rtt_s + link.server_s
    hedged = plan.hedge is DEVICE and plan.hedge_after_s + DEVICE_S < remote_s
    return DEVICE if hedged else STREAMING


def switches_per_minute(sigma: float, *, seed: int, policy: AutoPolicy = POLICY) -> float:
    """Over a link that jitters around where the choice is a close one."""
    noise = random.Random(seed)
    threshold = threshold_bits_per_s(policy)
    previous, switches, frames = STREAMING, 0, 1200
    for _ in range(frames):
        link = jittery(threshold * math.exp(noise.gauss(0, sigma)))
        plan = policy.decide(conditions(link=link, previous=previous, device_s=DEVICE_S))
        now = answered_by(plan, link)
        switches += now is not previous
        previous = now
    return switches / (frames / 600)


def jittery(bits_per_s: float) -> LinkConditions:
    return replace(GOOD, bits_per_s=bits_per_s, spread=0.4)


def threshold_bits_per_s(policy: AutoPolicy = POLICY) -> float:
    """Where a frame on the device goes back to the server, and one on the server leaves it."""

    def last_on_device(previous: BackendKind) -> float:
        rates = [0.05e6 * 1.05**step for step in range(160)]
        return max(
            rate
            for rate in rates
            if answered_by(
                policy.decide(conditions(link=jittery(rate), previous=previous, device_s=DEVICE_S)),
                jittery(rate),
            )
            is DEVICE
        )

    leaves, returns = last_on_device(STREAMING), last_on_device(DEVICE)
    assert policy is not POLICY or returns > 1.05 * leaves, "there is no hysteresis"
    return math.sqrt(leaves * returns)


@pytest.mark.parametrize("seed", range(3))
def test_a_link_that_jitters_around_the_threshold_does_not_make_it_flap(seed: int) -> None:
    eager = AutoPolicy(utility=Utility(switch_cost=0.0))
    flapping = switches_per_minute(0.1, seed=seed, policy=eager)
    switches = switches_per_minute(0.1, seed=seed)
    assert flapping > 200
    assert switches <= flapping / 2, (switches, flapping)


def noisy_switches(policy: AutoPolicy, *, seed: int) -> int:
    """Switches in two minutes over a link whose rate varies by half each 100 ms.

    The estimator and the policy together, at the rate where it makes no difference which backend is
    taken: the worst that there is. The measured traces give 8 a minute
    (`docs/explanation/choosing.md`).
    """
    noise = random.Random(seed)
    threshold = threshold_bits_per_s()
    estimator = LinkEstimator()
    previous, switches, free_s = STREAMING, 0, 0.0
    due: list[tuple[float, int, float]] = []
    frames = 1200
    for number in range(frames):
        now_s = number * 0.1
        for at_s, answered, receive_s in sorted(due):
            if at_s <= now_s:
                estimator.answered(answered, now_s=at_s, server_s=0.04, receive_s=receive_s)
        due = [event for event in due if event[0] > now_s]
        link = estimator.conditions(now_s=now_s)
        plan = policy.decide(conditions(link=link, previous=previous, device_s=DEVICE_S))
        true = replace(GOOD, bits_per_s=threshold * math.exp(noise.gauss(0, 0.5)))
        waited_s = max(free_s - now_s, 0.0)
        if plan.backend is STREAMING:
            size = 100_000 * RUNGS[rung_of(plan)].share
            receive_s = 8 * size / true.bits_per_s
            free_s = now_s + waited_s + receive_s
            estimator.sent(number, int(size), now_s=now_s, probe=plan.probe)
            due.append((free_s + true.rtt_s + true.server_s, number, receive_s))
        chosen = DEVICE if plan.probe or plan.backend is DEVICE else STREAMING
        switches += chosen is not previous
        previous = chosen
    return switches


@pytest.mark.parametrize("seed", range(3))
def test_with_its_own_filter_a_noisy_link_switches_less_than_one_that_costs_nothing(
    seed: int,
) -> None:
    eager = AutoPolicy(utility=Utility(switch_cost=0.0))
    switches, flapping = noisy_switches(POLICY, seed=seed), noisy_switches(eager, seed=seed)
    assert switches <= flapping / 2, (switches, flapping)


# -- the cost of deciding ------------------------------------------------------------------------


def test_conditions_that_differ_by_nothing_that_matters_are_not_solved_again() -> None:
    """A camera's intervals and a picture's deadline are never twice the same float."""
    from hybrid_detect.selection import lookahead

    noise = random.Random(1)
    POLICY.decide(conditions())
    POLICY.decide(conditions(interval_s=math.inf))
    before = lookahead._solved_states.solved
    for _ in range(50):
        jitter = noise.uniform(0, 1e-3)
        POLICY.decide(conditions(interval_s=0.1 + jitter))
        POLICY.decide(conditions(interval_s=math.inf, deadline_s=1.0 - jitter))
    assert lookahead._solved_states.solved == before


def test_what_is_solved_beforehand_is_only_looked_up() -> None:
    from hybrid_detect.selection import lookahead

    lookahead._solved_states.clear()
    policy = AutoPolicy(lookahead=lookahead.Lookahead(solves_at_once=False))
    known = conditions(link=GOOD)
    solve = policy.unsolved(known)
    assert solve is not None
    before = lookahead._solved_states.solved
    assert "in time at" not in policy.decide(known).reason, "by the order of the backends"
    assert lookahead._solved_states.solved == before
    solve()
    assert policy.unsolved(known) is None
    assert policy.decide(known) == POLICY.decide(known)
    assert policy.unsolved(conditions(link=None)) is None
    assert policy.unsolved(replace(known, backends=known.backends[2:])) is None


@pytest.mark.parametrize("link", [GOOD, BAD, replace(GOOD, backlog_s=30.0, in_flight=9), None])
def test_why_the_device_takes_no_part_is_in_the_reason(link: LinkConditions | None) -> None:
    why = "only 20 MiB are left in the cgroup"
    known = conditions(link=link)
    out = BackendConditions(kind=DEVICE, usable=False, unavailable_reason=why)
    without = replace(known, backends=(*known.backends[:2], out))
    plan = POLICY.decide(without)
    assert DEVICE not in asked(plan)
    if (
        link is not None
    ):  # without one the order of the backends decides, and the stream comes first
        assert plan.reason.endswith(f"; device is out ({why})")
    assert "is out" not in POLICY.decide(known).reason
    assert "device" not in POLICY.decide(conditions(link=link, device_s=None)).reason


# -- the scene -----------------------------------------------------------------------------------

CROWD = SceneConditions(device_share=0.12, faces=20)
SELFIE = SceneConditions(device_share=1.0, faces=1)


def test_without_a_scene_the_device_is_worth_its_accuracy() -> None:
    device = conditions().backends[2]
    assert device_accuracy(device, None) == 0.8
    assert device_accuracy(device, CROWD) == 0.1


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_device_s_worth_rises_with_its_share(one: float, other: float) -> None:
    device = conditions().backends[2]
    low, high = sorted((one, other))
    worths = [device_accuracy(device, SceneConditions(device_share=share)) for share in (low, high)]
    assert worths == sorted(worths)
    assert all(abs(worth - share) <= 0.08 for worth, share in zip(worths, (low, high), strict=True))


def test_a_selfie_stays_on_the_device_and_a_crowd_is_sent() -> None:
    fair = replace(GOOD, bits_per_s=1.5e6)
    crowd = POLICY.decide(conditions(scene=CROWD, link=fair, previous=DEVICE))
    selfie = POLICY.decide(conditions(scene=SELFIE, link=fair, previous=DEVICE))
    assert crowd.backend is STREAMING
    assert crowd.reason.endswith("; faces too small for the device: 0.12 of them seen there")
    assert selfie.backend is DEVICE
    assert selfie.reason.endswith("; 1.00 of the faces seen on the device")


def test_a_lower_share_never_keeps_more_frames_on_the_device() -> None:
    for bits_per_s in (0.3e6, 1e6, 3e6, 30e6):
        kept = [
            POLICY.decide(
                conditions(
                    scene=SceneConditions(device_share=share, faces=3),
                    link=replace(GOOD, bits_per_s=bits_per_s),
                )
            ).backend
            is DEVICE
            for share in (0.0, 0.2, 0.5, 0.8, 0.95, 1.0)
        ]
        assert kept == sorted(kept)


def test_a_look_of_the_server_that_is_due_is_a_probe_beside_the_device() -> None:
    scene = replace(SELFIE, server_look_due=True)
    link = replace(GOOD, bits_per_s=0.5e6, probe_due=True)
    plan = POLICY.decide(conditions(scene=scene, link=link, previous=DEVICE))
    assert plan.probe
    assert (plan.backend, plan.hedge, plan.hedge_after_s) == (STREAMING, DEVICE, 0.0)
    assert rung_of(plan) == len(RUNGS) - 1
    for other in (replace(link, probe_due=False), link):
        kept = replace(scene, server_look_due=other is not link)
        plan = POLICY.decide(conditions(scene=kept, link=other, previous=DEVICE))
        assert plan.backend is DEVICE, "not again at once, and not without a reason"


def test_a_look_of_the_device_that_is_due_answers_a_frame_that_is_sent() -> None:
    scene = SceneConditions(device_share=0.85, faces=1, device_look_due=True)
    plan = POLICY.decide(conditions(scene=scene))
    assert plan.probe
    assert (plan.backend, plan.hedge, plan.hedge_after_s) == (STREAMING, DEVICE, 0.0)
    slow = POLICY.decide(conditions(scene=scene, device_s=0.3))
    assert not slow.probe, "it could not be the frame's answer"
    assert POLICY.decide(conditions(scene=scene, device_s=None)).hedge is None


@pytest.mark.parametrize(
    ("scene", "reason"),
    [
        (SceneConditions(device_share=0.8), "the server has not looked: perhaps 0.80"),
        (replace(CROWD, is_doubtful=True), "the scene has changed: perhaps 0.12"),
        (SceneConditions(device_share=1.0, faces=0), "no face in sight of the server"),
    ],
)
def test_what_is_believed_of_the_scene_is_in_the_reason(
    scene: SceneConditions, reason: str
) -> None:
    assert reason in POLICY.decide(conditions(scene=scene)).reason


SMALL = PictureLadder(
    rungs=(Rung(80, 640, 1.0), Rung(50, 640, 0.998), Rung(50, 480, 0.964)),
    max_side_px=640,
    max_bytes=40_960,
)


def with_ladder(ladder: PictureLadder, **changed: Any) -> Conditions:
    known = conditions(**changed)
    backends = (
        backend if backend.kind is DEVICE else replace(backend, ladder=ladder)
        for backend in known.backends
    )
    return replace(known, backends=tuple(backends))


def test_the_server_s_own_ladder_takes_the_place_of_the_usual_one() -> None:
    """The second rung: it loses a five-hundredth, and its bytes cost less by more than that."""
    plan = AutoPolicy().decide(with_ladder(SMALL))
    assert (plan.quality, plan.max_side_px, plan.target_bytes) == (50, 640, 40_960)
    assert "640 px q50" in plan.reason


def test_a_link_that_could_not_carry_the_usual_pictures_carries_the_server_s_own() -> None:
    slow = replace(GOOD, bits_per_s=3e6)
    usual = AutoPolicy().decide(conditions(link=slow, device_s=None))
    own = AutoPolicy().decide(with_ladder(SMALL, link=slow, device_s=None))
    assert (usual.quality, usual.max_side_px) != (80, 1280)
    assert in_time(usual) < 0.9 < in_time(own)


def in_time(plan: Plan) -> float:
    """The chance that an answer comes in time, as the plan's reason tells it."""
    return int(plan.reason.partition("% in time")[0].rpartition(" ")[2]) / 100


def test_states_of_two_ladders_do_not_stand_in_for_each_other() -> None:
    policy = AutoPolicy(lookahead=Lookahead(solves_at_once=False))
    known = conditions(interval_s=0.17)  # which no other test has solved
    solve = policy.unsolved(known)
    assert solve is not None
    solve()
    assert policy.decide(known).reason.startswith("auto: streaming 1280 px")
    other = with_ladder(SMALL, interval_s=0.17)
    assert "1280" not in policy.decide(other).reason
