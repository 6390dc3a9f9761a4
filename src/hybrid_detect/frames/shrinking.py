"""Planes shrunk to halves and three quarters, in about half of Pillow's time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["halved", "shrinks_fast", "three_quarters"]

_BAND = 360
_HALVED_BAND = 144
"""Rows worked on at once, multiples of 4 and of 2: what they need stays in the cache."""

_WORD = np.uint64
_HALF_BYTES = _WORD(0x7F7F7F7F7F7F7F7F)
_ONES = _WORD(0x0101010101010101)
_NONE = _WORD(0)


def shrinks_fast(size: tuple[int, int], to: tuple[int, int]) -> bool:
    """Whether `to` is one or more halves of `size`, or three quarters of one of them."""
    width, height = size
    while width > to[0] and width % 2 == height % 2 == 0:
        if 3 * width == 4 * to[0] and 3 * height == 4 * to[1]:
            return True
        width, height = width // 2, height // 2
    return (width, height) == to


def halved(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2x2 samples: two at once as one 16-bit number, then the two rows' sums.

    Args:
        plane: Shape ``(height, width)``, both even; rows are dense.
    """
    height, width = plane.shape
    shrunk = np.empty((height // 2, width // 2), np.uint8)
    for top in range(0, height, _HALVED_BAND):
        pairs = plane[top : top + _HALVED_BAND].view("<u2")
        sums = pairs & np.uint16(0xFF)
        sums += pairs >> np.uint16(8)
        total = sums[0::2] + sums[1::2]
        total += np.uint16(2)
        total >>= np.uint16(2)
        np.copyto(shrunk[top // 2 : top // 2 + len(total)], total, casting="unsafe")
    return shrunk


def three_quarters(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Three samples of each four, along both axes, each the mean of the area it covers.

    Args:
        plane: Shape ``(height, width)``, both multiples of 4; rows are dense.
    """
    height, width = plane.shape
    shrunk = np.empty((height // 4 * 3, width // 4 * 3), np.uint8)
    for top in range(0, height, _BAND):
        band = plane[top : top + _BAND]
        count = len(band) // 4
        # Rows 0, 4, 8, ... lie together, then 1, 5, 9, ... and so on.
        rows = _three_of_four(band.reshape(count, 4, width).swapaxes(0, 1))
        even, odd = _split(rows)
        columns = np.empty((4, *even.shape[:-1], width // 4), np.uint8)
        columns[0], columns[2] = _split(even)
        columns[1], columns[3] = _split(odd)
        out = shrunk[top // 4 * 3 : (top + len(band)) // 4 * 3].reshape(count, 3, width // 4, 3)
        for index, samples in enumerate(_three_of_four(columns, plus=_ONES)):
            out[:, :, :, index] = samples.swapaxes(0, 1)
    return shrunk


def _three_of_four(samples: NDArray[np.uint8], plus: np.uint64 = _NONE) -> NDArray[np.uint8]:
    """``(3a + b) / 4``, ``(b + c) / 2`` and ``(c + 3d) / 4`` of ``a, b, c, d``, along axis 0.

    Eight bytes at once as one number. They are halved first, so that no sum reaches into the
    next byte; that makes results two thirds too small in the mean, so one is added every other
    time.
    """
    size = samples[0].size
    words = np.empty((4, -(-size // 8)), _WORD)
    for row, sample in zip(words, samples, strict=True):
        row.view(np.uint8)[:size].reshape(sample.shape)[:] = sample
    words >>= _WORD(1)
    words &= _HALF_BYTES
    a, b, c, d = words
    out = np.empty((3, words.shape[1]), _WORD)
    outer = out[0::2]
    np.add(a, b, out=out[0])
    np.add(c, d, out=out[2])
    outer >>= _WORD(1)
    outer &= _HALF_BYTES
    np.add(b, c, out=out[1])
    outer += words[0::3]
    if plus:
        out += plus
    return out.view(np.uint8)[:, :size].reshape(3, *samples.shape[1:])


def _split(pairs: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Even and odd columns, taken apart as 16-bit numbers: faster than with a stride of 2."""
    both = pairs.view("<u2")
    return both.astype(np.uint8), (both >> np.uint16(8)).astype(np.uint8)
