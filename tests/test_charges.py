import json
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.charges import SentRequest, amount, money, to_nanos
from hybrid_detect.errors import ConfigurationError


@pytest.mark.parametrize(
    ("price", "nanos"),
    [
        (0, 0),
        (0.0015, 1_500_000),
        ("0.0015", 1_500_000),
        (Decimal("0.0015"), 1_500_000),
        (0.1 + 0.2, 300_000_000),
        (1e-9, 1),
        (4e-10, 0),
        (1_000_000, 10**15),
    ],
)
def test_a_price_is_counted_in_whole_nanos(price: Any, nanos: int) -> None:
    assert to_nanos(price) == nanos


@pytest.mark.parametrize(
    "price", [-1, "-0.1", float("nan"), float("inf"), "a lot", "", None, True, 1_000_001, [1]]
)
def test_what_is_no_price_is_refused(price: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^of_mine: expected an amount"):
        to_nanos(price, name="of_mine")


@given(st.lists(st.integers(0, 10**6), max_size=50))
def test_a_sum_of_prices_is_exact(millionths: list[int]) -> None:
    prices = [Decimal(each).scaleb(-6) for each in millionths]
    assert amount(sum(to_nanos(float(price)) for price in prices)) == sum(prices)


@pytest.mark.parametrize("price", ["0", "0.0015", "5", "100", "1000000", "0.0000015"])
def test_an_amount_is_printed_as_it_is_written(price: str) -> None:
    assert str(amount(to_nanos(price))) == price


def test_half_a_nano_is_rounded_up() -> None:
    assert [to_nanos(f"0.00000000{half}") for half in ("05", "15", "25", "249")] == [1, 2, 3, 2]


def test_an_amount_is_exact_whatever_precision_the_app_has_set() -> None:
    price = "999999.123456789"
    with localcontext(prec=4):
        assert str(amount(to_nanos("12345"))) == "12345"
        assert str(amount(999_999_123_456_789)) == price
        assert money(999_999_123_456_789, "USD") == f"{price} USD"


def test_a_request_is_plain_json() -> None:
    request = SentRequest(at_s=1.5, backend="cloud", price_nanos=1)
    told = json.loads(json.dumps(request.to_dict()))
    assert (told["price"], told["price_nanos"], told["answered"]) == ("0.000000001", 1, False)
    assert request.as_answered().answered
