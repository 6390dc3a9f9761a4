"""Compression: a frame as a picture that fits a byte budget, and the scale back to its pixels.

The picture is encoded from whatever planes it has: grey stays grey, camera planes are never
turned into RGB. Nothing but pixels is written: no EXIF, no colour profile, no comment. How the
quality is found in about one encode is told in `rate_control`.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

from hybrid_detect.config import (
    DEFAULT_MAX_SIDE_PX,
    DEFAULT_QUALITY,
    DEFAULT_TARGET_FILE_SIZE_KB,
)
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.frames.codec import Codec, Encode, PillowCodec, jpeg_codec
from hybrid_detect.frames.frame import Frame, ImageLike
from hybrid_detect.frames.jpeg_markers import quality_of, without_metadata
from hybrid_detect.frames.raster import Raster, Scratch
from hybrid_detect.frames.rate_control import HEADER_BYTES, Outcome, RateController
from hybrid_detect.frames.scaling import fitted_size

__all__ = ["PRESETS", "CompressedImage", "ImageCompressionService", "ImageFormat", "Preset"]

ImageFormat: TypeAlias = Literal["jpeg", "webp", "avif"]
OnImpossible: TypeAlias = Literal["error", "smallest"]

MIN_SIDE_PX = 64
"""No longer side is shrunk below this: a face in it could hardly be told from noise."""

FACE_SIDE_PX = 14
"""The height a face needs in the compressed picture to be found.

Source: docs/explanation/compression.md; a cascade lost nothing at 14 to 16 px, a sixth at 10.
"""

_FLOORS = ((960, 40), (480, 25), (0, 10))
"""Longer side from which on a quality is the lowest worth sending at that size.

Below it the picture of half the size, at a better quality, shows more in as many bytes.
"""

_SAMPLE_BIAS = 0.984
"""Samples weigh 1.7 % more than their share of the whole (measured)."""

_BYTES_PER_PIXEL = 0.03
_ACTIVITY_EXPONENT = 0.85
_LEAST_ACTIVITY = 0.1
"""What a picture weighs at quality 60, from its activity alone: off by 10 to 16 % on photos."""

_MAX_STREAMS = 8
"""Sizes of picture one service remembers the past of: a few cameras, both ways up."""

JPEG_MAX_SIDE_PX = 65_500
"""The longest side libjpeg writes. Source: libjpeg, `jmorecfg.h`, JPEG_MAX_DIMENSION."""

WEBP_MAX_SIDE_PX = 16_383
"""The longest side WebP can say. Source: RFC 9649, section 2.5."""

_MAX_SIDES_PX = {"jpeg": JPEG_MAX_SIDE_PX, "webp": WEBP_MAX_SIDE_PX, "avif": JPEG_MAX_SIDE_PX}


@dataclass(frozen=True, slots=True)
class Preset:
    """What a kind of link is good for."""

    quality: int
    """Highest JPEG quality worth sending."""
    fps: int
    """Most frames per second worth sending."""


PRESETS: Mapping[str, Preset] = {
    "low": Preset(quality=50, fps=5),
    "medium": Preset(quality=65, fps=10),
    "high": Preset(quality=80, fps=15),
}
"""``low`` is the mission's preset for a slow link, ``high`` that for a good one."""


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
        """Upright pixels per compressed pixel along x, at least 1."""
        return self.original_width / self.width

    @property
    def scale_y(self) -> float:
        """Upright pixels per compressed pixel along y; differs from `scale_x` by rounding only."""
        return self.original_height / self.height

    @property
    def scale(self) -> float:
        """Upright pixels per compressed pixel along the longer side, at least 1."""
        return self.scale_x if self.original_width >= self.original_height else self.scale_y

    @property
    def file_size_kb(self) -> float:
        """Size of `data` in units of 1024 bytes."""
        return len(self.data) / 1024


