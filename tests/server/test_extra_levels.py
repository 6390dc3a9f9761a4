"""Levels that are started when they are asked for, and ended when they are not."""

from __future__ import annotations

import asyncio
import time

import pytest

from hybrid_detect.errors import BackendUnavailableError
from hybrid_detect.server.extra_levels import IDLE_S, PATIENCE_S, RETRY_S, ExtraLevels
from hybrid_detect.types import QualityLevel

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

MAX = QualityLevel.MAX
START_S = 0.5


class Processes:
    """Those of a level: they take `START_S` to start."""

    def __init__(self) -> None:
        self.starts_s = START_S
        self.stops_s = 0.0
        self.error: Exception | None = None
        self.starts = self.stops = 0
        self.is_up = False

    async def start(self, level: QualityLevel) -> None:
        self.starts += 1
        await asyncio.sleep(self.starts_s)
        if self.error is not None:
            raise self.error
        self.is_up = True

    async def stop(self, level: QualityLevel) -> None:
        self.stops += 1
        self.is_up = False
        await asyncio.sleep(self.stops_s)


@pytest.fixture
def processes() -> Processes:
    return Processes()


@pytest.fixture
def extra(processes: Processes) -> ExtraLevels:
    return ExtraLevels((MAX,), start=processes.start, stop=processes.stop, clock=time.monotonic)


@pytest.mark.parametrize(
    ("deadline_s", "waits"), [(None, True), (PATIENCE_S + 0.1, True), (PATIENCE_S, False)]
)
async def test_a_request_with_time_waits_for_its_level_and_another_does_not(
    extra: ExtraLevels, processes: Processes, deadline_s: float | None, waits: bool
) -> None:
    await extra.want(MAX, deadline_s)
    assert processes.is_up is waits
    await asyncio.sleep(START_S + 0.1)
    assert processes.is_up, "it starts in any case, for the next request"
    await extra.aclose()


async def test_a_level_that_takes_long_to_start_is_not_waited_for(
    extra: ExtraLevels, processes: Processes
) -> None:
    processes.starts_s = 100.0
    began_s = time.monotonic()
    await extra.want(MAX, None)
    assert time.monotonic() - began_s == pytest.approx(PATIENCE_S, abs=0.1)
    await extra.aclose()


async def test_requests_at_once_start_it_once(extra: ExtraLevels, processes: Processes) -> None:
    await asyncio.gather(*(extra.want(MAX, None) for _ in range(5)))
    assert processes.starts == 1
    await extra.aclose()


async def test_it_ends_when_idle_and_starts_again(extra: ExtraLevels, processes: Processes) -> None:
    await extra.want(MAX, None)
    await asyncio.sleep(0.6 * IDLE_S)
    await extra.want(MAX, None)
    await asyncio.sleep(0.6 * IDLE_S)
    assert processes.is_up, "it was asked for in between"
    await asyncio.sleep(0.6 * IDLE_S)
    assert (processes.is_up, processes.stops) == (False, 1)
    await extra.want(MAX, None)
    assert (processes.is_up, processes.starts) == (True, 2)
    await extra.aclose()


async def test_one_that_is_asked_for_while_it_ends_starts_again(
    extra: ExtraLevels, processes: Processes
) -> None:
    processes.stops_s = 0.5
    await extra.want(MAX, None)
    await asyncio.sleep(IDLE_S + 0.1)
    assert (processes.is_up, processes.stops) == (False, 1)
    await extra.want(MAX, None)
    assert (processes.is_up, processes.starts) == (True, 2), "it was waited for"
    await asyncio.sleep(IDLE_S + 1.0)
    assert (processes.is_up, processes.starts, processes.stops) == (False, 2, 2)
    await extra.aclose()


async def test_a_failed_start_is_told_and_tried_again_later(
    extra: ExtraLevels, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    processes.error = BackendUnavailableError("there is no memory for 2 more detectors")
    await extra.want(MAX, None)
    assert "'max' cannot be had now: there is no memory" in caplog.text
    await extra.want(MAX, None)
    assert processes.starts == 1
    await asyncio.sleep(RETRY_S)
    processes.error = None
    await extra.want(MAX, None)
    assert processes.is_up
    await extra.aclose()


async def test_a_level_that_is_always_there_needs_no_start(
    extra: ExtraLevels, processes: Processes
) -> None:
    await extra.want(QualityLevel.HIGH, None)
    assert processes.starts == 0
    await extra.aclose()


async def test_closing_ends_a_start(extra: ExtraLevels, processes: Processes) -> None:
    await extra.want(MAX, 0.1)
    await extra.aclose()
    assert not processes.is_up
