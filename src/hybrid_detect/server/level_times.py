"""What looks take at the levels that are offered, and at which of them a picture is looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hybrid_detect.server.level_choice import level_for, ranked
from hybrid_detect.server.looks import Look
from hybrid_detect.server.service_time import ServiceTime
from hybrid_detect.types import QualityLevel

__all__ = ["LevelTimes"]

FORGET_S = 10.0
"""Seconds after which an estimate of a level that was not used is forgotten. A level is left alone
while it seems too slow; without this, one slow look would rule it out for ever."""


class LevelTimes:
    """The levels, and the time of a look at each of them."""

    def __init__(self) -> None:
        self.levels: tuple[QualityLevel, ...] = (QualityLevel.FAST,)
        """Those that are offered, the quickest first."""
        self.quickest = ServiceTime()
        """What a look takes at the first of them."""
        self.of = {QualityLevel.FAST: self.quickest}
        """What a look takes, by level."""
        self._last_s: dict[QualityLevel, float] = {}  # the end of the last look, by level

    def offer(self, guesses_s: Mapping[QualityLevel, float]) -> None:
        """Offer these levels from now on; see `admission.Admission.offer`."""
        self.levels = ranked(tuple(guesses_s))
        for level, guess_s in guesses_s.items():
            if level not in self.of or not self.of[level].is_known:
                self.of[level] = ServiceTime(guess_s)
        self.quickest = self.of[self.levels[0]]

    def observe(self, look: Look, now_s: float) -> None:
        """A look has ended well."""
        if (time := self.of.get(look.level)) is not None:
            took_s = now_s - look.began_s
            if look.looks > 1:
                # How many there were is not told. The time of one that is nearest to what is known:
                took_s = min(max(time.mean_s, took_s / look.looks), took_s)
            time.observe(took_s)
            self._last_s[look.level] = now_s

    def level_for(
        self,
        look: Look,
        now_s: float,
        *,
        queue_share: float,
        leaves_time: Callable[[QualityLevel], bool],
    ) -> QualityLevel:
        """The level for a look that begins now; see `level_choice.level_for`."""
        for level in self.levels[1:]:
            if now_s - self._last_s.get(level, now_s) > FORGET_S:
                self.of[level] = ServiceTime(self.of[level].guess_s)
                del self._last_s[level]
        return level_for(
            look.asked,
            self.levels,
            safe_s={level: self.of[level].safe_s for level in self.levels},
            left_s=look.ends_s - now_s,
            queue_share=queue_share,
            leaves_time=leaves_time,
        )
