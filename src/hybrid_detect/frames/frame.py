"""Frame: one value for any image a caller may have, upright and checked.

What is declared is checked when the frame is made; pixels are decoded when they are asked for,
anew each time, so that a frame waiting in a queue takes no more memory than its source.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import time
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.array_picture import ArrayPicture, PixelFormat, as_pixel_format
from hybrid_detect.frames.banding import pixels_of
from hybrid_detect.frames.camera import CameraImage
from hybrid_detect.frames.decoding import EncodedPicture, check_pixels
from hybrid_detect.frames.pillow_picture import PillowPicture
from hybrid_detect.frames.raster import Planes, Raster, Scratch
from hybrid_detect.frames.reading import check_length, read_file, read_stream
from hybrid_detect.types import DetectionResult

__all__ = ["MAX_PIXELS", "Frame", "ImageLike", "PixelFormat", "opens_at_once"]

MAX_PIXELS = 64_000_000
"""The most pixels a picture may have. An 8K frame has 33 million; twice that is past any camera
in reach, takes 192 MB as RGB, and stays below what makes Pillow suspect a decompression bomb.
"""

AT_ONCE_ENCODED_BYTES = 256 * 1024
"""An encoded image of so many bytes is taken apart within 0.5 ms, one of the most parts allowed
within 5 ms. A camera's 1280x720 JPEG has 120 to 180 KB."""

AT_ONCE_ARRAY_BYTES = 8 * 1024 * 1024
"""An array of 1920x1080 has 6 MB, and a copy of it takes about 1 ms."""

_frame_ids = itertools.count(1)


class _Source(Protocol):
    """Where a frame's pixels come from."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def kind(self) -> str: ...

    def picture(self, *, max_side_px: int | None = None) -> Image.Image: ...
    def raster(self, size: tuple[int, int], *, scratch: Scratch | None = None) -> Raster: ...


class Frame:
    """An image for a detector, upright, made by `Frame.of` from any kind of image.

    Arrays, Pillow images and camera planes are referred to, not copied: leave them as they are
    until the frame's result is there. Several threads may read one frame.
    """

    __slots__ = ("_source", "captured_at_s", "frame_id", "height", "width")

    width: int
    """Width of the upright picture in pixels."""
    height: int
    """Height of the upright picture in pixels."""
    captured_at_s: float
    """When the picture was taken, in seconds of `time.monotonic`."""
    frame_id: int
    """Number of the frame in its process, in the order of creation."""

    def __init__(self, source: _Source, *, captured_at_s: float) -> None:
        self._source = source
        self.width = source.width
        self.height = source.height
        self.captured_at_s = captured_at_s
        self.frame_id = next(_frame_ids)

    @classmethod
    def of(
        cls,
        image: ImageLike,
        *,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        captured_at_s: float | None = None,
        max_pixels: int | None = None,
    ) -> Frame:
        """Make a frame of `image`.

        Args:
            image: A uint8 array; a Pillow image; an encoded image (JPEG, PNG, WebP, BMP, GIF,
                TIFF, AVIF) as bytes, as a path or as a binary file object, which is read from
                its current position to its end; a `CameraImage`; or a frame, which is
                returned as it is. Of an animation, the first picture counts.
            pixel_format: The channels of an array. Declared, never guessed: RGB and BGR cannot
                be told apart by looking. Other inputs know their own.
            captured_at_s: When the picture was taken, in seconds of `time.monotonic`; `None`
                means now.
            max_pixels: The most pixels the picture may have; checked before decoding. `None`
                means `MAX_PIXELS`, and for a frame the limit that it was made under.

        Raises:
            InvalidFrameError: If it is none of these, does not fit `pixel_format`, cannot be
                read, is too large, or is visibly damaged. Damage further in shows up when
                pixels are asked for, as the same error.
        """
        if isinstance(image, Frame):
            if max_pixels is not None:
                check_pixels(image.width, image.height, max_pixels=max_pixels)
            return image
        max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
        captured_at_s = time.monotonic() if captured_at_s is None else _as_time(captured_at_s)
        try:
            source = _source_of(image, pixel_format=pixel_format, max_pixels=max_pixels)
        except MemoryError as exc:
            raise InvalidFrameError(
                expected="a picture that fits into the memory that is left", actual="a larger one"
            ) from exc
        return cls(source, captured_at_s=captured_at_s)

    def age_s(self, now_s: float | None = None) -> float:
        """Seconds since the picture was taken, at `now_s` of `time.monotonic` or now."""
        return max(0.0, (time.monotonic() if now_s is None else now_s) - self.captured_at_s)

    def rgb(self, *, enough_px: int | None = None) -> NDArray[np.uint8]:
        """The upright picture as RGB.

        Args:
            enough_px: Pixels of the longer side that suffice where fewer are cheaper to decode;
                see `EncodedPicture.rgb`. `None` keeps every pixel.

        Returns:
            Shape ``(height, width, 3)``, C-contiguous always: a detector that is handed a view
            with gaps may silently read other pixels. Do not write to it: it is the caller's
            own array where that is already of this form, and may be read-only.

        Raises:
            InvalidFrameError: If the picture turns out to be damaged.
        """
        if isinstance(self._source, ArrayPicture):
            return self._source.rgb()
        if isinstance(self._source, EncodedPicture):
            return self._source.rgb(enough_px=enough_px)
        if isinstance(self._source, _CameraPicture):
            return pixels_of(self._source.picture().convert("RGB"))
        raster = self._source.raster((self.width, self.height))
        if isinstance(raster, Planes):
            return np.repeat(raster.y[:, :, np.newaxis], 3, axis=2)  # there was grey alone
        return raster.pixels

    def pil(self, *, max_side_px: int | None = None) -> Image.Image:
        """The upright picture as a new Pillow image, without metadata.

        Args:
            max_side_px: Shrink so that the longer side fits this; never enlarged.

        Returns:
            Mode ``RGB``, ``L`` (grey input) or ``YCbCr`` (camera planes); transparent pixels
            of an image with transparency lie over black.

        Raises:
            InvalidFrameError: If the picture turns out to be damaged.
            ConfigurationError: If `max_side_px` is below 1.
        """
        return self._source.picture(max_side_px=max_side_px)

    def raster(
        self, size: tuple[int, int] | None = None, *, scratch: Scratch | None = None
    ) -> Raster:
        """The upright pixels in the layout they have, for an encoder. Do not write to them.

        Args:
            size: Width and height wanted, neither larger than the frame's; `None` keeps them.
            scratch: Memory to work in; the pixels then hold until it is used again. `None`
                takes fresh memory.

        Raises:
            InvalidFrameError: If the picture turns out to be damaged.
        """
        size = (self.width, self.height) if size is None else size
        return self._source.raster(size, scratch=scratch)

    @property
    def encoded(self) -> EncodedPicture | None:
        """The encoded image this frame was made from, metadata and all; `None` if from pixels."""
        return self._source if isinstance(self._source, EncodedPicture) else None

    def png_with(self, result: DetectionResult) -> bytes:
        """A PNG of the picture with the faces of `result` on it, for a notebook."""
        from hybrid_detect.frames.drawing import draw

        file = io.BytesIO()
        draw(self.pil(), result).save(file, "PNG")
        return file.getvalue()

    @property
    def has_planes(self) -> bool:
        """Whether `raster` gives planes of luma and chroma, or luma alone, rather than RGB."""
        source = self._source
        if isinstance(source, ArrayPicture):
            return source.pixel_format is PixelFormat.GRAY
        return isinstance(source, _CameraPicture)

    @property
    def jpeg(self) -> bytes | None:
        """The JPEG file this frame was made from, if it was and the file is upright as stored."""
        source = self._source
        if isinstance(source, EncodedPicture) and source.format == "JPEG":
            return source.data if source.orientation == 1 else None
        return None

    def __repr__(self) -> str:
        return f"<Frame {self.frame_id}: {self.width}x{self.height} from {self._source.kind}>"


ImageLike: TypeAlias = (
    Frame
    | NDArray[Any]
    | Image.Image
    | CameraImage
    | bytes
    | bytearray
    | memoryview
    | str
    | os.PathLike[str]
    | IO[bytes]
)
"""What `Frame.of` takes."""


def opens_at_once(image: ImageLike) -> bool:
    """Whether `Frame.of` takes a few milliseconds at most for `image`, so that a loop may call it.

    Reading a file may block for any time; walking over a long file, copying a large array or
    loading an image that Pillow opened lazily takes tens of milliseconds.
    """
    if isinstance(image, Frame | CameraImage):
        return True
    if isinstance(image, np.ndarray):
        return image.nbytes <= AT_ONCE_ARRAY_BYTES
    if isinstance(image, bytes | bytearray):
        return len(image) <= AT_ONCE_ENCODED_BYTES
    return False


@dataclass(frozen=True, slots=True, eq=False)
class _CameraPicture:
    """Camera planes of the caller's."""

    image: CameraImage = field(repr=False)

    @property
    def width(self) -> int:
        return self.image.upright_size[0]

    @property
    def height(self) -> int:
        return self.image.upright_size[1]

    @property
    def kind(self) -> str:
        return f"camera planes of {self.image.format.value}"

    def raster(self, size: tuple[int, int], *, scratch: Scratch | None = None) -> Raster:
        return self.image.raster(size, scratch=scratch)

    def picture(self, *, max_side_px: int | None = None) -> Image.Image:
        return self.image.picture(max_side_px=max_side_px)


