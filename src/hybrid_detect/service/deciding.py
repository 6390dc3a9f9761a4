"""Decisions on the event loop: there a policy only looks up what a thread has solved."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.selection.lookahead import Lookahead
from hybrid_detect.selection.policy import Policy
from hybrid_detect.sources.daemon_threads import in_daemon_thread
from hybrid_detect.types import Plan

__all__ = ["Decider"]

SOLVING_LIMIT_S = 0.02
"""How long a frame waits for its state to be solved, which takes about a millisecond. Past it
(a busy machine) the frame is decided by the last state like it. A fifth of a frame at 10 fps."""


class Decider:
    """Asks a policy, and has what it cannot look up solved in a thread first.

    Args:
        policy: Decides. If it has ``unsolved(conditions)`` and a `Lookahead` called ``lookahead``,
            as `AutoPolicy` does, the look-ahead no longer solves at once.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._unsolved = getattr(policy, "unsolved", None)
        if isinstance(lookahead := getattr(policy, "lookahead", None), Lookahead):
            lookahead.solves_at_once = False

    def decide(self, conditions: Conditions) -> Plan:
        """The plan, by what is solved now."""
        return self._policy.decide(conditions)

    async def plan(self, conditions: Conditions) -> Plan:
        """The plan; waits a little for what it has to look up."""
        solve = self._unsolved(conditions) if self._unsolved else None
        if solve is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(SOLVING_LIMIT_S):
                    await in_daemon_thread(solve)
        return self._policy.decide(conditions)