class ImageCompressionService:
    """Compresses pictures to a byte budget.

    Pictures of the same size are taken for a stream: what one weighed says what the next will,
    unless it looks different. Threads may share a service, but streams that look different
    are better served by one each.

    Args:
        codec: What makes a JPEG; `None` takes simplejpeg if it is installed, else Pillow.
    """

    def __init__(self, *, codec: Codec | None = None) -> None:
        self._codec = codec or jpeg_codec()
        self._streams: OrderedDict[object, RateController] = OrderedDict()
        self._lock = threading.Lock()
        self._scratch = Scratch()

    def compress_camera_image(
        self,
        camera_image: ImageLike,
        target_file_size_kb: float = DEFAULT_TARGET_FILE_SIZE_KB,
        *,
        options: Mapping[str, str] | None = None,
        min_face_px: float | None = None,
        on_impossible: OnImpossible = "error",
    ) -> CompressedImage:
        """Compress `camera_image` to at most `target_file_size_kb` times 1024 bytes.

        Args:
            camera_image: A `CameraImage`, or anything else `Frame.of` takes.
            target_file_size_kb: The budget.
            options: As in `compress`.
            min_face_px: As in `compress`.
            on_impossible: As in `compress`.

        Raises:
            InvalidFrameError: If it is not a readable image.
            ConfigurationError: If an argument is out of range, or no JPEG of it is that small.
        """
        return self.compress(
            camera_image,
            target_bytes=int(target_file_size_kb * 1024),
            options=options,
            min_face_px=min_face_px,
            on_impossible=on_impossible,
        )

    def compress(
        self,
        image: ImageLike,
        *,
        target_bytes: int = DEFAULT_TARGET_FILE_SIZE_KB * 1024,
        quality: int = DEFAULT_QUALITY,
        max_side_px: int | None = DEFAULT_MAX_SIDE_PX,
        min_face_px: float | None = None,
        format: ImageFormat = "jpeg",
        options: Mapping[str, str] | None = None,
        on_impossible: OnImpossible = "error",
    ) -> CompressedImage:
        """Compress `image` to at most `target_bytes`.

        Quality gives way first, down to a floor; then size, by halves; then, for a picture that
        cannot reasonably be smaller, quality again. A JPEG file that already fits, is upright
        and small enough is passed through as it is, or without its metadata if it has any.

        Args:
            image: A frame, or anything `Frame.of` takes.
            target_bytes: The budget, never exceeded.
            quality: Highest quality worth spending, 1 to 95; above 92 it counts as 92.
            max_side_px: Longest side of the result; `None` keeps the size until the budget
                asks for less.
            min_face_px: Height of the smallest face wanted, in pixels of `image`: the picture
                is not shrunk so far that it could not be found. `None` sets no such limit.
            format: ``jpeg``, or ``webp`` or ``avif``, which cost 10 to 30 times as much.
            options: ``{"quality": name}`` with a name of `PRESETS` in place of `quality`.
            on_impossible: What a budget that no picture meets leads to: an ``error``, or the
                ``smallest`` picture there is (smallest size allowed, quality 1), over budget.

        Raises:
            InvalidFrameError: If `image` is not a readable image.
            ConfigurationError: If an argument is out of range, or the budget cannot be met.
        """
        quality = _checked_quality(quality, options)
        _check(target_bytes >= 1, "target_bytes", "at least 1", target_bytes)
        _check(min_face_px is None or min_face_px > 0, "min_face_px", "above 0", min_face_px)
        _check(format in _MAX_SIDES_PX, "format", "jpeg, webp or avif", format)
        _check(
            on_impossible in ("error", "smallest"),
            "on_impossible",
            "error or smallest",
            on_impossible,
        )
        frame = Frame.of(image)
        limit = _MAX_SIDES_PX[format]
        side = limit if max_side_px is None else min(max_side_px, limit)
        size = fitted_size(frame.width, frame.height, max_side_px=side)
        if format == "jpeg" and size == (frame.width, frame.height):
            passed = _passed_through(frame, target_bytes)
            if passed:
                return passed
        sizes, floors = _ladder(size, max(frame.width, frame.height), min_face_px)
        codec = self._codec if format == "jpeg" else PillowCodec(format)
        outcome = self._stream(frame, size, format).compress(
            _Picture(frame, codec, sizes, self._scratch),
            target_bytes=target_bytes,
            max_quality=quality,
            floors=floors,
        )
        if not outcome.fits and on_impossible == "error":
            msg = (
                f"a {frame.width}x{frame.height} picture needs {len(outcome.data)} bytes at "
                f"least, got a budget of {target_bytes}"
            )
            raise ConfigurationError(msg)
        return _compressed(frame, outcome, sizes[outcome.step], format)

    def _stream(self, frame: Frame, size: tuple[int, int], format: str) -> RateController:
        """The controller of frames like this one."""
        key = (frame.width, frame.height, size, format)
        with self._lock:
            controller = self._streams.setdefault(key, RateController())
            self._streams.move_to_end(key)
            if len(self._streams) > _MAX_STREAMS:
                self._streams.popitem(last=False)
        return controller


