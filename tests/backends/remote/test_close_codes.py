"""What each close code means for the frame it cut off."""

from __future__ import annotations

import pytest

from hybrid_detect.backends.remote.close_codes import close_error, own_close_error
from hybrid_detect.errors import BackendResponseError, BackendUnavailableError, ProtocolError
from hybrid_detect.exchange.wire import CREDENTIAL_ENDED


@pytest.mark.parametrize(
    ("code", "status", "retryable"),
    [
        (1003, 415, False),
        (1007, 422, False),
        (1009, 413, False),
        (1011, 500, True),
        (1012, 503, True),
        (1013, 503, True),
        (1014, 502, True),
        (3000, 401, False),
        (3003, 403, False),
        (3008, 408, True),
    ],
)
def test_a_code_that_says_what_a_status_says_becomes_it(
    code: int, status: int, retryable: bool
) -> None:
    error = close_error(code, "words of theirs")
    assert isinstance(error, BackendResponseError)
    assert (error.status_code, error.retryable) == (status, retryable)
    assert f"(close code {code})" in str(error)
    assert "words" not in str(error)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1005, 1006, 1008, 1010, 1015, 2999, 4001])
def test_any_other_code_is_a_link_that_may_come_back(code: int) -> None:
    error = close_error(code, "words of theirs")
    assert isinstance(error, BackendUnavailableError)
    assert error.retryable
    assert "words" not in str(error)


def test_a_link_that_ends_without_a_word_broke() -> None:
    assert str(close_error(None)) == "the link broke"


def test_our_own_server_says_that_a_credential_has_ended() -> None:
    error = close_error(1008, CREDENTIAL_ENDED)
    assert isinstance(error, BackendResponseError)
    assert error.is_configuration


@pytest.mark.parametrize(
    ("code", "told"), [(1009, "at most 5 bytes"), (1002, "broke"), (1007, "broke")]
)
def test_a_link_that_this_side_closed_is_a_broken_protocol(code: int, told: str) -> None:
    error = own_close_error(code, max_bytes=5)
    assert isinstance(error, ProtocolError)
    assert told in str(error)
    assert not error.retryable


def test_a_link_that_this_side_closed_for_other_reasons_may_come_back() -> None:
    assert own_close_error(1011, max_bytes=5).retryable
