"""The ladder of pictures that a policy may ask a remote backend for, from the best down.

A server of this project tells which pictures its model gains by, and what it makes of smaller ones
(`exchange.model_info`): its ladder takes the place of `RUNGS`, which fits any server.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybrid_detect.compression.compressed_image import PRESETS
from hybrid_detect.compression.size_law import size_share
from hybrid_detect.types import Plan

__all__ = ["CENTERFACE_LADDER", "FULL_SIDE_PX", "RUNGS", "USUAL_LADDER", "PictureLadder", "Rung"]

FULL_SIDE_PX = 1280
"""Longest side of the picture that the shares of bytes compare with."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder."""

    quality: int
    """Highest JPEG quality, 1 to 95."""
    max_side_px: int
    """Longest side in pixels."""
    accuracy: float
    """What the server makes of it, as a share of what it makes of the best picture."""

    @property
    def share(self) -> float:
        """Bytes as a share of a 1280x720 JPEG of quality 80."""
        return size_share(self.quality, self.max_side_px / FULL_SIDE_PX)

    def share_of(self, side_px: int | None) -> float:
        """Bytes as a share of those at quality 80 of a frame with the longer side `side_px`.

        `None` and more than `FULL_SIDE_PX` count as that.
        """
        if side_px is None or side_px >= FULL_SIDE_PX:
            return self.share
        return size_share(self.quality, min(1.0, self.max_side_px / side_px))


RUNGS = (
    Rung(PRESETS["high"].quality, FULL_SIDE_PX, 1.000),
    Rung(PRESETS["low"].quality, FULL_SIDE_PX, 0.985),
    Rung(PRESETS["low"].quality, 960, 0.960),
    Rung(PRESETS["low"].quality, 640, 0.900),
)
"""The ladder for a server that does not tell its own: from the preset for a good link to a quarter
of the pixels of the one for a slow link.

Accuracies: assumed, near what the F1 of the full-range model loses on group photos; see
`docs/explanation/choosing.md`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLadder:
    """The pictures that are worth sending to a backend. The default fits any server."""

    rungs: tuple[Rung, ...] = RUNGS
    """From the best down; at least one."""
    max_side_px: int | None = None
    """Longer side beyond which its model gains next to nothing; `None` if unknown."""
    max_bytes: int | None = None
    """Size of a compressed picture beyond which it gains next to nothing; `None` if unknown."""

    def bytes_within(self, budget_bytes: int) -> int:
        """The most that a picture is worth weighing, and at most `budget_bytes`."""
        return min(budget_bytes, self.max_bytes or budget_bytes)

    def limited(self, plan: Plan) -> Plan:
        """`plan` with no larger picture than is worth sending."""
        side_px = self.max_side_px
        if side_px is None or (plan.max_side_px is not None and plan.max_side_px <= side_px):
            side_px = plan.max_side_px
        target_bytes = self.bytes_within(plan.target_bytes)
        if (side_px, target_bytes) == (plan.max_side_px, plan.target_bytes):
            return plan
        return replace(plan, max_side_px=side_px, target_bytes=target_bytes)


USUAL_LADDER = PictureLadder()
"""For a server that does not tell its own."""

CENTERFACE_LADDER = PictureLadder(
    rungs=(Rung(80, 640, 1.000), Rung(50, 640, 0.998), Rung(50, 480, 0.964), Rung(50, 320, 0.915)),
    max_side_px=640,
    max_bytes=40 * 1024,
)
"""What this project's server tells by default: CenterFace at 640 pixels. Source: F1 on 38 photos as
a share of the first rung's, `docs/explanation/models.md`."""
