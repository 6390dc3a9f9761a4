"""Looking ahead: solved decision processes, and solving those that are not, now or later.

A process takes about a millisecond to solve, which is too long for an event loop. So a
`Lookahead` can leave solving to its caller: it hands out what is to be solved, and until that is
done chooses by the last state like it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from hybrid_detect.selection.decision_process import Choice, DecisionProcess, DecisionState

__all__ = ["Choice", "DecisionState", "Lookahead", "best_choice"]

SOLVED_STATES = 1024
"""Solved states remembered: 5 KB each. A link that wanders through more of them before it comes
back to one has that one solved again."""

LIKE_STATES = 16
"""Kinds of states of which the last one solved is remembered: a stream and lone pictures, each
with and without a device."""


class _SolvedStates:
    """The processes of the states solved last, for every policy and every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: dict[DecisionState, DecisionProcess] = {}
        self.solved = 0
        """How many were solved so far."""
        self.find = self._processes.get
        """The process of a state, if it is solved."""

    def solve(self, state: DecisionState) -> DecisionProcess:
        """The process of `state`, solved now if it is not."""
        if (process := self.find(state)) is not None:
            return process
        process = DecisionProcess(state)
        process.solve()
        with self._lock:
            self.solved += 1
            self._processes[state] = process
            if len(self._processes) > SOLVED_STATES:
                del self._processes[next(iter(self._processes))]
        return process

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._processes.clear()


_solved_states = _SolvedStates()


class _Kind(NamedTuple):
    """What two states have in common of which one may stand in for the other."""

    interval_s: float
    deadline_s: float
    accuracies: tuple[float, ...]
    has_device: bool


class Lookahead:
    """Chooses by solved states, and solves those that are not yet, now or later.

    Args:
        solves_at_once: Whether `choice` solves a state that is not, which takes about
            a millisecond. Otherwise it only looks up: run what `unsolved` returns in a thread.
    """

    def __init__(self, *, solves_at_once: bool = True) -> None:
        self.solves_at_once = solves_at_once
        self._like: dict[_Kind, DecisionProcess] = {}
        self._solving: set[DecisionState] = set()

    def unsolved(self, state: DecisionState) -> Callable[[], None] | None:
        """What solves `state`, in any thread; `None` if it is solved or is being solved."""
        if _solved_states.find(state) is not None or state in self._solving:
            return None
        self._solving.add(state)
        return partial(self._solve, state)

    def choice(
        self,
        state: DecisionState,
        *,
        backlog_s: float,
        busy_s: float,
        remote_last: bool,
        must_answer: bool,
    ) -> Choice | None:
        """The choice of the highest expected worth, this frame's and the following ones'.

        Returns:
            The choice; by the last solved state of the same interval, deadline, ladder and devices
            if this one is not solved yet; `None` if there is no such state either.
        """
        has_device = math.isfinite(state.device_s)
        kind = _Kind(state.interval_s, state.deadline_s, state.accuracies, has_device)
        process = _solved_states.find(state)
        if process is None and self.solves_at_once:
            process = _solved_states.solve(state)
        if process is None:
            process = self._like.get(kind)
        elif kind in self._like or len(self._like) < LIKE_STATES:
            self._like[kind] = process
        else:
            self._like = {kind: process}
        if process is None:
            return None
        return process.choice(
            backlog_s=backlog_s, busy_s=busy_s, remote_last=remote_last, must_answer=must_answer
        )

    def _solve(self, state: DecisionState) -> None:
        try:
            _solved_states.solve(state)
        finally:
            self._solving.discard(state)


def best_choice(
    state: DecisionState, *, backlog_s: float, busy_s: float, remote_last: bool, must_answer: bool
) -> Choice:
    """The choice of the highest expected worth in `state`, which is solved if it is not yet."""
    return _solved_states.solve(state).choice(
        backlog_s=backlog_s, busy_s=busy_s, remote_last=remote_last, must_answer=must_answer
    )
