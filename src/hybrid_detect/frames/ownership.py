"""Ownership: pixels handed over are the pixels looked at, whatever their giver writes next.

A frame refers to the caller's memory. Where the caller goes on while the frame is still looked
at, as a source of frames does, the memory is copied first; where no one else can write it, it is
not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from hybrid_detect.frames.camera import CameraImage
from hybrid_detect.frames.pillow_picture import reading_of
from hybrid_detect.frames.timed_image import TimedImage

__all__ = ["owned", "read_owned", "takes_long"]

MAX_COPIED_BYTES = 1_000_000_000
"""Four bytes for each of 250 million pixels: more than the largest sensors have, and four times the
default of `ServiceConfig.max_pixels`. A larger array is not copied, and hardly ever meant."""

LONG_BYTES = 8_000_000
"""An array above this takes more than about a millisecond to copy."""


def owned(image: Any, *, is_shared: bool = True) -> Any:
    """`image` in memory that no other part of the program can write.

    Args:
        image: What `Frame.of` takes. What cannot change is returned as it is, and so is what a
            frame would refuse.
        is_shared: Whether something else refers to `image`. If not, an array that has its own
            memory is not copied.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.nbytes > MAX_COPIED_BYTES:
            return image  # which is refused anyway
        if (not is_shared and image.base is None) or _is_immutable(image):
            return image
        return np.array(image, order="C")
    if isinstance(image, CameraImage):
        try:
            return _owned_planes(image)
        except Exception:
            return image  # a buffer that was let go of or shrank: reading it as a frame says so
    if isinstance(image, Image.Image) and is_shared:
        width, height = image.size
        if width * height * 4 > MAX_COPIED_BYTES:
            return image
        try:
            with reading_of(image):
                image.load()
                return image.copy()
        except Exception:
            return image  # a damaged one: reading it as a frame says so
    return image


def _owned_planes(image: CameraImage) -> CameraImage:
    planes = tuple(
        plane if isinstance(plane.data, bytes) else replace(plane, data=bytes(plane.data))
        for plane in image.planes
    )
    return replace(image, planes=planes)


def takes_long(image: Any) -> bool:
    """Whether `owned` may take more than about a millisecond, so that it belongs in a thread."""
    if isinstance(image, np.ndarray):
        return image.nbytes > LONG_BYTES
    if isinstance(image, CameraImage):
        return image.width * image.height > LONG_BYTES
    return isinstance(image, Image.Image)  # it may have to be decoded first


def read_owned(read: Callable[[], Any]) -> Any:
    """What `read` returns, copied if anything but this call still refers to it.

    Cameras usually return a fresh array each time and keep none; it costs nothing then.
    """
    image = read()
    references = sys.getrefcount(image)
    if isinstance(image, TimedImage):
        inner = image.image
        inside = sys.getrefcount(inner)
        is_shared = references > _UNSHARED or inside > _UNSHARED_INSIDE
        return replace(image, image=owned(inner, is_shared=is_shared))
    return owned(image, is_shared=references > _UNSHARED)


def _references_to(read: Callable[[], Any]) -> tuple[int, int]:
    image = read()
    references = sys.getrefcount(image)
    inner = image.image
    return references, sys.getrefcount(inner)


_UNSHARED, _UNSHARED_INSIDE = _references_to(lambda: TimedImage(np.empty(1, np.uint8)))
"""What `sys.getrefcount` tells in `read_owned` if nothing else refers to the image, and to one
inside a `TimedImage`. Measured, because it depends on the version of the interpreter."""


def _is_immutable(array: np.ndarray[Any, Any]) -> bool:
    """Whether its memory is a `bytes` object's, which nothing can write."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return isinstance(base, bytes)
