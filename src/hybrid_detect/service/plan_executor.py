"""Carrying out a plan: one backend after the other, two at once, or the server after the device.

Each backend gets what is left of the frame's deadline. The first good answer wins.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Container, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hybrid_detect.backends.base import Charge, UploadGate
from hybrid_detect.destination import Destination
from hybrid_detect.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    HybridDetectError,
    SupersededError,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.privacy.privacy_policy import FramePrivacy
from hybrid_detect.selection.escalation import why_unsure
from hybrid_detect.selection.hedging import HedgeBudget
from hybrid_detect.service.backend_group import BackendGroup
from hybrid_detect.service.execution import Execution, RunningAttempt
from hybrid_detect.service.managed_backend import ManagedBackend
from hybrid_detect.service.scene_looks import look
from hybrid_detect.types import BackendKind, Plan

__all__ = ["HedgeCounts", "PlanExecutor"]

logger = logging.getLogger("hybrid_detect")


@dataclass(slots=True)
class HedgeCounts:
    """What asking two backends at once has cost and brought."""

    started: int = 0
    """Frames for which a second backend was started while the first was still under way."""
    won: int = 0
    """Of these, how often the second backend answered first."""
    denied: int = 0
    """How often the budget refused a second backend."""


class PlanExecutor:
    """Carries plans out.

    Args:
        backends: The backends by kind.
        missing: Why the other kinds are missing.
        clock: Monotonic time in seconds.
        spawn: Runs a coroutine as a task that its owner cancels when the service closes.
        denied_reason: Why a frame of that privacy may not be given to a backend now, or to that
            destination of it; empty if it may.
        consent_left_s: Seconds until the consent that lets frames leave expires.
        charge: Puts the price on each request that leaves, and refuses it if the budget is spent.
        in_use: A block in which a plan is carried out, and its backends stay open.
    """

    def __init__(
        self,
        backends: Mapping[BackendKind, ManagedBackend | BackendGroup],
        missing: Mapping[BackendKind, str],
        *,
        clock: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
        denied_reason: Callable[[BackendKind, FramePrivacy, Destination | None], str],
        consent_left_s: Callable[[], float] = lambda: math.inf,
        charge: Charge | None = None,
        in_use: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._backends = backends
        self._missing = missing
        self._clock = clock
        self._spawn = spawn
        self._denied_reason = denied_reason
        self._consent_left_s = consent_left_s
        self._charge = charge
        self._in_use = in_use
        self._budget = HedgeBudget()
        self._remote: set[_Recallable] = set()
        self.hedges = HedgeCounts()

    async def execute(self, execution: Execution) -> None:
        """Have the frame of `execution` looked at as its plan says.

        The attempts and the answer are recorded in `execution`, so that a caller that is
        cancelled still knows of them.
        """
        plan = execution.plan
        if plan is None or plan.backend is None:
            return
        with self._in_use():
            self._budget.on_frame()
            kinds = [plan.backend, *plan.fallbacks]
            if plan.hedge and plan.hedge in self._backends:
                await self._race(execution, plan)
                kinds = [kind for kind in kinds if kind not in {plan.backend, plan.hedge}]
            for kind in kinds:
                if execution.result or execution.superseded:
                    break
                reserve_s = 0.0 if execution.failures else plan.reserve_s
                role = "fallback" if execution.attempts else "first"
                execution.take(await self._ask(kind, execution, role, reserve_s=reserve_s))
            if execution.result and plan.escalation:
                await self._escalate(execution, plan.escalation)

    async def _ask(
        self,
        kind: BackendKind,
        execution: Execution,
        role: str,
        *,
        reserve_s: float = 0.0,
    ) -> RunningAttempt:
        """Ask one backend; its answer or its error.

        Args:
            kind: Which backend.
            execution: The frame.
            role: What the attempt is, for the frame's trace.
            reserve_s: Seconds of the deadline that it does not get.
        """
        span = execution.span.child(
            f"attempt {kind.value}",
            {"hybrid_detect.backend": kind.value, "hybrid_detect.role": role},
        )
        denied_reason = partial(self._denied_reason, kind, execution.context.privacy)
        gate = UploadGate(kind, denied_reason, charge=self._charge, span=span)
        attempt = RunningAttempt(gate, self._clock())
        execution.attempts.append(attempt)
        with span:
            try:
                backend, plan, frame = self._checked(kind, execution, reserve_s=reserve_s)
                if kind is BackendKind.DEVICE:
                    attempt.result = await backend.detect(frame, plan, gate)
                else:
                    with _Recallable(self._remote, gate), self._recalled_at_expiry(plan.deadline_s):
                        attempt.result = await backend.detect(frame, plan, gate)
            except BackendError as error:
                # Its traceback would keep the frame alive for as long as the result is kept.
                attempt.error = error.with_traceback(None)
                if not isinstance(error, SupersededError):
                    span.end(error=type(error).__name__)
            finally:
                attempt.ended_s = self._clock()
        if attempt.result and execution.context.scene and execution.frame:
            captured_s = attempt.ended_s - execution.frame.age_s()
            look(execution.context.scene, attempt.result, at_s=captured_s)
        return attempt

    def _checked(
        self, kind: BackendKind, execution: Execution, *, reserve_s: float
    ) -> tuple[ManagedBackend | BackendGroup, Plan, Frame]:
        """What to ask `kind`, if it may be asked now."""
        backend = self._backends.get(kind)
        if backend is None:  # the policy asked for a kind that is missing
            reason = self._missing.get(kind, "this service has no such backend")
            raise BackendUnavailableError(reason, backend=kind.value)
        # Asked again: a consent may have been withdrawn since the plan was made.
        if reason := self._denied_reason(kind, execution.context.privacy, None):
            raise BackendUnavailableError(reason, backend=kind.value)
        left_s = execution.context.ends_s - reserve_s - self._clock()
        if left_s <= 0:
            msg = "no time was left for it"
            raise BackendTimeoutError(msg, backend=kind.value)
        assert execution.plan is not None and execution.frame is not None  # noqa: S101, PT018 - set by the caller
        return backend, replace(execution.plan, backend=kind, deadline_s=left_s), execution.frame

    @contextmanager
    def _recalled_at_expiry(self, deadline_s: float) -> Iterator[None]:
        """Recall frames when their consent expires, if that is within `deadline_s` seconds."""
        left_s = self._consent_left_s()
        if left_s > deadline_s:
            yield
            return
        timer = asyncio.get_running_loop().call_later(max(left_s, 0.0), self.recall)
        try:
            yield
        finally:
            timer.cancel()

    def recall(self, *, denied: Container[BackendKind] | None = None) -> None:
        """Give up remote attempts under way: bytes that have not left yet do not leave.

        It takes effect before it returns. Call it in the event loop's thread.

        Args:
            denied: Only attempts of these kinds, and those that may not go anywhere any more;
                `None` for all.
        """
        for attempt in tuple(self._remote):
            if denied is None or attempt.kind in denied or attempt.is_denied():
                attempt.recall()
        for backend in self._backends.values():
            backend.recall()

    async def _race(self, execution: Execution, plan: Plan) -> None:
        """The first backend, and the hedge after `hedge_after_s`; the first good answer wins."""
        first, second = plan.backend, plan.hedge
        assert first is not None and second is not None  # noqa: S101, PT018 - asked by the caller
        began_s = self._clock()
        role = "probe" if plan.probe else "first"
        tasks = [self._spawn(self._ask(first, execution, role))]
        unseen = set(tasks)
        granted = False
        try:
            await asyncio.wait(tasks, timeout=plan.hedge_after_s)
            if not tasks[0].done():
                granted = self._may_hedge(plan)
                if not granted:  # as a fallback then, when there is just time enough for it
                    left_s = execution.context.ends_s - plan.reserve_s - self._clock()
                    await asyncio.wait(tasks, timeout=max(left_s, 0.0))
            if not tasks[0].done():
                role = "hedge" if granted else "fallback"
                tasks.append(self._spawn(self._ask(second, execution, role)))
                unseen.add(tasks[1])
                after_ms = (self._clock() - began_s) * 1000
                execution.notes.append(f"{second.value} started as well after {after_ms:.0f} ms")
            pending = set(tasks)
            while pending and execution.result is None:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=tasks.index):
                    if execution.result is None:
                        unseen.discard(task)
                        execution.take(task.result())  # raises its bug
                    elif task.exception() is None and task.result().error is not None:
                        execution.take(task.result())  # failed before the answer came
        finally:
            for task in unseen:
                # A probe goes on: it was sent to learn about the link.
                if plan.probe and task is tasks[0] and execution.result:
                    execution.probing = task
                else:
                    task.cancel()
                task.add_done_callback(_report_bug)
        if execution.result:
            execution.superseded = None
            self.hedges.won += granted and not plan.probe and execution.result.backend is second
        elif len(tasks) == 1 and not execution.superseded:
            execution.take(await self._ask(second, execution, "fallback"))

    def _may_hedge(self, plan: Plan) -> bool:
        if plan.probe:
            return True
        granted = self._budget.take()
        self.hedges.started += granted
        self.hedges.denied += not granted
        return granted

    async def _escalate(self, execution: Execution, kind: BackendKind) -> None:
        """Ask the server as well where the device's answer is not to be relied on."""
        answer = execution.result
        assert answer is not None  # noqa: S101 - asked by the caller
        reason = why_unsure(answer)
        if not reason or answer.backend is kind or not self._is_usable(kind):
            return
        execution.notes.append(f"{kind.value} was asked as well, because {reason}")
        execution.result = None
        execution.take(await self._ask(kind, execution, "escalation"))
        if execution.result is None:
            execution.result, execution.superseded = answer, None

    def _is_usable(self, kind: BackendKind) -> bool:
        backend = self._backends.get(kind)
        return backend is not None and backend.conditions().usable


