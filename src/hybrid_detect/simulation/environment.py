"""A simulated environment: what the network, the server, the camera and the device will do.

Everything in it is drawn before the first frame from a seed, so that every policy meets the same
environment. Times in seconds from its beginning, sizes in bits. Where no other source is named, the
constants are the project's: they were chosen when the method was measured over 36 network traces
(`docs/explanation/choosing.md`), and are kept so that figures compare.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.selection.radio import COST_PER_JOULE, RADIOS
from hybrid_detect.selection.rungs import USUAL_LADDER, PictureLadder
from hybrid_detect.simulation.pictures import MAX_BITS, Pictures
from hybrid_detect.simulation.scenes import CONSTANT, SceneDraws, Scenes
from hybrid_detect.simulation.traces import RTT_MODELS, Trace

__all__ = [
    "DEADLINE_S",
    "DEVICES",
    "ENCODE_S",
    "STALE_S",
    "TIMEOUT_S",
    "DeviceProfile",
    "Environment",
    "worth",
]

FPS = 10.0
"""The mission's rate."""

DEADLINE_S = 0.2
"""An answer up to this age is worth everything."""

DECAY_S = 0.2
"""After it, the worth falls by a factor of e in so many seconds."""

STALE_S = 1.0
"""After this an answer is worth nothing."""

ENCODE_S = 0.005
"""Compressing a frame."""

TIMEOUT_S = 3.0
"""An upload that is not through so long after it began is aborted."""

RAW_BITS, RAW_SPREAD = 8 * 100e3, 0.20
"""Median of a 1280x720 JPEG of quality 80 (photos with faces, `docs/explanation/compression.md`),
and the standard deviation of its logarithm."""

PRICE_PER_BIT = 0.04 / MAX_BITS
"""Of an upload's data, in perfect answers; its energy comes on top (`selection.radio`)."""

SERVER_S, SERVER_SPREAD, SERVER_RANGE_S = 0.035, 0.28, (0.015, 0.120)
"""Server time: median, standard deviation of its logarithm, and bounds."""

GRID_PER_S = 100
"""Steps of capacity and round trip in a second."""

MAX_RTT_S = 3.0
INITIAL_WINDOW_BITS = 8 * 14600
"""TCP's initial window of ten segments (RFC 6928)."""

IDLE_S = 1.0
"""After a pause of this length TCP starts slowly again (RFC 5681, rounded up from an RTO)."""

TAIL_S = 40.0
"""Seconds that it goes on for after the last frame; the trace begins anew."""


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A class of device: service times are log-normal within bounds."""

    median_s: float
    spread: float
    """Standard deviation of the logarithm."""
    range_s: tuple[float, float]
    cost: float
    """Energy of a frame, in perfect answers."""
    accuracy: float = 0.80
    """Of its answer, as a share of the server's, where there are no scenes: assumed, between
    close-ups, where both find all, and group photos, where the device finds half
    (`docs/explanation/models.md`)."""


DEVICES = {
    "phone": DeviceProfile(0.270, 0.28, (0.150, 0.500), 0.06),
    "pi5": DeviceProfile(0.050, 0.22, (0.030, 0.080), 0.03),
    "desktop": DeviceProfile(0.0055, 0.30, (0.003, 0.010), 0.01),
}
"""A slow phone, a Raspberry Pi 5 and a desktop."""


def worth(latency_s: float) -> float:
    """Share of an answer's worth that is left when it comes after `latency_s`, 0 to 1."""
    if latency_s > STALE_S:
        return 0.0
    return 1.0 if latency_s <= DEADLINE_S else math.exp(-(latency_s - DEADLINE_S) / DECAY_S)


