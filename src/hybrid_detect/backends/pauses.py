"""Pauses that double with each failure in a row, up to a cap."""

from __future__ import annotations

__all__ = ["doubled"]

MOST_DOUBLINGS = 32
"""Beyond any cap. A float ends at 2**1024: a device that is offline for twenty minutes has failed
more often than that."""


def doubled(base_s: float, failures: int, *, cap_s: float) -> float:
    """`base_s`, doubled `failures` times, at most `cap_s`; however many there were."""
    return min(base_s * 2.0 ** min(failures, MOST_DOUBLINGS), cap_s)
