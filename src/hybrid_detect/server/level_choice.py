"""Which level a picture is looked at: the one asked for, or a quicker one that ends in time.

Pure: what is known of the levels' times and of the queue comes in as values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hybrid_detect.types import QualityLevel

__all__ = ["QUEUE_SHARES", "level_for", "ranked"]

QUEUE_SHARES: Mapping[QualityLevel, float] = {
    QualityLevel.HIGH: 0.5,
    QualityLevel.MAX: 0.25,
}
"""Of the places for pictures that wait, the share that may be taken while a level is still used.
Deadlines tell most; this is for pictures without one, and for those that come during the next look.
Source: `tests/server/test_level_choice.py`, at four times the load that ``high`` can carry. With a
half for it, less than 1 % of the pictures meet a full queue of 32, and 5 % one of 16."""

_RANKS = {level: rank for rank, level in enumerate(QualityLevel)}


def ranked(levels: Sequence[QualityLevel]) -> tuple[QualityLevel, ...]:
    """`levels`, the quickest first."""
    return tuple(sorted(levels, key=_RANKS.__getitem__))


def level_for(
    asked: QualityLevel,
    levels: Sequence[QualityLevel],
    *,
    safe_s: Mapping[QualityLevel, float],
    left_s: float,
    queue_share: float,
    leaves_time: Callable[[QualityLevel], bool],
) -> QualityLevel:
    """The most thorough level, up to `asked`, that this picture and those behind it can afford.

    The quickest one needs no reason: a picture that cannot afford it either is refused elsewhere.

    Args:
        asked: The level that was asked for.
        levels: The levels to be had, the quickest first.
        safe_s: For each level, seconds that few looks exceed.
        left_s: Seconds until the answer must have left.
        queue_share: Share of the places for pictures that wait which is taken.
        leaves_time: Whether those that wait can all end in time after a look at that level.
    """
    quickest, *others = levels
    for level in reversed(others):
        if (
            _RANKS[level] <= _RANKS[asked]
            and safe_s[level] <= left_s
            and queue_share <= QUEUE_SHARES.get(level, 1.0)
            and leaves_time(level)
        ):
            return level
    return quickest
