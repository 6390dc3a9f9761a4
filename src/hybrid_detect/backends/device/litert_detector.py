"""MediaPipe's face models on LiteRT: the same answers for less than half of the memory.

MediaPipe's Tasks library is a graph around the model: it resizes the picture, runs the model,
decodes and merges the boxes. LiteRT runs the model alone; `letterbox` and `anchors` do the rest in
NumPy. It needs neither OpenCV nor EGL, sends nothing anywhere, survives ``close()``, and runs on
processors on which MediaPipe's Arm wheel does not (Cortex-A53 and A72: Raspberry Pi 3, 4 and Zero
2 W).

Two known differences: boxes are not rounded to whole pixels, and a face that is cut by the left or
upper edge gets the part of its box that is inside the picture. MediaPipe moves such a box to the
edge without shrinking it, so that it reports one that is too wide.
"""

from __future__ import annotations

import mmap
import threading
from typing import TYPE_CHECKING

import numpy as np

from hybrid_detect.backends.device.anchors import AnchorGrid, decode, suppress
from hybrid_detect.backends.device.face_detector import check_pixels
from hybrid_detect.backends.device.letterbox import Letterbox
from hybrid_detect.backends.device.litert_library import tensor_layout
from hybrid_detect.closing import Closing
from hybrid_detect.errors import ClosedError, ModelError
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hybrid_detect.backends.device.litert_network import Network

__all__ = ["GRIDS", "FaceSteps", "LiteRtFaceDetector"]

GRIDS = {
    896: AnchorGrid(128, ((8, 2), (16, 6))),
    2304: AnchorGrid(192, ((4, 1),)),
}
"""Anchors of short range and full range, by their number.

Source: google-ai-edge/mediapipe, ``face_detection_short_range.pbtxt`` (strides 8, 16, 16, 16 with
two anchors each; the layers of one stride lie together) and ``face_detection_full_range.pbtxt``.
"""

MEAN = SCALE = np.float32(127.5)
"""Bytes become -1 to 1. Source: the models' own metadata."""


class FaceSteps:
    """What is done around the network: pixels to its input, its outputs to faces.

    Args:
        shapes: Of the network's tensors, the input first.

    Raises:
        ModelError: If they are not those of a face model of MediaPipe's.
    """

    def __init__(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        self.shapes = shapes
        input_shape, *output_shapes = shapes
        for anchors, grid in GRIDS.items():
            boxes, scores = (1, anchors, 16), (1, anchors, 1)
            if input_shape == (1, grid.input_px, grid.input_px, 3) and {boxes, scores} <= {
                *output_shapes
            }:
                break
        else:
            msg = (
                "expected a face model with an input of 128x128 or 192x192 and 896 or 2304 "
                f"anchors, got input {input_shape} and outputs {sorted(output_shapes)}"
            )
            raise ModelError(msg)
        offsets, _ = tensor_layout(shapes)
        self._grid, self._anchors = grid, anchors
        self._boxes_at = offsets[1 + output_shapes.index(boxes)]
        self._scores_at = offsets[1 + output_shapes.index(scores)]
        self._centres = grid.centres()

    def fill(self, memory: mmap.mmap, image_rgb: NDArray[np.uint8]) -> Letterbox:
        """Write the network's input to `memory`; how the image lies in it.

        Args:
            memory: Where the network's tensors lie.
            image_rgb: Shape (height, width, 3), uint8, RGB. Not modified, not kept.
        """
        height, width = image_rgb.shape[:2]
        box = Letterbox(width, height, self._grid.input_px)
        square = box.sample(image_rgb)
        tensor = np.frombuffer(memory, np.float32, square.size).reshape(square.shape)
        np.subtract(square, MEAN, out=tensor)
        tensor /= SCALE
        return box

    def faces(
        self, memory: mmap.mmap, box: Letterbox, *, min_confidence: float
    ) -> tuple[Face, ...]:
        """The faces in the network's outputs, in the image's pixels, best first.

        Args:
            memory: Where the network's tensors lie.
            box: As `fill` gave it.
            min_confidence: Faces below this score are left out, 0 to 1.
        """
        count = self._anchors
        found = suppress(
            decode(
                np.frombuffer(memory, np.float32, 16 * count, self._boxes_at).reshape(count, 16),
                np.frombuffer(memory, np.float32, count, self._scores_at),
                self._centres,
                input_px=self._grid.input_px,
                min_score=min_confidence,
            )
        )
        boxes = box.restore(found.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        numbers = found.scores.tolist(), boxes.tolist(), box.restore(found.points).tolist()
        faces = [_face(*each, box.width, box.height) for each in zip(*numbers, strict=True)]
        return tuple([face for face in faces if face is not None])


class LiteRtFaceDetector(Closing):
    """One face detector, usable from any thread, one picture at a time.

    Args:
        network: What `open_network` gives. It is closed with the detector.
        min_confidence: Faces below this score are left out, 0 to 1.

    Raises:
        ModelError: If it is no face model of MediaPipe's.
    """

    def __init__(self, network: Network, *, min_confidence: float = 0.5) -> None:
        self._steps = FaceSteps(network.shapes)
        self._network: Network | None = network
        self._min_confidence = min_confidence
        self._lock = threading.Lock()
        self.runs_on = network.runs_on
        """What runs the model, for a person."""

    def detect(self, image_rgb: NDArray[np.uint8]) -> tuple[Face, ...]:
        """Find the faces in a picture.

        Args:
            image_rgb: Shape (height, width, 3), uint8, RGB, C-contiguous. Not modified, not kept.

        Returns:
            The faces, boxes clipped to the picture, best first.

        Raises:
            InvalidFrameError: If the array is anything else.
            BackendUnavailableError: If LiteRT fails.
            ClosedError: If the detector is closed.
        """
        check_pixels(image_rgb)
        with self._lock:
            if self._network is None:
                msg = "the face detector is closed: make a new one"
                raise ClosedError(msg)
            memory = self._network.memory
            box = self._steps.fill(memory, image_rgb)
            self._network.run()
            return self._steps.faces(memory, box, min_confidence=self._min_confidence)

    def close(self) -> None:
        """Stop, after a detection that is going on. May be called more than once."""
        with self._lock:
            network, self._network = self._network, None
        if network is not None:
            network.close()


def _face(
    score: float, corners: list[float], points: list[list[float]], width: int, height: int
) -> Face | None:
    x_min, y_min, x_max, y_max = corners
    if not (x_min <= x_max and y_min <= y_max):
        return None  # the network may predict a negative size; NaN compares false, too
    # As `Face.fitted` does for a picture of the same size, without a second face.
    box = BoundingBox(x_min, y_min, x_max, y_max).clipped(width, height)
    if box.area <= 0:
        return None
    named = zip(KEYPOINT_NAMES, points, strict=True)
    return Face(box, score, tuple([Keypoint(name, x, y) for name, (x, y) in named]))
