"""Looking ahead: what a choice now costs the frames after it.

A frame that is sent now delays the ones behind it, and a device that looks now is busy for a
while. For one state of the world (what the link carries, its round trip, how sure that is, how
fast the device is) that is a small Markov decision process: how long the uplink still drains, how
long the device is still busy, and which way was taken last. It is solved by value iteration in
about a millisecond when such a world is first met, and looked up from then on.

The method and the constants were measured against an oracle over recorded network traces; see
`docs/explanation/choosing.md`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.selection.utility import RUNGS, Utility

__all__ = ["Choice", "DecisionState", "best_choice"]

STEP_S = 0.02
"""Resolution of queues in time."""

QUEUE_S = 1.0
"""A longer queue makes every answer too late."""

DISCOUNT = 0.95
"""Per frame: at 10 fps the next two seconds count, about as long as a link keeps its state."""

WORLDS = 1024
"""Solved worlds remembered: 5 KB each. A link that wanders through more of them within the time
that any one is met again is solved anew, a millisecond at a time."""

PRECISION = 2e-3
MAX_ROUNDS = 60
SWEEPS = 10
"""Between two improvements; 5 to 20 take about the same time altogether."""

ENCODE_S = 0.005
"""Compressing a 1280x720 frame with a margin; measured, `docs/explanation/performance.md`."""

STALLS = 0.002
"""Share of uploads that are lost for reasons no model of the link knows: a retransmission, a
handover, a busy machine. Makes a late hedge the choice where it costs next to nothing. Chosen."""

_NORMAL = np.array([-1.61, -0.92, -0.46, 0.0, 0.46, 0.92, 1.61])
"""Seven equally likely points of a standard normal distribution (medians of its sevenths are
-1.47, -0.79, -0.37, 0.0, ...; widened so that the variance is 1)."""

_SERVER = np.array([0.7, 0.95, 1.35])
"""Three equally likely server times, as factors of the mean. Source: a log-normal of sigma 0.28,
measured on the reference server."""

_RTT = np.array([0.85, 1.0, 1.45])
"""Three equally likely round trips, as factors of the estimate: spikes go upward."""

_DEVICE = np.array([0.75, 1.0, 1.3])
"""Three equally likely device times, as factors of the median."""


class DecisionState(NamedTuple):
    """What a decision depends on besides queues; hashable, and rounded to be met again."""

    bits_per_s: float
    spread: float
    rtt_s: float
    server_s: float
    interval_s: float
    deadline_s: float
    frame_bits: tuple[float, ...]
    """Bits of a frame at each rung."""
    frame_cost: tuple[float, ...]
    """Cost of those bits."""
    remote_accuracy: float
    device_s: float
    """Median seconds of the device for a frame; infinite without a device."""
    device_accuracy: float
    device_cost: float
    utility: Utility


class Choice(NamedTuple):
    """What to do with a frame."""

    rung: int | None
    """Index of the rung to send; `None` to send nothing."""
    device: bool
    """Whether the device looks, too (or alone)."""
    hedge_after_s: float
    """When the device starts, if something is sent as well."""
    on_time: float
    """Predicted probability that an answer comes in time."""


_QUEUES = np.arange(0.0, QUEUE_S + STEP_S / 2, STEP_S)

# Actions: nothing, the device, and for each rung: sent alone, with the device at once, with the
# device if the answer is late.
_NOTHING, _DEVICE_ALONE, _FIRST_RUNG, _HOWS = 0, 1, 2, 3
_ALONE, _AT_ONCE, _IF_LATE = range(_HOWS)
_ACTIONS = _FIRST_RUNG + _HOWS * len(RUNGS)

# What was used last.
_REMOTE, _ON_DEVICE = 0, 1


def best_choice(
    state: DecisionState, *, backlog_s: float, busy_s: float, remote_last: bool, must_answer: bool
) -> Choice:
    """The choice of the highest expected worth, this frame's and the following ones'."""
    process = _solved(state)
    queue = min(round(backlog_s / STEP_S), len(_QUEUES) - 1)
    last_busy = process.best.shape[2] - 1
    busy = min(math.ceil(busy_s / STEP_S - 1e-6), last_busy) if busy_s > 0 else 0
    mode = _REMOTE if remote_last else _ON_DEVICE
    action = int((process.best_answer if must_answer else process.best)[mode, queue, busy])
    on_time = float(process.on_time[action, queue])
    if action < _FIRST_RUNG:
        return Choice(None, action == _DEVICE_ALONE, 0.0, on_time)
    rung, how = divmod(action - _FIRST_RUNG, _HOWS)
    hedge_s = float(process.hedge_s[rung, queue]) if how == _IF_LATE else 0.0
    return Choice(rung, how != _ALONE, hedge_s, on_time)


@lru_cache(maxsize=WORLDS)
def _solved(state: DecisionState) -> _Process:
    process = _Process(state)
    process.add_nothing()
    process.add_device()
    for rung in range(len(RUNGS)):
        process.add_rung(rung)
    process.iterate()
    return process


class _Process:
    """The decision process of one world; its states are [way last taken, queue, device busy]."""

    def __init__(self, state: DecisionState) -> None:
        self._world = state
        self._has_device = math.isfinite(state.device_s)
        # Work of the device that reaches into the next frame's time.
        after_s = min(max(state.device_s - state.interval_s, 0.0), QUEUE_S)
        busies = np.arange(0.0, after_s + STEP_S, STEP_S) if self._has_device and after_s else 0.0
        self._busies = np.atleast_1d(busies)
        queues, busy = len(_QUEUES), len(self._busies)
        self._drained = _index(_QUEUES - state.interval_s, queues)
        self._rested = _index(self._busies - state.interval_s, busy)
        worked = min(round(after_s / STEP_S), busy - 1) if self._has_device else 0
        self._worked = np.full(busy, worked, np.intp)
        self._can = self._busies <= 1e-9
        shape = (_ACTIONS, 2, queues, busy)
        self._reward = np.full(shape, -1e9)  # of what cannot be done
        self._next = np.zeros(shape, np.intp)
        self.on_time = np.zeros((_ACTIONS, queues), np.float32)
        """Probability of an answer in time by [action, queue]."""
        self.hedge_s = np.zeros((len(RUNGS), queues), np.float32)
        """When a late hedge starts by [rung, queue]."""
        self.best = np.zeros(shape[1:], np.uint8)
        """Index of the best action for each state."""
        self.best_answer = self.best
        """The best action that answers, if any does."""
        device_s = state.device_s * _DEVICE
        worth = state.utility.worth(device_s, deadline_s=state.deadline_s).mean()
        self._device_worth = state.device_accuracy * float(worth) if self._has_device else 0.0
        self._device_on_time = float(np.mean(device_s <= state.utility.on_time_s))
        # A device that cannot look at every frame takes turns with the server, which is no change
        # of mind; the slower it is, the less a change of way says.
        turns = min(1.0, state.interval_s / state.device_s)
        self._switch_cost = state.utility.switch_cost * turns**2

    def add_nothing(self) -> None:
        """The frame is left out."""
        for mode in (_REMOTE, _ON_DEVICE):
            self._reward[_NOTHING, mode] = 0.0
            self._next[_NOTHING, mode] = self._state(mode, self._drained, self._rested)

    def add_device(self) -> None:
        """The device looks, and nothing is sent."""
        if self._has_device:
            gain = np.full(len(_QUEUES), self._device_worth - self._world.device_cost)
            self._add(_DEVICE_ALONE, gain, to=_ON_DEVICE, queue=self._drained, device=True)
            self.on_time[_DEVICE_ALONE] = self._device_on_time

    def add_rung(self, rung: int) -> None:
        """The frame is sent at `rung`: alone, with the device at once, and with it if late."""
        state, utility = self._world, self._world.utility
        bits, cost = state.frame_bits[rung], state.frame_cost[rung]
        carried = state.bits_per_s * np.exp(state.spread * _NORMAL)
        unqueued_s = (
            ENCODE_S
            + (bits / carried)[:, None, None]
            + (state.rtt_s * _RTT)[None, :, None]
            + (state.server_s * _SERVER)[None, None, :]
        ).reshape(-1, 1)
        latency_s = unqueued_s + _QUEUES
        in_time = latency_s <= utility.on_time_s
        accuracy = (1 - STALLS) * state.remote_accuracy * RUNGS[rung].accuracy
        worth = accuracy * utility.worth(latency_s, deadline_s=state.deadline_s)
        queue = _index(_QUEUES + bits / state.bits_per_s - state.interval_s, len(_QUEUES))
        first = _FIRST_RUNG + _HOWS * rung

        self._add(first + _ALONE, worth.mean(0) - cost, to=_REMOTE, queue=queue)
        self.on_time[first + _ALONE] = in_time.mean(0)
        if not self._has_device:
            return
        with_device = np.maximum(worth, self._device_worth)
        either_on_time = np.maximum(in_time, self._device_on_time).mean(0)
        gain = with_device.mean(0) - cost - state.device_cost
        self._add(first + _AT_ONCE, gain, to=_REMOTE, queue=queue, device=True)
        self.on_time[first + _AT_ONCE] = either_on_time

        latest_s = utility.on_time_s - float(_DEVICE[-1]) * state.device_s
        if latest_s <= 0:
            return
        # Past its own p95 the remote answer is given up on; past the latest start the device
        # could not be in time itself.
        late_s = float(np.sort(unqueued_s, axis=None)[-1 - len(unqueued_s) // 20])
        self.hedge_s[rung] = np.minimum(late_s + _QUEUES, latest_s)
        is_late = latency_s > self.hedge_s[rung]
        hedged = np.where(is_late, with_device, worth).mean(0) + STALLS * self._device_worth
        gain = hedged - cost - state.device_cost * np.maximum(is_late.mean(0), STALLS)
        self._add(first + _IF_LATE, gain, to=_REMOTE, queue=queue)
        self.on_time[first + _IF_LATE] = either_on_time

    def _add(
        self,
        action: int,
        gain: NDArray[np.float64],
        *,
        to: int,
        queue: NDArray[np.intp],
        device: bool = False,
    ) -> None:
        """An action of `gain` by queue, after which way `to` was taken last.

        Args:
            action: Its index.
            gain: Expected worth less cost, by queue.
            to: The way it takes.
            queue: The queue it leaves behind, by queue.
            device: Whether it starts the device at once, which must be free for that.
        """
        when = self._can if device else np.ones(len(self._busies), bool)
        busy = self._worked if device else self._rested
        for mode in (_REMOTE, _ON_DEVICE):
            switch = self._switch_cost if mode != to else 0.0
            self._reward[action, mode][:, when] = (gain - switch)[:, None]
            self._next[action, mode] = self._state(to, queue, busy)

    def _state(
        self, mode: int, queue: NDArray[np.intp], busy: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        """Flat indices of states, by queue and busy."""
        return (mode * len(_QUEUES) + queue[:, None]) * len(self._busies) + busy[None, :]

    def iterate(self) -> None:
        """Find the best actions: modified policy iteration (Puterman and Shin, 1978)."""
        reward = self._reward.reshape(_ACTIONS, -1)
        following = self._next.reshape(_ACTIONS, -1)
        states = np.arange(reward.shape[1])
        value = np.zeros(len(states))
        for _ in range(MAX_ROUNDS):
            worth = reward + DISCOUNT * value[following]
            best = worth.argmax(0)
            new = worth[best, states]
            change, value = float(np.max(np.abs(new - value))), new
            if change < PRECISION:
                break
            # What these actions are worth in the long run, which is much cheaper to find than
            # better ones.
            gain, then = reward[best, states], following[best, states]
            for _ in range(SWEEPS):
                value = gain + DISCOUNT * value[then]
        shape = self.best.shape
        self.best = worth.argmax(0).astype(np.uint8).reshape(shape)
        answers = worth[_NOTHING + 1 :].argmax(0) + _NOTHING + 1
        self.best_answer = answers.astype(np.uint8).reshape(shape)
        del self._reward, self._next  # a megabyte each for a slow device


def _index(seconds: NDArray[np.float64], size: int) -> NDArray[np.intp]:
    return np.clip(np.round(seconds / STEP_S), 0, size - 1).astype(np.intp)
