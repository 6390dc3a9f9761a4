"""Live results for those who watch a session at another replica than the one that looks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from ray.exceptions import RayError

from hybrid_detect.errors import ProtocolError
from hybrid_detect.exchange.wire import ResultReply, decode_reply, encode_reply
from hybrid_detect.server.live import LiveSessions

__all__ = ["LiveRelay"]

logger = logging.getLogger("hybrid_detect.server")

PAUSE_S = 1.0
"""Seconds before the owner is asked again when it did not answer: it is being started anew."""


class LiveRelay:
    """Hands results on, through the owner of the list of replicas.

    Args:
        live: The sessions of this replica.
        owner: The actor.
        name: The replica's.
    """

    def __init__(self, live: LiveSessions, owner: Any, name: str) -> None:
        self._live = live
        self._owner = owner
        self._name = name
        self._wanted: frozenset[tuple[str, str]] = frozenset()
        live.elsewhere = self._hand_on

    def watched(self) -> list[tuple[str, str]]:
        """The sessions that are watched here."""
        return self._live.watched()

    def want(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Hand on the results of these sessions from now on, and of no others."""
        self._wanted = frozenset(wanted)

    def _hand_on(self, owner: str, session: str, reply: ResultReply) -> None:
        if (owner, session) in self._wanted:
            # Not waited for: what is live is of no use later.
            self._owner.show.remote(self._name, owner, session, encode_reply(reply))

    async def run(self) -> None:
        """Show what other replicas hand on, for ever."""
        while True:
            try:
                for owner, session, data in await self._owner.shown.remote(self._name):
                    reply = decode_reply(data)
                    if isinstance(reply, ResultReply):
                        self._live.show(owner, session, reply)
            except (RayError, ProtocolError) as error:
                logger.warning("live results of others are missing: %s", type(error).__name__)
                await asyncio.sleep(PAUSE_S)
