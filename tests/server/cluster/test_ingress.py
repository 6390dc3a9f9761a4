"""The gateway's places follow the replicas, whatever order they come and go in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.server.cluster.ingress import Places
from hybrid_detect.server.cluster.replica_place import ReplicaPlace


class FakeGateway:
    """Remembers what is in each place; fails as often as it is told to."""

    def __init__(self) -> None:
        self.places: dict[int, int] = {}
        self.draining: set[int] = set()
        self.failures = 0

    def _answer(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError

    def place(self, number: int, host: str, port: int) -> None:
        self._answer()
        assert number not in self.places
        assert host == "127.0.0.1"
        self.places[number] = port

    def drain(self, number: int) -> None:
        self._answer()
        self.draining.add(number)

    def empty(self, number: int) -> None:
        self._answer()
        del self.places[number]
        self.draining.discard(number)


def replica(port: int, *, is_leaving: bool = False) -> ReplicaPlace:
    return ReplicaPlace(name=f"r{port}", host="127.0.0.1", port=port, is_leaving=is_leaving)


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


def test_replicas_come_leave_and_go(gateway: FakeGateway) -> None:
    places = Places(gateway, 3)
    places.follow([replica(1), replica(2)])
    assert gateway.places == {1: 1, 2: 2}
    places.follow([replace(replica(1), is_leaving=True), replica(2)])
    assert gateway.draining == {1}
    places.follow([replica(2), replica(3)])
    assert sorted(gateway.places.values()) == [2, 3]
    assert not gateway.draining
    assert len(places) == 2


def test_one_that_leaves_before_it_was_placed_gets_no_place(gateway: FakeGateway) -> None:
    Places(gateway, 1).follow([replica(1, is_leaving=True)])
    assert not gateway.places


def test_an_owner_that_has_not_heard_of_all_costs_none_its_place(gateway: FakeGateway) -> None:
    places = Places(gateway, 3)
    places.follow([replica(1), replica(2)])
    places.follow([], are_all=False)
    assert gateway.places == {1: 1, 2: 2}
    places.follow([replica(1), replica(3)], are_all=False)
    assert gateway.places == {1: 1, 2: 2, 3: 3}
    places.follow([replica(1), replica(3)])
    assert gateway.places == {1: 1, 3: 3}


def test_more_replicas_than_places_are_told_and_wait(
    gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    places = Places(gateway, 1)
    places.follow([replica(1), replica(2)])
    assert gateway.places == {1: 1}
    assert "no place for a replica" in caplog.text
    places.follow([replica(2)])
    assert gateway.places == {1: 2}


def test_a_gateway_that_was_started_anew_is_filled_again(gateway: FakeGateway) -> None:
    places = Places(gateway, 2)
    places.follow([replica(1), replica(2)])
    gateway.places.clear()
    places.forget()
    places.follow([replica(1), replica(2)])
    assert sorted(gateway.places.values()) == [1, 2]


@given(
    st.lists(
        st.tuples(st.dictionaries(st.integers(1, 6), st.booleans(), max_size=6), st.integers(0, 3)),
        max_size=12,
    )
)
def test_whatever_happens_the_places_are_right_in_the_end(
    steps: list[tuple[dict[int, bool], int]],
) -> None:
    gateway = FakeGateway()
    places = Places(gateway, 6)
    for there, failures in steps:
        now = [replica(port, is_leaving=leaving) for port, leaving in there.items()]
        gateway.failures = failures
        for _ in range(failures + 1):
            try:
                places.follow(now)
            except OSError:
                continue
            break
        gateway.failures = 0
        places.follow(now)
        placed = sorted(gateway.places.values())
        taking = [port for port, leaving in there.items() if not leaving]
        assert set(taking) <= set(placed) <= set(there)
        assert len(placed) == len(set(placed)) == len(places)
