from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from hybrid_detect import HybridDetectionService
from hybrid_detect.testing import FakeBackend, FakeClock

START = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_it_stands_still_until_it_is_advanced() -> None:
    clock = FakeClock(10)
    assert (clock(), clock()) == (10.0, 10.0)
    clock.advance(1.5, minutes=1, hours=1, days=1)
    assert clock() == 10 + 1.5 + 60 + 3600 + 86_400
    clock.advance(hours=-1)
    assert clock() == 10 + 1.5 + 60 + 86_400


def test_it_never_shows_0_at_first() -> None:
    assert FakeClock()() > 0


def test_it_reads_as_a_calendar() -> None:
    clock = FakeClock(START)
    clock.advance(0.000001)
    assert clock.utc() == START + timedelta(microseconds=1)
    assert clock.utc().tzinfo is UTC
    assert clock() == pytest.approx(START.timestamp())


@pytest.mark.anyio
async def test_a_sleep_takes_its_time_on_the_clock_alone() -> None:
    clock = FakeClock(0)
    slow = FakeBackend("device", latency_s=0.4, sleep=clock.sleep)
    async with HybridDetectionService(backends=[slow]) as service:
        await service.process_image(np.zeros((8, 8, 3), np.uint8))
    assert clock() == pytest.approx(0.4)
