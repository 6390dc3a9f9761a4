"""The square picture that a network sees: the whole image, shrunk, on black.

Pixels are sampled as MediaPipe samples them, because its models were tuned on that: corner to
corner (pixel ``i`` of the square shows the image at ``i * scale``, not at its middle), bilinear
without smoothing, and rounded to bytes. Sampling at the pixels' middles moves scores by more
than the parity that `tests/backends/device/test_litert.py` demands.

Source: google-ai-edge/mediapipe, ``image_to_tensor_converter_opencv.cc``, which calls OpenCV's
``warpPerspective`` with the corners of the padded region.
"""

from __future__ import annotations

import functools
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
            image_rgb: Shape (height, width, 3), uint8, C-contiguous.
        """
        plan = _plan(self)
        pixels = image_rgb.reshape(-1)
        row = 3 * self.width
        # Four neighbours of each sample: the places of three follow from that of the first.
        top = _mix(plan.taken(pixels, 0), plan.taken(pixels, 3), plan.across)
        bottom = _mix(plan.taken(pixels, row), plan.taken(pixels, row + 3), plan.across)
        top += (bottom - top) * plan.down
        top += np.float32(0.5)
        square = np.zeros((self.input_px, 3 * self.input_px), np.uint8)
        square[plan.inside] = top  # which cuts the fraction off
        return square.reshape(self.input_px, self.input_px, 3)

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
        (inside,) = np.nonzero((places > -1) & (places < length))
        places = places[inside]
        first = np.floor(places).astype(np.intp)
        # A sample at an edge has one neighbour in the image, which has all of its weight.
        weight = np.where((first >= 0) & (first < length - 1), places - first, 0)
        start = int(inside[0]) if inside.size else 0
        return _Axis(
            slice(start, start + inside.size),
            np.clip(first, 0, length - 1),
            weight.astype(np.float32),
        )


@dataclass(frozen=True, slots=True)
class _Axis:
    inside: slice
    """The samples of the square that lie in the image."""
    first: NDArray[np.intp]
    """Their neighbours before them, in pixels of the image."""
    weight: NDArray[np.float32]
    """Of the neighbours behind them, 0 to 1."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where an image of one size is sampled; made once for a stream of frames.

    The three colours of a pixel are columns of their own here: NumPy is fast along long rows.
    """

    index: NDArray[np.intp]
    """Shape (rows, 3 * columns): where the first neighbour lies among all bytes of the image."""
    across: NDArray[np.float32]
    down: NDArray[np.float32]
    inside: tuple[slice, slice]

    def taken(self, pixels: NDArray[np.uint8], shift: int) -> NDArray[np.float32]:
        """The neighbours that lie `shift` bytes behind the first ones."""
        # Beyond the image's end lie neighbours without a weight only.
        behind = pixels[min(shift, pixels.size - 1) :]
        return behind.take(self.index, mode="clip").astype(np.float32)


@functools.lru_cache(maxsize=2)
def _plan(box: Letterbox) -> _Plan:
    rows, columns = box._axis(box.height), box._axis(box.width)
    bytes_across = (3 * columns.first[:, None] + np.arange(3)).reshape(-1)
    return _Plan(
        3 * box.width * rows.first[:, None] + bytes_across,
        np.repeat(columns.weight, 3),
        rows.weight[:, None],
        (rows.inside, slice(3 * columns.inside.start, 3 * columns.inside.stop)),
    )


def _mix(
    a: NDArray[np.float32], b: NDArray[np.float32], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    b -= a
    b *= weight
    b += a
    return b