class _Recallable:
    """A block of one task that `recall` cancels at once, and that then fails as unavailable.

    `asyncio.timeout` would cancel it two turns of the loop later, in which bytes may leave.
    """

    def __init__(self, running: set[_Recallable], gate: UploadGate) -> None:
        self._running = running
        self._gate = gate
        self._task = asyncio.current_task()
        self._is_recalled = False
        self._cancelling = 0

    @property
    def kind(self) -> BackendKind:
        """The backend that the block asks."""
        return self._gate.backend

    def is_denied(self) -> bool:
        """Whether its frame may not be given to any destination of the backend now."""
        return bool(self._gate.denied_reason(None))

    def recall(self) -> None:
        """Cancel the block, unless it is what calls this: then its gate is asked next."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._is_recalled = True
            self._task.cancel()

    def __enter__(self) -> None:
        self._running.add(self)
        if self._task is not None:
            self._cancelling = self._task.cancelling()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: object
    ) -> None:
        self._running.discard(self)
        if not self._is_recalled or self._task is None:
            return
        others = self._task.uncancel() - self._cancelling
        if exc_type is asyncio.CancelledError and others <= 0:
            reason = self._gate.denied_reason(None) or "frames may not leave any more"
            raise BackendUnavailableError(reason, backend=self._gate.backend.value) from None


def _report_bug(task: asyncio.Task[RunningAttempt]) -> None:
    """Log the bug of an attempt that no caller waits for any more."""
    if task.cancelled() or isinstance(error := task.exception(), HybridDetectError | None):
        return
    logger.error("a backend whose answer was not needed any more has a bug", exc_info=error)
