"""Pauses between attempts, after more failures in a row than a float can be doubled."""

import pytest

from hybrid_detect.backends.device.restart_pauses import BACKOFF_CAP_S, RestartPauses
from hybrid_detect.backends.pauses import doubled
from hybrid_detect.backends.remote.streaming import RECONNECT_CAP_S, StreamingService

MANY = 100_000
"""A stream that is offline for a day."""


def test_a_pause_doubles_up_to_the_cap() -> None:
    assert [doubled(0.1, failures, cap_s=0.5) for failures in (0, 1, 2, 3, MANY)] == [
        pytest.approx(pause_s) for pause_s in (0.1, 0.2, 0.4, 0.5, 0.5)
    ]


@pytest.mark.anyio
async def test_a_stream_that_has_failed_for_a_day_is_tried_again() -> None:
    async with StreamingService(endpoint="http://127.0.0.1:1") as service:
        assert 0 <= service._pause_s(MANY) <= RECONNECT_CAP_S


def test_a_process_that_has_died_for_a_day_is_started_again() -> None:
    pauses = RestartPauses()
    for _ in range(2_000):
        pauses.count_death()
    assert 0 < pauses.left_s() <= BACKOFF_CAP_S
