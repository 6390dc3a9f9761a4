"""PrivacyFilter: removes what identifies people, from the file or from the pixels."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.errors import ConfigurationError, InvalidFrameError
from hybrid_detect.frames.colour import in_srgb
from hybrid_detect.frames.decoding import EncodedPicture
from hybrid_detect.frames.frame import Frame, ImageLike, PixelFormat
from hybrid_detect.privacy.face_regions import FaceRegion, filled, kept_alone, pixelated
from hybrid_detect.privacy.metadata import Metadata, find_metadata, picture_alone
from hybrid_detect.types import DetectionResult, DetectionStatus, Face

__all__ = ["Faces", "Method", "PrivacyFilter"]

Method: TypeAlias = Literal["fill", "pixelate"]

Faces: TypeAlias = DetectionResult | Iterable[Face]
"""Where the faces are: a result for this very image, or faces in its upright pixels."""

_METHODS = {"fill": filled, "pixelate": pixelated}

ANONYMIZE_MARGIN = 0.5
"""Covers hair, ears and chin, which a detector's box leaves out. Measured: with 0.25 or less,
MediaPipe finds a face again in some filled regions; with this, in none of 684
(`benchmarks/bench_privacy.py`).
"""

REDACT_MARGIN = 1.0
"""Measured: MediaPipe finds a face in its crop by what surrounds it. With this it finds 20 of 21
again (full range: 47 of 70); with 0.25, 13 and 36; with 2.0, 21 and 60.
"""

_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "PNG": {},
    "WEBP": {"lossless": True, "exact": True},
}
"""Pillow's, for pictures that must be encoded again. JPEG loses least that can be seen above 95."""

_BAND = 256
"""Rows compared at once."""


class PrivacyFilter:
    """Removes what identifies people from images: from the file, or from the pixels.

    It keeps no state, and does no I/O except to read a path that it is given. Threads may share
    one.
    """

    def find_metadata(self, image: ImageLike) -> tuple[Metadata, ...]:
        """What an encoded image holds beside its picture: names and sizes, never content.

        Args:
            image: A JPEG, PNG or WebP as bytes, a path, a binary file object, or a frame of one.

        Returns:
            What `remove_pii` would leave out, in the file's order; empty for what it returned.

        Raises:
            InvalidFrameError: If it is not such a file, or is visibly damaged.
        """
        file = Frame.of(image).encoded
        if file is None:
            raise InvalidFrameError(
                expected="a JPEG, PNG or WebP file", actual="pixels, which carry no metadata"
            )
        return find_metadata(file.data, file.format)

    def remove_pii(
        self, image: ImageLike, *, pixel_format: PixelFormat | str = PixelFormat.RGB
    ) -> bytes:
        """A file with the picture of `image` and nothing else.

        No EXIF with position, maker notes and thumbnail, no XMP, IPTC, comment, text, time, colour
        profile, further picture or unknown piece, and no byte behind the picture. The pixels are
        what they were, bit for bit, with these exceptions:

        - A JPEG that EXIF turns is turned and encoded again, at quality 95 with full colour
          resolution. PNG and WebP are turned without loss.
        - A picture whose colour profile is not sRGB's, such as a phone's Display P3, is converted
          to sRGB: without its profile it would show other colours. It is encoded again as above.
        - Of an animation or a file with several pictures, the first is kept.
        - A PNG of more than 8 bits a channel has 8 after such a turn or conversion, unless grey.

        What the pixels themselves show, or were made to hide, is still there: see `anonymize`.

        Args:
            image: Anything `Frame.of` takes.
            pixel_format: The channels of an array.

        Returns:
            JPEG, PNG and WebP in their own format. Of anything else, which may be pixels without a
            file, the upright picture as `Frame.of` understands it, as PNG.

        Raises:
            InvalidFrameError: If it is not a readable image.
        """
        frame = Frame.of(image, pixel_format=pixel_format)
        file = frame.encoded
        if file is None or file.format not in _OPTIONS:
            return _encoded(Image.fromarray(frame.rgb()), "PNG")
        upright = file.original()
        picture = in_srgb(upright)
        data = None
        if picture is upright and file.orientation == 1:
            data = _losslessly(file, picture)
        return data or _encoded(picture, file.format)

    def anonymize(
        self,
        image: ImageLike,
        faces: Faces,
        *,
        method: Method = "fill",
        margin: float = ANONYMIZE_MARGIN,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
    ) -> NDArray[np.uint8]:
        """The upright picture with `faces` destroyed for good.

        Only the faces given are: one that the detector missed stays as it is. A result of a
        failed or skipped detection is refused, so that no picture is returned unchanged by mistake.

        Args:
            image: Anything `Frame.of` takes. Not modified.
            faces: A result for this picture, or faces in its upright pixels.
            method: ``fill`` paints one colour: nothing is left. ``pixelate`` leaves 3 x 3 blocks
                of a face's own colours, blurred to their means, changed by noise and put in
                another order by the operating system's randomness. So the mean over many frames
                of a face that keeps still brings back one blurred colour. A detector may take
                such blocks for a face (measured: 1 in 100); fill, where none may be found.
            margin: How far beyond its box a face is destroyed, at each side, in widths and
                heights of the box.
            pixel_format: The channels of an array.

        Returns:
            A new array, shape ``(height, width, 3)``, RGB.

        Raises:
            InvalidFrameError: If `image` is not a readable image.
            ConfigurationError: If `method` or `margin` is not a valid one, or `faces` is a result
                with an earlier frame's faces.
            HybridDetectError: If `faces` is the result of a failed or skipped detection: its error.
        """
        if method not in _METHODS:
            msg = f"method: expected one of {', '.join(_METHODS)}, got {str(method)[:40]!r}"
            raise ConfigurationError(msg)
        frame = Frame.of(image, pixel_format=pixel_format)
        regions = _regions(frame, faces, margin)
        return _METHODS[method](frame.rgb(), regions)

    def redact(
        self,
        image: ImageLike,
        faces: Faces,
        *,
        margin: float = REDACT_MARGIN,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
    ) -> NDArray[np.uint8]:
        """The upright picture with everything but `faces` in one colour: the crops in their places.

        It has the size of the original, so that boxes found in it are boxes in the original.

        Args:
            image: Anything `Frame.of` takes. Not modified.
            faces: A result for this picture, or faces in its upright pixels.
            margin: How much around its box is kept of a face, at each side, in widths and heights
                of the box.
            pixel_format: The channels of an array.

        Returns:
            A new array, shape ``(height, width, 3)``, RGB.

        Raises:
            InvalidFrameError: If `image` is not a readable image.
            ConfigurationError: If `margin` is not a valid one, or `faces` is a result with an
                earlier frame's faces.
            HybridDetectError: If `faces` is the result of a failed or skipped detection: its error.
        """
        frame = Frame.of(image, pixel_format=pixel_format)
        return kept_alone(frame.rgb(), _regions(frame, faces, margin))


