from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.charges import amount
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.monitoring.prices import PRICE_TABLES, PriceTable, PriceTier

GOOGLE = PRICE_TABLES["google"]


@pytest.mark.parametrize(
    ("before", "images", "cost"),
    [
        (0, 1000, "0"),
        (0, 1001, "0.0015"),
        (999, 2, "0.0015"),
        (1000, 1000, "1.5"),
        (4_999_999, 2, "0.0021"),
        (6_000_000, 10, "0.006"),
        (0, 6_000_000, "8098.5"),
        (17, 0, "0"),
    ],
)
def test_each_picture_has_the_price_of_its_tier(before: int, images: int, cost: str) -> None:
    assert amount(GOOGLE.cost_nanos(images, before=before)) == Decimal(cost)


@given(
    st.sampled_from(sorted(PRICE_TABLES)),
    st.integers(0, 7_000_000),
    st.lists(st.integers(1, 16), max_size=30),
)
def test_pictures_cost_the_same_one_by_one_or_together(
    provider: str, before: int, batches: list[int]
) -> None:
    table = PRICE_TABLES[provider]
    now, cost = before, 0
    for images in batches:
        cost += table.cost_nanos(images, before=now)
        now += images
    assert cost == table.cost_nanos(now - before, before=before)


def test_list_prices_say_where_and_when_they_were_read() -> None:
    assert set(PRICE_TABLES) == {"google", "aws", "azure"}
    assert all(table.source and table.as_of for table in PRICE_TABLES.values())


@pytest.mark.parametrize(
    "tiers",
    [
        (),
        (PriceTier(price=1, up_to_images=5),),
        (PriceTier(price=1), PriceTier(price=2)),
        (PriceTier(price=1), PriceTier(price=2, up_to_images=3)),
        (
            PriceTier(price=1, up_to_images=5),
            PriceTier(price=1, up_to_images=5),
            PriceTier(price=2),
        ),
    ],
)
def test_tiers_grow_to_one_without_an_end(tiers: Any) -> None:
    with pytest.raises(ConfigurationError, match="tiers"):
        PriceTable(provider="mine", tiers=tiers)


@pytest.mark.parametrize("wrong", [{"price": -1}, {"price": "x"}, {"price": 1, "up_to_images": 0}])
def test_a_tier_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        PriceTier(**wrong)
