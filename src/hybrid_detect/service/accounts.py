"""The service's money: its ledger, and the file that keeps what was spent.

Rows go to the file about once a second, in a thread; the same step reads what others have added, so
that processes which share the file see one budget. What a service that was never closed has not
written is written when the program ends. A killed process loses it: the frames that ended since the
last exchange, and those under way.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import time as wall_clock

from hybrid_detect.charges import CostRow
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import ClosedError, StorageError
from hybrid_detect.monitoring.costs import CostMeter
from hybrid_detect.monitoring.hooks import Hook
from hybrid_detect.monitoring.periods import Period, hour_of
from hybrid_detect.monitoring.prices import PriceTable
from hybrid_detect.monitoring.usage_meter import UsageMeter
from hybrid_detect.service.ledger import Ledger, Totals
from hybrid_detect.sources.daemon_threads import in_daemon_thread
from hybrid_detect.storage.cost_store import CostStore

__all__ = ["EXCHANGE_S", "Accounts"]

logger = logging.getLogger("hybrid_detect.costs")

EXCHANGE_S = 1.0
"""Seconds between two exchanges with the file: what a killed process may fail to write, and for how
long processes that share a budget may not know of each other's spending."""

CLOSE_S = 5.0
"""Seconds that closing waits for the file: as long as SQLite waits for another writer."""


class Accounts:
    """Holds the ledger of one service and keeps what it spent.

    Args:
        config: Has the budgets and the file.
        prices: Prices by volume.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: If budgets or prices cannot work as configured.
    """

    def __init__(
        self,
        config: ServiceConfig,
        prices: Iterable[PriceTable] = (),
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        clock = clock or wall_clock
        self.ledger = Ledger(config, tables=prices, clock=clock)
        self._clock = clock
        self._path = config.costs_path
        user = config.user_id
        user_of = None if user is None else lambda _session: user
        self._meter = CostMeter(user_of=user_of)
        self._usage = UsageMeter(user_of=user_of, user_region=config.user_region)
        self._names_kept_s = config.names_kept_s
        self._store: CostStore | None = None
        self._read_since: int | None = None
        self._written: dict[tuple[int, str], tuple[int, int]] = {}
        self._exchanging: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._trouble = ""
        self._lock = threading.Lock()
        """Held from taking rows until they are written: an end in between would lose them."""

    def with_meter(self, hooks: Iterable[Hook]) -> tuple[Hook, ...]:
        """`hooks`, and those that add up what is to be kept."""
        own = () if self._path is None else (self._meter, self._usage)
        return (*hooks, *own)

    async def start(self) -> None:
        """Open the file and learn what was spent before.

        Raises:
            StorageError: If the file cannot be opened or read: a budget would not hold.
        """
        if self._path is None:
            return
        self._store = await in_daemon_thread(
            CostStore, self._path, names_kept_s=self._names_kept_s, clock=self._clock
        )
        await self._exchange_with(self._store)
        _open[self] = os.getpid()
        self._exchanging = asyncio.create_task(
            self._keep_exchanging(self._store), name="hybrid-detect-costs"
        )

    async def _keep_exchanging(self, store: CostStore) -> None:
        """Exchange about once a second, and a last time when closing."""
        while not self._closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(EXCHANGE_S):
                    await self._closing.wait()
            try:
                await self._exchange_with(store)
            except StorageError as error:
                if not self._trouble:
                    logger.error("what is spent is not being kept, but counted: %s", error)
                self._trouble = str(error)
            else:
                self._trouble = ""

    async def _exchange_with(self, store: CostStore) -> None:
        others = await in_daemon_thread(self._exchange, store)
        if others is not None:
            self.ledger.learn(others)

    def _exchange(self, store: CostStore) -> Totals | None:
        """Write what was spent, and read what others have spent, if they did. Runs in a thread."""
        with self._lock:
            self._write(store)
        store.sweep_if_due()
        this_month = Period.MONTH.start(hour_of(self._clock()))
        since = Period.MONTH.start(max(this_month - 1, 0))
        if store.has_changed() or since != self._read_since:
            self._read_since = None  # until it has been read
            others = self._others(store, since)
            self._read_since = since
            return others
        return None

    def _write(self, store: CostStore) -> None:
        rows, usage = self._meter.take(), self._usage.take()
        if not (rows or usage):
            return
        try:
            store.add(rows, usage=usage)
        except BaseException:
            self._meter.add(rows)
            self._usage.add(usage)
            raise
        for key, (images, nanos) in self._totals(rows).items():
            known = self._written.get(key, (0, 0))
            self._written[key] = known[0] + images, known[1] + nanos

    def _others(self, store: CostStore, since: int) -> Totals:
        """What the file holds beside what this process wrote: other processes, and earlier runs."""
        found = self._totals(store.rows(from_hour=since))
        return {
            key: (images - mine[0], nanos - mine[1])
            for key, (images, nanos) in found.items()
            if (mine := self._written.get(key, (0, 0))) != (images, nanos)
        }

    def _totals(self, rows: Iterable[CostRow]) -> dict[tuple[int, str], tuple[int, int]]:
        totals: dict[tuple[int, str], tuple[int, int]] = {}
        for row in rows:
            # Pictures count for prices by volume, whatever they are paid in.
            nanos = row.price_nanos if row.key.currency == self.ledger.currency else 0
            key = row.key.hour, row.key.provider
            known = totals.get(key, (0, 0))
            totals[key] = known[0] + row.images, known[1] + nanos
        return totals

    def write_last(self) -> None:
        """Write what is left as the program ends, in its main thread: there is no loop any more."""
        if self._store is None or not self._lock.acquire(timeout=CLOSE_S):
            return
        try:
            self._write(self._store)
        except (StorageError, ClosedError) as error:
            logger.error("what was spent last is not kept: %s", error)
        finally:
            self._lock.release()

    async def aclose(self) -> None:
        """Write what is left and close the file. May be called more than once."""
        self._closing.set()
        exchanging, self._exchanging = self._exchanging, None
        if exchanging is not None:
            done, _ = await asyncio.wait([exchanging], timeout=CLOSE_S)
            if not done:
                exchanging.cancel()
                logger.error("what was spent last is not kept: the disk is too slow")
        store, self._store = self._store, None
        if store is not None:
            store.close()
            _open.pop(self, None)
        if exchanging is not None and exchanging.done() and not exchanging.cancelled():
            exchanging.result()  # raises its bug


_open: dict[Accounts, int] = {}
"""Those that were not closed, with the process that opened them; a fork writes nothing of them."""


@atexit.register
def _write_all() -> None:
    for accounts, owner in list(_open.items()):
        if owner == os.getpid():
            accounts.write_last()
