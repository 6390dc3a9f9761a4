"""MediaPipe's FaceDetector made safe to hold.

It is synchronous and knows nothing of frames, plans or event loops: pixels in, faces out. It guards
against these faults, seen in MediaPipe 1.2:

- closing while another thread detects crashes the process: one lock around both;
- pixels of another layout are read as if they were RGB rows, without an error, and a picture
  of no rows breaks the graph for good: the input is checked first;
- a broken graph answers every later picture with RuntimeError: it is thrown away and rebuilt;
- a closed detector answers "no faces": here it raises.

**Closing.** MediaPipe's own ``close()``, which its ``__del__`` calls too, looks up
play.googleapis.com to send usage data, so it is never called. A detector that is dropped without
it keeps three native threads and 5 MB (full range: 12 MB) for the rest of the process, so a closed
one is parked and used again by the next detector of the same model: opening and closing any number
of times costs one detector, and the interpreter exits cleanly and silently. Only the end of the
process gives the memory back.

**Noise.** Making a detector writes a few lines to stderr. They come from three native loggers;
the one hook the library exports adds a listener without stopping them, and redirecting file
descriptor 2 would swallow what other threads write meanwhile. So they are left alone here.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any, ClassVar

from hybrid_detect.backends.device.mediapipe_loading import load_mediapipe
from hybrid_detect.backends.device.system_libraries import loading_error
from hybrid_detect.closing import Closing
from hybrid_detect.errors import (
    BackendUnavailableError,
    ClosedError,
    InvalidFrameError,
    ModelError,
)
from hybrid_detect.types import KEYPOINT_NAMES, BackendKind, BoundingBox, Face, Keypoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MediaPipeFaceDetector", "check_pixels"]

MAX_DISCARDED = 8
"""Broken detectors one process may leave behind: at most 40 MB (full range: 96 MB)."""

_parked: dict[tuple[int, str, float], list[Any]] = {}
"""Closed detectors by process id, model digest and confidence.

