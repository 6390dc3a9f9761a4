"""How many replicas are wanted: on work, streams, latency and refusals, and no flapping."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.server.cluster.scaling import (
    Load,
    ScalingPolicy,
    Targets,
    loads_of,
    wanted_replicas,
)

TARGETS = Targets(work=2.0, streams=100.0, latency_s=0.3)


def wanted(*loads: Load) -> int:
    return wanted_replicas(loads, TARGETS)


@pytest.mark.parametrize(
    ("loads", "number"),
    [
        ([], 0),
        ([Load()], 1),  # never none
        ([Load(work=2.0)], 1),
        ([Load(work=2.1)], 1),  # within the tolerance
        ([Load(work=3.0)], 2),
        ([Load(work=6.0)], 3),
        ([Load(work=6.0), Load()], 3),
        ([Load(work=2.0)] * 4, 4),
        ([Load(work=1.0)] * 4, 2),
        ([Load(work=0.0)] * 4, 1),
        ([Load(streams=250.0)], 3),
        ([Load(streams=100.0)] * 3, 3),
        ([Load(work=0.0, streams=90.0)] * 3, 3),  # idle streams keep their replicas
        ([Load(work=1.0, refused=0.5)], 2),
        ([Load(work=2.0, refused=0.5)] * 4, 5),
    ],
)
def test_work_streams_and_refusals(loads: list[Load], number: int) -> None:
    assert wanted(*loads) == number


def test_slow_answers_want_more_replicas_only_where_pictures_wait() -> None:
    assert wanted(Load(work=2.0, latency_s=0.6, wait_s=0.3)) == 2
    assert wanted(Load(work=2.0, latency_s=60.0, wait_s=59.0)) == 2  # not two hundred
    # A model that is slow by itself would be as slow on any number of them.
    assert wanted(Load(work=2.0, latency_s=0.6, wait_s=0.01)) == 1


@given(
    st.lists(
        st.builds(
            Load,
            work=st.floats(0, 1000),
            streams=st.floats(0, 5000),
            latency_s=st.floats(0, 100),
            wait_s=st.floats(0, 100),
            refused=st.floats(0, 100),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_what_is_wanted_is_enough_and_stays_so(loads: list[Load]) -> None:
    number = wanted(*loads)
    assert number >= 1
    each = Load(
        work=sum(load.work for load in loads) / number,
        streams=sum(load.streams for load in loads) / number,
    )
    assert each.work <= TARGETS.work * 1.1 + 1e-3
    assert each.streams <= TARGETS.streams * 1.1 + 1e-3
    # The same work on that many replicas asks for no more of them: it does not swing.
    assert wanted(*[each] * number) <= number


def test_ray_serve_s_figures_are_read_by_replica() -> None:
    metrics = {
        "work": {"a": 4.0, "b": 2.0},
        "streams": {"a": 7.0},
        "of another version": {"c": 1.0},
    }
    assert sorted(loads_of(metrics), key=lambda load: load.work) == [
        Load(work=2.0),
        Load(work=4.0, streams=7.0),
    ]


def test_a_replica_that_starts_counts_as_it_is() -> None:
    policy = ScalingPolicy(work=2.0, streams=100.0, latency_s=0.3)

    def asked(loads: list[Load], *, current: int, target: int) -> int:
        metrics = {
            name: {str(number): load.to_values()[name] for number, load in enumerate(loads)}
            for name in Load().to_values()
        }
        context = SimpleNamespace(
            aggregated_metrics=metrics, current_num_replicas=current, target_num_replicas=target
        )
        return policy(context)[0]

    assert asked([Load(work=4.0)], current=1, target=1) == 2
    assert asked([Load(work=4.0)], current=2, target=2) == 3  # the second has said nothing yet
    assert asked([], current=0, target=3) == 3  # and where none has, it is as it was
