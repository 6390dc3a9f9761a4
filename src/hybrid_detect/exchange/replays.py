"""Which sealed requests a server has seen: it answers none twice, and none late."""

from __future__ import annotations

import heapq

from hybrid_detect.errors import ReplayError, StaleRequestError

__all__ = ["ReplayGuard"]

WINDOW_S = 30.0
"""A frame lives for a second and clocks kept by NTP agree to less; the rest is for phones whose
clock is some seconds off. A longer window only means more nonces to remember."""

MAX_NONCES = 100_000
"""A thousand pictures a second for the 60 s in which one could come again; 20 MB at most."""


class ReplayGuard:
    """Refuses requests outside a window of time, and nonces it has seen inside it.

    Nonces are forgotten when their request is too old to be admitted anyway. When there are too
    many, the oldest are forgotten early, and what is as old as they is refused instead: memory
    is bounded, and nothing is ever answered twice.

    Args:
        started_at_s: When it began to remember, in seconds since 1970. What was sealed before is
            refused, because it may have been answered before a restart.
        window_s: Seconds a request may be old, or its clock ahead.
        max_nonces: Nonces to remember.
    """

    def __init__(
        self,
        *,
        started_at_s: float,
        window_s: float = WINDOW_S,
        max_nonces: int = MAX_NONCES,
    ) -> None:
        self._floor_ms = int(started_at_s * 1000)
        self._window_ms = int(window_s * 1000)
        self._max_nonces = max_nonces
        self._by_age: list[tuple[int, bytes]] = []
        self._nonces: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._nonces)

    def start_over(self, *, now_s: float) -> None:
        """Begin anew at `now_s`, because the clock was set back to it.

        Otherwise everything sealed by the right time would be refused until the wrong one has
        come. As at the start, what was sealed before `now_s` is refused, because it may have been
        answered. The nonces that are remembered stay so.
        """
        self._floor_ms = min(self._floor_ms, int(now_s * 1000))

    def admit(self, nonce: bytes, *, sealed_at_ms: int, now_s: float) -> None:
        """Let an authentic request pass, once.

        Call it after opening, when nonce and time are known to be the sender's own.

        Args:
            nonce: The request's nonce.
            sealed_at_ms: When it was sealed by its sender's clock, milliseconds since 1970.
            now_s: The time here, seconds since 1970.

        Raises:
            StaleRequestError: If it was sealed outside the window.
            ReplayError: If it was admitted before.
        """
        now_ms = int(now_s * 1000)
        if sealed_at_ms > now_ms + self._window_ms:
            msg = f"sealed {(sealed_at_ms - now_ms) / 1000:.0f} s ahead of the server's clock"
            raise StaleRequestError(msg)
        self._floor_ms = max(self._floor_ms, now_ms - self._window_ms)
        if sealed_at_ms < self._floor_ms:
            msg = f"sealed {(now_ms - sealed_at_ms) / 1000:.0f} s ago, or before the server started"
            raise StaleRequestError(msg)
        if nonce in self._nonces:
            msg = "this sealed request has come before"
            raise ReplayError(msg)
        self._nonces.add(nonce)
        heapq.heappush(self._by_age, (sealed_at_ms, nonce))
        while self._by_age[0][0] < self._floor_ms or len(self._by_age) > self._max_nonces:
            oldest_ms, oldest = heapq.heappop(self._by_age)
            self._nonces.discard(oldest)
            self._floor_ms = max(self._floor_ms, oldest_ms + 1)
            if not self._by_age:
                break
