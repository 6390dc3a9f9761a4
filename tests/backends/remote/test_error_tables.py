"""The tables of providers' errors: what decides, and what is never repeated."""

from __future__ import annotations

import email.utils
import importlib
import pickle
import pkgutil
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.remote import providers
from hybrid_detect.backends.remote.error_tables import ErrorRule, ErrorTable
from hybrid_detect.backends.remote.protocol import HttpResponse
from hybrid_detect.backends.remote.target_pool import is_about_the_picture
from hybrid_detect.errors import Refusal

CODED = ErrorTable(
    (
        ErrorRule(Refusal.THROTTLED, "slow down", codes=("Throttled", "Busy:now")),
        ErrorRule(Refusal.PICTURE, "no picture", codes=("BadImage",)),
        ErrorRule(Refusal.FORBIDDEN, "not allowed", codes=("Denied",)),
        ErrorRule(Refusal.CONTRACT, "not understood", statuses=(400,)),
    )
)


def tables() -> Iterator[tuple[str, ErrorTable]]:
    yield "a test's", CODED
    for module in pkgutil.iter_modules(providers.__path__, f"{providers.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, ErrorTable):
                yield module.name.rpartition(".")[2], value


TABLES = dict(tables())
STATUSES = st.integers(200, 599)


def response(status: int, retry_after_s: float | None = None, **headers: str) -> HttpResponse:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return HttpResponse(status=status, body=b"", headers=named, retry_after_s=retry_after_s)


def test_the_code_decides_where_the_status_does_not_tell() -> None:
    throttled = CODED.error(response(400), code="Throttled")
    assert throttled.refusal is Refusal.THROTTLED
    assert throttled.retryable
    assert not is_about_the_picture(throttled)
    refused = CODED.error(response(400), code="BadImage")
    assert refused.refusal is Refusal.PICTURE
    assert not refused.retryable
    assert is_about_the_picture(refused)
    denied = CODED.error(response(400), code="Denied")
    assert denied.is_configuration


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_rule_can_be_reached(name: str) -> None:
    rules = TABLES[name].rules
    for rule in rules:
        reached = any(
            next(each for each in rules if each.fits(status, code)) is rule
            for status in rule.statuses or range(200, 600)
            for code in rule.codes or ("",)
        )
        assert reached, rule


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_code_stands_in_one_rule(name: str) -> None:
    seen = [(code, *rule.statuses) for rule in TABLES[name].rules for code in rule.codes]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("name", sorted(TABLES))
@given(STATUSES, st.text(max_size=80))
def test_no_code_harms(name: str, status: int, code: str) -> None:
    error = TABLES[name].error(response(status), code=code)
    assert error.status_code == status
    assert error.code in {code, ""}
    assert len(str(error)) < 300


@given(STATUSES)
def test_without_a_rule_the_status_decides(status: int) -> None:
    error = ErrorTable(()).error(response(status))
    assert error.refusal is Refusal.of_status(status)


@pytest.mark.parametrize(
    "code",
    ["a code with blanks", "x" * 65, "<html>", "naïve", "a\nb", "\N{ARABIC-INDIC DIGIT ONE}"],
)
def test_what_is_no_code_is_not_repeated(code: str) -> None:
    error = CODED.error(response(400, x_amzn_requestid=code * 9), code=code)
    assert (error.code, error.request_id) == ("", "")
    assert code not in str(error)


def test_the_request_id_is_told_and_survives_pickling() -> None:
    error = CODED.error(response(500, x_amzn_requestid="1b2c-3d"), code="Odd")
    assert error.request_id == "1b2c-3d"
    assert "1b2c-3d" in str(error)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made in the line before
    assert (again.refusal, again.request_id) == (error.refusal, "1b2c-3d")


def test_headers_win_over_what_the_body_asks_to_wait() -> None:
    assert CODED.error(response(500), retry_after_s=1.5).retry_after_s == 1.5
    assert CODED.error(response(500, 0.5), retry_after_s=1.5).retry_after_s == 0.5


def test_a_rule_can_say_that_trouble_lasts() -> None:
    table = ErrorTable((ErrorRule(Refusal.TRANSIENT, "it broke", retryable=False),))
    assert not table.error(response(500)).retryable


def test_one_code_can_mean_two_things() -> None:
    error = CODED.error(response(400), code="Busy", variant="Busy:now")
    assert (error.refusal, error.code) == (Refusal.THROTTLED, "Busy")
    assert CODED.error(response(400), code="Busy").refusal is Refusal.CONTRACT


def test_the_servers_clock_is_remembered() -> None:
    date = email.utils.formatdate(1_800_000_000, usegmt=True)
    assert CODED.error(response(400, date=date)).server_time_s == 1_800_000_000
    assert CODED.error(response(400)).server_time_s is None