class _Picture:
    """A frame as the rate control's subject: each size is made once, when it is asked for."""

    def __init__(
        self, frame: Frame, codec: Codec, sizes: Sequence[tuple[int, int]], scratch: Scratch
    ) -> None:
        self._frame = frame
        self._scratch = scratch
        self._codec = codec
        self._sizes = sizes
        self._rasters: dict[int, Raster] = {}
        self._encoders: dict[int, Encode] = {}
        self._samplers: dict[int, tuple[Encode, float] | None] = {}

    def encode(self, step: int, quality: int) -> bytes:
        if step not in self._encoders:
            self._encoders[step] = self._codec.encoder(self._raster(step))
        return self._encoders[step](quality)

    def estimate(self, step: int, quality: int) -> float | None:
        if step not in self._samplers:
            sample = self._raster(step).sample()
            self._samplers[step] = sample and (self._codec.encoder(sample[0]), sample[1])
        sampler = self._samplers[step]
        if sampler is None:
            return None
        encode, times = sampler
        body = len(encode(quality)) - HEADER_BYTES
        return HEADER_BYTES + max(1, body) * times * _SAMPLE_BIAS

    def glance(self, step: int) -> float:
        width, height = self._sizes[step]
        detail = math.pow(self._raster(step).activity() + _LEAST_ACTIVITY, _ACTIVITY_EXPONENT)
        return HEADER_BYTES + _BYTES_PER_PIXEL * width * height * detail

    def _raster(self, step: int) -> Raster:
        if step not in self._rasters:
            larger = [made for made in self._rasters if made < step]
            size = self._sizes[step]
            # From the nearest larger one there is, so that nothing is decoded or turned twice.
            self._rasters[step] = (
                self._rasters[max(larger)].resized(size)
                if larger
                else self._frame.raster(size, scratch=self._scratch)
            )
        return self._rasters[step]


def _passed_through(frame: Frame, target_bytes: int) -> CompressedImage | None:
    """The file `frame` was made from, if it can be sent as it is but for metadata."""
    data = frame.jpeg and without_metadata(frame.jpeg)
    if not data or len(data) > target_bytes:
        return None
    return CompressedImage(
        data=data,
        width=frame.width,
        height=frame.height,
        original_width=frame.width,
        original_height=frame.height,
        quality=quality_of(data),
        encodes=0,
    )


def _compressed(
    frame: Frame, outcome: Outcome, size: tuple[int, int], format: str
) -> CompressedImage:
    return CompressedImage(
        data=outcome.data,
        width=size[0],
        height=size[1],
        original_width=frame.width,
        original_height=frame.height,
        quality=outcome.quality,
        encodes=outcome.encodes,
        format=format,
        fits=outcome.fits,
    )


@lru_cache(maxsize=32)
def _ladder(
    size: tuple[int, int], longer_side: int, min_face_px: float | None
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """`size` and its halves, as long as they show anything, and the quality floor of each.

    Args:
        size: Width and height of the largest.
        longer_side: Of the picture in which faces are at least `min_face_px` high.
        min_face_px: That height.
    """
    sizes = [size]
    while True:
        halved = tuple(max(1, round(side / 2 ** len(sizes))) for side in size)
        scale = longer_side / max(halved)
        is_too_small = max(halved) < MIN_SIDE_PX
        if is_too_small or (min_face_px is not None and min_face_px < FACE_SIDE_PX * scale):
            return tuple(sizes), tuple(_floor(size) for size in sizes)
        sizes.append((halved[0], halved[1]))


def _floor(size: tuple[int, int]) -> int:
    return next(quality for side, quality in _FLOORS if max(size) >= side)


def _checked_quality(quality: int, options: Mapping[str, str] | None) -> int:
    if options:
        name = options.get("quality")
        known = ", ".join(PRESETS)
        _check(set(options) == {"quality"}, "options", "{'quality': name}", dict(options))
        _check(name in PRESETS, "options['quality']", f"one of {known}", name)
        return PRESETS[str(name)].quality
    _check(1 <= quality <= 95, "quality", "1 to 95", quality)
    return quality


def _check(condition: bool, name: str, expected: str, actual: object) -> None:
    if not condition:
        msg = f"{name}: expected {expected}, got {actual!r}"
        raise ConfigurationError(msg)
