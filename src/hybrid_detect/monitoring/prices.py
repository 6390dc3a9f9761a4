"""What providers charge by the month: free pictures first, then cheaper ones by volume. Pure.

A target has one price per picture (`Target.price_per_frame`, else the provider's list price).
A `PriceTable` replaces it where the price depends on how many pictures the month has had.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import date

from hybrid_detect.charges import DEFAULT_CURRENCY, Price, to_nanos
from hybrid_detect.errors import ConfigurationError

__all__ = ["PRICE_TABLES", "PriceTable", "PriceTier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTier:
    """Pictures of a month that have one price.

    Raises:
        ConfigurationError: If the price or the bound cannot be used.
    """

    price: Price
    """What each of them costs."""
    up_to_images: int | None = None
    """Number of the month's last picture at this price; `None` for all that follow."""

    def __post_init__(self) -> None:
        to_nanos(self.price, name="price")
        if self.up_to_images is not None and self.up_to_images < 1:
            msg = f"up_to_images: expected 1 or more, got {self.up_to_images!r}"
            raise ConfigurationError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """A provider's prices by the number of pictures in a calendar month of UTC.

    Raises:
        ConfigurationError: If the tiers do not grow to one without an end.
    """

    provider: str
    """The provider's name in configuration, such as ``google``."""
    tiers: tuple[PriceTier, ...]
    """From the month's first picture on; the last one has no end."""
    as_of: date | None = None
    """When the prices were looked up."""
    source: str = ""
    """Where."""
    currency: str = DEFAULT_CURRENCY
    """What is paid in."""

    def __post_init__(self) -> None:
        bounds = [tier.up_to_images for tier in self.tiers]
        ends = [bound for bound in bounds if bound is not None]
        grows = all(one < other for one, other in itertools.pairwise(ends))
        if not bounds or bounds[-1] is not None or len(ends) != len(bounds) - 1 or not grows:
            msg = f"tiers: expected growing bounds and a last tier without one, got {bounds!r}"
            raise ConfigurationError(msg)

    def cost_nanos(self, images: int, *, before: int = 0) -> int:
        """What `images` pictures cost after `before` others in the same month, in nanos."""
        total, start = 0, 0
        for tier in self.tiers:
            end = before + images if tier.up_to_images is None else tier.up_to_images
            count = min(end, before + images) - max(start, before)
            total += max(count, 0) * to_nanos(tier.price)
            start = end
        return total


_AS_OF = date(2026, 11, 22)

PRICE_TABLES: dict[str, PriceTable] = {
    table.provider: table
    for table in (
        PriceTable(
            provider="google",
            tiers=(
                PriceTier(price="0", up_to_images=1_000),
                PriceTier(price="0.0015", up_to_images=5_000_000),
                PriceTier(price="0.0006"),
            ),
            as_of=_AS_OF,
            source="Google Cloud Vision's pricing; the tiers are not confirmed",
        ),
        PriceTable(
            provider="aws",
            # Without the free pictures of an account's first year: not every account has them.
            tiers=(
                PriceTier(price="0.0010", up_to_images=1_000_000),
                PriceTier(price="0.0008"),
            ),
            as_of=_AS_OF,
            source="Amazon Rekognition's pricing (group 2); further tiers are cheaper",
        ),
        PriceTable(
            provider="azure",
            tiers=(
                PriceTier(price="0.0010", up_to_images=1_000_000),
                PriceTier(price="0.0008"),
            ),
            as_of=_AS_OF,
            source="Azure Face's pricing (S0), not confirmed; further tiers are cheaper",
        ),
    )
}
"""List prices to start from. Estimates: prices change, and depend on region and contract."""
