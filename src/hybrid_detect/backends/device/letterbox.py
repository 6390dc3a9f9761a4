"""The square picture that a network sees: the whole image, shrunk, on black.

Pixels are sampled as MediaPipe samples them, because its models were tuned on that: corner to
corner (pixel ``i`` of the square shows the image at ``i * scale``, not at its middle), bilinear
without smoothing, and rounded to bytes. Sampling at the pixels' middles moves scores by more
than the parity that `tests/backends/device/test_litert.py` demands.

Source: google-ai-edge/mediapipe, ``image_to_tensor_converter_opencv.cc``, which calls OpenCV's
``warpPerspective`` with the corners of the padded region.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Letterbox"]

FRACTION_BITS = 5
"""OpenCV rounds the place of a sample to 1/32 of a pixel (``INTER_BITS``)."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How an image of one size lies in the square."""

    width: int
    """Of the image, in pixels."""
    height: int
    input_px: int
    """Side of the square."""

    @property
    def side(self) -> int:
        """Side of the square in pixels of the image."""
        return max(self.width, self.height)

    def sample(self, image_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The square, shape (input_px, input_px, 3), uint8.

        Args:
            image_rgb: Shape (height, width, 3), uint8.
        """
        rows, columns = self._axis(self.height), self._axis(self.width)
        upper = image_rgb[rows.first]
        lower = image_rgb[rows.second]
        down = rows.weight[:, None, None]
        across = columns.weight[None, :, None]
        # Columns first: they are few of the many, so that rows are mixed on the small picture.
        top = _mix(upper[:, columns.first], upper[:, columns.second], across)
        bottom = _mix(lower[:, columns.first], lower[:, columns.second], across)
        mixed = _mix(top, bottom, down)
        mixed += np.float32(0.5)
        square = mixed.astype(np.uint8)
        square[~rows.inside] = 0
        square[:, ~columns.inside] = 0
        return square

    def restore(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points of the square, in fractions of its side, in pixels of the image.

        Args:
            points: Any shape whose last axis is x and y.
        """
        margin = np.array((self.side - self.width, self.side - self.height), np.float32) / 2
        return (points * np.float32(self.side) - margin).astype(np.float32, copy=False)

    def _axis(self, length: int) -> _Axis:
        scale = self.side / self.input_px
        places = np.arange(self.input_px) * scale - (self.side - length) / 2
        steps = 1 << FRACTION_BITS
        places = np.rint(places * steps) / steps
        first = np.floor(places).astype(np.intp)
        return _Axis(
            np.clip(first, 0, length - 1),
            np.clip(first + 1, 0, length - 1),
            (places - first).astype(np.float32),
            (places > -1) & (places < length),
        )


@dataclass(frozen=True, slots=True)
class _Axis:
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    weight: NDArray[np.float32]
    """Of the second, 0 to 1."""
    inside: NDArray[np.bool_]


def _mix(
    a: NDArray[np.generic], b: NDArray[np.generic], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    base = a.astype(np.float32)
    base += (b.astype(np.float32) - base) * weight
    return base
