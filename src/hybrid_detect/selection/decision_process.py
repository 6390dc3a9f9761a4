"""What a choice now costs the frames after it, as a small Markov decision process.

A frame that is sent now delays the ones behind it, and a device that detects now is busy for a
while. For one `DecisionState` (what the link carries, its round trip, how sure that is, how fast
the device is) the process's own states are how long the uplink still drains, how long the device
is still busy, and which backend was used last. Value iteration solves it in about a
millisecond; from then on a choice is a look-up.

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

from hybrid_detect.selection.upload_odds import UploadOdds
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
    """What sending each costs: data and energy."""
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


Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

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
        self._rungs = len(state.frame_bits)
        self._actions = _FIRST_RUNG + _HOWS * self._rungs
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
        queues, busies = len(_QUEUES), len(self._busies)
        shape = (self._actions, 2, queues, busies)
        reward = np.full(shape, -1e9)  # of what cannot be done
        following = np.zeros(shape, np.intp)
        on_time = np.zeros((self._actions, queues), np.float32)
        reward[_NOTHING] = 0.0
        for mode in (_REMOTE, _ON_DEVICE):
            following[_NOTHING, mode] = self._flat(mode, self._drained, self._rested)
        if self._has_device:  # which has to be free for it
            reward[_DEVICE_ALONE, :, :, 0] = self._device_worth - self._state.device_cost
            reward[_DEVICE_ALONE, _REMOTE] -= self._switch_cost
            following[_DEVICE_ALONE] = self._flat(_ON_DEVICE, self._drained, self._worked)
            on_time[_DEVICE_ALONE] = self._device_on_time
        hedge_s = self._send(reward, following, on_time)
        self._iterate(reward.reshape(self._actions, -1), following.reshape(self._actions, -1))
        self.on_time = array("f", on_time.tobytes())
        self.hedge_s = array("f", hedge_s.tobytes())

    def _send(
        self, reward: Floats, following: Indices, on_time: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Fill in the actions that send: alone, with the device at once, and with it if late.

        Returns:
            When the device is started if late, by rung and queue.
        """
        state, utility = self._state, self._state.utility
        bits, cost = np.array(state.frame_bits), np.array(state.frame_cost)[:, None]
        carried = state.bits_per_s * np.exp(state.spread * _NORMAL)
        others_s = ENCODE_S + state.rtt_s * _RTT[:, None] + state.server_s * _SERVER
        unqueued_s = (bits[:, None] / carried)[:, :, None] + others_s.reshape(-1)
        odds = UploadOdds(
            unqueued_s.reshape(self._rungs, -1),
            _QUEUES,
            (1 - STALLS) * np.array(state.accuracies),
            device_worth=self._device_worth,
            utility=utility,
            deadline_s=state.deadline_s,
        )
        left_s = bits[:, None] / state.bits_per_s - state.interval_s
        queue = _index(_QUEUES + left_s, len(_QUEUES))
        alone, at_once, if_late = (
            slice(_FIRST_RUNG + how, None, _HOWS) for how in (_ALONE, _AT_ONCE, _IF_LATE)
        )
        switch = np.array([0.0, self._switch_cost])[:, None, None]  # from the device
        rested = self._flat(_REMOTE, queue, self._rested)[:, None]
        reward[alone] = (odds.alone - cost)[:, None, :, None] - switch
        following[alone] = rested
        on_time[alone] = odds.in_time
        hedge_s = np.zeros((self._rungs, len(_QUEUES)), np.float32)
        if not self._has_device:
            return hedge_s
        gain = odds.with_device - cost - state.device_cost
        reward[at_once, :, :, 0] = gain[:, None] - switch[..., 0]
        # Where the device is the first to answer it is shown: a switch, each time.
        shown = np.where(state.device_s < odds.median_s, self._switch_cost, 0.0)
        reward[at_once, _REMOTE] -= shown[:, None, None]
        following[at_once] = self._flat(_REMOTE, queue, self._worked)[:, None]
        on_time[at_once] = np.where(
            odds.in_time < 1.0,
            odds.in_time + (1.0 - odds.in_time) * self._device_on_time,
            1.0,
        )

        latest_s = utility.on_time_s - float(_DEVICE[-1]) * state.device_s
        if latest_s <= 0:
            return hedge_s
        # Past its own p95 the remote answer is given up on; past the latest start the device
        # could not be in time itself.
        start_s = np.minimum(odds.late_s[:, None] + _QUEUES, latest_s)
        worth, started = odds.hedged(start_s)
        gain = worth + STALLS * self._device_worth - cost
        gain -= state.device_cost * np.maximum(started, STALLS)
        reward[if_late] = gain[:, None, :, None] - switch
        following[if_late] = rested
        on_time[if_late] = on_time[at_once]
        return start_s.astype(np.float32)

    def _flat(self, mode: int, queue: Indices, busy: Indices) -> Indices:
        """Flat indices of states: those of `queue`, then busy."""
        return (mode * len(_QUEUES) + queue[..., None]) * len(self._busies) + busy

    def _iterate(self, reward: Floats, following: Indices) -> None:
        """Find the best actions: modified policy iteration (Puterman and Shin, 1978)."""
        states = np.arange(reward.shape[1])
        value = np.zeros(len(states))
        for _ in range(MAX_ROUNDS):
            worth = reward + DISCOUNT * value.take(following)
            best = worth.argmax(0)
            new = worth[best, states]
            change, value = new - value, new
            # What all states gain alike changes no choice. Where states take turns, all that is
            # gained fades, with the discount.
            if min(np.ptp(change), np.abs(change).max()) < PRECISION:
                break
            # What these actions are worth in the long run, which is much cheaper to find than
            # better ones.
            gain, then = reward[best, states], following[best, states]
            for _ in range(SWEEPS):
                value = gain + DISCOUNT * value.take(then)
        self.best = best.astype(np.uint8).tobytes()
        answers = worth[_NOTHING + 1 :].argmax(0) + _NOTHING + 1
        self.best_answer = answers.astype(np.uint8).tobytes()


def _index(seconds: Floats, size: int) -> Indices:
    return np.clip(np.round(seconds / STEP_S), 0, size - 1).astype(np.intp)
