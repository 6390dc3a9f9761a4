"""Waiting for a condition instead of for a time.

The limit is there to end a test that hangs, never to judge how fast the machine is: it is far
longer than anything takes on a machine that is busy with other work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["LIMIT_S", "until", "wait_until"]

T = TypeVar("T")

LIMIT_S = 30.0
"""Half of the time that pytest gives a test, so that the message below is seen."""

POLL_S = 0.002
"""Seconds between two looks at the condition."""


async def until(condition: Callable[[], T], *, limit_s: float = LIMIT_S) -> T:
    """Give the event loop turns until `condition` holds, and return what it returned.

    Raises:
        AssertionError: If it does not hold within `limit_s` seconds.
    """
    ends_s = time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() >= ends_s:
            raise AssertionError(_still_false(condition, limit_s))
        await asyncio.sleep(POLL_S)
    return value


def wait_until(condition: Callable[[], T], *, limit_s: float = LIMIT_S) -> T:
    """Block this thread until `condition` holds, and return what it returned.

    Raises:
        AssertionError: If it does not hold within `limit_s` seconds.
    """
    ends_s = time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() >= ends_s:
            raise AssertionError(_still_false(condition, limit_s))
        time.sleep(POLL_S)
    return value


def _still_false(condition: Callable[[], object], limit_s: float) -> str:
    code = getattr(condition, "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"still not so after {limit_s:g} s{place}"