class Environment:
    """One trace, one device, one seed.

    Attributes are open, for oracles and for tests: `capacity` (bit/s) and `rtt_s` on a grid of
    10 ms; `raw_bits` (the frame at 1280 pixels and quality 80), `server_s`, `device_s` and the
    shares of the faces that either finds (`server_share`, `device_share`) for each of the `frames`
    frames; `draws`, the scenes; `pictures`, what the server makes of a picture; `price_per_bit` and
    `price_per_upload`, data and energy of sending, in perfect answers. A policy sees none of it but
    the ladder, and through the trace's medium the prices.

    Args:
        trace: The network.
        device: A key of `DEVICES`.
        seed: Seed of all random draws.
        uplink: Factor of the capacity.
        device_accuracy: In place of the profile's, where there are no scenes.
        scenes: What is in front of the camera; by default the device's answers are always worth
            `device_accuracy`.
        ladder: The pictures that the server says it gains by.
        fps: Frames in a second.
        max_s: Seconds of the trace to use.

    Raises:
        ConfigurationError: If there is no such device, or a number is out of bounds.
    """

    def __init__(
        self,
        trace: Trace,
        device: str = "pi5",
        *,
        seed: int = 0,
        uplink: float = 1.0,
        device_accuracy: float | None = None,
        scenes: Scenes | None = None,
        ladder: PictureLadder = USUAL_LADDER,
        fps: float = FPS,
        max_s: float = 300.0,
    ) -> None:
        if device not in DEVICES:
            msg = f"expected a device ({', '.join(DEVICES)}), got {device!r}"
            raise ConfigurationError(msg)
        if not (uplink > 0 and fps > 0 and max_s > 1):
            msg = f"expected uplink > 0, fps > 0 and max_s > 1, got {uplink}, {fps}, {max_s}"
            raise ConfigurationError(msg)
        profile = DEVICES[device]
        self.trace, self.device, self.seed = trace, device, seed
        self.profile = profile
        self.pictures = Pictures(ladder)
        self.device_accuracy = profile.accuracy if device_accuracy is None else device_accuracy
        self.interval_s = 1 / fps
        radio = RADIOS[trace.medium]
        self.price_per_bit = PRICE_PER_BIT + COST_PER_JOULE * radio.joules_per_bit
        self.price_per_upload = COST_PER_JOULE * radio.awake_j(self.interval_s)
        length_s = float(min(trace.t_s[-1], max_s))
        self.frames = int((length_s - 1) * fps)
        self.minutes = self.frames / fps / 60

        rng = np.random.default_rng(sum(map(ord, trace.name)) * 7919 + seed)
        grid_s = np.arange(0, length_s + TAIL_S, 1 / GRID_PER_S)
        last_s = trace.t_s[-1]
        looped_s = np.where(grid_s < last_s, grid_s, grid_s % max(last_s, 1e-9))
        row = np.clip(np.searchsorted(trace.t_s, looped_s, "right") - 1, 0, len(trace.t_s) - 1)
        self.capacity: NDArray[np.float64] = (trace.uplink_kbps() * uplink * 1000)[row]
        self.rtt_s = _rtt_s(trace, rng, looped_s, length_s)
        self.raw_bits = RAW_BITS * np.exp(RAW_SPREAD * rng.standard_normal(self.frames))
        self.server_s = np.clip(
            SERVER_S * np.exp(SERVER_SPREAD * rng.standard_normal(self.frames)), *SERVER_RANGE_S
        )
        self.device_s = np.clip(
            profile.median_s * np.exp(profile.spread * rng.standard_normal(self.frames)),
            *profile.range_s,
        )
        self.draws: SceneDraws | None = None
        if scenes is not None and scenes.kind != CONSTANT:
            draws_seed = sum(map(ord, trace.name)) * 7919 + seed
            self.draws = SceneDraws(scenes, frames=self.frames, fps=fps, seed=draws_seed)
        self.see()
        self.grid_s = np.concatenate([grid_s, [grid_s[-1] + 1 / GRID_PER_S]])
        self.prepare()

    def see(self) -> None:
        """Take note of `draws`; call it again after changing those."""
        self.device_share = np.full(self.frames, self.device_accuracy)
        self.server_share = np.ones(self.frames)
        if self.draws is not None:
            self.device_share = self.draws.share("device")
            self.server_share = self.draws.share("server")

    def prepare(self) -> None:
        """Take note of `capacity`; call it again after changing that."""
        self.carried = np.concatenate([[0], np.cumsum(self.capacity * (1 / GRID_PER_S))])
        self._carried, self._grid_s = self.carried.tolist(), self.grid_s.tolist()
        self._rtt_s, self._capacity = self.rtt_s.tolist(), self.capacity.tolist()

    def rtt_at(self, t_s: float) -> float:
        """Round trip of a message that weighs nothing, in seconds."""
        return float(self._rtt_s[min(int(t_s * GRID_PER_S), len(self._rtt_s) - 1)])

    def capacity_at(self, t_s: float) -> float:
        """What the uplink carries, in bits per second."""
        return float(self._capacity[min(int(t_s * GRID_PER_S), len(self._capacity) - 1)])

    def uploaded_s(self, start_s: float, bits: float) -> float:
        """When the last of `bits` has left if the first does at `start_s`; may be infinite."""
        step = min(int(start_s * GRID_PER_S), len(self._carried) - 2)
        rate = GRID_PER_S * (self._carried[step + 1] - self._carried[step])
        goal = self._carried[step] + (start_s - self._grid_s[step]) * rate + bits
        step = bisect.bisect_left(self._carried, goal)
        if step >= len(self._carried):
            return math.inf
        before, after = self._carried[step - 1], self._carried[step]
        share = (goal - before) / max(after - before, 1e-9)
        return float(self._grid_s[step - 1] + share / GRID_PER_S)


def _rtt_s(
    trace: Trace, rng: np.random.Generator, looped_s: NDArray[np.float64], length_s: float
) -> NDArray[np.float64]:
    """The measured round trips with some noise, else modelled ones."""
    count = len(looped_s)
    if trace.rtt_ms is not None and np.isfinite(trace.rtt_ms).sum() > 5:
        known = np.isfinite(trace.rtt_ms)
        rtt_s = np.interp(looped_s, trace.t_s[known], trace.rtt_ms[known]) / 1000
        rtt_s = rtt_s * np.exp(0.10 * _ar1(rng, count, 0.9))
    else:
        model = RTT_MODELS[trace.kind]
        median_ms = model.median_ms * math.exp(model.between_traces * rng.standard_normal())
        walk, spread = _ar1(rng, count, 0.85), model.within_trace
        rtt_s = median_ms * np.exp(spread * walk - spread * spread / 2) / 1000
        for begin_s in rng.uniform(0, length_s, rng.poisson(model.spikes_per_s * length_s)):
            first = int(begin_s * GRID_PER_S)
            last = int((begin_s + rng.uniform(0.4, 2)) * GRID_PER_S)
            rtt_s[first:last] *= rng.uniform(2, 2 * model.spike_factor)
    return np.minimum(rtt_s, MAX_RTT_S)


def _ar1(rng: np.random.Generator, count: int, after_200_ms: float) -> NDArray[np.float64]:
    """A process of variance 1 whose correlation over 200 ms is `after_200_ms`."""
    keep = after_200_ms ** (1 / GRID_PER_S / 0.2)
    news = (rng.standard_normal(count) * math.sqrt(1 - keep * keep)).tolist()
    value = float(rng.standard_normal())
    values = [value]
    for news_now in news[1:]:
        value = keep * value + news_now
        values.append(value)
    return np.array(values)
