"""What becomes of the frames of a simulated run: one uplink, one server, one device.

The physics only. The choices come either from a policy, which sees what a client can see
(`simulator`), or from an oracle that sees everything (`oracle`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.simulation.environment import (
    DEADLINE_S,
    ENCODE_S,
    IDLE_S,
    INITIAL_WINDOW_BITS,
    STALE_S,
    TIMEOUT_S,
    Environment,
    worth,
)
from hybrid_detect.types import BackendKind

__all__ = [
    "SimulatedResult",
    "SimulatedRun",
    "Upload",
    "slow_start_rounds",
]


ALL_FACES = 0.98
"""A device that finds so many of the faces finds all of them; the rest is flicker."""


def slow_start_rounds(bits: float) -> int:
    """Round trips that TCP's slow start adds to an upload after a pause."""
    return max(0, math.ceil(math.log2(bits / INITIAL_WINDOW_BITS + 1)) - 1)


class Upload(NamedTuple):
    """An upload as it will have gone: a policy does not see it."""

    began_s: float
    """When its first bit left, which is after its sending if the link was busy."""
    ended_s: float
    """When its last bit had left, or it was aborted."""
    answered_s: float
    """When its answer was there; infinite if it was aborted."""


class SimulatedRun:
    """One run, frame by frame. A frame's time is `frame * environment.interval_s`."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.link_free_s = 0.0
        """When the link has carried all that was given to it."""
        self.link_used_s = -9.0
        """When it last carried something."""
        self.device_free_s = 0.0
        """When the device is done with its frame."""
        count = environment.frames
        self._upload_s = np.full(count, np.inf)
        self._upload_worth = np.zeros(count)
        self._accuracy = np.full(count, np.nan)
        self._bits = np.zeros(count)
        self._device_s = np.full(count, np.inf)
        self._device_worth = np.zeros(count)
        self._cost = np.zeros(count)
        self._choices: list[BackendKind] = []

    def upload(self, frame: int, at_s: float, bits: float, accuracy: float) -> Upload:
        """Compress at `at_s`, then upload behind what is still to be uploaded."""
        environment = self.environment
        accuracy *= float(environment.server_share[frame])
        began_s = max(at_s + ENCODE_S, self.link_free_s)
        slow_start_s = 0.0
        if began_s - self.link_used_s > IDLE_S:
            slow_start_s = slow_start_rounds(bits) * environment.rtt_at(began_s)
        ended_s = environment.uploaded_s(began_s, bits) + slow_start_s
        answered_s = math.inf
        if ended_s - began_s > TIMEOUT_S:
            ended_s = began_s + TIMEOUT_S
        else:
            since_s = frame * environment.interval_s
            latency_s = (
                ended_s - since_s + environment.rtt_at(ended_s) + float(environment.server_s[frame])
            )
            answered_s = since_s + latency_s
            self._upload_s[frame] = latency_s
            self._upload_worth[frame] = accuracy * worth(latency_s)
        self.link_free_s = self.link_used_s = ended_s
        self._accuracy[frame] = accuracy
        self._bits[frame] = bits
        self._cost[frame] += environment.price_per_bit * bits + environment.price_per_upload
        return Upload(began_s, ended_s, answered_s)

    def detect(self, frame: int, at_s: float) -> float | None:
        """Give the frame to the device at `at_s`; when it will be done, `None` if it is busy."""
        if at_s < self.device_free_s - 1e-9:
            return None
        environment = self.environment
        latency_s = at_s - frame * environment.interval_s + float(environment.device_s[frame])
        self.device_free_s = at_s + float(environment.device_s[frame])
        self._device_s[frame] = latency_s
        self._device_worth[frame] = float(environment.device_share[frame]) * worth(latency_s)
        self._cost[frame] += environment.profile.cost
        return self.device_free_s

    def chose(self, kind: BackendKind) -> None:
        """Take note of the backend that a frame was meant for, to count switches."""
        self._choices.append(kind)

    def result(self) -> SimulatedResult:
        """The result of the whole run."""
        pairs = zip(self._choices, self._choices[1:], strict=False)
        return SimulatedResult(
            environment=self.environment,
            upload_s=self._upload_s,
            upload_worth=self._upload_worth,
            accuracy=self._accuracy,
            sent_bits=self._bits,
            device_s=self._device_s,
            device_worth=self._device_worth,
            cost=self._cost,
            switches=sum(before is not after for before, after in pairs),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedResult:
    """The result of a run. Arrays have one value for each frame, in seconds and perfect answers."""

    environment: Environment
    upload_s: NDArray[np.float64]
    """Until the server's answer; infinite without one."""
    upload_worth: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    """Of the server's answer if it were in time; NaN if nothing was sent."""
    sent_bits: NDArray[np.float64]
    device_s: NDArray[np.float64]
    """Until the device's answer; infinite without one."""
    device_worth: NDArray[np.float64]
    cost: NDArray[np.float64]
    switches: int
    """Changes between remote and device of consecutive choices, probes left out."""

    @cached_property
    def utilities(self) -> NDArray[np.float64]:
        """The better answer's worth less what was spent, for each frame."""
        return np.maximum(self.upload_worth, self.device_worth) - self.cost

    @cached_property
    def latencies_s(self) -> NDArray[np.float64]:
        """Age of the answer that was taken; infinite where none was worth anything."""
        taken = np.where(self.upload_worth >= self.device_worth, self.upload_s, self.device_s)
        has_answer = np.maximum(self.upload_worth, self.device_worth) > 0
        return np.where(has_answer, taken, np.inf)

    @property
    def utility(self) -> float:
        """Mean over the frames."""
        return float(self.utilities.mean())

    def latency_s(self, share: float) -> float:
        """Quantile of the ages; no answer counts as `STALE_S`."""
        ages = np.sort(np.where(np.isfinite(self.latencies_s), self.latencies_s, STALE_S))
        return float(ages[int(share * (len(ages) - 1))])

    @property
    def on_time(self) -> float:
        """Share of the frames answered within `DEADLINE_S`."""
        return float(np.mean(self.latencies_s <= DEADLINE_S))

    @property
    def switches_per_min(self) -> float:
        """See `switches`."""
        return self.switches / self.environment.minutes

    @property
    def sent_mb_per_min(self) -> float:
        """Megabytes (1,000,000) given to the network in a minute."""
        return float(self.sent_bits.sum()) / 8e6 / self.environment.minutes

    @property
    def wasted_mb_per_min(self) -> float:
        """Those of answers that were late, or no better than the device's."""
        is_waste = (self.upload_worth <= self.device_worth) | (self.upload_s > DEADLINE_S)
        return float(self.sent_bits[is_waste].sum()) / 8e6 / self.environment.minutes

    @property
    def remote_share(self) -> float:
        """Share of the frames that were sent."""
        return float(np.mean(self.sent_bits > 0))

    @property
    def server_answers(self) -> float:
        """Share of the frames whose answer was the server's."""
        return float(np.mean((self.upload_worth > self.device_worth) & (self.upload_worth > 0)))

    @property
    def needless_share(self) -> float:
        """Of the frames in which the device finds all faces, the share sent; NaN without any."""
        is_seen = self.environment.device_share >= ALL_FACES
        return float(np.mean(self.sent_bits[is_seen] > 0)) if is_seen.any() else math.nan

    @property
    def device_share(self) -> float:
        """Share of the frames that the device looked at."""
        return float(np.mean(np.isfinite(self.device_s)))
