"""The pictures that the servers of several targets say they gain by."""

from __future__ import annotations

from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.exchange.model_info import ModelInfo
from hybrid_detect.selection.rungs import RUNGS, USUAL_LADDER, PictureLadder, Rung
from hybrid_detect.types import QualityLevel

__all__ = ["ToldLadders"]

LEAST_SIDE_PX, LEAST_BYTES = 128, 2 * 1024
"""What any picture needs. A server that asks for less is in error, and to follow it would cost
faces or, where no JPEG is that small, every answer. Source: the smallest input in the table of
models; the JPEG of a grey 128x72 picture has 0.8 KB."""


class ToldLadders:
    """Remembers for each target the ladder that its server told.

    Args:
        quality: The level that is asked for; `None` for the server's own.
    """

    def __init__(self, quality: QualityLevel | None) -> None:
        self._quality = quality
        self._ladders: dict[int, PictureLadder] = {}

    def of(self, target: Target) -> PictureLadder:
        """The pictures that are worth sending to `target`."""
        return self._ladders.get(id(target), USUAL_LADDER)

    def learn(self, target: Target, info: ModelInfo | None) -> None:
        """Follow what the server of `target` told of its model; `None` if it told nothing."""
        # It tells of the level of requests that name none; a level of its own may need more.
        if info is None or self._quality not in {None, info.quality}:
            self._ladders.pop(id(target), None)
            return
        rungs = tuple(Rung(*rung) for rung in info.rungs)
        is_usable = (
            info.side_px >= LEAST_SIDE_PX
            and info.picture_bytes >= LEAST_BYTES
            and all(rung.max_side_px >= LEAST_SIDE_PX and rung.accuracy > 0.0 for rung in rungs)
        )
        if not is_usable:
            self._ladders.pop(id(target), None)
            return
        self._ladders[id(target)] = PictureLadder(
            rungs=rungs or RUNGS, max_side_px=info.side_px, max_bytes=info.picture_bytes
        )
