"""Runs a policy over a recorded network, deterministically.

A policy sees what a client can see, as the live service shows it: its own clock, what it sent and
when, the answers and pongs that have come back, and how long its own device took. It does not
see the capacity, nor when an upload that waited behind another really began, nor anything of the
future. A policy that wants the raw events may also have some of the methods of `EventListener`.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from statistics import median
from typing import Literal, Protocol

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.selection.conditions import BackendConditions, Conditions, LinkConditions
from hybrid_detect.selection.estimators import LatencyEstimate
from hybrid_detect.selection.link import LinkEstimator
from hybrid_detect.selection.policy import Policy
from hybrid_detect.selection.scene import SceneEstimator
from hybrid_detect.simulation.environment import ENCODE_S, STALE_S, TIMEOUT_S, Environment
from hybrid_detect.simulation.simulated_run import SimulatedResult, SimulatedRun
from hybrid_detect.simulation.traces import Trace, read_traces
from hybrid_detect.types import BackendKind, Plan

__all__ = [
    "PING_S",
    "Environment",
    "EventListener",
    "SimulatedResult",
    "Trace",
    "read_traces",
    "simulate",
]

PING_S = 0.2
"""Seconds between pings; at most one is out."""

DEVICE_TIMES = 50
"""The prediction of the device's time is the median of so many."""

OVERDUE_SHARE = 0.1
"""A device that has taken longer than it usually does is expected to take so much of its usual
time yet."""

_STREAMING, _DEVICE = BackendKind.STREAMING, BackendKind.DEVICE


class EventListener(Protocol):
    """The raw events, for policies that want them; each method is called only if it is there.

    Frames are named by their numbers. Events come in the order of their times, all those until a
    frame before its `decide`.
    """

    def sent(self, request_id: int, size_bytes: int, *, now_s: float, probe: bool = False) -> None:
        """A frame was handed to the network."""

    def answered(
        self, request_id: int, *, now_s: float, server_s: float, receive_s: float | None = None
    ) -> None:
        """Its answer is there."""

    def lost(self, request_id: int, *, now_s: float) -> None:
        """It was given up."""

    def pinged(self, *, now_s: float) -> None:
        """A ping was sent."""

    def ponged(self, sent_s: float, *, now_s: float) -> None:
        """The answer to the ping sent at `sent_s` is there."""


def simulate(
    environment: Environment,
    policy: Policy,
    *,
    receive_times: bool = False,
    sizes: Literal["this", "previous"] = "this",
    device_end: Literal["predicted", "known"] = "predicted",
    ping_s: float | None = PING_S,
) -> SimulatedResult:
    """Run `policy`, which must be new if it has a memory, over the whole of `environment`.

    Of a plan are carried out: `backend` (cloud and streaming are the same here), `quality`,
    `max_side_px`, `target_bytes`, `hedge`, `hedge_after_s`, `probe` and `skip`. A device that is
    busy does not take the frame, at once or as a hedge. Fallbacks, retries and escalation are
    not: nothing fails here but by being late, and what begins after the deadline's reserve has
    hardly any worth left.

    Args:
        environment: What happens to the frames.
        policy: What decides.
        receive_times: Whether the server tells how long it received each frame.
        sizes: Whether the policy knows the weight of this frame or of the one before it.
        device_end: Whether a busy device's end is predicted from its median time, or known in
            advance, as no client can.
        ping_s: Seconds between pings, `None` for none; a policy's own `ping_s` goes before it. To
            one whose `is_blind` is true nothing is shown of the link or the scene, which takes a
            third of the time.

    Raises:
        ConfigurationError: If an argument is not one of those.
    """
    if sizes not in {"this", "previous"} or device_end not in {"predicted", "known"}:
        msg = f"expected sizes this or previous and device_end predicted or known, got {sizes!r}"
        msg += f" and {device_end!r}"
        raise ConfigurationError(msg)
    ping_s = getattr(policy, "ping_s", ping_s)
    run = _Run(environment, policy, receive_times, sizes == "previous", device_end == "known")
    every = max(1, int(ping_s / environment.interval_s + 1e-9)) if ping_s else 0
    for frame in range(environment.frames):
        run.frame(frame, ping=bool(every) and frame % every == 0)
    run.start_late(until_s=math.inf)
    return run.run.result()


