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

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from hybrid_detect.backends.device.anchors import AnchorGrid, decode, suppress
from hybrid_detect.backends.device.face_detector import check_pixels
from hybrid_detect.backends.device.letterbox import Letterbox
from hybrid_detect.errors import ClosedError, ModelError
from hybrid_detect.extras import require
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GRIDS", "LiteRtFaceDetector"]

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


class LiteRtFaceDetector:
    """One face detector, usable from any thread, one picture at a time.

    Args:
        model: The model file's bytes, verified by the caller.
        min_confidence: Faces below this score are left out, 0 to 1.

    Raises:
        MissingExtraError: If LiteRT is not installed.
        ModelError: If LiteRT does not accept the model, or it is no face model of MediaPipe's.
    """

    runs_on: ClassVar[str] = "LiteRT"
    """What runs the model, for a person."""

    def __init__(self, model: bytes, *, min_confidence: float = 0.5) -> None:
        litert = require(
            "ai_edge_litert.interpreter", extra="device-lite", purpose="on-device detection"
        )
        self._min_confidence = min_confidence
        self._lock = threading.Lock()
        try:
            # A second thread gains nothing on pictures this small and would keep a core awake.
            self._interpreter: Any = litert.Interpreter(model_content=model, num_threads=1)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as exc:
            reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
            msg = f"LiteRT does not accept the model of {len(model)} bytes: {reason}"
            raise ModelError(msg) from exc
        self._input, self._boxes, self._scores, self._grid = _tensors(self._interpreter)
        self._centres = self._grid.centres()

    def detect(self, image_rgb: NDArray[np.uint8]) -> tuple[Face, ...]:
        """Find the faces in a picture.

        Args:
            image_rgb: Shape (height, width, 3), uint8, RGB, C-contiguous. Not modified, not kept.

        Returns:
            The faces, boxes clipped to the picture, best first.

        Raises:
            InvalidFrameError: If the array is anything else.
            ClosedError: If the detector is closed.
        """
        check_pixels(image_rgb)
        height, width = image_rgb.shape[:2]
        box = Letterbox(width, height, self._grid.input_px)
        square = box.sample(image_rgb).astype(np.float32)
        square -= MEAN
        square /= SCALE
        with self._lock:
            if self._interpreter is None:
                msg = "the face detector is closed: make a new one"
                raise ClosedError(msg)
            self._interpreter.set_tensor(self._input, square[None])
            self._interpreter.invoke()
            raw = self._interpreter.get_tensor(self._boxes)[0]
            logits = self._interpreter.get_tensor(self._scores)[0, :, 0]
        found = suppress(
            decode(
                raw,
                logits,
                self._centres,
                input_px=self._grid.input_px,
                min_score=self._min_confidence,
            )
        )
        boxes = box.restore(found.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        faces = (
            _face(score, corners, points, width, height)
            for score, corners, points in zip(
                found.scores, boxes, box.restore(found.points), strict=True
            )
        )
        return tuple(face for face in faces if face is not None)

    def close(self) -> None:
        """Stop, after a detection that is going on. May be called more than once."""
        with self._lock:
            self._interpreter = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _tensors(interpreter: Any) -> tuple[int, int, int, AnchorGrid]:
    """Indices of input, boxes and scores, and the anchors that fit them.

    Raises:
        ModelError: If they are not those of a face model.
    """
    (given,) = interpreter.get_input_details()
    outputs = {
        tuple(map(int, out["shape"])): out["index"] for out in interpreter.get_output_details()
    }
    shape = tuple(map(int, given["shape"]))
    for anchors, grid in GRIDS.items():
        boxes, scores = outputs.get((1, anchors, 16)), outputs.get((1, anchors, 1))
        if (
            boxes is not None
            and scores is not None
            and shape == (1, grid.input_px, grid.input_px, 3)
        ):
            return given["index"], boxes, scores, grid
    msg = (
        "expected a face model with an input of 128x128 or 192x192 and 896 or 2304 anchors, got "
        f"input {shape} and outputs {sorted(outputs)}"
    )
    raise ModelError(msg)


def _face(
    score: np.float32,
    corners: NDArray[np.float32],
    points: NDArray[np.float32],
    width: int,
    height: int,
) -> Face | None:
    x_min, y_min, x_max, y_max = map(float, corners)
    if not (x_min <= x_max and y_min <= y_max):
        return None  # the network may predict a negative size; NaN compares false, too
    face = Face(
        BoundingBox(x_min, y_min, x_max, y_max),
        float(score),
        tuple(
            Keypoint(name, float(x), float(y))
            for name, (x, y) in zip(KEYPOINT_NAMES, points, strict=True)
        ),
    )
    return face.fitted(scale_x=1.0, scale_y=1.0, width=width, height=height)