def _source_of(image: Any, *, pixel_format: PixelFormat | str, max_pixels: int) -> _Source:
    if isinstance(image, np.ndarray):
        source = ArrayPicture.of(image, as_pixel_format(pixel_format))
        check_pixels(source.width, source.height, max_pixels=max_pixels)
        return source
    if isinstance(image, Image.Image):
        return PillowPicture.of(image, max_pixels=max_pixels)
    if isinstance(image, CameraImage):
        check_pixels(*image.upright_size, max_pixels=max_pixels)
        return _CameraPicture(image)
    return EncodedPicture.of(_encoded(image), max_pixels=max_pixels)


def _encoded(image: Any) -> bytes:
    """The encoded image that `image` is or leads to."""
    if isinstance(image, bytes | bytearray | memoryview):
        try:
            check_length(memoryview(image).nbytes)
            return bytes(image)
        except ValueError as exc:
            if isinstance(exc, InvalidFrameError):
                raise
            raise InvalidFrameError(expected="encoded bytes", actual=str(exc)) from exc
    if isinstance(image, str | os.PathLike):
        return read_file(image)
    if callable(getattr(image, "read", None)):
        return read_stream(image)
    hint = ""
    if hasattr(image, "__array__") or isinstance(image, list):
        hint = " (make it a uint8 array of (height, width, channels) first)"
    raise InvalidFrameError(
        expected="a uint8 array, a Pillow image, encoded bytes, a path, a binary file object "
        "or a CameraImage",
        actual=type(image).__name__ + hint,
    )


def _as_time(value: float) -> float:
    if isinstance(value, int | float | np.number) and math.isfinite(value):
        return float(value)
    raise InvalidFrameError(
        expected="captured_at_s in seconds of time.monotonic()", actual=repr(value)[:40]
    )
