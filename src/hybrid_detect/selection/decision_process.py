"""What a choice now costs the frames after it, as a small Markov decision process.

A frame that is sent now delays the ones behind it, and a device that detects now is busy for a
while. For one `DecisionState` (what the link carries, its round trip, how sure that is, how fast
the device is) the process's own states are how long the uplink still drains, how long the device
is still busy, and which backend was used last. Value iteration solves it in one to three
milliseconds; from then on a choice is a look-up.

The method and the constants were measured against an oracle over recorded network traces; see
`docs/explanation/choosing.md`.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.selection.utility import Utility

__all__ = ["QUEUE_S", "STEP_S", "Choice", "DecisionProcess", "DecisionState"]

STEP_S = 0.02
"""Resolution of queues in time."""

QUEUE_S = 1.0
"""A longer queue makes every answer too late."""

DISCOUNT = 0.95
"""Per frame: at 10 fps the next two seconds count, about as long as a link keeps its state."""

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


@dataclass(slots=True, kw_only=True)
class DecisionState:
    """What a decision depends on besides queues; rounded, to be met again. Never changed.

    A key of tables that are asked for each frame, so its hash is found once: kept objects are
    found again without reading their values. Not frozen, which would double the time to make one.
    """

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
    accuracies: tuple[float, ...]
    """What an answer in time is worth at each rung."""
    device_s: float
    """Median seconds of the device for a frame; infinite without a device."""
    device_accuracy: float
    device_cost: float
    utility: Utility
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        # Enough to tell states apart; equality compares them all.
        self._hash = hash(
            (self.bits_per_s, self.spread, self.rtt_s, self.server_s, self.device_accuracy)
        )

    def __hash__(self) -> int:
        return self._hash


class Choice(NamedTuple):
    """What to do with a frame."""

    rung: int | None
    """Index of the rung to send; `None` to send nothing."""
    device: bool
    """Whether the device detects, too (or alone)."""
    hedge_after_s: float
    """When the device starts, if something is sent as well."""
    on_time: float
    """Predicted probability that an answer comes in time."""


_QUEUES = np.arange(0.0, QUEUE_S + STEP_S / 2, STEP_S)
_LAST_QUEUE = len(_QUEUES) - 1

# Actions: nothing, the device, and for each rung: sent alone, with the device at once, with the
# device if the answer is late.
_NOTHING, _DEVICE_ALONE, _FIRST_RUNG, _HOWS = 0, 1, 2, 3
_ALONE, _AT_ONCE, _IF_LATE = range(_HOWS)

# What was used last.
_REMOTE, _ON_DEVICE = 0, 1


class DecisionProcess:
    """The decision process of one state; its own states are [last backend, queue, device busy]."""

    def __init__(self, state: DecisionState) -> None:
        self._state = state
        self._has_device = math.isfinite(state.device_s)
        # Work of the device that reaches into the next frame's time.
        after_s = min(max(state.device_s - state.interval_s, 0.0), QUEUE_S)
        busies = np.arange(0.0, after_s + STEP_S, STEP_S) if self._has_device and after_s else 0.0
        self._busies = np.atleast_1d(busies)
        queues, busy = len(_QUEUES), len(self._busies)
        self._last_busy = busy - 1
        self._drained = _index(_QUEUES - state.interval_s, queues)
        self._rested = _index(self._busies - state.interval_s, busy)
        worked = min(round(after_s / STEP_S), busy - 1) if self._has_device else 0
        self._worked = np.full(busy, worked, np.intp)
        self._can = self._busies <= 1e-9
        self._rungs = len(state.frame_bits)
        self._actions = _FIRST_RUNG + _HOWS * self._rungs
        shape = (self._actions, 2, queues, busy)
        self._reward = np.full(shape, -1e9)  # of what cannot be done
        self._next = np.zeros(shape, np.intp)
        self._on_time = np.zeros((self._actions, queues), np.float32)
        self._hedge_s = np.zeros((self._rungs, queues), np.float32)
        # Once solved, kept flat: a frame's look-up reads as little memory as can be.
        self.best = self.best_answer = b""
        """The best action for each state, by last backend, queue and device busy; and the best one
        that answers, if any does."""
        self.on_time = self.hedge_s = array("f")
        """Probability of an answer in time by action and queue; when a late hedge starts by rung
        and queue."""
        device_s = state.device_s * _DEVICE
        worth = state.utility.worth(device_s, deadline_s=state.deadline_s).mean()
        self._device_worth = state.device_accuracy * float(worth) if self._has_device else 0.0
        self._device_on_time = float(np.mean(device_s <= state.utility.on_time_s))
        # A slow device takes turns with the server, which is no change of mind: the slower it is,
        # the less a change of backend says.
        turns = min(1.0, state.interval_s / state.device_s)
        self._switch_cost = state.utility.switch_cost * turns**2

    def choice(
        self, *, backlog_s: float, busy_s: float, remote_last: bool, must_answer: bool
    ) -> Choice:
        """The best choice, with a queue of `backlog_s` and a device that is busy for `busy_s`."""
        queue = _LAST_QUEUE if backlog_s >= QUEUE_S else round(backlog_s / STEP_S)
        last_busy = self._last_busy
        busy = min(math.ceil(busy_s / STEP_S - 1e-6), last_busy) if busy_s > 0 else 0
        mode = _REMOTE if remote_last else _ON_DEVICE
        place = (mode * (_LAST_QUEUE + 1) + queue) * (last_busy + 1) + busy
        action = (self.best_answer if must_answer else self.best)[place]
        on_time = self.on_time[action * (_LAST_QUEUE + 1) + queue]
        if action < _FIRST_RUNG:
            return Choice(None, action == _DEVICE_ALONE, 0.0, on_time)
        rung, how = divmod(action - _FIRST_RUNG, _HOWS)
        hedge_s = self.hedge_s[rung * (_LAST_QUEUE + 1) + queue] if how == _IF_LATE else 0.0
        return Choice(rung, how != _ALONE, hedge_s, on_time)

    def solve(self) -> None:
        """Fill the tables."""
        self._add_nothing()
        self._add_device()
        for rung in range(self._rungs):
            self._add_rung(rung)
        self._iterate()

    def _add_nothing(self) -> None:
        """The frame is left out."""
        for mode in (_REMOTE, _ON_DEVICE):
            self._reward[_NOTHING, mode] = 0.0
            self._next[_NOTHING, mode] = self._flat(mode, self._drained, self._rested)

    def _add_device(self) -> None:
        """The device detects, and nothing is sent."""
        if self._has_device:
            gain = np.full(len(_QUEUES), self._device_worth - self._state.device_cost)
            self._add(_DEVICE_ALONE, gain, to=_ON_DEVICE, queue=self._drained, device=True)
            self._on_time[_DEVICE_ALONE] = self._device_on_time

    def _add_rung(self, rung: int) -> None:
        """The frame is sent at `rung`: alone, with the device at once, and with it if late."""
        state, utility = self._state, self._state.utility
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
        accuracy = (1 - STALLS) * state.accuracies[rung]
        worth = accuracy * utility.worth(latency_s, deadline_s=state.deadline_s)
        queue = _index(_QUEUES + bits / state.bits_per_s - state.interval_s, len(_QUEUES))
        first = _FIRST_RUNG + _HOWS * rung

        self._add(first + _ALONE, worth.mean(0) - cost, to=_REMOTE, queue=queue)
        self._on_time[first + _ALONE] = in_time.mean(0)
        if not self._has_device:
            return
        with_device = np.maximum(worth, self._device_worth)
        either_on_time = np.maximum(in_time, self._device_on_time).mean(0)
        gain = with_device.mean(0) - cost - state.device_cost
        self._add(first + _AT_ONCE, gain, to=_REMOTE, queue=queue, device=True)
        if state.device_s < float(np.median(unqueued_s)):  # it is shown: a switch, each time
            self._reward[first + _AT_ONCE, _REMOTE] -= self._switch_cost
        self._on_time[first + _AT_ONCE] = either_on_time

        latest_s = utility.on_time_s - float(_DEVICE[-1]) * state.device_s
        if latest_s <= 0:
            return
        # Past its own p95 the remote answer is given up on; past the latest start the device
        # could not be in time itself.
        late_s = float(np.sort(unqueued_s, axis=None)[-1 - len(unqueued_s) // 20])
        self._hedge_s[rung] = np.minimum(late_s + _QUEUES, latest_s)
        is_late = latency_s > self._hedge_s[rung]
        hedged = np.where(is_late, with_device, worth).mean(0) + STALLS * self._device_worth
        gain = hedged - cost - state.device_cost * np.maximum(is_late.mean(0), STALLS)
        self._add(first + _IF_LATE, gain, to=_REMOTE, queue=queue)
        self._on_time[first + _IF_LATE] = either_on_time

    def _add(
        self,
        action: int,
        gain: NDArray[np.float64],
        *,
        to: int,
        queue: NDArray[np.intp],
        device: bool = False,
    ) -> None:
        """An action of `gain` by queue, after which backend `to` was used last.

        Args:
            action: Its index.
            gain: Expected worth less cost, by queue.
            to: The backend it uses.
            queue: The queue it leaves behind, by queue.
            device: Whether it starts the device at once, which must be free for that.
        """
        when = self._can if device else np.ones(len(self._busies), bool)
        busy = self._worked if device else self._rested
        for mode in (_REMOTE, _ON_DEVICE):
            switch = self._switch_cost if mode != to else 0.0
            self._reward[action, mode][:, when] = (gain - switch)[:, None]
            self._next[action, mode] = self._flat(to, queue, busy)

    def _flat(self, mode: int, queue: NDArray[np.intp], busy: NDArray[np.intp]) -> NDArray[np.intp]:
        """Flat indices of states, by queue and busy."""
        return (mode * len(_QUEUES) + queue[:, None]) * len(self._busies) + busy[None, :]

    def _iterate(self) -> None:
        """Find the best actions: modified policy iteration (Puterman and Shin, 1978)."""
        reward = self._reward.reshape(self._actions, -1)
        following = self._next.reshape(self._actions, -1)
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
        self.best = worth.argmax(0).astype(np.uint8).tobytes()
        answers = worth[_NOTHING + 1 :].argmax(0) + _NOTHING + 1
        self.best_answer = answers.astype(np.uint8).tobytes()
        self.on_time = array("f", self._on_time.tobytes())
        self.hedge_s = array("f", self._hedge_s.tobytes())
        # A megabyte each for a slow device.
        del self._reward, self._next, self._on_time, self._hedge_s


def _index(seconds: NDArray[np.float64], size: int) -> NDArray[np.intp]:
    return np.clip(np.round(seconds / STEP_S), 0, size - 1).astype(np.intp)
