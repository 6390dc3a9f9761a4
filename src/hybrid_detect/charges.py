"""What a request to a provider costs: exact amounts of money, as frozen values. Pure.

Money is counted in whole nanos, the billionth part of a unit of a currency, so that a sum of a
million frames is exact and does not depend on its order. Source of the unit: ``google.type.Money``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any, NamedTuple, Self

from hybrid_detect.errors import ConfigurationError

__all__ = [
    "DEFAULT_CURRENCY",
    "CostKey",
    "CostRow",
    "Price",
    "SentRequest",
    "amount",
    "in_full",
    "money",
    "to_nanos",
]

Price = Decimal | float | int | str
"""An amount of money as an app writes it: ``0.0015``, ``"0.0015"`` or a `Decimal`."""

DEFAULT_CURRENCY = "USD"
"""The currency of the providers' list prices."""

NANOS = 1_000_000_000

_EXACT = Context(prec=28)
"""For all digits of an amount, whatever precision the app has set: Python's own default."""

MAX_PRICE = 1_000_000
"""More for one picture is a mistake; below it, sums of a year stay within 64 bits."""


def to_nanos(price: Price, *, name: str = "price") -> int:
    """`price` in whole nanos; half a nano and more is rounded up.

    A float counts as the number that it prints: ``0.1`` is a tenth.

    Raises:
        ConfigurationError: If it is no amount from 0 to a million. The message begins with `name`.
    """
    try:
        exact = price if isinstance(price, Decimal) else Decimal(str(price))
        if 0 <= exact <= MAX_PRICE and not isinstance(price, bool):
            return int(_EXACT.multiply(exact, NANOS).to_integral_value(ROUND_HALF_UP, _EXACT))
    except InvalidOperation:
        pass
    msg = f"{name}: expected an amount of 0 to {MAX_PRICE}, got {price!r}"
    raise ConfigurationError(msg)


def amount(nanos: int) -> Decimal:
    """`nanos` as an exact amount of money, written as short as can be: ``5``, ``0.0015``."""
    exact = Decimal(nanos).scaleb(-9, _EXACT).normalize(_EXACT)
    return exact.quantize(Decimal(1), context=_EXACT) if exact == int(exact) else exact


def in_full(price: Decimal) -> str:
    """`price` as files and JSON have it, with all nine decimals: ``0.001500000``."""
    return f"{price:.9f}"


def money(nanos: int, currency: str) -> str:
    """`nanos` for a person, with at least two decimals: ``0.0015 USD``."""
    whole, _, decimals = in_full(amount(nanos)).partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')} {currency}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRequest:
    """A request with pictures that left the device, whatever became of it.

    Retries, hedges, and requests that failed or were given up are told like those that were
    answered: a provider may bill each of them. A request that was refused before its bytes were
    handed to a network (an open breaker, no consent, a spent budget) is none.
    """

    at_s: float
    """When its bytes were handed to the network, in seconds since 1970."""
    backend: str
    """The backend that sent it: a value of `BackendKind`."""
    target: str = ""
    """Name of the target that it went to: its host, unless the app named it."""
    provider: str = ""
    """Whose protocol it speaks, such as ``google``."""
    region: str = ""
    """The region that the target is in, as the app named it; empty if it did not."""
    images: int = 1
    """Pictures in it. A request that several frames share is told to each of them by its own part:
    one picture, and that picture's bytes and price."""
    bytes_sent: int = 0
    """Bytes of its body."""
    price_nanos: int = 0
    """What it costs, in billionths of a unit of `currency`."""
    currency: str = DEFAULT_CURRENCY
    """What it is paid in."""
    answered: bool = False
    """Whether its answer came and could be read."""

    @property
    def price(self) -> Decimal:
        """What it costs, in units of `currency`."""
        return amount(self.price_nanos)

    def as_answered(self) -> Self:
        """The same request, answered."""
        return replace(self, answered=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values by name."""
        return {name: getattr(self, name) for name in _FIELDS} | {"price": in_full(self.price)}


_FIELDS = tuple(field.name for field in fields(SentRequest))


class CostKey(NamedTuple):
    """What the figures of a `CostRow` are of."""

    hour: int
    """The hour, in whole hours since 1970 (UTC)."""
    session: str = ""
    """The session's name; read back from a file, what stands for it there. Empty if forgotten."""
    user: str = ""
    """The user's name, likewise."""
    backend: str = ""
    """The backend that sent the request or answered the frame: a value of `BackendKind`."""
    target: str = ""
    """Name of the target."""
    provider: str = ""
    """Whose protocol it speaks."""
    region: str = ""
    """The target's region."""
    currency: str = ""
    """What it is paid in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """What was sent and spent in one hour: by one session, to one target."""

    key: CostKey
    """Of what hour, session and target."""
    frames: int = 0
    """Frames that ended, counted at the target or backend that answered them."""
    requests: int = 0
    """Requests that left the device; one that several frames shared counts for each of them."""
    answered: int = 0
    """Of these, those that were answered; the others were paid for in vain."""
    images: int = 0
    """Pictures in the requests."""
    bytes_sent: int = 0
    """Bytes of the requests."""
    price_nanos: int = 0
    """What the requests cost, in billionths of a unit of the currency."""

    @property
    def figures(self) -> tuple[int, ...]:
        """The numbers, in the order of the fields."""
        return (
            self.frames,
            self.requests,
            self.answered,
            self.images,
            self.bytes_sent,
            self.price_nanos,
        )
