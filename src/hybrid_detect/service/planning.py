"""Observe and decide: the plan of one frame."""

from __future__ import annotations

from collections.abc import Callable

from hybrid_detect.selection.conditions import LinkConditions
from hybrid_detect.selection.policy import Policy
from hybrid_detect.service.backend_set import BackendSet
from hybrid_detect.service.conditions_builder import ConditionsBuilder, FrameContext
from hybrid_detect.service.deciding import Decider
from hybrid_detect.types import Plan

__all__ = ["Planner"]


class Planner:
    """Makes the plans of a service's frames.

    Args:
        policy: Decides.
        backends: Waited for if no other can answer.
        conditions: Says what is known at the moment of deciding.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        backends: BackendSet,
        conditions: ConditionsBuilder,
        clock: Callable[[], float],
    ) -> None:
        self._decider = Decider(policy)
        self._backends = backends
        self._conditions = conditions
        self._clock = clock

    def use(self, policy: Policy) -> None:
        """Have `policy` decide from now on."""
        self._decider = Decider(policy)

    def preview(self, context: FrameContext) -> Plan:
        """The plan that the frame of `context` would get now."""
        return self._decider.decide(self._conditions.build(context))

    def link(self, context: FrameContext) -> LinkConditions | None:
        """What is believed about the path to the server; `None` if nothing is known of one."""
        return self._conditions.build(context).link

    async def plan(self, context: FrameContext) -> Plan:
        """Observe and decide; wait for a backend that is starting if no other can answer."""
        while True:
            plan = await self._decider.plan(self._conditions.build(context))
            if plan.backend is not None or plan.skip:
                return plan
            left_s = context.ends_s - self._clock()
            if not await self._backends.one_may_come(left_s, is_patient=context.is_patient):
                return plan
