"""The app: a camera that says who is at the door."""

from __future__ import annotations

import numpy as np

from hybrid_detect import AllBackendsFailedError
from hybrid_detect.sync import HybridDetectionService


class DoorCamera:
    """Tells what a doorbell would say of a picture."""

    def __init__(self, service: HybridDetectionService) -> None:
        self._service = service

    def look(self, image: np.ndarray) -> str:
        """Say who is in the picture."""
        try:
            result = self._service.process_image(image)
        except AllBackendsFailedError:
            return "I cannot see"
        match len(result.faces):
            case 0:
                return "nobody"
            case 1:
                return "a visitor"
            case count:
                return f"{count} visitors"
