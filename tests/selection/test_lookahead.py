"""Looking ahead: what the table must say in every state."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.selection.decision_process import QUEUE_S, STEP_S, Choice, DecisionState
from hybrid_detect.selection.lookahead import Lookahead, _solved_states, best_choice
from hybrid_detect.selection.rungs import RUNGS
from hybrid_detect.selection.utility import Utility

BITS = tuple(8 * 100e3 * rung.share for rung in RUNGS)
COST = tuple(0.04 / 80e3 * bits / 8 for bits in BITS)


def state(**changed: Any) -> DecisionState:
    known: dict[str, Any] = {
        "bits_per_s": 10e6,
        "spread": 0.4,
        "rtt_s": 0.05,
        "server_s": 0.04,
        "interval_s": 0.1,
        "deadline_s": 1.0,
        "frame_bits": BITS,
        "frame_cost": COST,
        "accuracies": tuple(rung.accuracy for rung in RUNGS),
        "device_s": 0.05,
        "device_accuracy": 0.8,
        "device_cost": 0.03,
        "utility": Utility(),
    }
    return DecisionState(**(known | changed))


def choose(known: DecisionState, **changed: Any) -> Choice:
    at: dict[str, Any] = {
        "backlog_s": 0.0,
        "busy_s": 0.0,
        "remote_last": True,
        "must_answer": False,
    }
    return best_choice(known, **(at | changed))


STATES = st.builds(
    state,
    bits_per_s=st.sampled_from([1e3, 1e6, 1e7, 1e9]),
    spread=st.sampled_from([0.05, 1.1]),
    rtt_s=st.sampled_from([0.001, 0.1, 2.0]),
    server_s=st.sampled_from([0.001, 0.4]),
    interval_s=st.sampled_from([0.01, 0.1, 1.0]),
    deadline_s=st.sampled_from([0.0, 0.1, 1.0, 10.0]),
    device_s=st.sampled_from([0.006, 0.3, 1.5, 100.0, math.inf]),
    device_cost=st.sampled_from([0.0, 0.5]),
)


@given(
    STATES,
    st.floats(0, 100),
    st.floats(0, 100),
    st.booleans(),
    st.booleans(),
)
def test_a_choice_is_one_that_can_be_made(
    known: DecisionState, backlog_s: float, busy_s: float, remote_last: bool, must_answer: bool
) -> None:
    choice = best_choice(
        known,
        backlog_s=backlog_s,
        busy_s=busy_s,
        remote_last=remote_last,
        must_answer=must_answer,
    )
    assert choice.rung is None or 0 <= choice.rung < len(RUNGS)
    assert 0 <= choice.on_time <= 1 + 1e-6
    assert 0 <= choice.hedge_after_s <= known.utility.on_time_s + 1e-6
    if math.isinf(known.device_s):
        assert not choice.device
    if must_answer:
        assert choice.rung is not None or choice.device


def test_a_busy_device_is_given_nothing_at_once() -> None:
    slow = state(device_s=0.5, bits_per_s=0.2e6)
    free, busy = choose(slow), choose(slow, busy_s=0.3)
    assert free.device
    assert not busy.device or busy.hedge_after_s > 0


def test_a_device_that_is_as_fast_as_the_camera_is_never_busy() -> None:
    assert choose(state(bits_per_s=0.2e6), busy_s=0.04).device


def test_a_queue_makes_pictures_smaller_until_none_is_sent() -> None:
    alone = state(device_s=math.inf)
    rungs = [choose(alone, backlog_s=step * STEP_S).rung for step in range(60)]
    order = [len(RUNGS) if rung is None else rung for rung in rungs]
    assert order[0] < order[-1]
    assert order[-1] == len(RUNGS), "a queue of more than a second is made longer"


def test_what_is_beyond_the_table_is_its_edge() -> None:
    assert choose(state(), backlog_s=QUEUE_S) == choose(state(), backlog_s=1e6)
    slow = state(device_s=0.5)
    assert choose(slow, busy_s=0.5) == choose(slow, busy_s=1e6)


def test_changing_the_backend_has_its_price() -> None:
    """There are links over which either backend is kept, and none over which both are left."""
    kept = left = 0
    for step in range(40):
        known = state(bits_per_s=0.2e6 * 1.2**step, device_s=0.01)
        on_device = choose(known, remote_last=False)
        on_server = choose(known, remote_last=True)
        kept += on_device.rung is None and on_server.rung is not None
        left += on_device.rung is not None and on_server.rung is None
    assert kept
    assert not left


def test_the_table_does_not_grow_with_the_time_of_a_slow_device() -> None:
    """It is made while a frame waits: half a second for a device of ten, if it grew."""
    slow, slower = (
        len(_solved_states.solve(state(device_s=device_s)).best) for device_s in (1.2, 1e4)
    )
    assert slower <= slow


@pytest.mark.parametrize("mode", [True, False])
def test_a_late_hedge_leaves_the_device_its_time(mode: bool) -> None:
    late = [
        choice.hedge_after_s
        for step in range(40)
        for choice in [choose(state(bits_per_s=1e6 * 1.15**step), remote_last=mode)]
        if choice.rung is not None and choice.hedge_after_s > 0
    ]
    assert late
    assert max(late) <= Utility().on_time_s - 1.3 * 0.05 + 1e-6


# -- solving later -------------------------------------------------------------------------------

AT = {"backlog_s": 0.0, "busy_s": 0.0, "remote_last": True, "must_answer": False}


def forget() -> None:
    _solved_states.clear()


def test_without_solving_at_once_a_new_state_is_chosen_for_by_the_last_like_it() -> None:
    forget()
    lookahead = Lookahead(solves_at_once=False)
    slow, fast = state(bits_per_s=1e4), state(bits_per_s=1e8)
    assert lookahead.choice(fast, **AT) is None
    solve = lookahead.unsolved(fast)
    assert solve is not None
    solve()
    assert lookahead.unsolved(fast) is None
    known = lookahead.choice(fast, **AT)
    assert known == best_choice(fast, **AT)
    assert lookahead.choice(slow, **AT) == known
    assert best_choice(slow, **AT) != known
    assert lookahead.choice(slow, **AT) == best_choice(slow, **AT), "solved meanwhile"


@pytest.mark.parametrize(
    "other", [{"device_s": math.inf}, {"interval_s": 1.0}, {"deadline_s": 0.3}]
)
def test_a_state_of_another_kind_is_not_like_it(other: dict[str, Any]) -> None:
    """Its table may choose a device that is not there, or a hedge past the deadline."""
    forget()
    lookahead = Lookahead(solves_at_once=False)
    best_choice(state(), **AT)
    assert lookahead.choice(state(), **AT) is not None
    assert lookahead.choice(state(**other), **AT) is None


def test_a_state_is_given_out_to_be_solved_once() -> None:
    forget()
    lookahead = Lookahead(solves_at_once=False)
    solve = lookahead.unsolved(state())
    assert solve is not None
    assert lookahead.unsolved(state()) is None, "it is being solved"
    solve()
    forget()
    assert lookahead.unsolved(state()) is not None, "it was solved, and forgotten since"
