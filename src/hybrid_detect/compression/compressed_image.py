"""Compressed images, and the presets for what a link is good for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["PRESETS", "CompressedImage", "Preset"]


@dataclass(frozen=True, slots=True)
class Preset:
    """The quality and the rate of frames that suit a kind of link."""

    quality: int
    """Highest JPEG quality worth sending."""
    fps: int
    """Most frames per second worth sending; `ThresholdPolicy` keeps to it."""


PRESETS: Mapping[str, Preset] = {
    "low": Preset(quality=50, fps=5),
    "medium": Preset(quality=65, fps=10),
    "high": Preset(quality=80, fps=15),
}
"""``low`` is for a slow link, ``high`` for a good one. Source of both: the project's mission."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedImage:
    """A compressed picture: upright, without metadata."""

    data: bytes = field(repr=False)
    width: int
    """Pixels of the compressed picture."""
    height: int
    """Pixels of the compressed picture."""
    original_width: int
    """Pixels of the upright picture it was made from."""
    original_height: int
    """Pixels of the upright picture it was made from."""
    quality: int
    """Quality, 1 to 95; of a JPEG passed through, what its tables correspond to, up to 100."""
    encodes: int
    """How often the picture was encoded to meet the budget; 0 if it was passed through."""
    format: str = "jpeg"
    fits: bool = True
    """Whether it meets the budget; `False` only with ``on_impossible="smallest"``."""

    @property
    def scale_x(self) -> float:
        """Upright pixels per compressed pixel along x; below 1 if the picture was enlarged."""
        return self.original_width / self.width

    @property
    def scale_y(self) -> float:
        """Upright pixels per compressed pixel along y; differs from `scale_x` by rounding only."""
        return self.original_height / self.height

    @property
    def scale(self) -> float:
        """Upright pixels per compressed pixel along the longer side."""
        return self.scale_x if self.original_width >= self.original_height else self.scale_y

    @property
    def file_size_kb(self) -> float:
        """Size of `data` in units of 1024 bytes."""
        return len(self.data) / 1024
