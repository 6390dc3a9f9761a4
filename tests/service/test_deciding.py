"""The event loop only looks decisions up; a thread solves them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from hybrid_detect.selection.auto import AutoPolicy
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.selection.lookahead import Lookahead
from hybrid_detect.selection.recording import RecordingPolicy
from hybrid_detect.service import deciding
from hybrid_detect.service.deciding import Decider
from hybrid_detect.types import BackendKind, Plan

pytestmark = pytest.mark.anyio

CONDITIONS = Conditions(now_s=0.0, backends=(), deadline_s=1.0)


class Solving:
    """A policy that notes in which thread it solves, and after what it decides."""

    def __init__(self, until: threading.Event | None = None) -> None:
        self.until = until
        self.events: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.lookahead = Lookahead()

    def unsolved(self, conditions: Conditions) -> Callable[[], None] | None:
        return None if "solved" in self.events else self._solve

    def _solve(self) -> None:
        self.threads.add(threading.current_thread())
        if self.until is not None:
            self.until.wait(30)
        self.events.append("solved")

    def decide(self, conditions: Conditions) -> Plan:
        self.events.append("decided")
        return Plan(backend=BackendKind.DEVICE, deadline_s=1.0, reason="")


async def test_a_state_is_solved_in_a_thread_before_the_decision() -> None:
    policy = Solving()
    decider = Decider(policy)
    assert not policy.lookahead.solves_at_once
    for _ in range(2):
        await decider.plan(CONDITIONS)
    assert policy.events == ["solved", "decided", "decided"]
    assert threading.current_thread() not in policy.threads


async def test_a_state_that_takes_too_long_is_decided_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deciding, "SOLVING_LIMIT_S", 0.001)
    go_on = threading.Event()
    policy = Solving(go_on)
    await Decider(policy).plan(CONDITIONS)
    assert policy.events == ["decided"]
    go_on.set()


async def test_a_policy_that_solves_nothing_is_only_asked() -> None:
    class Plain:
        def decide(self, conditions: Conditions) -> Plan:
            return Plan(backend=None, deadline_s=1.0, reason="plain")

    decider = Decider(Plain())
    assert (await decider.plan(CONDITIONS)).reason == "plain"
    assert decider.decide(CONDITIONS).reason == "plain"


async def test_a_recorded_policy_solves_in_a_thread_too_and_is_recorded_once() -> None:
    lines: list[str] = []
    policy = Solving()
    await Decider(RecordingPolicy(policy, lines.append)).plan(CONDITIONS)
    assert policy.events == ["solved", "decided"]
    assert len(lines) == 1
    auto = AutoPolicy()
    Decider(RecordingPolicy(auto, lines.append))
    assert not auto.lookahead.solves_at_once
