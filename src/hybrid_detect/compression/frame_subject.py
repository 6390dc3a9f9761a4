"""Frames as the subject of rate control: encoded at any size, or just looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hybrid_detect.compression.codec import Codec, Encode
from hybrid_detect.compression.size_law import HEADER_BYTES
from hybrid_detect.frames.frame import Frame
from hybrid_detect.frames.raster import Raster, Scratch
from hybrid_detect.frames.shrinking import shrinks_fast

__all__ = ["FrameSubject"]

_SAMPLE_BIAS = 0.98
"""Samples weigh 2 % more than their share: tiles side by side do not go on in each other."""

_BYTES_PER_PIXEL = 0.03
_ACTIVITY_EXPONENT = 0.85
_LEAST_ACTIVITY = 0.1
"""What a picture weighs at quality 60, from its activity alone: off by 10 to 16 % on photos."""


class FrameSubject:
    """A frame as the rate control's subject: each size is made once, when it is asked for.

    Args:
        frame: The picture.
        codec: What encodes it.
        sizes: Width and height of each of its sizes, from the largest down.
        scratch: Memory to take it apart in.
    """

    def __init__(
        self, frame: Frame, codec: Codec, sizes: Sequence[tuple[int, int]], scratch: Scratch
    ) -> None:
        self._frame = frame
        self._scratch = scratch
        self._codec = codec
        self._sizes = sizes
        self._rasters: dict[int, Raster] = {}
        self._encoders: dict[int, Encode] = {}

    def encode(self, step: int, quality: int) -> bytes:
        """The whole picture as a file."""
        encode = self._encoders.get(step)
        if encode is None:
            encode = self._encoders[step] = self._codec.encoder(self._raster(step))
        return encode(quality)

    def estimate(self, step: int, quality: int, part: int) -> float | None:
        """About how many bytes `encode` would give, from a tenth of the picture."""
        sample = self._raster(step).sample(part)
        if sample is None:
            return None
        tiles, times = sample
        body = len(self._codec.encoder(tiles)(quality)) - HEADER_BYTES
        return HEADER_BYTES + max(1, body) * times * _SAMPLE_BIAS

    def glance(self, step: int) -> float:
        """Very roughly what it weighs at the controller's `GLANCE_QUALITY`."""
        width, height = self._sizes[step]
        detail = math.pow(self._raster(step).activity() + _LEAST_ACTIVITY, _ACTIVITY_EXPONENT)
        return HEADER_BYTES + _BYTES_PER_PIXEL * width * height * detail

    def _raster(self, step: int) -> Raster:
        raster = self._rasters.get(step)
        if raster is None:
            raster = self._rasters[step] = self._made(step)
        return raster

    def _made(self, step: int) -> Raster:
        """The picture at one size; from a larger one, so that nothing is decoded twice."""
        size = self._sizes[step]
        larger = [made for made in self._rasters if made < step]
        if not larger:
            return self._frame.raster(size, scratch=self._scratch)
        larger.sort(reverse=True)
        fast = (made for made in larger if shrinks_fast(self._sizes[made], size))
        return self._rasters[next(fast, larger[0])].resized(size)
