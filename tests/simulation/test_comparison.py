"""Policies by name, in many worlds, as figures."""

import sys
import types
from dataclasses import replace

import pytest

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.simulation.comparison import (
    BEST_FIXED,
    ORACLE,
    Row,
    Scenario,
    compare,
    measure,
    summarise,
)
from hybrid_detect.simulation.policy_names import FIXED, POLICIES, make_policy
from hybrid_detect.simulation.synthetic_traces import synthetic_traces

TRACES = synthetic_traces(seconds=8)
SCENARIOS = [Scenario(trace=trace, device=device) for trace in TRACES for device in ("pi5",)]


def row(policy: str, utility: float, *, trace: str = "a", device: str = "pi5") -> Row:
    return Row(
        policy=policy,
        trace=trace,
        kind="4g",
        has_uplink=True,
        device=device,
        seed=0,
        uplink=1.0,
        utility=utility,
        on_time=utility,
    )


def test_each_policy_is_measured_beside_the_oracle_and_the_best_fixed_way() -> None:
    rows = {one.policy: one for one in measure(SCENARIOS[0], ["threshold-rule", "device"])}
    assert list(rows) == ["threshold-rule", "device", ORACLE, BEST_FIXED]
    fixed = [SCENARIOS[0].run(name).utility for name in FIXED]
    assert rows[BEST_FIXED].utility == max(fixed)
    assert rows["device"].utility == SCENARIOS[0].run("device").utility
    assert rows[ORACLE].utility >= max(one.utility for one in rows.values())


def test_the_receive_times_are_part_of_the_name() -> None:
    told: list[float | None] = []

    class Listening:
        def decide(self, conditions: object) -> object:
            return make_policy("device").decide(conditions)

    class Sending(type(make_policy("cloud-360p"))):
        def __init__(self) -> None:
            super().__init__(3)

        def answered(self, *values: object, receive_s: float | None = None, **facts: object):
            told.append(receive_s)
            super().answered(*values, receive_s=receive_s, **facts)

    module = types.ModuleType("policies_of_a_test")
    module.Sending = Sending
    sys.modules[module.__name__] = module
    try:
        SCENARIOS[0].run(f"{module.__name__}:Sending")
        assert set(told) == {None}
        told.clear()
        SCENARIOS[0].run(f"{module.__name__}:Sending+rx")
        assert None not in told
    finally:
        del sys.modules[module.__name__]


def test_several_processes_give_the_same_rows_as_one() -> None:
    done: list[tuple[int, int]] = []
    policies = ["threshold-rule"]
    alone = compare(SCENARIOS, policies, processes=1)
    together = compare(
        SCENARIOS, policies, processes=2, progress=lambda one, of: done.append((one, of))
    )
    assert [one.scenario for one in alone] == [one.scenario for one in together]
    assert [one.utility for one in alone] == [one.utility for one in together]
    assert done == [(number, len(SCENARIOS)) for number in range(1, len(SCENARIOS) + 1)]


def test_regret_is_what_was_lost_of_what_could_be_had() -> None:
    rows = [
        *(row(ORACLE, 0.9), row(BEST_FIXED, 0.7), row("mine", 0.8)),
        *(
            row(ORACLE, 0.6, trace="b"),
            row(BEST_FIXED, 0.5, trace="b"),
            row("mine", 0.4, trace="b"),
        ),
    ]
    mine = next(one for one in summarise(rows) if one.policy == "mine")
    assert mine.utility == pytest.approx(0.6)
    assert mine.regret == pytest.approx(0.3 / 1.5)
    low, high = mine.regret_interval
    assert low == pytest.approx(0.1 / 0.9)
    assert high == pytest.approx(0.2 / 0.6)
    assert mine.worst.trace == "b"
    assert mine.worst_vs_fixed == pytest.approx(-0.1)
    assert mine.figures["on_time"] == pytest.approx(0.6)


def test_the_devices_of_a_trace_are_not_independent() -> None:
    rows = []
    for device, mine in (("pi5", 0.8), ("phone", 0.2)):
        for policy, utility in ((ORACLE, 0.9), (BEST_FIXED, 0.7), ("mine", mine)):
            rows.append(row(policy, utility, device=device))
    summary = next(one for one in summarise(rows) if one.policy == "mine")
    assert summary.regret_interval == (summary.regret, summary.regret), "one trace, one draw"


@pytest.mark.parametrize("name", POLICIES)
def test_every_name_makes_a_new_policy(name: str) -> None:
    assert callable(make_policy(name).decide)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nobody", "expected a policy .*auto.* or 'module:Name', got 'nobody'"),
        (":Name", "expected a policy"),
        ("module:", "expected a policy"),
        ("no_such_module:Name", "No module named 'no_such_module'"),
        ("hybrid_detect.types:Nobody", "no attribute 'Nobody'"),
        ("hybrid_detect.types:Plan", "something to call without arguments"),
        ("hybrid_detect.types:KEYPOINT_NAMES", "something to call without arguments"),
        ("hybrid_detect.types:Timings", "a policy with a method decide, got Timings"),
    ],
)
def test_what_is_no_policy_is_refused(name: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        make_policy(name)
    with pytest.raises(ConfigurationError, match=told):
        compare(SCENARIOS, [name], processes=2)


def test_nothing_to_compare_in_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected a scenario"):
        compare([], ["device"])


def test_scenarios_of_other_uplinks_are_not_mixed() -> None:
    rows = [row(ORACLE, 0.9), row(BEST_FIXED, 0.7), row("mine", 0.8)]
    rows += [replace(one, uplink=2.0, utility=one.utility + 0.1) for one in rows]
    mine = next(one for one in summarise(rows) if one.policy == "mine")
    assert mine.regret == pytest.approx(0.2 / 1.9)
