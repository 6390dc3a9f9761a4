"""A cluster larger than this machine, simulated from what was measured on it.

Discrete events: pictures arrive at random moments (Poisson), pass the gateway, then the owner of
the rates, then wait at the replica with the fewest pictures under way for one of its detectors,
whose times are those that were measured. Gateway and owner are one queue each, served at their
measured CPU time a picture: what they cannot do, no number of replicas can.

It knows nothing of networks, of noisy neighbours, or of hosts that differ.
"""

from __future__ import annotations

import bisect
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from hybrid_detect.server.cluster.scaling import Load, Targets, wanted_replicas

__all__ = ["Measured", "Outcome", "simulate", "simulate_scaling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a picture costs."""

    service_s: Sequence[float]
    """Times of a detector, of which one is drawn for each picture."""
    gateway_s: float
    """CPU time of the gateway."""
    owner_s: float
    """CPU time of the owner of the rates; 0 if there is no rate to count."""
    detectors: int = 1
    """Of a replica."""
    queue: int = 32
    """Pictures that may wait at a replica."""


@dataclass(slots=True)
class Outcome:
    """What became of the pictures."""

    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    refused: int = 0
    within: int = 0
    """Answered before the time was over, in which they came."""

    @property
    def answered_per_s(self) -> float:
        """Pictures answered a second, without those that were at last, after the time."""
        return self.within / self.seconds

    def percentile_s(self, share: float) -> float:
        """The latency that `share` of the answered pictures did not exceed."""
        ordered = sorted(self.latencies_s)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


class _Replica:
    """Detectors with one queue; times of completion only, which first come, first served allows."""

    def __init__(self, detectors: int, ready_s: float = 0.0) -> None:
        self.ready_s = ready_s
        self._free_s = [ready_s] * detectors  # a heap: when each detector is free
        self._ends_s: list[float] = []  # of what is under way, sorted

    def under_way(self, now_s: float) -> int:
        del self._ends_s[: bisect.bisect_right(self._ends_s, now_s)]
        return len(self._ends_s)

    def take(self, now_s: float, service_s: float) -> tuple[float, float]:
        """When the picture is done, and how long it waits."""
        begins_s = max(heapq.heappop(self._free_s), now_s)
        end_s = begins_s + service_s
        heapq.heappush(self._free_s, end_s)
        bisect.insort(self._ends_s, end_s)
        return end_s, begins_s - now_s


class _Shared:
    """What every picture passes: one queue."""

    def __init__(self, service_s: float) -> None:
        self._service_s = service_s
        self._free_s = 0.0

    def passed(self, now_s: float) -> float:
        self._free_s = max(self._free_s, now_s) + self._service_s
        return self._free_s


def simulate(
    measured: Measured, *, replicas: int, rate_per_s: float, seconds: float, seed: int = 1
) -> Outcome:
    """Offer `rate_per_s` pictures to a fixed number of replicas.

    Args:
        measured: What a picture costs.
        replicas: How many there are.
        rate_per_s: Pictures that arrive a second.
        seconds: How long they do.
        seed: Of the randomness.
    """
    chance = random.Random(seed)
    there = [_Replica(measured.detectors) for _ in range(replicas)]
    gateway, owner = _Shared(measured.gateway_s), _Shared(measured.owner_s)
    outcome = Outcome(seconds)
    came_s = chance.expovariate(rate_per_s)
    while came_s < seconds:
        now_s = owner.passed(gateway.passed(came_s))
        found = _dispatch(there, measured, chance, came_s, now_s, outcome)
        outcome.within += found is not None and came_s + found[0] < seconds
        came_s += chance.expovariate(rate_per_s)
    return outcome


def _dispatch(
    there: list[_Replica],
    measured: Measured,
    chance: random.Random,
    came_s: float,
    now_s: float,
    outcome: Outcome,
) -> tuple[float, float] | None:
    least = min(there, key=lambda replica: replica.under_way(now_s))  # HAProxy's leastconn
    if least.under_way(now_s) >= measured.detectors + measured.queue:
        outcome.refused += 1
        return None
    end_s, wait_s = least.take(now_s, chance.choice(measured.service_s))
    outcome.latencies_s.append(end_s - came_s)
    return end_s - came_s, wait_s


def simulate_scaling(
    measured: Measured,
    *,
    rate_per_s: float,
    seconds: float,
    targets: Targets,
    max_replicas: int,
    start_s: float,
    delay_s: float,
    every_s: float = 2.0,
    seed: int = 1,
) -> list[tuple[float, int, float, float]]:
    """Offer a load all at once to one replica, under the product's own rule of scaling.

    Args:
        measured: What a picture costs.
        rate_per_s: Pictures that arrive a second, from the start.
        seconds: How long they do.
        targets: Those of the rule.
        max_replicas: The most there may be.
        start_s: Seconds that a replica needs to start.
        delay_s: Seconds that more must be wanted before they are started.
        every_s: Seconds between two looks at the load.
        seed: Of the randomness.

    Returns:
        For each look: seconds, replicas that answer, the share of pictures that were refused since
        the last, and the 90th percentile of the others' latency.
    """
    chance = random.Random(seed)
    there = [_Replica(measured.detectors)]
    gateway, owner = _Shared(measured.gateway_s), _Shared(measured.owner_s)
    told: list[tuple[float, int, float, float]] = []
    came_s, look_s, wanted_since_s = chance.expovariate(rate_per_s), every_s, None
    window, waits_s, work = Outcome(every_s), [0.0], [0.0]
    while came_s < seconds:
        ready = [replica for replica in there if replica.ready_s <= came_s]
        if came_s >= look_s:
            latency_s = window.percentile_s(0.9)
            offered = len(window.latencies_s) + window.refused
            share = window.refused / offered if offered else 0.0
            told.append((look_s, len(ready), share, latency_s))
            load = Load(
                work=sum(work) / len(work),
                latency_s=latency_s,
                wait_s=sorted(waits_s)[int(len(waits_s) * 0.9)],
                refused=window.refused / every_s / len(ready),
            )
            wanted = min(wanted_replicas([load] * len(ready), targets), max_replicas)
            wanted_since_s = (wanted_since_s or look_s) if wanted > len(there) else None
            if wanted_since_s is not None and look_s - wanted_since_s >= delay_s:
                more = wanted - len(there)
                there += [_Replica(measured.detectors, look_s + start_s) for _ in range(more)]
                wanted_since_s = None
            window, waits_s, work = Outcome(every_s), [0.0], [0.0]
            look_s += every_s
        now_s = owner.passed(gateway.passed(came_s))
        found = _dispatch(ready, measured, chance, came_s, now_s, window)
        if found is not None:
            waits_s.append(found[1])
        work.append(sum(replica.under_way(now_s) for replica in ready) / len(ready))
        came_s += chance.expovariate(rate_per_s)
    return told
