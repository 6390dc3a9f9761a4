"""The policy of `DetectionMode.AUTO`: the backend of the highest expected worth, frame by frame.

Hard rules come first: a backend that is not usable (its breaker is open, consent or privacy forbid
it, memory is short, its extra is missing) does not take part. Among the others the expected worth
decides: the predicted chance of being in time, accuracy, bytes, energy and the cost of switching,
for this frame and, because a frame in the queue delays the next, for those after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from hybrid_detect.selection.conditions import (
    BackendConditions,
    Conditions,
    LinkConditions,
)
from hybrid_detect.selection.lookahead import DecisionState, Lookahead
from hybrid_detect.selection.policy import RETRIES_ALONE, ModePolicy, fallback_reserve_s, why_out
from hybrid_detect.selection.reasons import prediction, queue, sight
from hybrid_detect.selection.states import States, device_s
from hybrid_detect.selection.utility import (
    Utility,
    device_accuracy,
)
from hybrid_detect.types import DEFAULT_TARGET_BYTES, BackendKind, DetectionMode, Plan

__all__ = ["AutoPolicy"]

_REMOTE = (BackendKind.STREAMING, BackendKind.CLOUD)
"""The stream first: it costs no handshake and no headers, and its pings measure the link."""

MAX_IN_FLIGHT = 3
"""Frames under way on the link: a fourth would be late in any case."""

LEAST_GAIN = 0.02
"""What a frame on the server has to be worth more than one on the device for probes to be sent:
half of what 80 KB cost."""


class _Weighing(NamedTuple):
    """What is weighed for one frame."""

    conditions: Conditions
    link: LinkConditions
    remotes: list[BackendConditions]
    device: BackendConditions | None
    state: DecisionState


class _Last:
    """The last weighing: `AutoPolicy.unsolved` and `decide` are asked about the same frame."""

    __slots__ = ("weighing",)

    def __init__(self) -> None:
        self.weighing: _Weighing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoPolicy:
    """Takes the choice of the highest expected worth.

    Args:
        utility: What answers are worth and what they cost.
        target_bytes: The most a picture may weigh.
        quality: The highest JPEG quality worth sending; a cap on the ladder's own.
        max_side_px: The longest side worth sending, likewise.
        lookahead: The solved states. By default a state is solved when it is first met; a
            `HybridDetectionService` has its own solved in a thread.
    """

    utility: Utility = field(default_factory=Utility)
    target_bytes: int = DEFAULT_TARGET_BYTES
    quality: int = 80
    max_side_px: int | None = 1280
    lookahead: Lookahead = field(default_factory=Lookahead, repr=False, compare=False)
    _states: States = field(init=False, repr=False, compare=False)
    _last: _Last = field(default_factory=_Last, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_states", States(self.utility, self.target_bytes))

    def decide(self, conditions: Conditions) -> Plan:
        """The plan for a frame under `conditions`."""
        weighing = self._weighing(conditions)
        if weighing is None:
            return self._in_order(conditions)
        return self._weighed(weighing)

    def unsolved(self, conditions: Conditions) -> Callable[[], None] | None:
        """What has to run, in any thread, before `decide` can look these conditions up.

        It takes some milliseconds. `None` if nothing has to, or if it is running already.
        """
        weighing = self._weighing(conditions)
        return None if weighing is None else self.lookahead.unsolved(weighing.state)

    def _weighing(self, conditions: Conditions) -> _Weighing | None:
        """What is to weigh; `None` for one backend only, or if nothing is known of the link."""
        last = self._last.weighing
        if last is not None and last.conditions is conditions:
            return last
        usable = {backend.kind: backend for backend in conditions.backends if backend.usable}
        device = usable.get(BackendKind.DEVICE)
        remotes = [usable[kind] for kind in _REMOTE if kind in usable]
        if not remotes or (conditions.spent >= 1.0 and device):
            return None
        link = remotes[0].link or conditions.link
        if link is None:
            return None
        state = self._states.of(conditions, link, remotes[0], device)
        weighing = _Weighing(conditions, link, remotes, device, state)
        self._last.weighing = weighing
        return weighing

    def _in_order(self, conditions: Conditions) -> Plan:
        """The first backend in time: there is one only, or nothing is known of the link yet."""
        order = ModePolicy(
            mode=DetectionMode.AUTO,
            target_bytes=self.target_bytes,
            quality=self.quality,
            max_side_px=self.max_side_px,
        )
        return order.decide(conditions)

    def _weighed(self, weighing: _Weighing) -> Plan:
        conditions, link, remotes, device, state = weighing
        remote = remotes[0]
        choice = self.lookahead.choice(
            state,
            backlog_s=link.backlog_s,
            busy_s=device.busy_s if device else 0.0,
            remote_last=conditions.previous is not BackendKind.DEVICE,
            must_answer=conditions.must_answer,
        )
        if choice is None:
            return self._in_order(conditions)
        known = None if device else conditions.backend(BackendKind.DEVICE)
        out = f"; {why_out(known)}" if known else ""
        seen = f"; {sight(conditions.scene)}" if device and conditions.scene else ""
        rung, with_device = choice.rung, choice.device
        if rung is not None and link.in_flight >= MAX_IN_FLIGHT and not conditions.must_answer:
            rung, with_device = None, device is not None and device.busy_s <= 0
        scene = conditions.scene
        probe = (
            rung is None and link.probe_due and self._would_teach(conditions, link, remote, device)
        )
        if probe:
            rung = len(remote.ladder.rungs) - 1
        elif rung is not None and scene and scene.device_look_due and self._may_win(state, device):
            # Both look, and the frame counts as the device's: it may see as much.
            probe = with_device = True
        if rung is None and not with_device:
            return Plan(
                backend=None,
                skip=True,
                deadline_s=conditions.deadline_s,
                reason=f"auto: left out, {queue(link, device)}{out}",
            )
        if rung is None:
            assert device is not None  # noqa: S101 - the choice was to use it
            return Plan(
                backend=BackendKind.DEVICE,
                fallbacks=tuple(backend.kind for backend in remotes),
                deadline_s=conditions.deadline_s,
                reserve_s=fallback_reserve_s(remotes, conditions.deadline_s),
                retries=0,
                target_bytes=self.target_bytes,
                reason=f"auto: device, {prediction(choice, link)}{seen}",
            )
        step = remote.ladder.rungs[rung]
        others = tuple(backend.kind for backend in remotes[1:])
        spare = (BackendKind.DEVICE, *others) if device else others
        what = "probe" if probe else f"{step.max_side_px} px q{step.quality}"
        reserve_s = fallback_reserve_s([device] if device else remotes[1:], conditions.deadline_s)
        # A deadline may leave less than the time in which an answer is worth everything.
        latest_s = max(conditions.deadline_s - reserve_s, 0.0)
        # The answer counts from the capture, and some time has passed since.
        hedge_after_s = min(max(choice.hedge_after_s - conditions.age_s, 0.0), latest_s)
        if probe or not with_device:
            hedge_after_s = 0.0  # a probe's frame is the device's
        hedged = f", device after {hedge_after_s * 1000:.0f} ms" if with_device else ""
        return Plan(
            backend=remote.kind,
            fallbacks=spare,
            deadline_s=conditions.deadline_s,
            reserve_s=reserve_s,
            retries=0 if spare else RETRIES_ALONE,
            target_bytes=remote.ladder.bytes_within(self.target_bytes),
            quality=min(step.quality, self.quality),
            max_side_px=min(step.max_side_px, self.max_side_px or step.max_side_px),
            hedge=BackendKind.DEVICE if with_device else None,
            hedge_after_s=hedge_after_s,
            probe=probe,
            reason=f"auto: {remote.kind.value} {what}{hedged}, {prediction(choice, link)}"
            f"{seen}{out}",
        )

    def _may_win(self, state: DecisionState, device: BackendConditions | None) -> bool:
        """Whether the device could be worth more, if it saw all faces, than a server that is quick.

        Else what it sees is of no use: it would not change the choice.
        """
        if device is None or device.busy_s > 0.0 or state.device_s > self.utility.on_time_s:
            return False
        sending = zip(state.accuracies, state.frame_cost, strict=True)
        return 1.0 - state.device_cost > max(worth - cost for worth, cost in sending)

    def _would_teach(
        self,
        conditions: Conditions,
        link: LinkConditions,
        remote: BackendConditions,
        device: BackendConditions | None,
    ) -> bool:
        """Whether a probe is worth its bytes: it may show more faces, or a link that carries more.

        The latter if a frame sent over the best of links would be worth more than the device's.
        """
        if device is None or (conditions.scene and conditions.scene.server_look_due):
            return True
        most_bytes = remote.ladder.bytes_within(self.target_bytes)
        per_bit, per_frame = self._states.prices(conditions, link.medium, conditions.interval_s)
        best = remote.accuracy - 8.0 * per_bit * most_bytes - per_frame
        late_s = max(device_s(device) - self.utility.on_time_s, 0.0)
        worth = device_accuracy(device, conditions.scene) * math.exp(-late_s / self.utility.decay_s)
        return best > worth - device.cost * self._states.energy_factor(conditions) + LEAST_GAIN
