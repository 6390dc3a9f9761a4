"""A caller's rate in parts: never more in all than it may have, and seldom asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.server.cluster import leases
from hybrid_detect.server.cluster.leases import LEASE_LIMIT_S, MAX_LEASED, Lease, Leases
from hybrid_detect.server.rate_limit import RateLimiter

from ...clock import FakeClock


class Replica:
    """Takes of an owner's limiter through leases, as `OwnedState` does."""

    def __init__(self, owner: RateLimiter, clock: FakeClock) -> None:
        self.owner, self.calls = owner, 0
        self.leases = Leases(clock=clock)

    def take(self, name: str) -> float:
        lease = self.leases.of("pictures", name)
        if lease.spend():
            return 0.0
        self.calls += 1
        given_, wait_s = self.owner.lease(name, lease.wanted)
        lease.add(given_)
        return 0.0 if lease.spend() else wait_s


def test_a_steady_caller_costs_about_a_call_a_second() -> None:
    clock = FakeClock(100.0)
    replica = Replica(RateLimiter(rate_per_s=30, burst=60, clock=clock), clock)
    for _ in range(20 * 20):  # 20 fps for 20 s
        clock.now_s += 0.05
        assert replica.take("key 1") == 0.0
    assert replica.calls <= 3 * 20


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 0.5)), max_size=300),
    st.integers(1, 20),
    st.floats(0.5, 50),
)
def test_all_replicas_together_give_no_more_than_one_would(
    asked: list[tuple[int, float]], burst: int, rate_per_s: float
) -> None:
    clock = FakeClock(100.0)
    owner = RateLimiter(rate_per_s=rate_per_s, burst=burst, clock=clock)
    replicas = [Replica(owner, clock) for _ in range(4)]
    passed = 0
    for number, pause_s in asked:
        clock.now_s += pause_s
        passed += replicas[number].take("key 1") == 0.0
    assert passed <= burst + rate_per_s * (clock.now_s - 100.0) + 1e-6


def test_one_who_nears_the_limit_is_counted_exactly() -> None:
    clock = FakeClock(100.0)
    owner = RateLimiter(rate_per_s=0.001, burst=6, clock=clock)
    replicas = [Replica(owner, clock) for _ in range(2)]
    assert [replicas[n % 2].take("key 1") == 0.0 for n in range(8)] == [True] * 6 + [False] * 2


def test_what_was_not_used_in_its_time_is_gone() -> None:
    clock = FakeClock(100.0)
    lease = Lease(clock)
    assert not lease.spend()
    lease.add(5)
    assert [lease.spend() for _ in range(3)] == [True] * 3
    assert lease.wanted == 3
    clock.now_s += LEASE_LIMIT_S
    assert not lease.spend()
    assert lease.wanted == 3  # as many as a moment ago
    clock.now_s += 10
    assert not lease.spend()
    assert lease.wanted == 1


def test_no_more_is_asked_for_than_may_be_given_ahead() -> None:
    clock = FakeClock(100.0)
    lease = Lease(clock)
    lease.add(1000)
    for _ in range(500):
        assert lease.spend()
    assert lease.wanted == MAX_LEASED


def test_the_callers_that_came_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MAX_LEASES", 2)
    known = Leases()
    for name in ("a", "b", "a", "c"):
        known.of("pictures", name).add(1)
    assert len(known) == 2
    assert known.of("pictures", "a").spend()
    assert not known.of("probes", "a").spend()  # another limit


def test_without_a_rate_all_are_given() -> None:
    assert RateLimiter(rate_per_s=0, burst=1).lease("key 1", 7) == (7, 0.0)
