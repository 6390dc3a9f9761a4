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
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.selection.utility import RUNGS, Utility

__all__ = ["Choice", "World", "best_choice"]

STEP_S = 0.02
"""Resolution of queues in time."""

QUEUE_S = 1.0
"""A longer queue makes every answer too late."""

DISCOUNT = 0.95
"""Per frame: at 10 fps the next two seconds count, about as long as a link keeps its state."""

PRECISION = 2e-3
MAX_ROUNDS = 60

ENCODE_S = 0.005
"""Compressing a 1280x720 frame with a margin; measured, `docs/explanation/performance.md`."""

STALLS = 0.01
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


class World(NamedTuple):
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


@dataclass(frozen=True, slots=True)
class _Solution:
    best: NDArray[np.uint8]
    """Index of the best action for [mode, queue, busy]."""
    allowed: NDArray[np.uint8]
    """The best action that answers, if any does."""
    on_time: NDArray[np.float64]
    """Probability of an answer in time by [action, queue]."""
    hedge_s: NDArray[np.float64]
    """When a late hedge starts by [rung, queue]."""


_QUEUES = np.arange(0.0, QUEUE_S + STEP_S / 2, STEP_S)
_REMOTE, _DEVICE_MODE = 0, 1


def best_choice(
    world: World, *, backlog_s: float, busy_s: float, remote_last: bool, must_answer: bool
) -> Choice:
    """The choice of the highest expected worth, this frame's and the following ones'."""
    solution = _solve(world)
    queue = min(round(backlog_s / STEP_S), len(_QUEUES) - 1)
    busy = min(math.ceil(busy_s / STEP_S - 1e-6), solution.best.shape[2] - 1) if busy_s > 0 else 0
    mode = _REMOTE if remote_last else _DEVICE_MODE
    table = solution.allowed if must_answer else solution.best
    action = int(table[mode, queue, busy])
    rung, how = divmod(action - 2, 3) if action >= 2 else (None, action)
    if rung is None:
        return Choice(None, action == 1, 0.0, float(solution.on_time[action, queue]))
    hedge_s = float(solution.hedge_s[rung, queue]) if how == 2 else 0.0
    return Choice(rung, how > 0, hedge_s, float(solution.on_time[action, queue]))


# Actions: 0 nothing, 1 device, then for each rung: sent alone, device at once, device late.


