"""Compression: a frame as a picture that fits a byte budget, and the scale back to its pixels.

A frame is encoded from the planes it has: grey stays grey, and camera planes are never turned into
RGB. Nothing but pixels is written: no EXIF, no colour profile, no comment. `rate_control` explains
how the quality is found in about one encode.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal, TypeAlias

from hybrid_detect.compression.codec import Codec, PillowCodec, jpeg_codec
from hybrid_detect.compression.compressed_image import PRESETS, CompressedImage, Preset
from hybrid_detect.compression.encodable_frame import EncodableFrame
from hybrid_detect.compression.jpeg_markers import quality_of, without_metadata
from hybrid_detect.compression.ladder import ladder_of
from hybrid_detect.compression.rate_control import RateController
from hybrid_detect.compression.size_search import Encoding
from hybrid_detect.config import (
    DEFAULT_MAX_SIDE_PX,
    DEFAULT_QUALITY,
    DEFAULT_TARGET_FILE_SIZE_KB,
)
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.frames.frame import Frame, ImageLike
from hybrid_detect.frames.raster import Scratch
from hybrid_detect.frames.scaling import fitted_size
from hybrid_detect.types import DEFAULT_TARGET_BYTES

__all__ = ["PRESETS", "CompressedImage", "ImageCompressionService", "ImageFormat", "Preset"]

ImageFormat: TypeAlias = Literal["jpeg", "webp", "avif"]
OnImpossible: TypeAlias = Literal["error", "smallest"]

_MAX_STREAMS = 8
"""Streams, told by the size of their frames, that one service remembers: a few cameras, upright and
turned."""

JPEG_MAX_SIDE_PX = 65_500
"""The longest side libjpeg writes. Source: libjpeg, `jmorecfg.h`, JPEG_MAX_DIMENSION."""

WEBP_MAX_SIDE_PX = 16_383
"""The longest side WebP can say. Source: RFC 9649, section 2.5."""

_MAX_SIDES_PX = {"jpeg": JPEG_MAX_SIDE_PX, "webp": WEBP_MAX_SIDE_PX, "avif": JPEG_MAX_SIDE_PX}


class ImageCompressionService:
    """Compresses pictures to a byte budget.

    Frames of the same size are taken for a stream: the bytes of one predict those of the next,
    unless it looks different. Threads may share a service, but give streams that look different a
    service each.

    Args:
        codec: Makes the JPEG; `None` takes simplejpeg if it is installed, else Pillow.
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
        target_bytes: int = DEFAULT_TARGET_BYTES,
        quality: int = DEFAULT_QUALITY,
        max_side_px: int | None = DEFAULT_MAX_SIDE_PX,
        min_face_px: float | None = None,
        min_side_px: int = 1,
        format: ImageFormat = "jpeg",
        options: Mapping[str, str] | None = None,
        on_impossible: OnImpossible = "error",
    ) -> CompressedImage:
        """Compress `image` to at most `target_bytes`.

        Quality gives way first, down to a floor; then size, by halves, and for planes by three
        quarters in between; then, for a picture that cannot reasonably be smaller, quality
        again. A JPEG file that already fits, is upright and small enough is passed through as
        it is, or without its metadata if it has any.

        Args:
            image: A frame, or anything `Frame.of` takes.
            target_bytes: The budget, never exceeded.
            quality: Highest quality worth spending, 1 to 95; above 92 it counts as 92.
            max_side_px: Longest side of the result; `None` keeps the size until the budget
                asks for less.
            min_face_px: Height of the smallest face wanted, in pixels of `image`: the picture
                is not shrunk so far that it could not be found. `None` sets no such limit.
            min_side_px: The least pixels of the shorter side, which the budget does not shrink
                it below; a smaller frame keeps its size.
            format: ``jpeg``, or ``webp`` or ``avif``, which cost 10 to 30 times as much.
            options: ``{"quality": name}`` with a name of `PRESETS` in place of `quality`.
            on_impossible: What happens if no picture meets the budget: an ``error``, or the
                ``smallest`` picture (smallest size allowed, quality 1), over budget.

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
        fine, longer_side = frame.has_planes, max(frame.width, frame.height)
        ladder = ladder_of(size, longer_side, min_face_px, fine=fine, min_side_px=min_side_px)
        codec = self._codec if format == "jpeg" else PillowCodec(format)
        encoding = self._stream(
            (frame.width, frame.height, size, format, fine, min_side_px)
        ).compress(
            EncodableFrame(frame, codec, ladder.sizes, self._scratch),
            target_bytes=target_bytes,
            max_quality=quality,
            floors=ladder.floors,
            scales=ladder.scales,
        )
        if not encoding.fits and on_impossible == "error":
            msg = (
                f"a {frame.width}x{frame.height} picture needs {len(encoding.data)} bytes at "
                f"least, got a budget of {target_bytes}"
            )
            raise ConfigurationError(msg)
        return _compressed(frame, encoding, ladder.sizes[encoding.step], format)

    def _stream(self, key: object) -> RateController:
        """The controller of frames that have this in common."""
        with self._lock:
            controller = self._streams.get(key)
            if controller is None:
                controller = self._streams[key] = RateController()
            self._streams.move_to_end(key)
            if len(self._streams) > _MAX_STREAMS:
                self._streams.popitem(last=False)
        return controller


def _passed_through(frame: Frame, target_bytes: int) -> CompressedImage | None:
    """The file that `frame` was made from, if it can be sent as it is or without its metadata."""
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
    frame: Frame, encoding: Encoding, size: tuple[int, int], format: str
) -> CompressedImage:
    return CompressedImage(
        data=encoding.data,
        width=size[0],
        height=size[1],
        original_width=frame.width,
        original_height=frame.height,
        quality=encoding.quality,
        encodes=encoding.encodes,
        format=format,
        fits=encoding.fits,
    )


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
