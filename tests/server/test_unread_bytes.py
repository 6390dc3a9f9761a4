"""The pace at which what nobody wants is read."""

import asyncio

import pytest

from hybrid_detect.server.unread_bytes import DROPPED_BYTES, DropPace

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_a_pace_pauses_and_goes_on() -> None:
    told: list[bool] = []
    pace = DropPace(lambda: told.append(pace.is_paused))
    pace.note(DROPPED_BYTES)
    await asyncio.sleep(1.0)
    assert told == [True, False]


async def test_a_pace_that_has_ended_tells_nothing_more() -> None:
    """Another one controls the reading then."""
    told: list[bool] = []
    pace = DropPace(lambda: told.append(pace.is_paused))
    pace.note(DROPPED_BYTES)
    pace.end()
    await asyncio.sleep(1.0)
    assert told == [True]
    assert not pace.is_paused
