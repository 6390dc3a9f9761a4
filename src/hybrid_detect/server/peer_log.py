"""Log lines about strangers: one for each peer and minute, with a count, and never a flood.

What a stranger can cause a thousand times a second must not be a thousand lines: they fill the
disk, cost the server time, and hide what matters.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from hybrid_detect.server.rate_limit import RateLimiter

__all__ = ["PeerLog"]

EVERY_S = 60.0
"""Seconds between two lines about the same peer and event."""

LINES_PER_S = 0.5
LINES_AT_ONCE = 20
"""Of all peers together: a thousand addresses would else be a thousand lines."""

MAX_PEERS = 10_000
"""Peers remembered at the same time, about 2 MiB. The one that was told of first is forgotten."""


@dataclass(slots=True)
class _Told:
    at_s: float
    more: int = 0
    """Events since then that no line tells of."""


class PeerLog:
    """Warns of events that peers cause.

    Args:
        logger: Where the lines go.
        clock: Seconds that only grow.
    """

    def __init__(
        self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._told: OrderedDict[tuple[str, str], _Told] = OrderedDict()  # the earliest first
        self._lines = RateLimiter(rate_per_s=LINES_PER_S, burst=LINES_AT_ONCE, clock=clock)
        self._left_out = 0

    def note(self, event: str, peer: str) -> None:
        """Tell that `event` (``"a wrong credential"``) came from `peer`, or count it."""
        now_s = self._clock()
        self._tell_of_the_past(now_s - EVERY_S)
        told = self._told.get((event, peer))
        if told is not None:
            told.more += 1
            return
        self._told[event, peer] = _Told(now_s)
        if len(self._told) > MAX_PEERS:
            self._tell(*self._told.popitem(last=False))
        self._line(f"{event} came from {peer}", 1)

    def flush(self) -> None:
        """Tell of everything that has only been counted."""
        self._tell_of_the_past(float("inf"))
        if self._left_out:
            self._logger.warning("%d more events of other peers are not listed", self._left_out)
            self._left_out = 0

    def _tell_of_the_past(self, until_s: float) -> None:
        while self._told:
            key, told = next(iter(self._told.items()))
            if told.at_s > until_s:
                return
            del self._told[key]
            self._tell(key, told)

    def _tell(self, key: tuple[str, str], told: _Told) -> None:
        if told.more:
            event, peer = key
            self._line(f"{event} came from {peer}: {told.more} more times in a minute", told.more)

    def _line(self, text: str, events: int) -> None:
        if self._lines.take(""):
            self._left_out += events
            return
        left_out, self._left_out = self._left_out, 0
        more = f" ({left_out} events of other peers are not listed)" if left_out else ""
        self._logger.warning("%s%s", text, more)