@lru_cache(maxsize=4096)
def _solve(world: World) -> _Solution:
    utility = world.utility
    has_device = math.isfinite(world.device_s)
    busy_most_s = min(max(world.device_s - world.interval_s, 0.0), QUEUE_S) if has_device else 0.0
    busies = np.arange(0.0, busy_most_s + STEP_S, STEP_S) if busy_most_s > 0 else np.zeros(1)
    n, m = len(_QUEUES), len(busies)
    rungs = len(RUNGS)
    # A device that cannot look at every frame takes turns with the server, which is no change of
    # mind; the slower it is, the less a change of way says.
    switch_cost = utility.switch_cost * min(1.0, world.interval_s / world.device_s) ** 2
    reward = np.full((2 + 3 * rungs, 2, n, m), -1e9)
    following = np.zeros((2 + 3 * rungs, 2, n, m), np.intp)
    on_time = np.zeros((2 + 3 * rungs, n))
    hedge_s = np.zeros((rungs, n))

    device_s = world.device_s * _DEVICE if has_device else np.array([math.inf])
    device_worth = (
        world.device_accuracy * float(np.mean(utility.worth(device_s, deadline_s=world.deadline_s)))
        if has_device
        else 0.0
    )
    device_on_time = float(np.mean(device_s <= utility.on_time_s))

    drained = _index(_QUEUES - world.interval_s, n)
    rested = _index(busies - world.interval_s, m)
    worked = (
        min(round(max(world.device_s - world.interval_s, 0.0) / STEP_S), m - 1) if has_device else 0
    )
    can = busies <= 1e-9

    def lead_to(
        mode: int | NDArray[np.intp], queue: NDArray[np.intp], busy: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        return (np.asarray(mode) * n + queue[:, None]) * m + busy[None, :]

    for mode in (_REMOTE, _DEVICE_MODE):
        reward[0, mode] = 0.0
        following[0, mode] = lead_to(mode, drained, rested)
    if has_device:
        after_work = np.full(m, worked, np.intp)
        for mode in (_REMOTE, _DEVICE_MODE):
            flip = switch_cost if mode == _REMOTE else 0.0
            reward[1, mode][:, can] = device_worth - world.device_cost - flip
            following[1, mode] = lead_to(_DEVICE_MODE, drained, after_work)
        on_time[1] = device_on_time

    carried = world.bits_per_s * np.exp(world.spread * _NORMAL)
    latest_s = utility.on_time_s - float(_DEVICE[-1]) * world.device_s if has_device else -math.inf
    for rung, (bits, cost) in enumerate(zip(world.frame_bits, world.frame_cost, strict=True)):
        latency_s = (
            ENCODE_S
            + (bits / carried)[:, None, None]
            + (world.rtt_s * _RTT)[None, :, None]
            + (world.server_s * _SERVER)[None, None, :]
        ).reshape(-1, 1) + _QUEUES
        accuracy = world.remote_accuracy * RUNGS[rung].accuracy
        worth = (1 - STALLS) * accuracy * utility.worth(latency_s, deadline_s=world.deadline_s)
        in_time = latency_s <= utility.on_time_s
        queued = _index(_QUEUES + bits / world.bits_per_s - world.interval_s, n)
        alone, at_once, late = 2 + 3 * rung, 3 + 3 * rung, 4 + 3 * rung
        for mode in (_REMOTE, _DEVICE_MODE):
            flip = switch_cost if mode == _DEVICE_MODE else 0.0
            reward[alone, mode] = (worth.mean(0) - cost - flip)[:, None]
            following[alone, mode] = lead_to(_REMOTE, queued, rested)
        on_time[alone] = in_time.mean(0)
        if not has_device:
            continue
        both = np.maximum(worth, device_worth).mean(0) - cost - world.device_cost
        for mode in (_REMOTE, _DEVICE_MODE):
            flip = switch_cost if mode == _DEVICE_MODE else 0.0
            reward[at_once, mode][:, can] = (both - flip)[:, None]
            following[at_once, mode] = lead_to(_REMOTE, queued, after_work)
        on_time[at_once] = np.maximum(in_time, device_on_time).mean(0)
        if latest_s <= 0:
            continue
        # Past its own p95 the remote answer is given up on; past the latest start the device
        # could not be in time itself.
        hedge_s[rung] = np.minimum(np.quantile(latency_s, 0.95, axis=0), latest_s)
        needed = latency_s > hedge_s[rung]
        hedged = np.where(needed, np.maximum(worth, device_worth), worth) + STALLS * device_worth
        spent = cost + world.device_cost * np.maximum(needed.mean(0), STALLS)
        for mode in (_REMOTE, _DEVICE_MODE):
            flip = switch_cost if mode == _DEVICE_MODE else 0.0
            reward[late, mode] = (hedged.mean(0) - spent - flip)[:, None]
            following[late, mode] = lead_to(_REMOTE, queued, rested)
        on_time[late] = np.maximum(in_time, device_on_time).mean(0)

    value = np.zeros(2 * n * m)
    flat_reward = reward.reshape(len(reward), -1)
    flat_following = following.reshape(len(following), -1)
    for _ in range(MAX_ROUNDS):
        worths = flat_reward + DISCOUNT * value[flat_following]
        new = worths.max(0)
        settled = float(np.max(np.abs(new - value))) < PRECISION
        value = new
        if settled:
            break
    shape = reward.shape[1:]
    best = worths.argmax(0).astype(np.uint8).reshape(shape)
    answering = (1 + worths[1:].argmax(0)).astype(np.uint8).reshape(shape)
    return _Solution(best, answering, on_time, hedge_s)


def _index(seconds: NDArray[np.float64], size: int) -> NDArray[np.intp]:
    return np.clip(np.round(seconds / STEP_S), 0, size - 1).astype(np.intp)