class _Run:
    """The client: turns plans into acts, and what comes back into events and conditions."""

    def __init__(
        self,
        environment: Environment,
        policy: Policy,
        receive_times: bool,
        size_of_previous: bool,
        end_known: bool,
    ) -> None:
        self.run = SimulatedRun(environment)
        self._environment = environment
        self._policy = policy
        self._receive_times = receive_times
        self._size_of_previous = size_of_previous
        self._end_known = end_known
        self._link = LinkEstimator()
        self._remote_s = LatencyEstimate()
        self._is_blind = getattr(policy, "is_blind", False)
        draws = None if self._is_blind else environment.draws
        self._scene = SceneEstimator(draws.device, draws.server) if draws else None
        self._listeners: tuple[object, ...] = (policy,) if self._is_blind else (self._link, policy)
        self._device_times: deque[float] = deque(maxlen=DEVICE_TIMES)
        self._device_since_s = -math.inf
        self._previous: BackendKind | None = None
        self._ping_out = False
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._late: list[tuple[float, int, Callable[[float], object]]] = []
        self._number = count()

    def frame(self, frame: int, *, ping: bool) -> None:
        """Decide about one frame and do it."""
        now_s = frame * self._environment.interval_s
        self.start_late(until_s=now_s)
        while self._events and self._events[0][0] <= now_s:
            at_s, _, event = heapq.heappop(self._events)
            event(at_s)
        if ping and not self._ping_out:
            self._ping(now_s)
        plan = self._policy.decide(self._conditions(frame, now_s))
        self._execute(plan, frame, now_s)

    def start_late(self, *, until_s: float) -> None:
        """Start the hedges that are due, in the order of their times."""
        while self._late and self._late[0][0] <= until_s:
            at_s, _, start = heapq.heappop(self._late)
            start(at_s)

    # -- what is seen ------------------------------------------------------------------------

    def _conditions(self, frame: int, now_s: float) -> Conditions:
        environment = self._environment
        known = frame - 1 if self._size_of_previous else frame
        usual_s = self._usual_device_s()
        busy_s = 0.0
        if now_s < self.run.device_free_s - 1e-9:
            left_s = self._device_since_s + usual_s - now_s
            busy_s = max(left_s, OVERDUE_SHARE * usual_s)
            if self._end_known:
                busy_s = self.run.device_free_s - now_s
        return Conditions(
            now_s=now_s,
            backends=(
                BackendConditions(
                    kind=_STREAMING,
                    usable=True,
                    latency_s=self._remote_s.predict_s(now_s=now_s),
                    ladder=environment.pictures.ladder,
                ),
                BackendConditions(
                    kind=_DEVICE,
                    usable=True,
                    latency_s=usual_s,
                    busy_s=busy_s,
                    accuracy=environment.device_accuracy,
                    cost=environment.profile.cost,
                ),
            ),
            deadline_s=STALE_S,
            link=None if self._is_blind else self._link_conditions(now_s),
            interval_s=environment.interval_s,
            must_answer=False,
            frame_bytes=float(environment.raw_bits[known]) / 8 if known >= 0 else None,
            previous=self._previous,
            scene=self._scene.conditions(now_s=now_s) if self._scene else None,
        )

    def _link_conditions(self, now_s: float) -> LinkConditions:
        known = self._link.conditions(now_s=now_s)
        return replace(known, medium=self._environment.trace.medium)

    def _usual_device_s(self) -> float:
        """The median so far; the profile's at first, as the library measures it at warm-up."""
        return (
            median(self._device_times) if self._device_times else self._environment.profile.median_s
        )

    def _at(self, at_s: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._number), event))

    def _ping(self, now_s: float) -> None:
        self._ping_out = True
        self._tell("pinged", now_s=now_s)
        pong_s = now_s + TIMEOUT_S
        if self._environment.capacity_at(now_s) > 0:
            behind_s = max(now_s, self.run.link_free_s)
            pong_s = behind_s + self._environment.rtt_at(behind_s)
        self._at(pong_s, partial(self._pong, now_s))

    def _pong(self, sent_s: float, at_s: float) -> None:
        self._ping_out = False
        self._tell("ponged", sent_s, now_s=at_s)

    def _tell(self, event: str, *values: object, **facts: object) -> None:
        for listener in self._listeners:
            listen = getattr(listener, event, None)
            if listen is not None:
                listen(*values, **facts)

    # -- what is done ------------------------------------------------------------------------

    def _execute(self, plan: Plan, frame: int, now_s: float) -> None:
        if plan.skip or plan.backend is None:
            return
        kinds = {plan.backend, plan.hedge} - {None}
        is_remote = bool(kinds - {_DEVICE})
        if is_remote and not plan.probe:
            self._chose(_STREAMING)
        elif _DEVICE in kinds:
            self._chose(_DEVICE)
        done_s = self._start(plan.backend, plan, frame, now_s)
        if plan.hedge is None or (plan.hedge is _DEVICE) == (plan.backend is _DEVICE):
            return
        due_s = now_s + max(plan.hedge_after_s, 0.0)
        if due_s <= now_s:
            self._start(plan.hedge, plan, frame, now_s)
        elif due_s < done_s:
            start: Callable[[float], object] = partial(self._start, plan.hedge, plan, frame)
            heapq.heappush(self._late, (due_s, next(self._number), start))

    def _chose(self, kind: BackendKind) -> None:
        self._previous = kind
        self.run.chose(kind)

    def _start(self, kind: BackendKind, plan: Plan, frame: int, at_s: float) -> float:
        """Give the frame to `kind`; when its answer will be there, which may be never."""
        return self._detect(frame, at_s) if kind is _DEVICE else self._upload(plan, frame, at_s)

    def _detect(self, frame: int, at_s: float) -> float:
        done_s = self.run.detect(frame, at_s)
        if done_s is None:
            return math.inf
        self._device_since_s = at_s
        took_s = float(self._environment.device_s[frame])

        def done(_: float) -> None:
            self._device_times.append(took_s)
            self._saw("device", frame)

        self._at(done_s, done)
        return done_s

    def _saw(self, who: str, frame: int) -> None:
        """What is in an answer of ``device`` or ``server``."""
        environment = self._environment
        if self._scene is None or environment.draws is None:
            return
        looked = self._scene.device_looked if who == "device" else self._scene.server_looked
        heights = environment.draws.found(frame, who)
        looked(heights, frame=frame, at_s=frame * environment.interval_s)

    def _upload(self, plan: Plan, frame: int, at_s: float) -> float:
        raw_bits = float(self._environment.raw_bits[frame])
        pictures = self._environment.pictures
        plan = pictures.ladder.limited(plan)
        bits, accuracy = pictures.compressed(
            raw_bits, plan.quality, plan.max_side_px, plan.target_bytes
        )
        upload = self.run.upload(frame, at_s, bits, accuracy)
        size = round(bits / 8)
        self._at(
            at_s + ENCODE_S,
            lambda now_s: self._tell("sent", frame, size, now_s=now_s, probe=plan.probe),
        )
        if math.isfinite(upload.answered_s):
            receive_s = upload.ended_s - upload.began_s if self._receive_times else None
            server_s = float(self._environment.server_s[frame])
            latency_s = upload.answered_s - at_s

            def answered(now_s: float) -> None:
                self._remote_s.observe(latency_s, now_s=now_s)
                self._saw("server", frame)
                facts = {"server_s": server_s, "receive_s": receive_s}
                self._tell("answered", frame, now_s=now_s, **facts)

            self._at(upload.answered_s, answered)
        else:

            def lost(now_s: float) -> None:
                self._remote_s.observe_at_least(now_s - at_s, now_s=now_s)
                self._tell("lost", frame, now_s=now_s)

            self._at(upload.ended_s, lost)
        return upload.answered_s
