"""What several servers behind one address must know together: rates, replays and the history.

A server alone keeps it in its own memory (`LocalState`). In a cluster one process owns it for all
replicas (`hybrid_detect.server.cluster`), so that a caller gets one rate however many replicas
answer it, and a sealed request is answered once whichever replica a copy of it meets.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Protocol

from hybrid_detect.exchange.replays import ReplayGuard
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.rate_limit import RateLimiter
from hybrid_detect.storage.history import DetectionHistory
from hybrid_detect.storage.records import Deleted, StoredResult

__all__ = ["Limit", "LocalState", "ResultHistory", "SharedState", "StateUnavailableError"]

logger = logging.getLogger("hybrid_detect.server")

FAILURES_PER_S = 1.0
FAILURES_AT_ONCE = 20
"""Wrong credentials of one address that are answered with 401. Beyond it 429 tells a misconfigured
client to slow down; guessing is hopeless at any rate. A right credential is let in
all the same, or one could shut out everyone behind the same proxy."""

STEP_S = 1.0
"""A clock set back by more than this is noticed. NTP daemons step a clock that is off by more than
0.128 s (ntpd) or about a second (chrony), and slew it below, which moves both clocks alike."""


class StateUnavailableError(Exception):
    """The owner of the state does not answer, so that it is unknown whether a request came before.

    It may do so soon: Ray starts a new one.
    """


class Limit(StrEnum):
    """What is counted, each apart: pictures must not make probes fail, nor probes pictures."""

    PICTURES = "pictures"
    PROBES = "probes"
    FAILURES = "failures"
    """Wrong credentials."""


class ResultHistory(Protocol):
    """What the server asks of a history; `DetectionHistory` is one. Each call may block."""

    def add(
        self,
        result: Mapping[str, Any],
        *,
        session: str | None = None,
        image: bytes | None = None,
        owner: str = "",
    ) -> int:
        """Keep a result, and return its number."""
        ...

    def results(
        self, session: str, *, owner: str = "", images: bool = True
    ) -> Iterator[StoredResult]:
        """What is kept of a session, the oldest first."""
        ...

    def export_pieces(self, session: str, *, owner: str = "", who: str) -> Iterator[bytes]:
        """A ZIP archive of a session, in pieces."""
        ...

    def erase(self, session: str, *, owner: str = "", who: str) -> Deleted:
        """Delete a session, and return how much that was."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class SharedState(Protocol):
    """The state that all servers behind one address share."""

    async def take(self, limit: Limit, name: str) -> float:
        """Count one against the rate of `name`.

        Returns:
            0 if there was one left, else the seconds until there will be.
        """
        ...

    async def admit(self, nonce: bytes, *, sealed_at_ms: int) -> None:
        """Let an authentic sealed request pass, once.

        Args:
            nonce: The request's nonce.
            sealed_at_ms: When it was sealed, in milliseconds since 1970.

        Raises:
            StaleRequestError: If it was sealed too long ago, or ahead of the clock here.
            ReplayError: If it was admitted before, by any server.
            StateUnavailableError: If that cannot be told now.
        """
        ...

    def open_history(self) -> ResultHistory | None:
        """The history, off the event loop; `None` where nothing is kept.

        Raises:
            StorageError: If it cannot be opened.
        """
        ...


class LocalState:
    """The state in this process, which owns it.

    Args:
        config: Rates, and where the history is.
        clock: Seconds since 1970.
        steady_clock: Seconds that only grow and are never set: tells when `clock` was set back.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        clock: Callable[[], float] = time.time,
        steady_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._clock = clock
        self._steady_clock = steady_clock
        self._offset_s = clock() - steady_clock()
        self._replays = ReplayGuard(started_at_s=clock())

        def limiter(rate_per_s: float, burst: int) -> RateLimiter:
            return RateLimiter(rate_per_s=rate_per_s, burst=burst, clock=steady_clock)

        self._limiters = {
            Limit.PICTURES: limiter(config.rate_per_s, config.burst),
            Limit.PROBES: limiter(config.rate_per_s, config.burst),
            Limit.FAILURES: limiter(FAILURES_PER_S, FAILURES_AT_ONCE),
        }

    async def take(self, limit: Limit, name: str) -> float:
        """Count one against the rate of `name`; see `SharedState.take`."""
        return self._limiters[limit].take(name)

    def take_at_once(self, limit: Limit, name: str) -> float:
        """The same, for what does not wait."""
        return self._limiters[limit].take(name)

    def lease(self, limit: Limit, name: str, most: int) -> tuple[int, float]:
        """Take several at once; see `RateLimiter.lease`."""
        return self._limiters[limit].lease(name, most)

    async def admit(self, nonce: bytes, *, sealed_at_ms: int) -> None:
        """Let a sealed request pass, once; see `SharedState.admit`."""
        self._replays.admit(nonce, sealed_at_ms=sealed_at_ms, now_s=self._noticed_time())

    def open_history(self) -> DetectionHistory | None:
        """Open the history, which deletes what has expired; see `SharedState.open_history`."""
        if self._config.history_path is None:
            return None
        return DetectionHistory(
            self._config.history_path,
            retention_s=self._config.history_retention_s,
            max_bytes=self._config.history_max_bytes,
        )

    def _noticed_time(self) -> float:
        """The clock's time; if it was set back, what was sealed by the wrong time is forgotten."""
        now_s = self._clock()
        offset_s = now_s - self._steady_clock()
        if offset_s < self._offset_s - STEP_S:
            back_s = self._offset_s - offset_s
            logger.warning("the clock was set back by %.0f s: sealed requests start over", back_s)
            self._replays.start_over(now_s=now_s)
        self._offset_s = offset_s
        return now_s
