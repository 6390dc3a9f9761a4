"""What every peer does with a picture: the same decoder, model, runtime and steps as the server."""

from __future__ import annotations

import json
import os
import time

import simplejpeg

from hybrid_detect.backends.device.model_registry import model_spec
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.runtimes import make_detector
from hybrid_detect.frames.turbo import factor_for
from hybrid_detect.server.levels import LEVELS

__all__ = ["Looker"]

RUNTIMES = {"fast": "litert", "high": "onnxruntime", "max": "onnxruntime"}


class Looker:
    """Looks at JPEGs of 1280x720 with the model of the level in ``PEER_LEVEL``."""

    def __init__(self) -> None:
        quality = os.environ["PEER_LEVEL"]
        (level,) = (each for each in LEVELS if each.quality == quality)
        size = model_spec(level.model).input(level.side_px)
        self._enough_px = size.enough_px
        self._detector = make_detector(
            RUNTIMES[quality],
            load_model(level.model),
            min_confidence=size.threshold,
            side_px=size.side_px,
            slim=True,
        )

    def faces(self, jpeg: bytes) -> bytes:
        """The faces as JSON."""
        began_s = time.perf_counter()
        height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
        share = min(self._enough_px / max(width, height), 1.0)
        factor = factor_for((width, height), (round(width * share), round(height * share)))
        pixels = simplejpeg.decode_jpeg(
            jpeg,
            min_width=-(-width // factor),
            min_height=-(-height // factor),
            min_factor=factor,
        )
        scale = width / pixels.shape[1]
        faces = [
            {"box": [scale * side for side in face.box.xyxy], "score": face.score}
            for face in self._detector.detect(pixels)
        ]
        took_ms = (time.perf_counter() - began_s) * 1000
        return json.dumps({"faces": faces, "took_ms": took_ms}).encode()
