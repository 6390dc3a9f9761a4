"""The face model behind the real servers: this library's own detector, given a JPEG."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.runtimes import LITERT, make_detector

MIN_CONFIDENCE = 0.5


@cache
def _detector() -> Any:
    return make_detector(LITERT, load_model("short_range"), min_confidence=MIN_CONFIDENCE)


def detect(jpeg: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The boxes, shape ``(n, 4)``: corners in pixels; and the scores, shape ``(n,)``."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return detect_pixels(np.asarray(image.convert("RGB")))


def detect_pixels(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """As `detect`, of pixels that are decoded already."""
    faces = _detector().detect(pixels)
    boxes = np.array([face.box.xyxy for face in faces], np.float32).reshape(-1, 4)
    return boxes, np.array([face.score for face in faces], np.float32)
