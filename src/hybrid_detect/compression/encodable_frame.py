"""Encodable frames: what the rate control asks of a frame, at each of its sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hybrid_detect.compression.codec import Codec, Encode
from hybrid_detect.compression.size_law import HEADER_BYTES
from hybrid_detect.frames.frame import Frame
from hybrid_detect.frames.raster import Raster, Scratch
from hybrid_detect.frames.shrinking import shrinks_fast

__all__ = ["EncodableFrame"]

_SAMPLE_BIAS = 0.98
"""Samples have 2 % more bytes than their share: neighbouring tiles do not continue each other."""

_BYTES_PER_PIXEL = 0.03
_ACTIVITY_EXPONENT = 0.85
_LEAST_ACTIVITY = 0.1
"""Bytes of a picture at quality 60, from its activity alone: off by 10 to 16 % on photos."""


class EncodableFrame:
    """A frame for the rate control to encode: each size is made once, when it is asked for.

    Args:
        frame: The picture.
        codec: Encodes it.
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
        """Encode the whole frame at one of its sizes."""
        encode = self._encoders.get(step)
        if encode is None:
            encode = self._encoders[step] = self._codec.encoder(self._raster(step))
        return encode(quality)

    def estimate(self, step: int, quality: int, part: int) -> float | None:
        """Estimate how many bytes `encode` would give, from a tenth of the picture."""
        sample = self._raster(step).sample(part)
        if sample is None:
            return None
        tiles, times = sample
        body = len(self._codec.encoder(tiles)(quality)) - HEADER_BYTES
        return HEADER_BYTES + max(1, body) * times * _SAMPLE_BIAS

    def glance(self, step: int) -> float:
        """Guess the bytes at the controller's `GLANCE_QUALITY` from a few rows."""
        width, height = self._sizes[step]
        detail = math.pow(self._raster(step).activity() + _LEAST_ACTIVITY, _ACTIVITY_EXPONENT)
        return HEADER_BYTES + _BYTES_PER_PIXEL * width * height * detail

    def _raster(self, step: int) -> Raster:
        raster = self._rasters.get(step)
        if raster is None:
            raster = self._rasters[step] = self._made(step)
        return raster

    def _made(self, step: int) -> Raster:
        """Make one size of the frame, from a larger one if it exists: nothing is decoded twice."""
        size = self._sizes[step]
        larger = [made for made in self._rasters if made < step]
        if not larger:
            return self._frame.raster(size, scratch=self._scratch)
        larger.sort(reverse=True)
        fast = (made for made in larger if shrinks_fast(self._sizes[made], size))
        return self._rasters[next(fast, larger[0])].resized(size)
