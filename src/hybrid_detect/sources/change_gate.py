"""Differences: whether a frame shows what the last looked-at one showed, told without detecting.

A camera that stands still sends the same picture again and again, but for the noise of its sensor
and the flicker of lamps. What matters is the place that changed most: a face that appears far away
changes a thousandth of the picture, and no mean over all of it would show that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.frames.raster import Interleaved, Scratch
from hybrid_detect.frames.scaling import fitted_size

__all__ = ["ChangeGate"]

_CELLS = 320
"""Cells along the longer side at most: of 4x4 pixels at 1280x720."""

_BLOCK = 5
"""Cells along a block's side: 20 pixels of 1280, so that a face of 40 pixels covers a block wholly
wherever it is. A block's mean difference then shows the face itself, not a share of it."""

_SAMPLES = 4
"""Pixels summed for a cell, along its diagonals: halves the noise, and costs a quarter of all."""

_FLOOR = 3.5
"""Of 255: a lamp that flickers by 1 % changes a white wall by 2.6.

Chosen together with `_NOISE_FACTOR` over 38 photos at 1280x720. No noise of standard deviation 3,
even or shot noise, with or without such a flicker, passed for a change (of 5 and with flicker, 8 %
of pairs did). All of 600 faces of 40 pixels were seen that appeared, or moved by 6 to 40 pixels,
under noise of 3; 97 % of 200 in a third of the light.
"""

_NOISE_FACTOR = 1.25
"""Times the median block's difference: of the same noise, the largest of 2304 blocks has 1.7."""

_MAX_NOISE = 5.0
"""Of 255: a sensor's noise of a standard deviation of 9. Where the median block differs by more,
it is the picture that changed."""

_MAX_JPEG_PIXELS = 1920 * 1080
"""A JPEG of so many takes 8 ms to decode at a quarter of its size."""

_Cells = NDArray[np.uint16]
"""Brightness of each cell, 0 to 255, times `_SAMPLES`."""


@dataclass(frozen=True, slots=True)
class _View:
    """What is kept of a frame."""

    frame_id: int
    size: tuple[int, int]
    cells: _Cells = field(repr=False)


class ChangeGate:
    """Tells frames that need not be looked at, because the last looked-at one showed the same.

    Call `looked_at` with each frame that goes to a detector, and ask `is_unchanged` before. Frames
    are held against the last looked-at one rather than against the last one, so that a change that
    creeps in adds up until it is seen.

    Costs 0.5 ms for an array of 1280x720 or for camera planes, up to 2.3 ms for planes that have
    to be turned or brought to full range first; 1.5 ms for a Pillow image; 3.3 ms for a JPEG, which
    is decoded at a quarter of its size. Other encoded images cannot be decoded small, and those of
    more than 1920x1080 pixels would hold an event loop up: they always count as changed. Keeps a
    quarter of a megabyte at most. Not for several threads at once.

    Args:
        max_age_s: A frame is looked at in any case this long after the last one that was.

    Raises:
        ConfigurationError: If `max_age_s` is not above 0.
    """

    def __init__(self, *, max_age_s: float = 1.0) -> None:
        if not max_age_s > 0.0:
            msg = f"expected a max_age_s above 0, got {max_age_s}"
            raise ConfigurationError(msg)
        self._max_age_s = max_age_s
        self._scratch = Scratch()
        self._reference: _View | None = None
        self._looked_s = -math.inf
        self._latest: _View | None = None

    def is_unchanged(self, frame: Frame, *, now_s: float) -> bool:
        """Whether `frame` shows what the last looked-at one showed, and that was not long ago.

        Args:
            frame: The frame in question.
            now_s: Monotonic time in seconds.

        Raises:
            InvalidFrameError: If the picture turns out to be damaged.
        """
        reference = self._reference
        if reference is None or now_s - self._looked_s >= self._max_age_s:
            return False
        if reference.size != (frame.width, frame.height):
            return False
        view = self._view(frame)
        return view is not None and not _is_changed(view.cells, reference.cells)

    def looked_at(self, frame: Frame, *, now_s: float) -> None:
        """Take `frame` as the one that later ones are held against.

        Args:
            frame: The frame that is looked at.
            now_s: Monotonic time in seconds.

        Raises:
            InvalidFrameError: If the picture turns out to be damaged.
        """
        self._reference = self._view(frame)
        self._looked_s = now_s

    def _view(self, frame: Frame) -> _View | None:
        """What `frame` shows; `None` if it would cost too much to see."""
        if self._latest is not None and self._latest.frame_id == frame.frame_id:
            return self._latest
        size = (frame.width, frame.height)
        if frame.encoded is None:
            cells = _cells(_brightness(frame, size, self._scratch))
        elif frame.encoded.format == "JPEG" and frame.width * frame.height <= _MAX_JPEG_PIXELS:
            small = fitted_size(*size, max_side_px=_CELLS)
            cells = _cells(_brightness(frame, small, self._scratch))
        else:
            return None
        self._latest = _View(frame.frame_id, size, cells)
        return self._latest


def _brightness(frame: Frame, size: tuple[int, int], scratch: Scratch) -> NDArray[np.uint8]:
    """Luma where the frame has it, else green, which is most of luma and need not be computed."""
    raster = frame.raster(size, scratch=scratch)
    return raster.pixels[:, :, 1] if isinstance(raster, Interleaved) else raster.y


def _cells(brightness: NDArray[np.uint8]) -> _Cells:
    height, width = brightness.shape
    step = max(1, min(math.ceil(max(height, width) / _CELLS), height, width))
    whole = brightness[: height // step * step, : width // step * step]
    # One sample in each row and each column of a cell's quarters.
    quarter, half = step // 4, step // 2
    down, across = (quarter, half, 3 * step // 4), (half, quarter, 3 * step // 4)
    cells = whole[::step, ::step].astype(np.uint16)
    for top, left in zip(down, across, strict=True):
        cells += whole[top::step, left::step]
    return cells


def _is_changed(cells: _Cells, reference: _Cells) -> bool:
    differences = _block_means(np.maximum(cells, reference) - np.minimum(cells, reference))
    noise = min(float(np.median(differences)), _MAX_NOISE)
    return float(differences.max()) > _FLOOR + _NOISE_FACTOR * noise


def _block_means(cells: _Cells) -> NDArray[np.float64]:
    """Mean of each block, 0 to 255; blocks are one cell larger where the side does not divide."""
    height, width = cells.shape
    tops, lefts = _edges(height), _edges(width)
    # Nine rows at most, of 1020 at most: 16 bits hold their sum.
    in_rows = np.add.reduceat(cells, tops[:-1], axis=0, dtype=np.uint16)
    sums = np.add.reduceat(in_rows, lefts[:-1], axis=1, dtype=np.uint32)
    counts = np.outer(np.diff(tops), np.diff(lefts))
    return np.asarray(sums / (counts * _SAMPLES))


def _edges(length: int) -> NDArray[np.intp]:
    blocks = max(1, length // _BLOCK)
    return np.arange(blocks + 1) * length // blocks
