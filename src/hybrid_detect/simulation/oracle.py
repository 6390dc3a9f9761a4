"""The best that could have been done with everything known in advance.

A dynamic programme over the frames, backwards, whose state is how far ahead the uplink and the
device are booked, in steps of 20 ms. Its choices at each frame are the four rungs or nothing,
with or without the device at once. Because of the steps its value is not exact; what counts is
the replay of its choices under the exact dynamics (`SimulatedResult.utility`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.simulation.environment import (
    DEADLINE_S,
    DECAY_S,
    ENCODE_S,
    GRID_PER_S,
    STALE_S,
    TIMEOUT_S,
    Environment,
    worth,
)
from hybrid_detect.simulation.simulated_run import (
    SimulatedResult,
    SimulatedRun,
    slow_start_rounds,
)
from hybrid_detect.types import DEFAULT_TARGET_BYTES, BackendKind

__all__ = ["oracle"]

STEP_S = 0.02
"""Resolution of the bookings. With it, value and replay differ by less than 0.008 a frame on the
36 traces."""

IDLE_OFFSET_S, LAST_OFFSET_S = -1.0, 3.0
"""Bounds of when the uplink is free, counted from the frame: long ago, which makes TCP start
slowly, and as late as an upload can end."""

BUDGET = DEFAULT_TARGET_BYTES
"""Bytes; above the mission's most, so that each rung has the weight it has for every policy."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


def oracle(environment: Environment) -> SimulatedResult:
    """Plan with everything known, then replay."""
    choices, uplink_s, device_s = _plan(environment)
    run = SimulatedRun(environment)
    for frame in range(environment.frames):
        now_s = frame * environment.interval_s
        offset_s = run.link_free_s - now_s if run.link_used_s > -5 else IDLE_OFFSET_S
        row = min(max(round((offset_s - IDLE_OFFSET_S) / STEP_S), 0), len(uplink_s) - 1)
        steps = math.ceil((run.device_free_s - now_s) / STEP_S - 1e-6)
        column = min(max(steps, 0), len(device_s) - 1)
        rung, with_device = divmod(int(choices[frame, row, column]), 2)
        if rung:
            bits, accuracy = _upload_of(environment, frame, rung - 1)
            run.upload(frame, now_s, bits, accuracy)
        if with_device:
            run.detect(frame, now_s)
        if rung or with_device:
            run.chose(BackendKind.STREAMING if rung else BackendKind.DEVICE)
    return run.result()


def _upload_of(environment: Environment, frame: int, rung: int) -> tuple[float, float]:
    step = environment.pictures.ladder.rungs[rung]
    raw_bits = float(environment.raw_bits[frame])
    return environment.pictures.compressed(raw_bits, step.quality, step.max_side_px, BUDGET)


def _plan(environment: Environment) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """Choices by frame, uplink state and device state; and those states.

    A choice is twice the rung (from 1; 0 sends nothing), plus 1 with the device.
    """
    interval_s = environment.interval_s
    uplink_s = np.arange(IDLE_OFFSET_S, LAST_OFFSET_S + STEP_S / 2, STEP_S)
    longest_s = float(environment.device_s.max()) - interval_s
    device_s = np.arange(0, longest_s + STEP_S, STEP_S) if longest_s > 0 else np.zeros(1)
    gains, next_rows = _uploads(environment, uplink_s)
    left_s = np.maximum(device_s - interval_s, 0)
    last = len(device_s) - 1
    next_columns = np.minimum(np.round(left_s / STEP_S).astype(int), last)
    busy_s = np.maximum(environment.device_s - interval_s, 0)
    busy_columns = np.minimum(np.round(busy_s / STEP_S).astype(int), last)
    worths, costs = gains
    value = np.zeros((len(uplink_s), len(device_s)))
    choices = np.zeros((environment.frames, *value.shape), np.uint8)
    for frame in range(environment.frames - 1, -1, -1):
        after = value[next_rows[frame]]  # (sending, uplink, device)
        alone = (worths[frame] - costs[frame])[:, :, None] + after[:, :, next_columns]
        value = alone.max(axis=0)
        choices[frame] = 2 * alone.argmax(axis=0)
        # Only a device that is free now (the first column) can take the frame.
        answer = environment.device_share[frame] * worth(float(environment.device_s[frame]))
        gain = np.maximum(worths[frame], answer) - costs[frame] - environment.profile.cost
        hedged = gain + after[:, :, busy_columns[frame]]
        both = np.stack([alone[:, :, 0], hedged], axis=1).reshape(-1, len(uplink_s))
        value[:, 0] = both.max(axis=0)
        choices[frame, :, 0] = both.argmax(axis=0)
    return choices, uplink_s, device_s


def _uploads(environment: Environment, uplink_s: Floats) -> tuple[tuple[Floats, Floats], Ints]:
    """For each frame, sending (nothing, then the rungs) and uplink state: worth, cost, next state.

    Cost has the shape (frames, sendings, 1).
    """
    now_s = (np.arange(environment.frames) * environment.interval_s)[:, None]
    last = len(uplink_s) - 1

    def row_of(offset_s: Floats) -> Ints:
        row: Ints = np.round((offset_s - IDLE_OFFSET_S) / STEP_S).astype(np.intp)
        return np.clip(row, 0, last)

    def rtt_at(at_s: Floats) -> Floats:
        index = np.minimum((at_s * GRID_PER_S).astype(int), len(environment.rtt_s) - 1)
        rtt_s: Floats = environment.rtt_s[index]
        return rtt_s

    began_s = np.maximum(now_s + ENCODE_S, now_s + uplink_s)
    carried = np.interp(began_s, environment.grid_s, environment.carried)
    is_idle = uplink_s <= IDLE_OFFSET_S + 1e-9
    sendings = len(environment.pictures.ladder.rungs) + 1
    shape = (environment.frames, sendings, len(uplink_s))
    worths, rows = np.zeros(shape), np.zeros(shape, np.intp)
    costs = np.zeros((environment.frames, sendings, 1))
    rows[:, 0] = row_of(uplink_s - environment.interval_s)
    for number in range(1, sendings):
        frames = range(environment.frames)
        uploads = [_upload_of(environment, frame, number - 1) for frame in frames]
        bits = np.array([each for each, _ in uploads])[:, None]
        accuracy = uploads[0][1] * environment.server_share[:, None]
        rounds = np.array([slow_start_rounds(float(each)) for each in bits[:, 0]])[:, None]
        ended_s = np.interp(
            carried + bits, environment.carried, environment.grid_s, right=1e9
        ) + np.where(is_idle, rounds * rtt_at(began_s), 0)
        is_lost = ended_s - began_s > TIMEOUT_S
        ended_s = np.where(is_lost, began_s + TIMEOUT_S, ended_s)
        latency_s = ended_s - now_s + rtt_at(ended_s) + environment.server_s[:, None]
        late = np.exp(-(latency_s - DEADLINE_S) / DECAY_S)
        kept = np.where(latency_s > STALE_S, 0, np.where(latency_s <= DEADLINE_S, 1, late))
        worths[:, number] = accuracy * kept * ~is_lost
        costs[:, number] = environment.price_per_bit * bits + environment.price_per_upload
        rows[:, number] = row_of(ended_s - now_s - environment.interval_s)
    return (worths, costs), rows
