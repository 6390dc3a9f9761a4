"""What a simulated picture weighs, and what the server makes of it."""

from __future__ import annotations

import math

import numpy as np

from hybrid_detect.compression.size_law import quality_within, size_share
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.selection.rungs import (
    CENTERFACE_LADDER,
    FULL_SIDE_PX,
    USUAL_LADDER,
    PictureLadder,
)

__all__ = ["FRAMING_BITS", "LADDERS", "MAX_BITS", "Pictures"]

MAX_BITS = 8 * 80e3
"""The mission's most for a picture, 80 KB."""

LADDERS = {"centerface": CENTERFACE_LADDER, "usual": USUAL_LADDER}
"""By the name that a command line gives the server: this project's, or one that tells nothing."""

FRAMING_BITS = 8 * 300
"""Headers of a message, TLS and TCP."""


class Pictures:
    """The pictures that a simulated server gains by, and what it makes of any other.

    The bytes follow the law that the rate control uses (`compression.size_law`). The accuracies of
    the ladder's four rungs are exact. Between them the accuracy lost is cubic in the quality below
    the first rung's (assumed: so steep that the rungs stay the better bargain, as they are in
    practice), and a power of the logarithm of the side below it, through the same four. A picture
    of more quality or pixels than the first rung's has more bytes and the same accuracy.

    Args:
        ladder: What the server tells. Its rungs are four: a picture, the same at a lower quality,
            and that one at two smaller sizes.

    Raises:
        ConfigurationError: If its rungs are others.
    """

    def __init__(self, ladder: PictureLadder = USUAL_LADDER) -> None:
        sides = [rung.max_side_px for rung in ladder.rungs]
        qualities = [rung.quality for rung in ladder.rungs]
        accuracies = [rung.accuracy for rung in ladder.rungs]
        if not (
            len(sides) == 4
            and sides[0] == sides[1] > sides[2] > sides[3]
            and qualities[0] > qualities[1] == qualities[2] == qualities[3]
            and 1.0 == accuracies[0] > accuracies[1] > accuracies[2] > accuracies[3] > 0.0
        ):
            msg = "expected four rungs: one of accuracy 1, one of less quality, and two of less "
            msg += f"pixels, each worth less; got {ladder.rungs}"
            raise ConfigurationError(msg)
        self.ladder = ladder
        self.max_bits = min(MAX_BITS, 8.0 * (ladder.max_bytes or math.inf))
        """The encoder cuts to this at no loss, at each rung."""
        best, low, middle, small = ladder.rungs
        self._best = best
        self._exact = {(rung.quality, rung.max_side_px): rung.accuracy for rung in ladder.rungs}
        self._quality_loss = best.accuracy - low.accuracy
        self._quality_step = best.quality - low.quality
        middle_loss, small_loss = (1 - rung.accuracy / low.accuracy for rung in (middle, small))
        middle_step, small_step = (
            math.log(best.max_side_px / rung.max_side_px) for rung in (middle, small)
        )
        self._power = math.log(small_loss / middle_loss) / math.log(small_step / middle_step)
        self._side_loss = small_loss / math.pow(small_step, self._power)

    def compressed(
        self, raw_bits: float, quality: int, max_side_px: int | None, target_bytes: int
    ) -> tuple[float, float]:
        """Bits of a picture on the wire, and the accuracy of the server's answer to it.

        A budget below the rung's bytes costs the quality that the cut takes, and makes no better
        bargain than the rungs. (On 38 photos CenterFace made of a 640-pixel picture cut to 16, 14
        and 11 KB 0.97, 0.97 and 0.93 of what it made of one of 48 KB, of the two smaller rungs, of
        18 and 10 KB, 0.97 and 0.92.)

        Args:
            raw_bits: The picture at 1280 pixels and quality 80, uncut.
            quality: JPEG quality, 1 to 95.
            max_side_px: Longest side; `None` for 1280.
            target_bytes: The most the picture may weigh.
        """
        side_px = FULL_SIDE_PX if max_side_px is None else max(max_side_px, 1)
        share = size_share(quality, side_px / FULL_SIDE_PX)
        accuracy = self._exact.get((quality, side_px)) or self._accuracy(quality, side_px)
        bits = min(raw_bits * share, self.max_bits)
        budget = 8.0 * max(target_bytes, 1)
        if budget < bits:
            accuracy = self._accuracy(quality_within(budget / bits, quality), side_px)
            accuracy = min(accuracy, self._of_rungs(share * budget / bits))
            bits = budget
        return bits + FRAMING_BITS, accuracy

    def _of_rungs(self, share: float) -> float:
        """The accuracy that the rungs have at so many bytes, between them by their logarithm."""
        rungs = self.ladder.rungs[::-1]
        shares = [math.log(rung.share) for rung in rungs]
        return float(np.interp(math.log(share), shares, [rung.accuracy for rung in rungs]))

    def _accuracy(self, quality: float, side_px: int) -> float:
        below = max(self._best.quality - quality, 0.0) / self._quality_step
        by_quality = 1 - self._quality_loss * below**3
        best_px = self._best.max_side_px
        smaller = math.log(best_px / min(max(side_px, 1), best_px))
        by_side = 1 - self._side_loss * math.pow(smaller, self._power)
        return max(by_quality, 0.0) * max(by_side, 0.0)