By process, since a detector inherited through a fork hangs for ever. Single steps on dict and
list are atomic, so there is no lock that a fork could leave locked.
"""

_discarded = 0
"""Broken detectors this process has left behind."""


class MediaPipeFaceDetector(Closing):
    """One face detector, usable from any thread, one picture at a time.

    Args:
        model: The model file's bytes, verified by the caller.
        min_confidence: Faces below this score are left out, 0 to 1.
        slim: Load only the parts of MediaPipe that this needs; see `mediapipe_loading`.

    Raises:
        MissingExtraError: If MediaPipe is not installed, or is a version without this detector.
        BackendUnavailableError: If MediaPipe is installed but cannot be loaded here.
        ModelError: If MediaPipe does not accept the model.
    """

    runs_on: ClassVar[str] = "MediaPipe"
    """What runs the model, for a person."""

    def __init__(self, model: bytes, *, min_confidence: float = 0.5, slim: bool = False) -> None:
        self._mediapipe = load_mediapipe(slim=slim)
        self._model = model
        self._min_confidence = min_confidence
        self._key = (os.getpid(), hashlib.sha256(model).hexdigest(), min_confidence)
        self._lock = threading.Lock()
        self._closed = False
        self._detector: Any = self._take_parked() or self._build()

    def detect(self, image_rgb: NDArray[np.uint8]) -> tuple[Face, ...]:
        """Find the faces in a picture.

        Args:
            image_rgb: Shape (height, width, 3), uint8, RGB, C-contiguous. Not modified, not kept.

        Returns:
            The faces, boxes clipped to the picture, in MediaPipe's order.

        Raises:
            InvalidFrameError: If the array is anything else.
            ClosedError: If the detector is closed.
            BackendUnavailableError: If MediaPipe failed, and failed again after a rebuild.
        """
        check_pixels(image_rgb)
        if os.getpid() != self._key[0]:
            # Before the lock: a fork may have copied it locked.
            msg = (
                "this face detector was made before the process forked and would hang here: make a "
                "new one in the child, or start children with 'spawn'"
            )
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE)
        height, width = image_rgb.shape[:2]
        with self._lock:
            if self._closed:
                msg = "the face detector is closed: make a new one"
                raise ClosedError(msg)
            found = self._detect_or_rebuild(image_rgb)
        faces = (_face(detection, width, height) for detection in found.detections)
        return tuple(face for face in faces if face is not None)

    def close(self) -> None:
        """Stop, after a detection that is going on. May be called more than once."""
        if os.getpid() != self._key[0]:
            return
        with self._lock:
            self._closed = True
            detector, self._detector = self._detector, None
        if detector is not None:
            _parked.setdefault(self._key, []).append(detector)

    def __del__(self) -> None:
        # This parks it: an app that forgets to close must not leak a detector each time. The
        # attribute is missing if construction failed.
        if getattr(self, "_detector", None) is not None:
            self.close()

    def _detect_or_rebuild(self, image_rgb: NDArray[np.uint8]) -> Any:
        try:
            return self._detect_once(image_rgb)
        except (RuntimeError, ModelError):
            # The graph is broken for good now, and would refuse every other picture as well.
            self._discard()
        try:
            return self._detect_once(image_rgb)
        except (RuntimeError, ModelError) as exc:
            self._discard()
            size = "x".join(map(str, image_rgb.shape[1::-1]))
            msg = f"MediaPipe failed twice on a picture of {size} pixels: {_first_line(exc)}"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True) from exc

    def _detect_once(self, image_rgb: NDArray[np.uint8]) -> Any:
        if self._detector is None:
            self._detector = self._take_parked() or self._build()
        mp = self._mediapipe
        try:
            return self._detector.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=image_rgb))
        except OSError as exc:
            raise loading_error(exc) from exc

    def _discard(self) -> None:
        global _discarded
        if self._detector is not None:
            self._detector = None
            _discarded += 1

    def _take_parked(self) -> Any:
        try:
            return _parked[self._key].pop()
        except (KeyError, IndexError):
            return None

    def _build(self) -> Any:
        if _discarded >= MAX_DISCARDED:
            msg = (
                f"MediaPipe broke {_discarded} times in this process; every rebuild costs memory "
                "that only a restart of the process gives back"
            )
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE)
        mp = self._mediapipe
        options = mp.FaceDetectorOptions(
            base_options=mp.BaseOptions(model_asset_buffer=self._model),
            min_detection_confidence=self._min_confidence,
        )
        try:
            detector = mp.FaceDetector.create_from_options(options)
        except OSError as exc:
            raise loading_error(exc) from exc
        except (ValueError, RuntimeError) as exc:
            size = len(self._model)
            msg = f"MediaPipe does not accept the model of {size} bytes: {_first_line(exc)}"
            raise ModelError(msg) from exc
        detector.close = _do_nothing  # what __del__ calls as well; see the top of this file
        return detector


def check_pixels(image_rgb: NDArray[np.uint8]) -> None:
    """Refuse what a detector would misread or break on.

    Raises:
        InvalidFrameError: If it is no C-contiguous uint8 array of shape (height, width, 3).
    """
    shape: tuple[int, ...] = getattr(image_rgb, "shape", ())
    dtype = getattr(image_rgb, "dtype", type(image_rgb).__name__)
    if (
        len(shape) == 3
        and shape[2] == 3
        and shape[0] > 0
        and shape[1] > 0
        and dtype == "uint8"
        and image_rgb.flags.c_contiguous
    ):
        return
    flags = getattr(image_rgb, "flags", None)
    order = "" if flags is None or flags.c_contiguous else ", not C-contiguous"
    raise InvalidFrameError(
        expected="a C-contiguous uint8 array of shape (height, width, 3) with at least one pixel",
        actual=f"{dtype} of shape {shape}{order}",
    )


def _face(detection: Any, width: int, height: int) -> Face | None:
    """MediaPipe's detection (box in pixels, keypoints in fractions of the picture) as a `Face`."""
    box = detection.bounding_box
    x, y = float(box.origin_x), float(box.origin_y)
    points = zip(KEYPOINT_NAMES, detection.keypoints or (), strict=False)
    face = Face(
        BoundingBox(x, y, x + max(box.width, 0), y + max(box.height, 0)),
        detection.categories[0].score if detection.categories else None,
        tuple(Keypoint(name, point.x * width, point.y * height) for name, point in points),
    )
    return face.fitted(scale_x=1.0, scale_y=1.0, width=width, height=height)


def _first_line(exc: BaseException) -> str:
    # MediaPipe appends the whole source trace.
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]


def _do_nothing() -> None:
    pass
