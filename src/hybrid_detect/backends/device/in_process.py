"""The detector in the app's own process, for platforms without child processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import numpy as np

from hybrid_detect.backends.device.looks import enough_for, faces_at, least_seconds
from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.runtimes import MEDIAPIPE, FaceDetector, make_detector
from hybrid_detect.errors import ClosedError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import Face, QualityLevel

__all__ = ["InProcessDetector"]


class InProcessDetector:
    """A face detector inside the app, with the methods of `DetectorWorker`.

    Its memory stays with the app, a crash ends the app, and a hang cannot be ended.

    Args:
        load_model: Gives the verified model file's bytes; called once.
        min_confidence: Faces below this score are left out, 0 to 1.
        enough_px: Pixels of an encoded picture's longer side that suffice (`EncodedPicture.rgb`).
        runtime: As `runtimes.choose_runtime` gives it.
        side_px: Longer side of the picture that the network is given, as `InputSize` has it.
    """

    has_process: ClassVar[bool] = False
    """Whether the detector lives outside of the app, where it can be killed and started again."""

    pid: ClassVar[None] = None
    """There is no process."""

    asked_since_s: ClassVar[None] = None
    """There is no process that could owe an answer."""

    def __init__(
        self,
        load_model: Callable[[], bytes],
        *,
        min_confidence: float,
        enough_px: int,
        runtime: str = MEDIAPIPE,
        side_px: int | None = None,
    ) -> None:
        self._load_model = load_model
        self._min_confidence = min_confidence
        self._enough_px = enough_px
        self._runtime = runtime
        self._side_px = side_px
        self._detector: FaceDetector | None = None
        self._look_s = 0.0

    @property
    def runs_on(self) -> str:
        """What runs the model; empty before it is loaded."""
        return "" if self._detector is None else self._detector.runs_on

    @property
    def look_s(self) -> float:
        """Seconds of one look at a black picture of 1280x720; measured when it is first asked."""
        if self._look_s == 0 and self._detector is not None:
            black = np.zeros((720, 1280, 3), np.uint8)
            self._detector.detect(black)  # The first one allocates what the later ones use.
            self._look_s = least_seconds(
                partial(self._detector.detect, black), clock=time.perf_counter
            )
        return self._look_s

    def start(self) -> None:
        """Load runtime and model, unless they are loaded.

        Raises:
            MissingExtraError: If the runtime is not installed.
            BackendUnavailableError: If it cannot be loaded here.
            ModelError: If the model cannot be had, or the runtime does not accept it.
        """
        if self._detector is None:
            self._detector = make_detector(
                self._runtime,
                self._load_model(),
                min_confidence=self._min_confidence,
                side_px=self._side_px,
            )

    ping = start

    def detect_frame(
        self, frame: Frame, level: QualityLevel = QualityLevel.FAST
    ) -> tuple[Face, ...]:
        """Find the faces in `frame`, in its pixels, as thoroughly as `level` says (`looks`).

        Raises:
            InvalidFrameError: If the frame turns out not to be a readable image.
            BackendUnavailableError: If the runtime failed.
            ClosedError: If the detector is not loaded, or closed.
        """
        if self._detector is None:
            msg = "the face detector is not loaded"
            raise ClosedError(msg)
        pixels = frame.rgb(enough_px=enough_for(level, self._enough_px))
        faces = faces_at(level, self._detector.detect, pixels)
        found = PictureFaces.seen_in(pixels, faces, width=frame.width, height=frame.height)
        return tuple(found.faces)

    def kill(self) -> None:
        """Do nothing: there is no process to kill."""

    stop = kill

    def close(self) -> None:
        """Stop, after a detection that is going on. May be called more than once."""
        detector, self._detector = self._detector, None
        if detector is not None:
            detector.close()