def _losslessly(file: EncodedPicture, picture: Image.Image) -> bytes | None:
    """`file` without its metadata, if it then still shows `picture`."""
    try:
        data = picture_alone(file.data, file.format)
        clean = EncodedPicture.of(data, max_pixels=file.width * file.height)
        return data if _is_same(clean.original(), picture) else None
    except InvalidFrameError:
        return None


def _is_same(image: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures have the same pixels, compared a band at a time."""
    if (image.mode, image.size) != (other.mode, other.size):
        return False
    width, height = image.size
    bands = ((0, top, width, min(top + _BAND, height)) for top in range(0, height, _BAND))
    return all(image.crop(band).tobytes() == other.crop(band).tobytes() for band in bands)


def _encoded(picture: Image.Image, format: str) -> bytes:
    # A writer may pick up what it finds there, such as a JPEG's comment; one key is of the picture.
    picture.info = {key: picture.info[key] for key in ("transparency",) if key in picture.info}
    out = io.BytesIO()
    picture.save(out, format, **_OPTIONS[format])
    return out.getvalue()


def _regions(frame: Frame, faces: Faces, margin: float) -> list[FaceRegion]:
    if not 0 <= margin < math.inf:
        msg = f"margin: expected a finite number of at least 0, got {margin!r}"
        raise ConfigurationError(msg)
    if isinstance(faces, DetectionResult):
        faces = _in_pixels_of(frame, faces)
    return [FaceRegion.around(face.box, margin=margin) for face in faces]


def _in_pixels_of(frame: Frame, result: DetectionResult) -> list[Face]:
    """The faces of `result`, which may speak of the same picture in another size."""
    result.raise_for_status()
    if result.status is DetectionStatus.STALE:
        msg = "faces: expected a result for this picture, got a stale one: an earlier frame's faces"
        raise ConfigurationError(msg)
    scale_x, scale_y = frame.width / result.width, frame.height / result.height
    fitted = (
        face.fitted(scale_x=scale_x, scale_y=scale_y, width=frame.width, height=frame.height)
        for face in result.faces
    )
    return [face for face in fitted if face is not None]
