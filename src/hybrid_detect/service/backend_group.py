"""Several backends of one kind, such as two clouds of two providers, behind one name.

A plan names a kind. Where a service has several backends of it, they stand in for each other: the
fastest that works gets the frame (`selection.balancing`), and if it fails while time is left, the
next one does. Each has a breaker, a latency estimate and, by its host, a link of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from hybrid_detect.backends.base import Backend, UploadGate
from hybrid_detect.config import DEFAULT_DEADLINE_S
from hybrid_detect.destination import Destination
from hybrid_detect.errors import BackendError, SupersededError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.monitoring.events import BackendEvent
from hybrid_detect.selection.balancing import PeakLatency, pick
from hybrid_detect.selection.conditions import BackendConditions
from hybrid_detect.selection.scene import Recall
from hybrid_detect.service.managed_backend import BackendStatus, ManagedBackend, Unaffordable
from hybrid_detect.types import BackendKind, DetectionResult, Plan

__all__ = ["BackendGroup", "grouped"]

FAILED_S = DEFAULT_DEADLINE_S
"""A failure counts as an answer that came when it was worth nothing any more, however soon."""


def grouped(
    backends: Iterable[Backend],
    *,
    clock: Callable[[], float],
    on_change: Callable[[BackendEvent], None] | None,
    unaffordable: Unaffordable | None = None,
) -> dict[BackendKind, ManagedBackend | BackendGroup]:
    """The `backends` by kind, those of one kind as a group.

    Args:
        backends: The backends of a service, the preferred one of a kind first.
        clock: Monotonic time in seconds.
        on_change: As in `ManagedBackend`.
        unaffordable: Likewise.
    """
    by_kind: dict[BackendKind, list[ManagedBackend]] = {}
    for backend in backends:
        managed = ManagedBackend(
            backend, clock=clock, on_change=on_change, unaffordable=unaffordable
        )
        by_kind.setdefault(backend.kind, []).append(managed)
    return {
        kind: members[0] if len(members) == 1 else BackendGroup(members, clock=clock)
        for kind, members in by_kind.items()
    }


class BackendGroup:
    """Managed backends of one kind, which behave as one.

    Args:
        members: At least one, the preferred one first.
        clock: Monotonic time in seconds.
        choice: Draws one at random.
    """

    def __init__(
        self,
        members: Sequence[ManagedBackend],
        *,
        clock: Callable[[], float],
        choice: Callable[[Sequence[int]], int] = random.choice,
    ) -> None:
        self.kind = members[0].kind
        self._members = tuple(members)
        self._clock = clock
        self._choice = choice
        self._latencies = [PeakLatency() for _ in members]
        self._pending = [0] * len(members)
        self._present: int | None = None
        self.checked = self.settled = _Checked(self._members)

    @property
    def host(self) -> str:
        """The host that the next frame would go to."""
        return self._members[self._preview()].host

    @property
    def recall_by_height(self) -> Recall | None:
        """The share of the faces that the next frame's model finds; `None` if unknown."""
        return self._members[self._preview()].recall_by_height

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """Every destination that a frame may go to."""
        return tuple(each for member in self._members for each in member.destinations)

    @property
    def most_pictures(self) -> int:
        """Pictures that one request of a member may carry, at most."""
        return max(member.most_pictures for member in self._members)

    @property
    def measures_link(self) -> bool:
        """Whether the backend that would get the frame measures its link."""
        return self._members[self._preview()].measures_link

    async def start(self) -> None:
        """Start every backend and the watches over them."""
        for member in self._members:
            await member.start()

    def conditions(self) -> BackendConditions:
        """What a policy may know: the conditions of the backend that would get the frame."""
        known = self._members[self._preview()].conditions()
        if known.usable:
            return known
        reasons = (f"{m.host}: {m.conditions().unavailable_reason}" for m in self._members)
        return replace(known, unavailable_reason="; ".join(reasons))

    def statuses(self) -> tuple[BackendStatus, ...]:
        """The status of each backend."""
        return tuple(member.status() for member in self._members)

    async def detect(self, frame: Frame, plan: Plan, gate: UploadGate) -> DetectionResult:
        """Give the frame to one backend, and to the next if it fails while time is left.

        Args:
            frame: The frame.
            plan: The plan, with what is left of the deadline.
            gate: Asked at each hand-over of bytes to a transport.

        Raises:
            BackendError: The last backend's, if none could answer.
        """
        ends_s = self._clock() + plan.deadline_s
        denied = [
            index
            for index, member in enumerate(self._members)
            if all(gate.denied_reason(destination) for destination in member.destinations)
        ]
        if len(denied) == len(self._members):
            raise gate.refuse(gate.denied_reason(self.destinations[0]))
        tried = list(denied)
        while True:
            index = self._pick(tried)
            self._present = index
            tried.append(index)
            self._pending[index] += 1
            started_s = self._clock()
            try:
                result = await self._members[index].detect(frame, plan, gate)
            except SupersededError:
                raise
            except BackendError as error:
                if error is not gate.refusal:
                    self._latencies[index].observe(FAILED_S, now_s=self._clock())
                left_s = ends_s - self._clock()
                if left_s <= 0 or not self._usable(tried):
                    raise
                plan = replace(plan, deadline_s=left_s)
            else:
                self._latencies[index].observe(self._clock() - started_s, now_s=self._clock())
                return result
            finally:
                self._pending[index] -= 1

    def _usable(self, tried: Sequence[int] = ()) -> list[int]:
        return [
            index
            for index, member in enumerate(self._members)
            if index not in tried and member.conditions().usable
        ]

    def _costs(self, indices: Iterable[int]) -> dict[int, float]:
        now_s = self._clock()
        return {
            index: (self._latencies[index].predict_s(now_s=now_s) or 0.0)
            * (self._pending[index] + 1)
            for index in indices
        }

    def _pick(self, tried: Sequence[int]) -> int:
        usable = self._usable(tried)
        if not usable:  # one that was not tried, and may have the frame, says why it cannot
            preview = self._preview()
            others = (index for index in range(len(self._members)) if index not in tried)
            return next(others, preview) if preview in tried else preview
        return pick(self._costs(usable), present=self._present, choice=self._choice)

    def _preview(self) -> int:
        """The backend that the next frame most likely goes to."""
        usable = self._usable()
        if self._present in usable or not usable:
            return self._present or 0
        costs = self._costs(usable)
        return min(costs, key=lambda index: costs[index])

    def recall(self) -> None:
        """Keep what of given-up frames is still here from leaving."""
        for member in self._members:
            member.recall()

    async def aclose(self) -> None:
        """Stop every watch and backend."""
        await asyncio.gather(*(member.aclose() for member in self._members))


class _Checked:
    """Set once one member is ready, or all have failed to become so."""

    def __init__(self, members: Sequence[ManagedBackend]) -> None:
        self._members = members

    def is_set(self) -> bool:
        """Whether it is."""
        return all(member.checked.is_set() for member in self._members) or any(
            member.checked.is_set() and member.conditions().usable for member in self._members
        )

    async def wait(self) -> None:
        """Return once it is."""
        waits = {asyncio.create_task(member.checked.wait()) for member in self._members}
        try:
            while waits and not self.is_set():
                _, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
