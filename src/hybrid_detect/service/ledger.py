"""What a service may spend: prices for what leaves, budgets, and who else spends from them.

Pure but for the clock it is given. A budget is never exceeded by this process: a request is counted
as it is handed to the network, in the same step that asks whether the budget has room for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.charges import SentRequest, amount, money, to_nanos
from hybrid_detect.config import ServiceConfig
from hybrid_detect.destination import Destination
from hybrid_detect.errors import BackendUnavailableError, ConfigurationError
from hybrid_detect.monitoring.periods import HOUR_S, Period, hour_of
from hybrid_detect.monitoring.prices import PriceTable
from hybrid_detect.types import BackendKind

__all__ = ["BudgetStatus", "Ledger", "Totals"]

logger = logging.getLogger("hybrid_detect.costs")

Totals = Mapping[tuple[int, str], tuple[int, int]]
"""By hour and provider: pictures, and what they cost in nanos of the budgets' currency."""

_Where = tuple[str, str, str, str]
"""Backend, name of the target, provider and region."""

KEPT_HOURS = 62 * 24
"""Hours that are remembered: two months, so that a clock set back finds its month again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStatus:
    """A budget, in `HybridDetectionService.status()`."""

    period: str
    """``hour``, ``day`` or ``month`` of UTC; ``service`` for as long as the service is open."""
    budget: Decimal
    """The most that may be spent in it."""
    spent: Decimal
    """What was spent in it so far, by every process that shares the file of costs."""
    currency: str
    """What both are counted in."""


class Ledger:
    """Puts prices on requests and refuses those that the budgets have no room for.

    Args:
        config: Has the budgets, the currency and the price of targets that have none of their own.
        tables: Prices by volume, which replace the targets'.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: If there are two tables for a provider, or a table's pictures of the
            month cannot be known because there is no file of costs.
    """

    def __init__(
        self,
        config: ServiceConfig,
        *,
        tables: Iterable[PriceTable] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        tables = tuple(tables)
        self._tables = {table.provider: table for table in tables}
        if len(self._tables) < len(tables):
            msg = "prices: expected one table for each provider, got several"
            raise ConfigurationError(msg)
        if tables and config.costs_path is None:
            msg = "prices: expected costs_path as well, which knows how many pictures a month had"
            raise ConfigurationError(msg)
        self.currency = config.currency
        self._default = None if config.price_per_frame is None else to_nanos(config.price_per_frame)
        self._clock = clock
        self._budgets = {
            period: to_nanos(budget)
            for period, budget in (
                (Period.HOUR, config.budget_per_hour),
                (Period.DAY, config.budget_per_day),
                (Period.MONTH, config.budget_per_month),
            )
            if budget is not None
        }
        self._cap = None if config.spend_cap is None else to_nanos(config.spend_cap)
        self._spent = 0
        self._prices: dict[_Where, tuple[int, str]] = {}
        self._own: dict[tuple[int, str], tuple[int, int]] = {}
        self._others: Totals = {}
        self._sums: dict[Period, tuple[int, int]] = {}
        self._images: dict[str, tuple[int, int]] = {}
        self._told: set[tuple[str, int]] = set()

    @property
    def is_limited(self) -> bool:
        """Whether there is a budget or a cap."""
        return bool(self._budgets) or self._cap is not None

    def know(self, kind: BackendKind, targets: Iterable[Target]) -> None:
        """Learn what the `targets` of a backend cost.

        Raises:
            ConfigurationError: If a target is paid in another currency than the budgets are in, or
                has the name of one that costs something else.
        """
        for target in targets:
            table = self._tables.get(target.provider)
            price, currency = target.price_nanos, target.currency
            if target.price_per_frame is None and self._default is not None:
                price, currency = self._default, self.currency
            if table is not None:
                currency = table.currency
            if self.is_limited and currency != self.currency and (price or table):
                msg = (
                    f"currency: expected {currency}, in which {target.name} is paid, for budgets "
                    f"that count it, got {self.currency!r}"
                )
                raise ConfigurationError(msg)
            where = kind.value, target.name, target.provider, target.region
            known = self._prices.setdefault(where, (price, currency))
            if known != (price, currency) and (price or known[0]):
                msg = (
                    f"targets: expected a name for each, got {target.name!r} for two that do not "
                    "cost the same"
                )
                raise ConfigurationError(msg)

    # -- spending ----------------------------------------------------------------------------

    def charge(self, request: SentRequest, *, has_left: bool) -> SentRequest:
        """`request` at its price and time, counted as spent.

        Raises:
            BackendUnavailableError: If a budget has no room for it, and it has not left.
        """
        now = self._clock()
        hour = hour_of(now)
        where = (request.backend, request.target, request.provider, request.region)
        price, currency = self._price(where, request.images, hour)
        if not has_left and (reason := self._refusal(price, hour)):
            raise BackendUnavailableError(reason, backend=request.backend)
        self._count(hour, request.provider, request.images, price)
        return replace(request, at_s=now, price_nanos=price, currency=currency)

    def refusal(self, kind: BackendKind, destinations: Iterable[Destination]) -> str:
        """Why there is no money for a frame to any of `destinations`; empty if there is."""
        if not self.is_limited or kind is BackendKind.DEVICE:
            return ""
        hour = hour_of(self._clock())
        reason = ""
        for each in destinations:
            where = (kind.value, each.target, each.provider, each.region)
            price, _currency = self._price(where, 1, hour)
            reason = self._refusal(price, hour)
            if not reason:
                return ""
        return reason

    def _price(self, where: _Where, images: int, hour: int) -> tuple[int, str]:
        """What `images` pictures cost there now, and the currency."""
        # A backend of the app's own, without targets, has the price of the configuration.
        price, currency = self._prices.get(where, (self._default or 0, self.currency))
        provider = where[2]
        if (table := self._tables.get(provider)) is not None:
            before = self._images_of_month(provider, hour)
            return table.cost_nanos(images, before=before), table.currency
        return images * price, currency

    def _refusal(self, price: int, hour: int) -> str:
        if not price:
            return ""
        for period, budget in self._budgets.items():
            if self._spent_in(period, hour) + price > budget:
                until = datetime.fromtimestamp(period.end(hour) * HOUR_S, UTC)
                return self._tell(
                    f"the budget of {money(budget, self.currency)} for this {period} is spent "
                    f"until {until:%Y-%m-%d %H:%M} UTC",
                    (period.value, period.start(hour)),
                )
        if self._cap is not None and self._spent + price > self._cap:
            return self._tell(
                f"the spending cap of {money(self._cap, self.currency)} is reached", ("cap", 0)
            )
        return ""

    def _tell(self, reason: str, what: tuple[str, int]) -> str:
        if what not in self._told:
            self._told.add(what)
            logger.warning("%s: backends that cost money are not used", reason)
        return reason

    def _count(self, hour: int, provider: str, images: int, price: int) -> None:
        self._spent += price
        for period in self._budgets:
            before = self._spent_in(period, hour)
            self._sums[period] = period.start(hour), before + price
        if provider in self._tables:
            count = self._images_of_month(provider, hour)
            self._images[provider] = Period.MONTH.start(hour), count + images
        known = self._own.get((hour, provider), (0, 0))
        self._own[hour, provider] = known[0] + images, known[1] + price
        if len(self._own) > 4 * KEPT_HOURS:
            oldest = sorted(self._own)[: len(self._own) // 2]
            self._own = {key: own for key, own in self._own.items() if key not in set(oldest)}

    # -- what was spent ----------------------------------------------------------------------

    def learn(self, others: Totals) -> None:
        """Others have spent so much, in the hours since the month before."""
        self._others = others
        self._sums.clear()
        self._images.clear()

    def _spent_in(self, period: Period, hour: int) -> int:
        start = period.start(hour)
        known = self._sums.get(period)
        if known is None or known[0] != start:  # another period has begun, or a clock was set
            known = self._sums[period] = start, self._sum(start, period.end(hour), 1)
        return known[1]

    def _images_of_month(self, provider: str, hour: int) -> int:
        start = Period.MONTH.start(hour)
        known = self._images.get(provider)
        if known is None or known[0] != start:
            images = self._sum(start, Period.MONTH.end(hour), 0, provider)
            known = self._images[provider] = start, images
        return known[1]

    def _sum(self, start: int, end: int, place: int, provider: str | None = None) -> int:
        return sum(
            figures[place]
            for totals in (self._own, self._others)
            for (hour, whose), figures in totals.items()
            if start <= hour < end and provider in {None, whose}
        )

    def used_share(self) -> float:
        """Share of the tightest budget that is used up; 1.0 is all of it."""
        if not self.is_limited:
            return 0.0
        hour = hour_of(self._clock())
        return max(spent / budget if budget else 1.0 for _, budget, spent in self._figures(hour))

    def status(self) -> tuple[BudgetStatus, ...]:
        """How each budget stands."""
        return tuple(
            BudgetStatus(
                period=period,
                budget=amount(budget),
                spent=amount(spent),
                currency=self.currency,
            )
            for period, budget, spent in self._figures(hour_of(self._clock()))
        )

    def _figures(self, hour: int) -> list[tuple[str, int, int]]:
        """The name of each budget, the most that may be spent, and what was spent."""
        figures = [
            (period.value, budget, self._spent_in(period, hour))
            for period, budget in self._budgets.items()
        ]
        if self._cap is not None:
            figures.append(("service", self._cap, self._spent))
        return figures
