"""Carrying out a plan: one way after the other, two at once, or the server after the device.

Each way gets what is left of the frame's deadline. The first good answer wins.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

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
from hybrid_detect.service.conditions_builder import FrameContext
from hybrid_detect.service.execution import Execution
from hybrid_detect.service.managed_backend import ManagedBackend
from hybrid_detect.types import BackendKind, DetectionResult, Plan

__all__ = ["HedgeCounts", "PlanExecutor"]

logger = logging.getLogger("hybrid_detect")


@dataclass(slots=True)
class HedgeCounts:
    """What looking twice has cost and brought."""

    started: int = 0
    """Frames for which a second way was started while the first was still under way."""
    won: int = 0
    """Of these, how often the second way answered first."""
    denied: int = 0
    """How often the budget refused a second way."""


class PlanExecutor:
    """Carries plans out.

    Args:
        ways: The ways there are.
        missing: Why the others are not there.
        clock: Monotonic time in seconds.
        spawn: Runs a coroutine as a task that somebody else ends if need be.
        why_not_leave: Why a frame of that privacy may not be given to a way now; empty if it may.
    """

    def __init__(
        self,
        backends: Mapping[BackendKind, ManagedBackend],
        missing: Mapping[BackendKind, str],
        *,
        clock: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
        denied_reason: Callable[[BackendKind, FramePrivacy], str],
    ) -> None:
        self._backends = backends
        self._missing = missing
        self._clock = clock
        self._spawn = spawn
        self._why_not_leave = denied_reason
        self._budget = HedgeBudget()
        self._remote: set[asyncio.Timeout] = set()
        self.hedges = HedgeCounts()

    async def execute(self, plan: Plan, frame: Frame, context: FrameContext) -> Execution:
        """Have `frame` looked at as `plan` says, inside its `terms`."""
        execution = Execution()
        self._budget.on_frame()
        kinds = [plan.backend, *plan.fallbacks] if plan.backend else []
        if plan.hedge and plan.hedge in self._backends:
            await self._race(execution, plan, frame, context)
            kinds = [kind for kind in kinds if kind not in {plan.backend, plan.hedge}]
        for kind in kinds:
            if execution.result or execution.superseded:
                break
            reserve_s = 0.0 if execution.failures else plan.reserve_s
            await self._try(execution, kind, plan, frame, context, reserve_s=reserve_s)
        if execution.result and plan.escalation:
            await self._escalate(execution, plan, frame, context)
        return execution

    async def _try(
        self,
        execution: Execution,
        kind: BackendKind,
        plan: Plan,
        frame: Frame,
        context: FrameContext,
        *,
        reserve_s: float = 0.0,
    ) -> None:
        try:
            execution.result = await self._detect(kind, plan, frame, context, reserve_s=reserve_s)
        except SupersededError as error:
            execution.superseded = error
        except BackendError as error:
            # Its traceback would keep the frame alive for as long as the result is kept.
            execution.failures.append(error.with_traceback(None))

    async def _detect(
        self,
        kind: BackendKind,
        plan: Plan,
        frame: Frame,
        context: FrameContext,
        *,
        reserve_s: float = 0.0,
    ) -> DetectionResult:
        backend = self._backends.get(kind)
        if backend is None:  # the policy asked for what is not there
            why = self._missing.get(kind, "this service has no such way")
            raise BackendUnavailableError(why, backend=kind.value)
        # Asked again: a consent may have been withdrawn since the plan was made.
        if why := self._why_not_leave(kind, context.privacy):
            raise BackendUnavailableError(why, backend=kind.value)
        left_s = context.ends_s - reserve_s - self._clock()
        if left_s <= 0:
            msg = "no time was left for it"
            raise BackendTimeoutError(msg, backend=kind.value)
        plan = replace(plan, backend=kind, deadline_s=left_s)
        if kind is BackendKind.DEVICE:
            return await backend.detect(frame, plan)
        try:
            async with asyncio.timeout(None) as scope:
                self._remote.add(scope)
                try:
                    return await backend.detect(frame, plan)
                finally:
                    self._remote.discard(scope)
        except TimeoutError:
            if not scope.expired():
                raise
            why = self._why_not_leave(kind, context.privacy) or "frames may not leave any more"
            raise BackendUnavailableError(why, backend=kind.value) from None

    def recall(self) -> None:
        """Give up every remote attempt under way: what has not left yet does not leave."""
        now_s = asyncio.get_running_loop().time()
        for scope in tuple(self._remote):
            scope.reschedule(now_s)
        for backend in self._backends.values():
            backend.recall()

    async def _race(
        self, execution: Execution, plan: Plan, frame: Frame, context: FrameContext
    ) -> None:
        """The first way, and the hedge from `hedge_after_s` on; the first good answer wins."""
        first, second = plan.backend, plan.hedge
        assert first is not None and second is not None  # noqa: S101, PT018 - asked by the caller
        began_s = self._clock()
        tasks = [self._spawn(self._detect(first, plan, frame, context))]
        unseen = set(tasks)
        granted = False
        try:
            await asyncio.wait(tasks, timeout=plan.hedge_after_s)
            if not tasks[0].done():
                granted = self._may_hedge(plan)
                if not granted:  # as a fallback then, when there is just time enough for it
                    left_s = context.ends_s - plan.reserve_s - self._clock()
                    await asyncio.wait(tasks, timeout=max(left_s, 0.0))
            if not tasks[0].done():
                tasks.append(self._spawn(self._detect(second, plan, frame, context)))
                unseen.add(tasks[1])
                after_ms = (self._clock() - began_s) * 1000
                execution.notes.append(f"{second.value} started as well after {after_ms:.0f} ms")
            pending = set(tasks)
            while pending and execution.result is None:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=tasks.index):
                    if execution.result is None:
                        unseen.discard(task)
                        self._take(task, execution)
        finally:
            for task in unseen:
                # A probe goes on: what it tells of the link is what it was sent for.
                if not (plan.probe and task is tasks[0] and execution.result):
                    task.cancel()
                task.add_done_callback(_see)
        if execution.result:
            execution.superseded = None
            self.hedges.won += granted and not plan.probe and execution.result.backend is second
        elif len(tasks) == 1 and not execution.superseded:
            await self._try(execution, second, plan, frame, context)

    def _may_hedge(self, plan: Plan) -> bool:
        if plan.probe:
            return True
        granted = self._budget.take()
        self.hedges.started += granted
        self.hedges.denied += not granted
        return granted

    def _take(self, task: asyncio.Task[DetectionResult], execution: Execution) -> None:
        """Put what a finished attempt brought into `outcome`."""
        error = task.exception()
        if error is None:
            execution.result = task.result()
        elif isinstance(error, SupersededError):
            execution.superseded = error
        elif isinstance(error, BackendError):
            execution.failures.append(error.with_traceback(None))
        else:
            raise error

    async def _escalate(
        self, execution: Execution, plan: Plan, frame: Frame, context: FrameContext
    ) -> None:
        """Ask the server as well where the device's answer is not to be relied on."""
        assert execution.result is not None and plan.escalation is not None  # noqa: S101, PT018 - asked by the caller
        seen = execution.result
        why = why_unsure(seen)
        if not why or seen.backend is plan.escalation or not self._is_usable(plan.escalation):
            return
        execution.notes.append(f"{plan.escalation.value} was asked as well, because {why}")
        execution.result = None
        await self._try(execution, plan.escalation, plan, frame, context)
        if execution.result is None:
            execution.result, execution.superseded = seen, None

    def _is_usable(self, kind: BackendKind) -> bool:
        backend = self._backends.get(kind)
        return backend is not None and backend.conditions().usable


def _see(task: asyncio.Task[DetectionResult]) -> None:
    """Look at what became of a loser, which nobody else does."""
    if task.cancelled() or isinstance(error := task.exception(), HybridDetectError | None):
        return
    logger.error("a way that nobody waited for any more has a bug", exc_info=error)
