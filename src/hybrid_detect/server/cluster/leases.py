"""Parts of callers' rates that a replica may spend without asking their owner for each picture.

A replica asks for as many as the caller has used here within the last second. So a caller costs the
owner about one call a second and replica, however many pictures it sends.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Lease", "Leases"]

LEASE_LIMIT_S = 1.0
"""How long what was not used may still be. What is left then is lost to the caller, who gets that
much back in a moment: it is no more than it used in a second."""

MAX_LEASED = 64
"""At once; the default burst is 60, of which half is never given ahead."""

MAX_LEASES = 10_000
"""Callers remembered at the same time, as by `RateLimiter`."""


class Lease:
    """What one caller may still be given here.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = self._spent = 0
        self._began_s = clock()

    @property
    def wanted(self) -> int:
        """How many to ask for."""
        return max(1, min(self._spent, MAX_LEASED))

    def spend(self) -> bool:
        """Use one; returns whether there was one."""
        now_s = self._clock()
        if now_s - self._began_s >= LEASE_LIMIT_S:
            # Of a time longer ago nothing is known but that it was less.
            is_recent = now_s - self._began_s < 2 * LEASE_LIMIT_S
            self._left, self._spent = 0, self._spent if is_recent else 0
            self._began_s = now_s
            return False
        if not self._left:
            return False
        self._left -= 1
        self._spent += 1
        return True

    def add(self, given: int) -> None:
        """Have so many more to use."""
        self._left += given


class Leases:
    """The leases of the callers that came last.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], Lease] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, limit: str, name: str) -> Lease:
        """The lease of a caller, by the kind of limit and the caller's name."""
        key = limit, name
        lease = self._known.get(key)
        if lease is None:
            lease = self._known[key] = Lease(self._clock)
        self._known.move_to_end(key)
        if len(self._known) > MAX_LEASES:
            self._known.popitem(last=False)
        return lease
