"""Cameras of tests."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

SIZE = (320, 240)
RED = np.full((SIZE[1], SIZE[0], 3), (200, 30, 40), np.uint8)
FRAME_S = 1 / 60


class SteadyCamera:
    """Gives one picture over and over, at its own pace, as a camera does.

    Attributes:
        is_there: Whether it gives any.
        reads: How often it was read.
    """

    def __init__(self, image: Any = RED) -> None:
        self.image = image
        self.is_there = True
        self.reads = 0
        self._wakes = threading.Event()

    def read(self) -> tuple[bool, Any]:
        self._wakes.wait(FRAME_S)
        self.reads += 1
        return self.is_there, self.image.copy() if self.is_there else None


def is_still(camera: SteadyCamera) -> bool:
    """Whether it is read no more."""
    before = camera.reads
    time.sleep(10 * FRAME_S)
    return camera.reads == before
